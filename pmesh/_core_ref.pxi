"""What senders hold: the ref of an agent, and the awaitables of `send` and `ask`."""

cdef double DEFAULT_TIMEOUT_SECONDS = 5.0

# A century: in nanoseconds it still fits 64 bits with a clock added.
cdef double LONGEST_SECONDS = 3_155_760_000.0


cdef int64_t timeout_to_ns(object timeout, str name) except -1:
    """Seconds to nanoseconds; positive and finite, or an error that names the argument and its value."""
    cdef double seconds
    if type(timeout) is float and 0.0 < <double>timeout <= LONGEST_SECONDS:
        return <int64_t>(<double>timeout * SECOND_NS) or 1
    seconds = number_of_seconds(timeout, name)
    if not 0.0 < seconds <= LONGEST_SECONDS:
        raise InvalidArgument(f"{name} is {timeout!r}; it must be positive, finite and at most 100 years of seconds")
    return <int64_t>(seconds * SECOND_NS) or 1


cdef double number_of_seconds(object value, str name) except? -1:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidType(f"{name} is {value!r}; it must be a number of seconds")
    try:
        return value
    except OverflowError:
        return float("inf") if value > 0 else -float("inf")


cdef int64_t delay_to_ns(object delay, str name) except -1:
    """Seconds to nanoseconds, as `timeout_to_ns`; here 0 is allowed too."""
    cdef double seconds = number_of_seconds(delay, name)
    if not 0.0 <= seconds <= LONGEST_SECONDS:
        raise InvalidArgument(
            f"{name} is {delay!r}; it must be 0 or more, finite and at most 100 years of seconds"
        )
    return <int64_t>(seconds * SECOND_NS)


cdef object check_headers(object headers):
    if headers is not None and not isinstance(headers, collections.abc.Mapping):
        raise InvalidType(f"headers is a {type_name(headers)}; it must be a mapping, or None")
    return headers


def timeout_seconds(timeout, str name not None):
    """`timeout` as a float of seconds, checked as every timeout is: positive and finite.

    Raises:
        InvalidType: Not a number.
        InvalidArgument: Not positive, not finite or more than a century.
    """
    timeout_to_ns(timeout, name)
    return float(timeout)


cdef enum:
    CALL_NEW = 0
    CALL_ROOM = 1       # waits for room in the mailbox
    CALL_WINDOW = 2     # has a promised place and waits for the window
    CALL_REPLY = 3
    CALL_OVER = 4


cdef int warn_never_awaited(str call, Cell cell) except -1:
    """As of a coroutine: whoever forgot the `await` has sent nothing, and would not see it anywhere."""
    warnings.warn(f"{call}() to agent {cell.name!r} was never awaited, and has sent nothing", RuntimeWarning)
    return 0


@cython.final
@cython.freelist(128)
cdef class Send:
    """The awaitable of `AgentRef.send`; nothing is sent before it is awaited."""

    cdef Cell cell
    cdef Message message
    cdef Waiter waiter
    cdef object timeout
    cdef uint8_t state
    cdef bint exempt

    def __dealloc__(self):
        if self.state != CALL_OVER and self.cell is not None:
            if self.state == CALL_NEW:
                warn_never_awaited("send", self.cell)
            elif self.waiter is not None:
                self.give_up()    # begun, and never gone on with nor closed

    def __init__(self):
        raise InvalidType("Send is made by AgentRef.send(); it cannot be constructed")

    cdef object full(self, str why):
        return MailboxFull(f"agent {self.cell.name!r}: {why}")

    cdef object stopped(self):
        return AgentStopped(f"agent {self.cell.name!r} takes no more mail")

    cdef object begin(self):
        """Accept at once if there is room; else what to wait on."""
        cdef Cell cell = self.cell
        cdef Dispatcher dispatcher = cell.dispatcher
        cdef Message message = self.message
        cdef Scope scope
        cdef WaiterQueue waiters
        cdef int64_t timeout_ns
        dispatcher.check_usable()
        dispatcher.check_loop("send")
        timeout_ns = timeout_to_ns(self.timeout, "timeout")
        scope = dispatcher.current_scope()
        self.exempt = scope is not None
        dispatcher.prepare(cell, message, scope)
        if cell.closed or (pmesh_load(dispatcher.is_closing) and scope is None):
            cell.count_refused()
            raise self.stopped()
        if cell.max_bytes >= 0 and message.size_bytes > cell.max_bytes:
            cell.count_refused()
            raise self.full(
                f"the message has {message.size_bytes} bytes, more than the whole budget of {cell.max_bytes}"
            )
        waiters = cell.control_waiters if message._lane == LANE_CONTROL else cell.normal_waiters
        if (waiters is not None and waiters.first is not None) or not cell.promise(message._lane, message.size_bytes):
            if scope is not None and scope.cell is cell and not cell.has_spare_slot():
                cell.count_refused()
                raise self.full("it sends to its own full mailbox, and no slot is free to make room")
            self.wait(cell, dispatcher, timeout_ns, CALL_ROOM)
            if message._lane == LANE_CONTROL:
                if cell.control_waiters is None:
                    cell.control_waiters = WaiterQueue()
                cell.control_waiters.append(self.waiter)
            else:
                if cell.normal_waiters is None:
                    cell.normal_waiters = WaiterQueue()
                cell.normal_waiters.append(self.waiter)
            cell.has_waiters = True
            return self.waiter
        return self.enter_window(cell, dispatcher, timeout_ns)

    cdef int wait(self, Cell cell, Dispatcher dispatcher, int64_t timeout_ns, int state) except -1:
        cdef Waiter waiter = new_waiter(dispatcher)
        cdef int64_t deadline_ns
        waiter.cell = cell
        waiter.exempt = self.exempt
        waiter.lane = self.message._lane
        waiter.size_bytes = self.message.size_bytes
        waiter._asyncio_future_blocking = True
        if self.waiter is not None:
            deadline_ns = self.waiter.deadline_ns
            waiter.since_ns = self.waiter.since_ns
        else:
            deadline_ns = dispatcher.clock.now() + timeout_ns
            waiter.since_ns = deadline_ns - timeout_ns
        waiter.what = AWAITED_ROOM if state == CALL_ROOM else AWAITED_PLACE
        dispatcher.set_timeout(waiter, deadline_ns)
        self.waiter = waiter
        self.state = state
        return 0

    cdef object enter_window(self, Cell cell, Dispatcher dispatcher, int64_t timeout_ns):
        """With a promised place: take a place in the window, or wait for one."""
        cdef int before = self.state
        if not self.exempt and dispatcher.window:
            if dispatcher.window_waiters.first is not None or dispatcher.window_used >= dispatcher.window:
                try:
                    self.wait(cell, dispatcher, timeout_ns, CALL_WINDOW)
                finally:
                    if self.state == before:
                        # The event loop set no timer: no memory, or a signal.
                        cell.forgo(self.message._lane, self.message.size_bytes)
                        self.state = CALL_OVER
                dispatcher.window_waiters.append(self.waiter)
                return self.waiter
            dispatcher.window_used += 1
            self.message.windowed = True
        return self.deliver(cell, dispatcher)

    cdef object deliver(self, Cell cell, Dispatcher dispatcher):
        cdef Message message = self.message
        self.state = CALL_OVER
        self.message = None
        message.accepted_ns = dispatcher.now_ns = dispatcher.clock.now()
        cell.put_promised(message)
        if message.outcome != OFFER_ACCEPTED:
            cell.tell_heir(message)
            if message.windowed:
                dispatcher.leave_window(message)
            raise self.stopped()
        if cell.becomes_ready():
            dispatcher.push(cell)
        return None

    cdef object resume(self):
        """The Task goes on: what was waited for is there, or the time is over, or the agent stopped."""
        cdef Cell cell = self.cell
        cdef Dispatcher dispatcher = cell.dispatcher
        cdef int state = self.state
        if self.waiter.state == WAITER_DONE:
            if state == CALL_ROOM:
                return self.enter_window(cell, dispatcher, 0)
            self.message.windowed = True
            return self.deliver(cell, dispatcher)
        self.give_up()
        cell.count_refused()
        if self.waiter.state == WAITER_STOPPED:
            raise self.stopped()
        if state == CALL_ROOM:
            raise self.full(f"no room within {self.timeout} s (it holds {cell.room()}, or their bytes)")
        raise self.full(f"no place in the coordinator's window of {dispatcher.window} within {self.timeout} s")

    cdef int give_up(self) except -1:
        """Leave every queue and give back what was promised; nothing was accepted."""
        cdef Cell cell = self.cell
        cdef Dispatcher dispatcher = cell.dispatcher
        cdef Waiter waiter = self.waiter
        cdef int state = self.state
        if waiter is None or state == CALL_OVER:
            return 0
        self.state = CALL_OVER
        if state == CALL_WINDOW or waiter.state == WAITER_DONE:
            cell.forgo(waiter.lane, waiter.size_bytes)
        if state == CALL_WINDOW and waiter.state == WAITER_DONE:
            dispatcher.free_window_place()
        waiter.conclude(WAITER_CANCELLED)
        if cell.has_waiters:
            dispatcher.grant_room(cell)
        return 0

    def __iter__(self):
        return self

    def __await__(self):
        return self

    cdef object advance(self):
        """What to wait on next; None when the message was delivered."""
        if self.state == CALL_NEW:
            self.state = CALL_OVER
            return self.begin()
        if self.state == CALL_OVER:
            raise RuntimeError("cannot reuse already awaited send()")
        if self.waiter.state == WAITER_PENDING:
            raise RuntimeError("send() is being awaited already")
        return self.resume()

    def __next__(self):
        cdef object waits = self.advance()
        if waits is None:
            raise StopIteration
        return waits

    def send(self, value):
        return next(self)

    def throw(self, typ, value=None, traceback=None):
        if value is None:
            value = typ() if isinstance(typ, type) else typ
        if self.state != CALL_NEW:
            self.give_up()
        self.state = CALL_OVER
        raise value

    def close(self):
        if self.state != CALL_NEW:
            self.give_up()
        self.state = CALL_OVER

    def __repr__(self):
        return f"<Send to {self.cell.name!r}>"


@cython.final
@cython.freelist(128)
cdef class Ask:
    """The awaitable of `AgentRef.ask`; nothing is sent before it is awaited."""

    cdef Cell cell
    cdef Message message
    cdef Waiter waiter
    cdef object timeout
    cdef uint8_t state

    __class_getitem__ = classmethod(types.GenericAlias)

    def __dealloc__(self):
        if self.state == CALL_NEW and self.cell is not None:
            warn_never_awaited("ask", self.cell)

    def __init__(self):
        raise InvalidType("Ask is made by AgentRef.ask(); it cannot be constructed")

    cdef object begin(self):
        cdef Cell cell = self.cell
        cdef Dispatcher dispatcher = cell.dispatcher
        cdef Message message = self.message
        cdef Waiter waiter
        cdef Scope scope
        cdef int64_t deadline_ns
        dispatcher.check_usable()
        dispatcher.check_loop("ask")
        deadline_ns = timeout_to_ns(self.timeout, "timeout") + dispatcher.clock.now()
        scope = dispatcher.current_scope()
        if scope is not None and scope.message is not None and scope.message.deadline_ns:
            deadline_ns = min(deadline_ns, scope.message.deadline_ns)
        waiter = new_waiter(dispatcher)
        waiter.cell = cell
        waiter.what = AWAITED_ANSWER
        message.reply = waiter
        message.deadline_ns = deadline_ns
        dispatcher.prepare(cell, message, scope)
        if cell.closed or (pmesh_load(dispatcher.is_closing) and scope is None):
            self.state = CALL_OVER
            cell.count_refused()
            raise self.stopped()
        if scope is not None and (cell.paused or not cell.has_spare_slot()):
            self.check_cycle(scope)
        self.state = CALL_REPLY
        self.waiter = waiter
        self.message = None
        if not dispatcher.submit(cell, message):
            self.state = CALL_OVER
            if message.outcome == OFFER_CLOSED or message.outcome == OFFER_ACCEPTED:
                raise self.stopped()
            if message.outcome == OFFER_TOO_LARGE:
                raise MailboxFull(
                    f"agent {cell.name!r}: the message has {message.size_bytes} bytes,"
                    f" more than the whole budget of {cell.max_bytes}"
                )
            raise MailboxFull(
                f"agent {cell.name!r}: its mailbox is full (it holds {cell.room()}, or their bytes)"
            )
        waiter.since_ns = dispatcher.now_ns = message.accepted_ns
        if waiter.state == WAITER_PENDING:
            dispatcher.set_timeout(waiter, deadline_ns)
        waiter._asyncio_future_blocking = True
        return waiter

    cdef int check_cycle(self, Scope scope) except -1:
        """Refuse to wait for an agent that, through others or not, waits for the one that asks."""
        cdef Slot asker = asking_slot(scope)
        cdef list way = None if asker is None else way_back(asker, self.cell)
        if way is not None:
            self.state = CALL_OVER
            self.cell.count_refused()
            raise cycle_error(way, self.cell)
        return 0

    cdef object stopped(self):
        return AgentStopped(f"agent {self.cell.name!r} takes no more mail")

    cdef object finish(self):
        cdef Waiter waiter = self.waiter
        cdef object value
        self.state = CALL_OVER
        self.waiter = None
        if waiter.state == WAITER_DONE:
            if waiter.error is not None:
                error = waiter.error
                waiter.error = None
                raise error
            value = waiter.value
            waiter.value = None
            return value
        raise AskTimeout(f"agent {self.cell.name!r} gave no answer within {self.timeout} s")

    def __iter__(self):
        return self

    def __await__(self):
        return self

    def __next__(self):
        # Replaced below by ask_next, which ends without a traceback; this gives the type the slot.
        raise StopIteration

    def send(self, value):
        return next(self)

    def throw(self, typ, value=None, traceback=None):
        if value is None:
            value = typ() if isinstance(typ, type) else typ
        self.close()
        raise value

    def close(self):
        # The message stays accepted; its answer goes nowhere.
        if self.waiter is not None:
            self.waiter.conclude(WAITER_CANCELLED)
            self.waiter = None
        self.state = CALL_OVER

    def __repr__(self):
        return f"<Ask of {self.cell.name!r}>"


cdef PyObject *ask_next(PyObject *self) except? NULL:
    """`Ask.__next__`: what to wait on, or the end with the answer as its value."""
    cdef Ask call = <Ask>self
    cdef object result
    if call.state == CALL_NEW:
        call.state = CALL_OVER
        result = call.begin()
        Py_INCREF(result)
        return <PyObject *>result
    if call.state == CALL_OVER:
        raise RuntimeError("cannot reuse already awaited ask()")
    if call.waiter.state == WAITER_PENDING:
        raise RuntimeError("ask() is being awaited already")
    result = call.finish()
    pmesh_set_stop(result)
    return NULL


pmesh_set_iternext(Ask, ask_next)

collections.abc.Coroutine.register(Send)
collections.abc.Coroutine.register(Ask)


@cython.final
cdef class AgentRef:
    """How an agent is reached: `tell`, `send`, `ask`. Stays valid, and says no, after the agent stopped."""

    cdef Cell cell
    cdef readonly str name
    cdef object __weakref__

    def __init__(self):
        raise InvalidType("AgentRef is made by Coordinator.spawn(); it cannot be constructed")

    cdef bint tell_one(self, object payload, object ttl, object headers) except -1:
        cdef Cell cell = self.cell
        cdef Dispatcher dispatcher = cell.dispatcher
        cdef Message message = new_message(payload)
        cdef Scope scope = dispatcher.current_scope()
        if dispatcher.forked:
            dispatcher.check_usable()
        if headers is not None:
            message.headers = check_headers(headers)
        dispatcher.prepare(cell, message, scope)
        if ttl is not None:
            message.deadline_ns = timeout_to_ns(ttl, "ttl") + dispatcher.clock.now()
        if pmesh_load(dispatcher.is_closing) and scope is None:
            cell.count_refused()
            return False
        return dispatcher.submit(cell, message)

    def tell(self, payload, *, ttl=None, headers=None):
        """Send `payload` and do not wait: True when it was accepted. Safe from any thread.

        Args:
            ttl: Seconds after which the message is not handled any more but counted expired.
            headers: A mapping that rides along in the envelope.

        Returns:
            False when it was not accepted: the mailbox is full under REJECT, the agent has stopped or is
            draining, the coordinator is closing, or its loop is closed.
        """
        return self.tell_one(payload, ttl, headers)

    def tell_many(self, payloads, *, ttl=None, headers=None):
        """`tell` each of `payloads`, in order; returns how many were accepted. Safe from any thread."""
        cdef Py_ssize_t count = 0
        if not hasattr(payloads, "__iter__"):
            raise InvalidType(f"payloads is a {type_name(payloads)}; it must be an iterable of payloads")
        for payload in payloads:
            if self.tell_one(payload, ttl, headers):
                count += 1
        return count

    def send(self, payload, *, timeout=DEFAULT_TIMEOUT_SECONDS, headers=None):
        """Deliver `payload`, waiting for room in the mailbox and for a place in the coordinator's window.

        Args:
            timeout: Seconds to wait; positive and finite.
            headers: A mapping that rides along in the envelope.

        Raises:
            MailboxFull: No room within `timeout`, or at once for a message larger than the whole budget
                and for an agent that sends to its own full mailbox with no slot free to make room.
            AgentStopped: The agent has stopped, or stops while this waits.
            WrongLoop: Awaited outside the coordinator's event loop.

        Cancel safety: a cancelled call has accepted nothing.
        """
        cdef Send call = Send.__new__(Send)
        call.cell = self.cell
        call.message = new_message(payload)
        if headers is not None:
            call.message.headers = check_headers(headers)
        call.timeout = timeout
        return call

    def ask(self, payload, *, timeout=DEFAULT_TIMEOUT_SECONDS, headers=None):
        """Send `payload` and wait for what its handler returns. Does not wait for room.

        Args:
            timeout: Seconds to wait for the answer; positive and finite. It is the message's deadline
                too, and no later than the deadline of the message whose handler asks.
            headers: A mapping that rides along in the envelope.

        Raises:
            AskTimeout: No answer in time; the message may still be handled if it was started in time.
            AskCycle: Asked by a handler that the agent, directly or through others, itself waits for.
            AgentStopped: The agent has stopped, or stops before it answers.
            MailboxFull: There was no room, or the message was dropped to make room for another.
            UnhandledMessage: The agent has no handler for the payload.
            HandlerCancelled: The handler was cancelled.
            WrongLoop: Awaited outside the coordinator's event loop.
            Exception: Whatever the handler raised.

        Cancel safety: a cancelled call may have been accepted, and is then still handled; its answer
        is discarded.
        """
        cdef Ask call = Ask.__new__(Ask)
        call.cell = self.cell
        call.message = new_message(payload)
        if headers is not None:
            call.message.headers = check_headers(headers)
        call.timeout = timeout
        return call

    @property
    def is_alive(self):
        """Whether the agent takes mail."""
        return not self.cell.closed

    @property
    def depth(self):
        """Messages waiting in the mailbox, both lanes."""
        return len(self.cell)

    @property
    def capacity(self):
        """Messages that may wait in each lane of the mailbox; `limit` says how many may now."""
        return self.cell.capacity

    @property
    def limit(self):
        """Messages that may wait in the normal lane now: below `capacity` while an adaptive one is overloaded."""
        return self.cell.current_limit()

    def counters(self):
        """The account of this agent at this instant, as `Counters`."""
        return self.cell.counters()

    def __reduce__(self):
        raise InvalidType(f"AgentRef {self.name!r} belongs to one process and cannot be pickled; send its name")

    def __repr__(self):
        return f"<AgentRef {self.name!r}{' (stopped)' if self.cell.closed else ''}>"


def cell_of(AgentRef ref not None):
    """The cell behind a ref, for the coordinator."""
    return ref.cell


def tell_intended(AgentRef ref not None, payload, int64_t intended_ns):
    """`ref.tell(payload)`, timed from `intended_ns`: when a schedule wanted it sent, on the coordinator's clock.

    What a sender loses by being late is then part of the latency, in `Meter.intended`, and stands by itself
    in `Meter.send_delay`. A sender that waits for one message before it times the next hides just that
    (G. Tene, "How NOT to Measure Latency": coordinated omission).
    """
    cdef Cell cell = ref.cell
    cdef Dispatcher dispatcher = cell.dispatcher
    cdef Message message = new_message(payload)
    cdef Scope scope = dispatcher.current_scope()
    cdef bint accepted
    dispatcher.check_usable()
    dispatcher.prepare(cell, message, scope)
    if pmesh_load(dispatcher.is_closing) and scope is None:
        cell.count_refused()
        return False
    message.intended_ns = intended_ns
    accepted = dispatcher.submit(cell, message)
    if message.accepted_ns:     # else the loop was closed
        cell.meter.add_one(cell.meter.send_delay, message.accepted_ns - intended_ns)
    return accepted
