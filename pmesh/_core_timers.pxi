"""Timers of agents: messages that an agent sends itself, later, once or again and again.

A timer waits among the dispatcher's timeouts, in a `Waiter` of its own. When it is due it puts its message
into the mailbox with itself in the payload's place, until a handler is about to get it: so a timer that is
cancelled or replaced finds the message that it has sent, as long as nobody has seen it, and takes it back.
"""


@cython.final
@cython.freelist(64)
cdef class Timer:
    """One timer of an agent. One that was set without a key is its own key."""

    cdef Timers owner          # None once it is over
    cdef object key            # None for its own
    cdef object payload
    cdef Waiter waiter         # its place among the timeouts; the deadline is there
    cdef Message message       # the last that it sent, or None
    cdef int64_t interval_ns   # 0 for once
    cdef uint8_t lane
    cdef bint fixed_rate

    def __init__(self):
        raise InvalidType("Timer is made by context.timers; it cannot be constructed")

    cdef int fire(self, int64_t now_ns) except -1:
        """It is due and not among the timeouts any more: set it again if it repeats, and send its message.

        The caller holds it, and a sweep is under way, so that setting it again does not go to the event loop.
        """
        cdef Timers owner = self.owner
        cdef int64_t next_ns, late
        cdef Message message = None
        if self.message is not None and self.message.mark:
            # The last one waits, in the mailbox or in the stash: one more would say nothing new.
            owner._missed += 1
        else:
            message = new_message(self)
            if self.owner is None:
                return 0    # a collection of garbage ran there, and with it code that cancelled this timer
        if self.interval_ns:
            next_ns = (self.waiter.deadline_ns if self.fixed_rate else now_ns) + self.interval_ns
            if next_ns <= now_ns:
                # The loop was late for more than an interval; what is past is not made up for.
                late = (now_ns - next_ns) // self.interval_ns + 1
                owner._missed += late
                next_ns += late * self.interval_ns
            owner.dispatcher.set_timeout(self.waiter, next_ns)
        if message is not None:
            message._lane = self.lane
            message.mark = MARK_TIMER
            self.message = message
            # The last step: it may run code of the event loop's, which may cancel this timer.
            if not owner.dispatcher.notify(owner.cell, message):
                # Closed for good: nothing that it sends will be accepted any more.
                owner.forget(self)
                self.end()
        return 0

    cdef int arrive(self, Message message) except -1:
        """A handler is about to get the message."""
        cdef Timers owner = self.owner
        message.payload = self.payload
        if self.interval_ns == 0:
            owner.forget(self)
            self.end()
        return 0

    cdef int end(self) except -1:
        """Let go of everything; the owner does not know it any more, and a message that waits was taken back."""
        cdef Waiter waiter = self.waiter
        if waiter is not None:
            if waiter.in_line or waiter.place:
                waiter.dispatcher.clear_timeout(waiter)
            waiter.callback = None
        self.owner = None
        self.waiter = None
        self.message = None
        self.payload = None
        return 0

    def __repr__(self):
        cdef str when
        if self.owner is None:
            return "<Timer over>"
        when = f"every {self.interval_ns / <double>SECOND_NS:g} s" if self.interval_ns else "once"
        return f"<Timer {type_name(self.payload)} {when}>"


@cython.final
cdef class Timers:
    """The timers of an agent: `context.timers`. Each sends the agent a message, later, once or repeatedly.

    A timer with the key of another one takes its place. Of a timer that was cancelled or replaced no message
    arrives any more: one that waits in the mailbox is withdrawn. Timers end with their agent, and when a
    restart replaces the agent's instance. All methods belong to the coordinator's event loop.
    """

    cdef Cell cell
    cdef Dispatcher dispatcher
    cdef dict timers           # by key
    cdef int64_t _missed
    cdef bint over

    def __init__(self):
        raise InvalidType("Timers is made by the agent's context; it cannot be constructed")

    def after(self, seconds, payload, *, key=None):
        """Send `payload` to this agent once, in `seconds`.

        It comes by the lane that the agent's handlers have for it now, and is never refused for want of room.

        Args:
            seconds: 0 or more.
            key: What `cancel` and `is_active` find it by; a timer that has it already is replaced.

        Returns:
            The key, or one of its own for a timer that was given none.

        Raises:
            AgentStopped: The agent has ended, or begun to.
            WrongLoop: Called outside the coordinator's event loop.
        """
        self.check("after")
        return self.set(delay_to_ns(seconds, "seconds"), payload, key, 0, False)

    def every(self, seconds, payload, *, key=None, fixed_rate=False, initial=None):
        """Send `payload` to this agent every `seconds`, until it is cancelled.

        While the last message waits for its handler, further ones are not sent but counted in `missed`.

        Args:
            seconds: The interval, more than 0.
            key: What `cancel` and `is_active` find it by; a timer that has it already is replaced.
            fixed_rate: Keep to the times that are multiples of the interval after the first one, and leave out those
                that the event loop was too late for. Otherwise the interval runs from when the last one was sent.
            initial: Seconds until the first one, 0 or more; by default the interval.

        Returns:
            The key, or one of its own for a timer that was given none.

        Raises:
            AgentStopped: The agent has ended, or begun to.
            WrongLoop: Called outside the coordinator's event loop.
        """
        cdef int64_t interval_ns, initial_ns
        self.check("every")
        interval_ns = timeout_to_ns(seconds, "seconds")
        initial_ns = interval_ns if initial is None else delay_to_ns(initial, "initial")
        if not isinstance(fixed_rate, bool):
            raise InvalidType(f"fixed_rate is {fixed_rate!r}; it must be True or False")
        return self.set(initial_ns, payload, key, interval_ns, fixed_rate)

    cdef object set(self, int64_t delay_ns, object payload, object key, int64_t interval_ns, bint fixed_rate):
        cdef Dispatcher dispatcher = self.dispatcher
        cdef Timer timer = Timer.__new__(Timer)
        cdef Timer other
        cdef Waiter waiter
        cdef Handler handler
        if self.cell.has_control:
            handler = self.cell.table.lookup(payload)
            if handler is not None:
                timer.lane = handler._lane
        timer.payload = payload
        timer.interval_ns = interval_ns
        timer.fixed_rate = fixed_rate
        timer.owner = self
        timer.waiter = waiter = new_waiter(dispatcher)
        waiter.state = WAITER_TIMER
        waiter.callback = timer
        if key is None:
            key = other = timer
            self.timers[timer] = timer
        else:
            check_key(key)
            timer.key = key
            other = self.timers.setdefault(key, timer)
            if other is not timer:
                self.timers[key] = timer
        try:
            if timer.waiter is not None:    # a key's own code may have cancelled it already
                dispatcher.set_timeout(waiter, dispatcher.clock.now() + delay_ns)
        except BaseException:
            self.forget(timer)
            timer.end()
            raise
        finally:
            # The last step: letting go of the payload may run code that cancels the new one.
            if other is not timer:
                self.stop(other)
        return key

    def cancel(self, key):
        """End the timer with this key; True when there was one. No message of it arrives any more."""
        cdef Timer timer
        self.check_here("cancel")
        check_key(key)
        timer = self.timers.pop(key, None)
        if timer is None:
            return False
        self.stop(timer)
        return True

    def cancel_all(self):
        """End all timers; returns how many there were."""
        self.check_here("cancel_all")
        return self.clear()

    cdef Py_ssize_t clear(self) except -1:
        cdef dict timers = self.timers
        cdef Message message = self.cell.withdraw_marked(MARK_TIMER)
        cdef Message following
        self.timers = {}
        for timer in timers.values():
            (<Timer>timer).end()
        # One by one: freed one inside the other they would need more stack than there is.
        while message is not None:
            following = message.next
            message.next = None
            message = following
        self.dispatcher.check_quiet(self.cell)
        return len(timers)

    cdef int stop(self, Timer timer) except -1:
        """End a timer that is not in the dictionary any more."""
        if timer.message is not None and timer.message.mark & MARK_TIMER:
            self.cell.take_back(timer.message)
        return timer.end()

    cdef int forget(self, Timer timer) except -1:
        """Take a timer that is over out of the dictionary."""
        cdef object key = timer if timer.key is None else timer.key
        if self.timers.get(key) is timer:
            del self.timers[key]
        return 0

    def is_active(self, key):
        """Whether a timer has this key, and is still to come or repeats."""
        self.check_here("is_active")
        check_key(key)
        return key in self.timers

    def keys(self):
        """The keys of all active timers, a tuple in the order in which they were first set."""
        self.check_here("keys")
        return tuple(self.timers)

    @property
    def missed(self):
        """Messages that repeated timers did not send: the last one still waited, or the event loop was late."""
        return self._missed

    def __len__(self):
        """How many are active."""
        return len(self.timers)

    cdef int check(self, str method) except -1:
        self.check_here(method)
        if self.over:
            raise AgentStopped(
                f"the timers of agent {self.cell.name!r} ended with the instance that they belong to; {method}()"
                " sets no more"
            )
        return 0

    cdef int check_here(self, str method) except -1:
        self.dispatcher.check_usable()
        return self.dispatcher.check_loop(method)

    def __repr__(self):
        return f"<Timers of {self.cell.name!r}: {len(self.timers)} active>"


cdef int check_key(object key) except -1:
    try:
        hash(key)
    except TypeError:
        raise InvalidType(
            f"key is a {type_name(key)}, which has no hash; it must be hashable, such as a str"
        ) from None
    return 0
