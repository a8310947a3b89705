"""Messages and the bounded queue that holds them: policies, lanes, and the account of one mailbox."""

# Lanes. System notices are to come before both once agents can be watched.
cdef enum:
    LANE_NORMAL = 0
    LANE_CONTROL = 1

# What happens to a message that finds no room (pmesh.Overflow has the same values).
cdef enum:
    OVERFLOW_REJECT = 0
    OVERFLOW_DROP_NEWEST = 1
    OVERFLOW_DROP_OLDEST = 2
    OVERFLOW_STOP = 3

# What became of an offer, kept in Message.outcome until the message is finished.
cdef enum:
    OFFER_ACCEPTED = 0
    OFFER_FULL = 1          # rejected, the policy is REJECT or the lane is control
    OFFER_CLOSED = 2        # rejected, the mailbox takes no mail any more
    OFFER_TOO_LARGE = 3     # rejected, larger than the whole byte budget
    OFFER_DROPPED = 4       # accepted, and dropped at once (DROP_NEWEST)
    OFFER_OVERFLOW = 5      # rejected, and the agent is to fail (STOP)
    OFFER_LATE = 6          # OFFER_CLOSED, and to be counted by the heir; until `tell_heir`

# How a message that was accepted ended; each has one counter in the account.
cdef enum:
    END_HANDLED = 0
    END_FAILED = 1
    END_EXPIRED = 2
    END_DROPPED = 3
    END_DEAD = 4

# What is special about a message, in Message.mark; nothing about most.
cdef enum:
    MARK_EXTRA = 1          # waits beyond the capacity: it was not refused for want of room, nor is it displaced
    MARK_TIMER = 2          # its payload is the Timer that sent it, until it is taken
    MARK_STASHING = 4       # in hand, and to be stashed when its handler is over
    MARK_STASHED = 8        # in the stash

# After this many control messages in a row one normal message is served, so that a flood of control
# mail cannot starve the normal lane.
cdef enum:
    CONTROL_RUN = 64

LANES = ("normal", "control")
OFFERS = ("accepted", "full", "closed", "too_large", "dropped", "overflow")
ENDS = ("handled", "failed", "expired", "dropped", "dead")


@cython.final
@cython.freelist(256)
cdef class Message:
    """The envelope: a payload on its way to one agent. It is also the node of the mailbox's list."""

    cdef readonly object payload
    cdef readonly object sender       # AgentRef of the agent that sent it, or None
    cdef readonly object headers      # mapping given by the sender, or None
    cdef Waiter reply                 # where the answer of an ask goes, or None
    cdef Message next                 # next in the same lane, newer; owned by the mailbox
    cdef readonly int64_t accepted_ns
    cdef readonly int64_t deadline_ns  # absolute, on the coordinator's clock; 0 for none
    cdef int64_t intended_ns          # when a schedule wanted it sent; 0 for none
    cdef int64_t size_bytes           # counted against max_bytes; 0 where no budget is set
    cdef uint8_t _lane
    cdef uint8_t outcome              # one of the OFFER values
    cdef uint8_t mark                 # of the MARK values
    cdef bint windowed                # holds a place in the coordinator's window

    def __init__(self):
        raise InvalidType("Message is made by tell, send and ask; it cannot be constructed")

    def __dealloc__(self):
        # A mailbox that is dropped with its mail is a chain of perhaps a million of these. Freed one inside
        # the other they would need more stack than a thread has.
        cdef Message here, following
        if self.next is not None:
            here = self.next
            self.next = None
            # As far as nobody else holds one.
            while here is not None and Py_REFCNT(here) == 1:
                following = here.next
                here.next = None
                here = following
                following = None

    @property
    def lane(self):
        """"normal" or "control"."""
        return LANES[self._lane]

    @property
    def expects_reply(self):
        """Whether the sender waits for an answer (the message is an ask)."""
        return self.reply is not None

    def __repr__(self):
        return f"<Message {type_name(self.payload)} lane={LANES[self._lane]}>"


cdef inline Message new_message(object payload):
    cdef Message message = Message.__new__(Message)
    message.payload = payload
    return message


cdef struct Account:
    int64_t sent
    int64_t accepted
    int64_t rejected
    int64_t handled
    int64_t failed
    int64_t expired
    int64_t dropped
    int64_t dead
    int64_t pending


@cython.auto_pickle(True)
cdef class Counters:
    """A copy of an account: of one mailbox at one instant, or a sum of such copies.

    accepted == handled + failed + expired + dropped + dead + pending, and sent == accepted + rejected.
    """

    cdef Account account

    @property
    def sent(self): return self.account.sent

    @property
    def accepted(self): return self.account.accepted

    @property
    def rejected(self): return self.account.rejected

    @property
    def handled(self): return self.account.handled

    @property
    def failed(self): return self.account.failed

    @property
    def expired(self): return self.account.expired

    @property
    def dropped(self): return self.account.dropped

    @property
    def dead(self): return self.account.dead

    @property
    def pending(self): return self.account.pending

    def add(self, Counters other not None):
        """Add `other`, term by term."""
        with cython.critical_section(self, other):
            self.account.sent += other.account.sent
            self.account.accepted += other.account.accepted
            self.account.rejected += other.account.rejected
            self.account.handled += other.account.handled
            self.account.failed += other.account.failed
            self.account.expired += other.account.expired
            self.account.dropped += other.account.dropped
            self.account.dead += other.account.dead
            self.account.pending += other.account.pending

    @cython.final
    cdef int count_stray(self) noexcept:
        with cython.critical_section(self):
            self.account.sent += 1
            self.account.rejected += 1
        return 0

    def count_rejected(self):
        """Count one message that was sent to no mailbox at all and so rejected."""
        self.count_stray()

    @property
    def imbalance(self):
        """What does not add up, in words; None when both equations of the account hold."""
        cdef Account a = self.account
        cdef int64_t ended = a.handled + a.failed + a.expired + a.dropped + a.dead
        if a.sent != a.accepted + a.rejected:
            return f"sent {a.sent} != accepted {a.accepted} + rejected {a.rejected}"
        if a.accepted != ended + a.pending:
            return (
                f"accepted {a.accepted} != handled {a.handled} + failed {a.failed} + expired {a.expired}"
                f" + dropped {a.dropped} + dead {a.dead} + pending {a.pending} = {ended + a.pending}"
            )
        return None

    def as_dict(self):
        """The nine terms by name."""
        return dict(self.account)

    def __eq__(self, other):
        return isinstance(other, Counters) and self.as_dict() == other.as_dict()

    __hash__ = None

    def __repr__(self):
        terms = " ".join(f"{name}={value}" for name, value in self.as_dict().items())
        return f"<Counters {terms}>"


@cython.final
cdef class Tally:
    """Counts by number, from 0 to 7, and their sum: exact, from any thread, and without a lock of Python's.

    Threads that meet at such a lock hand it over at the pace of the interpreter's switch interval, 5 ms, as soon as
    another one keeps the GIL.
    """

    cdef int64_t by_number[8]
    cdef int64_t total

    def add(self, int number):
        """Count one, and return how many there are of all numbers."""
        cdef int64_t total
        if not 0 <= number < 8:
            raise InvalidArgument(f"number is {number}; it must be 0 to 7")
        with cython.critical_section(self):
            self.by_number[number] += 1
            self.total += 1
            total = self.total
        return total

    def counts(self):
        """A list of the eight counts, of one instant."""
        cdef list counts = [0] * 8
        cdef int64_t copied[8]
        cdef int number
        with cython.critical_section(self):
            copied = self.by_number
        for number in range(8):
            counts[number] = copied[number]
        return counts


cdef class Mailbox:
    """Bounded queue of one agent, FIFO within a lane; control before normal.

    Invariant, under the mailbox's own lock: accepted == handled + failed + expired + dropped + dead
    + pending, where pending is size (both lanes) + in_hand. Nothing that runs user code happens under
    the lock: messages to be discarded are handed to the caller.
    """

    # The ends are borrowed from the chain, and mean nothing when it is empty. Letting go of the message that was last,
    # which another thread may own, could wait for that thread, and such a wait suspends the lock.
    cdef Message normal_first
    cdef PyObject *normal_last
    cdef Message control_first
    cdef PyObject *control_last
    cdef Py_ssize_t normal_size
    cdef Py_ssize_t control_size
    cdef Py_ssize_t in_hand            # taken and not finished
    cdef Py_ssize_t capacity           # of each lane, in messages
    cdef Py_ssize_t limit              # of the normal lane: the capacity, or less while the throttle holds it down
    cdef Py_ssize_t normal_promised    # places granted to senders that have not resumed yet
    cdef Py_ssize_t control_promised
    cdef int64_t max_bytes             # budget of both lanes together, or -1
    cdef int64_t bytes_held            # of waiting messages and of promised places
    cdef int64_t normal_bytes          # of waiting normal messages
    cdef object measure                # size(payload) -> bytes, or None for len()
    cdef WaiterQueue normal_waiters    # senders that wait for room; None while nobody ever waited
    cdef WaiterQueue control_waiters
    cdef Throttle throttle             # None unless the policy is adaptive
    cdef int64_t sent, accepted, rejected, handled, failed, expired, dropped, dead
    # In an order that leaves no gaps: a mailbox is most of what an idle agent takes.
    cdef uint8_t overflow
    cdef uint8_t control_run           # control messages served in a row
    cdef uint8_t has_waiters           # somebody may wait for room, in either lane
    cdef int normal_extra              # waiting messages that are MARK_EXTRA
    cdef Counters heir                 # the total that a stopped agent's account went into, or None
    cdef int control_extra
    cdef bint closed                   # takes no mail any more

    def __init__(self, Py_ssize_t capacity=1024, *, max_bytes=None, int overflow=OVERFLOW_REJECT, size=None):
        if capacity < 1:
            raise InvalidArgument(f"capacity is {capacity}; it must be at least 1 message")
        if max_bytes is not None and not 1 <= max_bytes < 2**63:
            raise InvalidArgument(f"max_bytes is {max_bytes}; it must be at least 1, or None for no limit")
        if not OVERFLOW_REJECT <= overflow <= OVERFLOW_STOP:
            raise InvalidArgument(f"overflow is {overflow}; it must be the value of a pmesh.Overflow, 0 to 3")
        self.capacity = self.limit = capacity
        self.max_bytes = -1 if max_bytes is None else max_bytes
        self.overflow = overflow
        self.measure = size

    @cython.final
    cdef int weigh(self, Message message) except -1:
        """Set the bytes of `message`; runs the user's `size`, so never under the lock."""
        cdef object payload = message.payload
        cdef int64_t size
        if self.measure is not None:
            measured = self.measure(payload)
            if not isinstance(measured, int):
                raise InvalidType(
                    f"size({type_name(payload)}) returned a {type_name(measured)}; it must be an int of bytes"
                )
            if measured < 0:
                raise InvalidArgument(f"size({type_name(payload)}) returned {measured}; it must be 0 or more bytes")
            size = min(measured, 2**63 - 1)
        elif isinstance(payload, (bytes, bytearray, str)):
            size = len(payload)
        elif PyObject_CheckBuffer(payload):
            size = memoryview(payload).nbytes
        else:
            size = 0
        message.size_bytes = size
        return 0

    @cython.final
    cdef inline bint has_room(self, int lane, int64_t size_bytes) noexcept:
        """Whether one more message fits beside what waits and what was promised; under the lock."""
        # Not as a sum: size() may return almost 2**63.
        if self.max_bytes >= 0 and size_bytes > self.max_bytes - self.bytes_held:
            return False
        if lane == LANE_CONTROL:
            return self.control_size - self.control_extra + self.control_promised < self.capacity
        if self.normal_size - self.normal_extra + self.normal_promised < self.limit:
            return True
        return self.limit < self.capacity and self.has_recovered()

    @cython.final
    cdef inline int check(self) noexcept:
        """The invariants of the class, in the debug build; under the lock."""
        PMESH_CHECK(self.sent == self.accepted + self.rejected)
        PMESH_CHECK(
            self.accepted == self.handled + self.failed + self.expired + self.dropped + self.dead
            + self.normal_size + self.control_size + self.in_hand
        )
        PMESH_CHECK(self.normal_size >= 0 and self.control_size >= 0 and self.in_hand >= 0)
        PMESH_CHECK((self.normal_size == 0) == (self.normal_first is None))
        PMESH_CHECK((self.control_size == 0) == (self.control_first is None))
        PMESH_CHECK(1 <= self.limit <= self.capacity)
        PMESH_CHECK(0 <= self.normal_extra <= self.normal_size and 0 <= self.control_extra <= self.control_size)
        PMESH_CHECK(self.normal_promised >= 0 and self.control_promised >= 0 and self.bytes_held >= 0)
        return 0

    @cython.final
    cdef Message put(self, Message message):
        """Settle the fate of `message`, in message.outcome, and count it; safe from any thread.

        Returns the messages displaced by it (DROP_OLDEST), linked by `next`, or None. They are counted
        dropped; the caller tells their askers and the dead letters, outside the lock.
        """
        cdef Message displaced = None
        with cython.critical_section(self):
            displaced = self.put_locked(message)
            self.check()
        return displaced

    @cython.final
    cdef inline Message put_locked(self, Message message):
        cdef Message displaced = None
        self.sent += 1
        if self.closed:
            self.refuse_closed(message)
            return None
        if not self.has_room(message._lane, message.size_bytes):
            if self.max_bytes >= 0 and message.size_bytes > self.max_bytes:
                message.outcome = OFFER_TOO_LARGE
                self.rejected += 1
                return None
            if message._lane == LANE_CONTROL or self.overflow == OVERFLOW_REJECT:
                message.outcome = OFFER_FULL
                self.rejected += 1
                return None
            if self.overflow == OVERFLOW_STOP:
                message.outcome = OFFER_OVERFLOW
                self.rejected += 1
                return None
            if self.overflow == OVERFLOW_DROP_OLDEST and self.can_displace(message.size_bytes):
                displaced = self.displace(message.size_bytes)
            if not self.has_room(LANE_NORMAL, message.size_bytes):
                # DROP_NEWEST, or what stands in the way is promised to waiting senders.
                message.outcome = OFFER_DROPPED
                self.accepted += 1
                self.dropped += 1
                return displaced
        self.link(message)
        return displaced

    @cython.final
    cdef inline int refuse_closed(self, Message message) noexcept:
        """Reject a message that was counted sent; under the lock, and `tell_heir` comes after it."""
        message.outcome = OFFER_CLOSED if self.heir is None else OFFER_LATE
        self.rejected += 1
        return 0

    @cython.final
    cdef inline int link(self, Message message) noexcept:
        """Append `message` to its lane and count it accepted; under the lock, with room."""
        message.outcome = OFFER_ACCEPTED
        self.accepted += 1
        self.bytes_held += message.size_bytes
        if message._lane == LANE_CONTROL:
            if self.control_first is None:
                self.control_first = message
            else:
                (<Message>self.control_last).next = message
            self.control_last = <PyObject *>message
            self.control_size += 1
        else:
            if self.normal_first is None:
                self.normal_first = message
            else:
                (<Message>self.normal_last).next = message
            self.normal_last = <PyObject *>message
            self.normal_size += 1
            self.normal_bytes += message.size_bytes
        return 0

    @cython.final
    cdef inline bint can_displace(self, int64_t size_bytes) noexcept:
        """Whether giving up normal mail can make room at all, beside control mail and promised places."""
        if self.normal_promised >= self.limit:
            return False
        return self.max_bytes < 0 or size_bytes <= self.max_bytes - (self.bytes_held - self.normal_bytes)

    @cython.final
    cdef Message displace(self, int64_t size_bytes):
        """Unlink the oldest normal messages until `size_bytes` fit; under the lock."""
        cdef Message first = None
        cdef Message last = None
        cdef Message message
        while self.normal_size > self.normal_extra and not self.has_room(LANE_NORMAL, size_bytes):
            message = self.unlink_oldest_in_capacity()
            self.dropped += 1
            if first is None:
                first = message
            else:
                last.next = message
            last = message
        return first

    @cython.final
    cdef inline Message unlink_normal(self):
        cdef Message message = self.normal_first
        self.normal_first = message.next
        message.next = None
        self.normal_size -= 1
        self.normal_bytes -= message.size_bytes
        self.bytes_held -= message.size_bytes
        if message.mark:
            self.normal_extra -= 1
            message.mark &= ~MARK_EXTRA
        return message

    @cython.final
    cdef Message unlink_oldest_in_capacity(self):
        """Unlink the oldest normal message that is not MARK_EXTRA; there is one."""
        cdef Message before = None
        cdef Message message = self.normal_first
        while message.mark & MARK_EXTRA:
            before = message
            message = message.next
        self.unlink(message, before)
        return message

    @cython.final
    cdef inline Message unlink_control(self):
        cdef Message message = self.control_first
        self.control_first = message.next
        message.next = None
        self.control_size -= 1
        self.bytes_held -= message.size_bytes
        if message.mark:
            self.control_extra -= 1
            message.mark &= ~MARK_EXTRA
        return message

    @cython.final
    cdef int unlink(self, Message message, Message before) noexcept:
        """Take `message` out of the middle of its lane, where it follows `before`; None for the first one."""
        if before is not None:
            before.next = message.next
        if message._lane == LANE_CONTROL:
            if before is None:
                self.control_first = message.next
            if self.control_last is <PyObject *>message:
                self.control_last = <PyObject *>before
            self.control_size -= 1
            self.control_extra -= message.mark & MARK_EXTRA
        else:
            if before is None:
                self.normal_first = message.next
            if self.normal_last is <PyObject *>message:
                self.normal_last = <PyObject *>before
            self.normal_size -= 1
            self.normal_bytes -= message.size_bytes
            self.normal_extra -= message.mark & MARK_EXTRA
        self.bytes_held -= message.size_bytes
        message.mark &= ~MARK_EXTRA
        message.next = None
        return 0

    @cython.final
    cdef bint find_and_unlink(self, Message message) noexcept:
        """Take `message` out of its lane; False when it does not wait there. Looks at all that wait before it."""
        cdef Message before = None
        cdef Message here = self.control_first if message._lane == LANE_CONTROL else self.normal_first
        while here is not None and here is not message:
            before = here
            here = here.next
        if here is None:
            return False
        self.unlink(message, before)
        return True

    @cython.final
    cdef Message take(self):
        """The next message to handle, now in hand; None when nothing waits."""
        cdef Message message
        with cython.critical_section(self):
            if self.control_size and (self.control_run < CONTROL_RUN or not self.normal_size):
                if self.control_run < CONTROL_RUN:
                    self.control_run += 1
                message = self.unlink_control()
                self.in_hand += 1
            elif self.normal_size:
                self.control_run = 0
                message = self.unlink_normal()
                self.in_hand += 1
            else:
                message = None
            self.check()
        return message

    @cython.final
    cdef inline int count_end(self, int end) noexcept:
        """Count a message in hand as finished with `end`."""
        with cython.critical_section(self):
            self.count_end_locked(end)
        return 0

    @cython.final
    cdef inline int count_end_locked(self, int end) noexcept:
        self.in_hand -= 1
        if end == END_HANDLED:
            self.handled += 1
        elif end == END_FAILED:
            self.failed += 1
        elif end == END_EXPIRED:
            self.expired += 1
        elif end == END_DROPPED:
            self.dropped += 1
        else:
            self.dead += 1
        self.check()
        return 0

    @cython.final
    cdef Message discard_all(self):
        """Unlink all that waits, control first, counted dead; returned linked by `next`, or None."""
        cdef Message first, message
        with cython.critical_section(self):
            first = self.control_first
            if first is None:
                first = self.normal_first
            else:
                (<Message>self.control_last).next = self.normal_first
            self.dead += self.control_size + self.normal_size
            self.control_first = self.normal_first = None
            message = first
            while message is not None:
                self.bytes_held -= message.size_bytes
                message.mark &= ~MARK_EXTRA
                message = message.next
            self.normal_bytes = 0
            self.normal_extra = self.control_extra = 0
            self.control_size = self.normal_size = 0
            self.check()
        return first

    @cython.final
    cdef bint retract(self, Message message) except -1:
        """Turn an accepted message that nobody will ever take into a rejected one.

        For a loop that is found closed after the message was linked. True when it still waited.
        """
        cdef bint found
        with cython.critical_section(self):
            found = self.find_and_unlink(message)
            if found:
                self.accepted -= 1
                self.rejected += 1
        return found

    # Beyond the capacity: what the runtime itself puts here, which is bounded by something else.

    @cython.final
    cdef int put_extra(self, Message message) noexcept:
        """Append `message` whether or not there is room; only a closed mailbox refuses it."""
        with cython.critical_section(self):
            self.sent += 1
            if self.closed:
                self.refuse_closed(message)
            else:
                message.mark |= MARK_EXTRA
                self.link(message)
                if message._lane == LANE_CONTROL:
                    self.control_extra += 1
                else:
                    self.normal_extra += 1
            self.check()
        return 0

    @cython.final
    cdef bint withdraw_message(self, Message message) noexcept:
        """Take back a message that still waits: the account is as if it had never been sent."""
        cdef bint found = False
        with cython.critical_section(self):
            if message.mark & MARK_EXTRA and self.find_and_unlink(message):
                found = True
                self.sent -= 1
                self.accepted -= 1
            self.check()
        return found

    @cython.final
    cdef Message withdraw_marked(self, int mark):
        """Take back all that wait with `mark`, in one pass; returned linked by `next`, or None."""
        cdef Message withdrawn = None
        cdef Message before, here, following
        cdef int lane
        with cython.critical_section(self):
            for lane in (LANE_NORMAL, LANE_CONTROL):
                before = None
                here = self.control_first if lane == LANE_CONTROL else self.normal_first
                while here is not None:
                    following = here.next
                    if here.mark & mark:
                        self.unlink(here, before)
                        self.sent -= 1
                        self.accepted -= 1
                        here.next = withdrawn
                        withdrawn = here
                    else:
                        before = here
                    here = following
            self.check()
        return withdrawn

    @cython.final
    cdef int return_first(self, list messages) except -1:
        """Put messages in hand back in front of their lanes, in their order, beyond the capacity."""
        cdef Message message
        cdef Py_ssize_t at
        with cython.critical_section(self):
            for at in range(len(messages) - 1, -1, -1):
                message = <Message>messages[at]
                message.mark = MARK_EXTRA
                message.size_bytes = 0
                if message._lane == LANE_CONTROL:
                    if self.control_first is None:
                        self.control_last = <PyObject *>message
                    message.next = self.control_first
                    self.control_first = message
                    self.control_size += 1
                    self.control_extra += 1
                else:
                    if self.normal_first is None:
                        self.normal_last = <PyObject *>message
                    message.next = self.normal_first
                    self.normal_first = message
                    self.normal_size += 1
                    self.normal_extra += 1
                self.in_hand -= 1
            self.check()
        return 0

    # Controlled delay; what is decided, and after whom, stands in `_core_adaptive.pxi`.

    @cython.cdivision(True)
    @cython.final
    cdef int watch_start(self, int64_t accepted_ns, int64_t now_ns, bint expired) noexcept:
        """Adapt the limit to how long a normal message that was just taken has waited."""
        cdef Throttle throttle = self.throttle
        cdef int64_t elapsed_ns
        with cython.critical_section(self):
            if now_ns - accepted_ns < throttle.target_ns or self.normal_size + self.normal_promised == 0:
                if throttle.bad_since_ns:
                    throttle.bad_since_ns = 0
                    throttle.good_until_ns = now_ns
                self.raise_limit(now_ns)
            elif not throttle.bad_since_ns:
                self.raise_limit(accepted_ns + throttle.target_ns)
                throttle.bad_since_ns = now_ns
                throttle.started = 0
            else:
                # Those that expire are passed over: they cost the agent nothing.
                throttle.started += not expired
                elapsed_ns = now_ns - throttle.bad_since_ns
                if elapsed_ns >= throttle.interval_ns:
                    # No start since left the queue empty, so this is how fast the agent can work.
                    self.set_level(throttle.started * <double>throttle.target_ns / elapsed_ns)
                    throttle.bad_since_ns = now_ns
                    throttle.started = 0
        return 0

    @cython.final
    cdef int set_level(self, double level) noexcept:
        level = min(max(level, 1.0), <double>self.capacity)
        self.throttle.level = level
        self.limit = min(<Py_ssize_t>level, self.capacity)    # a double may round the capacity up
        return 0

    @cython.cdivision(True)
    @cython.final
    cdef int raise_limit(self, int64_t now_ns) noexcept:
        """Double the limit for each interval of good queue up to `now_ns`."""
        cdef Throttle throttle = self.throttle
        if now_ns > throttle.good_until_ns:
            if self.limit < self.capacity:
                self.set_level(
                    throttle.level * exp2((now_ns - throttle.good_until_ns) / <double>throttle.interval_ns)
                )
            throttle.good_until_ns = now_ns
        return 0

    @cython.final
    cdef bint has_recovered(self) noexcept:
        """Whether a limit that was lowered has room again by the time that passed since the last start."""
        cdef Throttle throttle = self.throttle
        cdef int64_t now_ns
        if throttle is None:
            return False    # held down by `squeeze`
        # A place that falls free now belongs to the oldest waiter; it is told at the next start.
        if throttle.bad_since_ns or self.has_waiters:
            return False
        now_ns = throttle.clock.now()
        if self.normal_first is not None:
            # From when it has waited for longer than the target nothing is known of how good the queue is.
            now_ns = min(now_ns, self.normal_first.accepted_ns + throttle.target_ns)
        self.raise_limit(now_ns)
        return self.normal_size - self.normal_extra + self.normal_promised < self.limit

    @cython.final
    cdef Py_ssize_t current_limit(self) noexcept:
        """Messages that may wait in the normal lane now."""
        cdef Py_ssize_t limit
        with cython.critical_section(self):
            if self.limit < self.capacity:
                self.has_recovered()
            limit = self.limit
        return limit

    @cython.final
    cdef str room(self):
        """How much mail may wait, for messages to people."""
        if self.limit < self.capacity:
            return f"{self.limit} messages while it is overloaded, {self.capacity} otherwise"
        return f"{self.capacity} messages"

    @cython.final
    cdef int forget_queue(self) noexcept:
        """Judge the queue afresh: what waited did so because nothing was allowed to run."""
        cdef Throttle throttle = self.throttle
        if throttle is not None:
            with cython.critical_section(self):
                if throttle.bad_since_ns:
                    throttle.bad_since_ns = 0
                    throttle.good_until_ns = throttle.clock.now()
        return 0

    # Places promised to waiting senders: a place that falls free goes to the oldest waiter, who takes it
    # when its task resumes, or gives it back when that task was cancelled in the same turn of the loop.

    @cython.final
    cdef bint promise(self, int lane, int64_t size_bytes) noexcept:
        """Keep a place for a sender if there is room; False when there is none."""
        cdef bint room
        with cython.critical_section(self):
            room = not self.closed and self.has_room(lane, size_bytes)
            if room:
                self.bytes_held += size_bytes
                if lane == LANE_CONTROL:
                    self.control_promised += 1
                else:
                    self.normal_promised += 1
        return room

    @cython.final
    cdef int forgo(self, int lane, int64_t size_bytes) noexcept:
        """Give a promised place back."""
        with cython.critical_section(self):
            self.forgo_locked(lane, size_bytes)
        return 0

    @cython.final
    cdef inline int forgo_locked(self, int lane, int64_t size_bytes) noexcept:
        self.bytes_held -= size_bytes
        if lane == LANE_CONTROL:
            self.control_promised -= 1
        else:
            self.normal_promised -= 1
        return 0

    @cython.final
    cdef int put_promised(self, Message message) noexcept:
        """Append `message` in the place that was promised for it, unless the mailbox closed since."""
        with cython.critical_section(self):
            self.forgo_locked(message._lane, message.size_bytes)
            self.sent += 1
            if self.closed:
                self.refuse_closed(message)
            else:
                self.link(message)
            self.check()
        return 0

    # A stopped agent's account goes into a total, its heir, and what is refused later is counted in both. Which of
    # the two a refusal belongs to, the copy or what comes after it, is decided where it is counted, under the lock.

    @cython.final
    cdef int count_refused(self) noexcept:
        """Count a message that was sent and never got as far as the queue: sent, and rejected."""
        cdef bint late
        with cython.critical_section(self):
            self.sent += 1
            self.rejected += 1
            late = self.heir is not None
        if late:
            self.heir.count_stray()
        return 0

    @cython.final
    cdef inline int tell_heir(self, Message message) noexcept:
        """After a refusal, outside of the lock."""
        if message.outcome == OFFER_LATE:
            message.outcome = OFFER_CLOSED
            self.heir.count_stray()
        return 0

    def bequeath(self, Counters heir not None):
        """Fold the account into `heir`, the first time only; what is refused from now on is counted there too."""
        cdef Counters copy = Counters.__new__(Counters)
        cdef bint is_first
        with cython.critical_section(self):
            is_first = self.heir is None
            if is_first:
                self.heir = heir
                self.copy_account(copy)
        if is_first:
            heir.add(copy)

    @cython.final
    cdef int copy_account(self, Counters copy) noexcept:
        """Set the terms of `copy`; under the lock."""
        copy.account.sent = self.sent
        copy.account.accepted = self.accepted
        copy.account.rejected = self.rejected
        copy.account.handled = self.handled
        copy.account.failed = self.failed
        copy.account.expired = self.expired
        copy.account.dropped = self.dropped
        copy.account.dead = self.dead
        copy.account.pending = self.normal_size + self.control_size + self.in_hand
        return 0

    @cython.final
    cdef inline Py_ssize_t count_waiting(self) noexcept:
        cdef Py_ssize_t count
        if PMESH_GIL:
            return self.normal_size + self.control_size
        with cython.critical_section(self):
            count = self.normal_size + self.control_size
        return count

    @cython.final
    cdef inline Py_ssize_t count_pending(self) noexcept:
        cdef Py_ssize_t count
        if PMESH_GIL:
            return self.normal_size + self.control_size + self.in_hand
        with cython.critical_section(self):
            count = self.normal_size + self.control_size + self.in_hand
        return count

    def counters(self):
        """A `Counters` with the account at this instant."""
        cdef Counters copy = Counters.__new__(Counters)
        with cython.critical_section(self):
            self.copy_account(copy)
        return copy

    def close(self):
        """Take no more mail; what waits stays. Safe from any thread, and to call again."""
        with cython.critical_section(self):
            self.closed = True

    @property
    def is_closed(self):
        return self.closed

    def __len__(self):
        """Messages waiting, both lanes; those in a handler are not counted."""
        return self.count_waiting()

    @property
    def waiting_bytes(self):
        """Bytes counted against `max_bytes`: waiting messages and places promised to senders."""
        return self.bytes_held

    @property
    def pending(self):
        """Messages waiting and in hand."""
        return self.count_pending()

    # The queue by itself, for whoever wants one without an agent and for the tests' model.

    def offer(self, payload, *, lane="normal", int64_t deadline_ns=0):
        """Offer a payload; returns what became of it, one of `OFFERS`, and the payloads displaced by it."""
        cdef Message message = new_message(payload)
        cdef Message displaced
        cdef list payloads = []
        if lane not in LANES:
            raise InvalidArgument(f"lane is {lane!r}; it must be 'normal' or 'control'")
        message._lane = LANES.index(lane)
        message.deadline_ns = deadline_ns
        if self.max_bytes >= 0:
            self.weigh(message)
        displaced = self.put(message)
        self.tell_heir(message)
        while displaced is not None:
            payloads.append(displaced.payload)
            displaced = displaced.next
        return OFFERS[message.outcome], payloads

    def poll(self):
        """Take the next message, a `Message`, or None; it is in hand until `finish`."""
        return self.take()

    def finish(self, end):
        """Count one message in hand as ended: one of `ENDS`."""
        cdef bint has_one
        cdef int which
        if end not in ENDS:
            raise InvalidArgument(f"end is {end!r}; it must be one of {', '.join(ENDS)}")
        which = ENDS.index(end)
        with cython.critical_section(self):
            has_one = self.in_hand > 0
            if has_one:
                self.count_end_locked(which)
        if not has_one:
            raise InvalidArgument("finish() without a message in hand; take one with poll() first")

    def clear(self):
        """Discard all that waits, counted dead; returns the payloads, control lane first."""
        cdef Message message = self.discard_all()
        cdef list payloads = []
        while message is not None:
            payloads.append(message.payload)
            message = message.next
        return payloads
