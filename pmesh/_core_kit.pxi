"""What an instance of an agent sets up beside its mailbox: timers, a stash, another behaviour."""


@cython.final
cdef class Kit:
    """Timers, stash and behaviour of one instance of an agent, made when the first of them is used.

    It ends with the instance: at a restart, and when the end of the agent begins. In the loop only.
    """

    cdef Cell cell
    cdef object context           # the AgentContext of the instance
    cdef Timers _timers
    cdef HandlerTable own_table   # what the agent goes back to; None while it has become nothing else
    cdef list stashed             # (number, Message) kept, or to be kept when its handler is over; in order of start
    cdef Py_ssize_t kept          # of these, those whose handlers are over
    cdef bint over
    cdef bint told                # that nothing but the stash is left

    def __init__(self):
        raise InvalidType("Kit is made by the agent's cell; it cannot be constructed")

    @property
    def timers(self):
        cdef Timers timers = self._timers
        if timers is None:
            timers = self._timers = Timers.__new__(Timers)
            timers.cell = self.cell
            timers.dispatcher = self.cell.dispatcher
            timers.timers = {}
            timers.over = self.over
        return timers

    cdef int check_here(self, str method) except -1:
        self.cell.dispatcher.check_usable()
        return self.cell.dispatcher.check_loop(method)

    # The stash.

    def stash(self):
        """Mark the message in hand: when its handler ends without an error it is kept, and not finished."""
        cdef Cell cell = self.cell
        cdef Slot slot
        cdef Message message
        self.check_here("stash")
        slot = self.slot_in_hand()
        if slot is None:
            raise InvalidStash(
                f"stash() of agent {cell.name!r} outside of a handler: it keeps the message in hand;"
                " call it in the handler of that message, before it ends"
            )
        message = slot.message
        if message.mark & MARK_STASHING:
            raise InvalidStash(
                f"stash() of agent {cell.name!r} for the second time in the handler of one"
                f" {type_name(message.payload)}; once is enough"
            )
        if not self.over:
            self.insert(slot, message)
        message.mark |= MARK_STASHING

    cdef Slot slot_in_hand(self):
        """Where the message is handled that the calling code belongs to; None when its handler is over."""
        cdef Scope scope = self.cell.dispatcher.current_scope()
        cdef Slot slot = self.cell.all_slots
        if scope is None or scope.cell is not self.cell or scope.message is None:
            return None
        while slot is not None and (slot.message is not scope.message or slot.abandoned):
            slot = slot.next_slot
        return slot

    cdef int insert(self, Slot slot, Message message) except -1:
        """Handlers that suspend may stash in another order than they were started in; the stash keeps that one."""
        cdef Cell cell = self.cell
        cdef Py_ssize_t at
        if self.stashed is None:
            self.stashed = []
        at = len(self.stashed)
        if at >= cell.capacity:
            raise StashFull(
                f"the stash of agent {cell.name!r} is full: {at} messages, as many as its mailbox may hold;"
                " call unstash_all() sooner, or give the mailbox a larger capacity"
            )
        if slot.in_place:
            # It has not suspended, and those which have were started before it.
            cell.dispatcher.suspensions += 1
            slot.number = cell.dispatcher.suspensions
        while at and (<tuple>self.stashed[at - 1])[0] > slot.number:
            at -= 1
        self.stashed.insert(at, (slot.number, message))
        return 0

    cdef Py_ssize_t place(self, Message message) except -2:
        """Where in the stash `message` is; -1 when it is not there."""
        cdef Py_ssize_t at = -1 if self.stashed is None else len(self.stashed) - 1
        while at >= 0 and (<tuple>self.stashed[at])[1] is not message:
            at -= 1
        return at

    cdef bint keep(self, Message message) except -1:
        """Its handler is over: False when the stash that it was meant for has ended."""
        if self.place(message) < 0:
            return False
        message.mark = MARK_STASHED
        self.kept += 1
        self.cell.dispatcher.check_quiet(self.cell)
        return True

    cdef int forget(self, Message message) except -1:
        """Its handler failed after all."""
        cdef Py_ssize_t at = self.place(message)
        if at >= 0:
            del self.stashed[at]
        return 0

    def unstash_all(self):
        """Let what is stashed wait again, in order, ahead of all mail of its lane; returns how many."""
        self.check_here("unstash_all")
        return self.put_back()

    cdef Py_ssize_t put_back(self) except -1:
        cdef list messages
        if not self.kept:
            return 0
        messages = [entry[1] for entry in self.stashed if (<Message>entry[1]).mark & MARK_STASHED]
        self.stashed = [entry for entry in self.stashed if not (<Message>entry[1]).mark & MARK_STASHED]
        self.kept = 0
        self.cell.return_mail(messages)
        return len(messages)

    @property
    def depth(self):
        """Messages in the stash."""
        return self.kept

    cdef int tell_what_is_left(self) except -1:
        """Somebody waits until nothing is pending: tell the life, once, when only the agent itself can end that."""
        cdef Cell cell = self.cell
        if self.kept and not self.told and cell.count_waiting() == 0 and cell.in_hand == self.kept:
            self.told = True
            cell.dispatcher.call(cell.life.on_stash_left, (self.kept,))
        return 0

    # Behaviour.

    def become(self, HandlerTable table):
        """Handle mail by `table` from the next message on; by the agent's own handlers for None."""
        self.check_here("become")
        if self.over:
            raise AgentStopped(f"the instance of agent {self.cell.name!r} is over, and becomes nothing else")
        if self.own_table is None:
            self.own_table = self.cell.table
        self.cell.set_table(self.own_table if table is None else table)

    # The end of the instance.

    cdef int end(self) except -1:
        if self.over:
            return 0
        self.over = True
        if self.own_table is not None:
            self.cell.set_table(self.own_table)
        if self._timers is not None:
            self._timers.over = True
            self._timers.clear()
        self.put_back()
        # What is to be stashed by a handler that still runs goes back to the mailbox when it ends.
        self.stashed = None
        return 0
