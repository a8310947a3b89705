"""The dispatcher of one event loop: run queue, stepping of handlers, wake-ups, timers, the window."""

cdef enum:
    WAITER_PENDING = 0
    WAITER_DONE = 1        # settled with a value or an error, or granted what it waited for
    WAITER_TIMED_OUT = 2
    WAITER_STOPPED = 3     # the agent stopped meanwhile
    WAITER_CANCELLED = 4
    WAITER_TIMER = 5       # no Task waits: it is the place of an agent's Timer, its `callback`, among the timeouts

# What a Waiter waits for.
cdef enum:
    AWAITED_END = 0        # of a lifecycle hook
    AWAITED_ANSWER = 1
    AWAITED_ROOM = 2       # in the mailbox
    AWAITED_PLACE = 3      # in the coordinator's window

# Messages and wake-ups after which the loop gets its turn even when no time has passed (virtual time).
cdef enum:
    SLICE_MESSAGES = 8192

# In place of the time of the next sweep while one is under way: no timeout is earlier, so none is set before its end.
cdef enum:
    SWEEPING = -1

# Calls that wait for the loop, from which on a thread tells the dead letters of what it drops itself.
cdef enum:
    MOST_BURIED_LATER = 8192

# From one Task to the next in one call, where leaving one and entering the other would be two. CPython 3.11
# has no function for it; there the dictionary behind those two is written, as they do.
cdef bint SWAPS_TASKS = sys.version_info >= (3, 12)


@cython.final
cdef class Clock:
    """The one source of time of a coordinator: CLOCK_MONOTONIC, or a value that a test sets."""

    cdef bint is_virtual
    cdef int64_t value_ns

    def __init__(self, *, bint virtual=False):
        self.is_virtual = virtual

    cdef inline int64_t now(self) noexcept:
        return self.value_ns if self.is_virtual else pmesh_monotonic_ns()

    def now_ns(self):
        """Nanoseconds since an arbitrary start; the same clock as `time.monotonic_ns` unless virtual."""
        return self.now()

    def set_ns(self, int64_t value_ns):
        """Set a virtual clock."""
        if not self.is_virtual:
            raise InvalidArgument("set_ns() on the real clock; make one with Clock(virtual=True)")
        self.value_ns = value_ns


@cython.final
@cython.freelist(256)
cdef class Waiter:
    """What a Task waits on for this mesh: the answer to an ask, room for a send, the end of a hook.

    It has the part of the future protocol that a Task uses. Its Task is resumed by the dispatcher, in
    the same turn of the loop, instead of by a callback of its own.
    """

    cdef public bint _asyncio_future_blocking
    cdef vectorcallfunc call           # waiter_call
    cdef Dispatcher dispatcher
    cdef object callback
    cdef object context
    cdef object value
    cdef object error
    cdef object cancel_message
    cdef int64_t deadline_ns           # when it times out; 0 for never
    cdef int64_t size_bytes            # of the message that a send waits with
    cdef uint8_t lane
    cdef uint8_t state
    cdef Py_ssize_t place              # in the heap of timeouts, from 1; 0 when not in it
    cdef Waiter earlier                # its neighbours in the line of timeouts
    cdef Waiter later
    cdef Cell cell                     # the agent that is asked, sent to, or whose hook it is
    cdef int64_t since_ns              # when the wait began
    cdef uint8_t what                  # is waited for: one of the AWAITED values
    cdef bint in_line
    cdef bint exempt                   # that send was made in a handler
    cdef WaiterQueue queue             # the queue that it stands in, or None
    cdef Waiter before                 # its neighbours there
    cdef Waiter behind

    def __init__(self):
        raise InvalidType("Waiter is made by the dispatcher; it cannot be constructed")

    cdef int conclude(self, int state) except -1:
        """Settle with `state` and let the waiting Task go on; in the loop. Only the first call counts."""
        if self.state != WAITER_PENDING:
            return 0
        self.state = state
        if self.queue is not None:
            self.queue.remove(self)
        if self.in_line or self.place:
            self.dispatcher.clear_timeout(self)
        if self.callback is not None:
            self.dispatcher.wake(self)
        return 0

    cdef int settle(self, object value, object error) except -1:
        if self.state == WAITER_PENDING:
            self.value = value
            self.error = error
            self.conclude(WAITER_DONE)
        return 0

    def __await__(self):
        if self.state == WAITER_PENDING:
            self._asyncio_future_blocking = True
            yield self
        if self.error is not None:
            raise self.error
        return self.value

    # At each wait a Task reads `_asyncio_future_blocking`, calls `get_loop`, writes `_asyncio_future_blocking` and
    # calls `add_done_callback`, all by name. The ordinary way, through the type's dictionary and binding a method
    # only to call it, costs a tenth of all that a send through the window does; so these names are answered first.

    def __getattribute__(self, name):
        if name is "_asyncio_future_blocking":
            return self._asyncio_future_blocking
        if name is "get_loop":
            return self.dispatcher.get_loop
        if name is "add_done_callback":
            return self    # which calls it when called; see waiter_call
        return PyObject_GenericGetAttr(self, name)

    def __setattr__(self, name, value):
        if name is "_asyncio_future_blocking":
            self._asyncio_future_blocking = value
        else:
            PyObject_GenericSetAttr(self, name, value)

    def get_loop(self):
        return self.dispatcher.loop

    cdef int subscribe(self, object callback, object context) except -1:
        self.callback = callback
        self.context = context
        if self.state != WAITER_PENDING:
            self.dispatcher.wake(self)
        return 0

    def add_done_callback(self, callback, *, context=None):
        self.subscribe(callback, context)

    def remove_done_callback(self, callback):
        self.callback = None
        return 1

    def done(self):
        return self.state != WAITER_PENDING

    def cancelled(self):
        return self.state == WAITER_CANCELLED

    def result(self):
        # Whoever drives the awaiting coroutine asks here only whether to throw a cancellation into it;
        # values and errors are fetched by the coroutine itself.
        if self.state == WAITER_CANCELLED:
            raise asyncio.CancelledError(*(() if self.cancel_message is None else (self.cancel_message,)))

    def exception(self):
        return None

    def cancel(self, msg=None):
        if self.state != WAITER_PENDING:
            return False
        self.cancel_message = msg
        self.conclude(WAITER_CANCELLED)
        return True

    @property
    def awaited(self):
        """What is waited for ("end", "answer", "room", "place"), the name of the agent, and since when in ns."""
        return AWAITED[self.what], None if self.cell is None else self.cell.name, self.since_ns

    def __repr__(self):
        return "<Waiter pending>" if self.state == WAITER_PENDING else "<Waiter done>"


cdef inline Waiter new_waiter(Dispatcher dispatcher):
    cdef Waiter waiter = Waiter.__new__(Waiter)
    waiter.dispatcher = dispatcher
    waiter.call = waiter_call
    return waiter


cdef PyObject *waiter_call(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames) except NULL:
    """`add_done_callback(callback, *, context=None)`, by the protocol of PEP 590."""
    cdef Waiter waiter = <Waiter>self
    cdef Dispatcher dispatcher = waiter.dispatcher
    cdef Py_ssize_t count = PyVectorcall_NARGS(nargsf)
    cdef object result = None
    cdef Py_ssize_t i
    cdef bint as_tasks_do = count == 1 and kwnames is not NULL
    if as_tasks_do and kwnames is not <PyObject *>dispatcher.task_keywords:
        as_tasks_do = <tuple>kwnames == ("context",)
        if as_tasks_do:
            dispatcher.task_keywords = <tuple>kwnames
    if as_tasks_do:
        waiter.subscribe(<object>args[0], <object>args[1])
    else:
        positional = [<object>args[i] for i in range(count)]
        keywords = {}
        if kwnames is not NULL:
            for i, name in enumerate(<tuple>kwnames):
                keywords[name] = <object>args[count + i]
        result = Waiter.add_done_callback(waiter, *positional, **keywords)
    Py_INCREF(result)
    return <PyObject *>result


cdef Py_ssize_t offset_of_call() noexcept:
    cdef Waiter waiter = Waiter.__new__(Waiter)
    return <char *>&waiter.call - <char *><PyObject *>waiter


pmesh_set_vectorcall(Waiter, offset_of_call())


@cython.final
cdef class WaiterQueue:
    """Waiters in the order in which they came; each stands in one queue at most.

    Changed in the loop only, under the queue's lock, under which other threads may look at it.
    """

    cdef Waiter first
    cdef PyObject *last    # borrowed from the chain; means nothing when that is empty

    cdef int append(self, Waiter waiter) except -1:
        waiter.queue = self
        if PMESH_GIL:
            return self.link(waiter)
        with cython.critical_section(self):
            self.link(waiter)
        return 0

    cdef inline int link(self, Waiter waiter) noexcept:
        cdef Waiter last
        if self.first is None:
            self.first = waiter
        else:
            last = <Waiter>self.last
            waiter.before = last
            last.behind = waiter
        self.last = <PyObject *>waiter
        return 0

    cdef int remove(self, Waiter waiter) except -1:
        """The caller holds `waiter`."""
        if PMESH_GIL:
            self.unlink(waiter)
        else:
            with cython.critical_section(self):
                self.unlink(waiter)
        waiter.queue = None
        return 0

    cdef inline int unlink(self, Waiter waiter) noexcept:
        cdef Waiter before = waiter.before
        cdef Waiter behind = waiter.behind
        if before is None:
            self.first = behind
        else:
            before.behind = behind
        if behind is None:
            self.last = <PyObject *>before
        else:
            behind.before = before
        waiter.before = waiter.behind = None
        return 0


@cython.final
cdef class TimeoutLine:
    """Timeouts that were set in the order of their deadlines: to set or to clear one costs no comparisons."""

    cdef Waiter first
    cdef PyObject *last    # borrowed from the chain; means nothing when that is empty
    cdef Py_ssize_t length

    cdef inline bint append(self, Waiter waiter) except -1:
        """False when `waiter` is due before the last one, and so belongs elsewhere."""
        cdef Waiter last
        if self.first is None:
            self.first = waiter
        else:
            last = <Waiter>self.last
            if last.deadline_ns > waiter.deadline_ns:
                return False
            last.later = waiter
            waiter.earlier = last
        self.last = <PyObject *>waiter
        self.length += 1
        waiter.in_line = True
        return True

    cdef inline int remove(self, Waiter waiter) except -1:
        cdef Waiter other = waiter.later
        if other is None:
            self.last = <PyObject *>waiter.earlier
        else:
            other.earlier = waiter.earlier
        if waiter.earlier is None:
            self.first = other
        else:
            waiter.earlier.later = other
        waiter.earlier = waiter.later = None
        waiter.in_line = False
        self.length -= 1
        return 0


cdef object graver(object first, object second):
    """Of two errors the one to raise: an exit or an interrupt is not lost to what else went wrong."""
    return second if isinstance(first, Exception) and not isinstance(second, Exception) else first


@cython.final
cdef class Dispatcher:
    """Serves all agents of one event loop from one run queue, a slice of time at a turn of the loop."""

    cdef readonly object loop
    cdef readonly Clock clock
    cdef object context               # fixed: what drain and every new slot starts from
    cdef object drain_callback
    cdef object new_task
    cdef object enter_task
    cdef object leave_task
    cdef object swap_task             # CPython 3.12 and later
    cdef dict current_tasks           # before
    cdef object current_task
    cdef object running_loop
    cdef tuple task_keywords          # ("context",): the very tuple that Tasks call add_done_callback with
    cdef object done_future           # what a Task is told that it waited for
    cdef object scope_var
    cdef object get_loop              # returns the loop
    cdef bint shows_closed            # the loop is one of asyncio's own, and has `_closed`
    cdef object hooks                 # the coordinator: dead_letter, failure, overflow, killed
    cdef readonly unsigned long thread_id
    cdef Cell ready_first
    cdef PyObject *ready_last         # borrowed from the chain; means nothing when that is empty
    cdef WaiterQueue wakes            # those whose Tasks are to be resumed
    cdef object calls                 # deque of (function, args) to be called in the loop
    cdef bint has_calls               # it is not empty; to ask the deque costs ten times as much
    cdef TimeoutLine line             # timeouts of asks and sends
    cdef TimeoutLine timer_line       # those of agents' timers, which may be long and must not stand in the way
    cdef list timers                  # those that came out of order: a heap of Waiter by deadline_ns
    cdef object timer                 # the loop's TimerHandle
    cdef int64_t timer_ns             # when it fires; 0 when none is set, or SWEEPING
    cdef object chooser               # picks among ready agents; None for first come, first served
    cdef readonly Py_ssize_t window   # 0 for none
    cdef Py_ssize_t window_used
    cdef WaiterQueue window_waiters
    cdef Slot stepping                # whose handler runs right now, in place or in its Task
    cdef Slot spare                   # of no agent: where hooks run that leave no trace
    cdef Slot entered                 # whose Task is the current one
    cdef int64_t slice_ns
    cdef int64_t slice_end_ns
    cdef int64_t now_ns               # the newest reading of the clock
    cdef Py_ssize_t batch             # messages that one agent handles before the next one's turn
    cdef Py_ssize_t budget            # messages and wake-ups left in this slice
    cdef Slot waiting_first           # suspended handlers and hooks, oldest first; only where stalls are looked for
    cdef Slot waiting_last
    cdef object stall_timer           # the loop's TimerHandle
    cdef int64_t stall_ns             # how long a handler may wait unreported; 0 for any time
    cdef int64_t steps                # begun; tells one step of a handler from the next
    cdef int64_t suspensions          # handlers that suspended so far
    cdef bint now_is_fresh            # nothing but dispatch happened since now_ns was read
    cdef bint drain_scheduled         # drain is going to run, or runs
    cdef bint draining                # drain runs, so the loop does too
    cdef bint is_closing              # mail from outside handlers is refused; threads look at it as they tell
    cdef readonly bint ended          # nothing is served any more
    cdef public bint records          # times go into recorders; False only to measure what that costs
    cdef bint forked                  # this is a copy in a forked child

    def __init__(self, loop not None, hooks, Clock clock not None, *, Py_ssize_t window=0, Py_ssize_t batch=64,
                 double slice_seconds=0.001, chooser=None, double stall_seconds=0.0):
        self.loop = loop
        self.hooks = hooks
        self.clock = clock
        self.context = contextvars.Context()
        self.drain_callback = self._drain
        self.new_task = asyncio.Task
        self.enter_task = asyncio.tasks._enter_task
        self.leave_task = asyncio.tasks._leave_task
        if SWAPS_TASKS:
            self.swap_task = asyncio.tasks._swap_current_task
        else:
            self.current_tasks = asyncio.tasks._current_tasks
        self.current_task = asyncio.current_task
        self.running_loop = asyncio._get_running_loop
        self.scope_var = SCOPE
        self.get_loop = self._get_loop
        self.shows_closed = type(loop).is_closed is asyncio.BaseEventLoop.is_closed and hasattr(loop, "_closed")
        self.done_future = loop.create_future()
        self.done_future.set_result(None)
        self.thread_id = PyThread_get_thread_ident()
        self.wakes = WaiterQueue()
        self.calls = collections.deque()
        self.line = TimeoutLine()
        self.timer_line = TimeoutLine()
        self.timers = []
        self.window_waiters = WaiterQueue()
        self.window = window
        # Whoever chooses does so before every message.
        self.batch = batch if chooser is None else 1
        self.slice_ns = <int64_t>(slice_seconds * SECOND_NS)
        self.chooser = chooser
        self.stall_ns = <int64_t>(stall_seconds * SECOND_NS)
        self.records = True

    def _get_loop(self):
        return self.loop

    cdef inline bint loop_is_closed(self) except -1:
        # For each message told from outside of handlers; asyncio's own method is a call of Python, and costs as much as
        # all of `Mailbox.put`.
        if self.shows_closed:
            return self.loop._closed
        return self.loop.is_closed()

    # The run queue.

    cdef int push(self, Cell cell) except -1:
        """Append a cell that became ready (its `scheduled` is set); from any thread."""
        cdef bint schedule
        with cython.critical_section(self):
            if self.ready_first is None:
                self.ready_first = cell
            else:
                (<Cell>self.ready_last).next_ready = cell
            self.ready_last = <PyObject *>cell
            schedule = not self.drain_scheduled
            self.drain_scheduled = True
        if schedule:
            self.schedule()
        return 0

    cdef int take_off(self, Cell cell) except -1:
        """Undo a `push` that could not have the queue served."""
        cdef Cell here, before = None
        with cython.critical_section(self):
            here = self.ready_first
            while here is not None and here is not cell:
                before = here
                here = here.next_ready
            if here is not None:
                self.unlink_ready(cell, before)
        if here is not None:
            with cython.critical_section(cell):
                cell.scheduled = False
        return 0

    cdef inline int unlink_ready(self, Cell cell, Cell before) noexcept:
        """Take `cell` out of the run queue, where it follows `before`; None for the first one. Under the lock."""
        if before is None:
            self.ready_first = cell.next_ready
        else:
            before.next_ready = cell.next_ready
        if self.ready_last is <PyObject *>cell:
            self.ready_last = <PyObject *>before
        cell.next_ready = None
        return 0

    cdef Cell pop(self):
        cdef Cell cell
        if self.chooser is not None:
            return self.pop_chosen()
        with cython.critical_section(self):
            cell = self.ready_first
            if cell is not None:
                self.ready_first = cell.next_ready
                cell.next_ready = None
        return cell

    cdef Cell pop_chosen(self):
        """Let the hook pick: it is given the refs of all ready agents and returns an index."""
        cdef list ready = []
        cdef Cell cell, before
        cdef Py_ssize_t index, i
        with cython.critical_section(self):
            cell = self.ready_first
            while cell is not None:
                ready.append(cell.ref)
                cell = cell.next_ready
        if not ready:
            return None
        self.leave()
        try:
            index = self.chooser(ready)
            if not 0 <= index < len(ready):
                raise InvalidArgument(f"the chooser returned {index}; it must be an index below {len(ready)}")
        except Exception as raised:
            self.chooser = None
            self.report("choosing an agent (from now on the first come is served first)", raised)
            return self.pop()
        finally:
            self.now_is_fresh = False    # that took time, or let it pass
        with cython.critical_section(self):
            before = None
            cell = self.ready_first
            for i in range(index):
                before = cell
                cell = cell.next_ready
            self.unlink_ready(cell, before)
        return cell

    cdef int schedule(self) except -1:
        """Have the loop call drain once; `drain_scheduled` was just set."""
        try:
            self.call_drain_soon()
        except BaseException as raised:
            # Where a signal or a lack of memory came in between, the second time it works, and nobody is left waiting.
            try:
                self.call_drain_soon()
            except BaseException as again:
                with cython.critical_section(self):
                    self.drain_scheduled = False
                raise graver(raised, again)
            if not isinstance(raised, Exception):
                raise
        return 0

    cdef inline int call_drain_soon(self) except -1:
        if PyThread_get_thread_ident() == self.thread_id:
            self.loop.call_soon(self.drain_callback, context=self.context)
        else:
            self.loop.call_soon_threadsafe(self.drain_callback, context=self.context)
        return 0

    cdef int ensure_drain(self) except -1:
        cdef bint schedule
        with cython.critical_section(self):
            schedule = not self.drain_scheduled
            self.drain_scheduled = True
        if schedule:
            self.schedule()
        return 0

    cdef int wake(self, Waiter waiter) except -1:
        """Resume the Task that waits on `waiter`, soon; in the loop."""
        if waiter.queue is None:
            self.wakes.append(waiter)
        self.ensure_drain()
        return 0

    cdef int call(self, object function, tuple args) except -1:
        """Call `function` in the loop, before more messages are handled; from any thread.

        When another thread has just closed the loop it is never called, and nothing is raised.
        """
        cdef bint schedule
        # First the call, then the flag, then the question whether drain is still to look at it. The flag has the lock,
        # so that clearing it in `run_calls` cannot be put off until after this.
        self.calls.append((function, args))
        with cython.critical_section(self):
            self.has_calls = True
            schedule = not self.drain_scheduled
            self.drain_scheduled = True
        if schedule:
            try:
                self.schedule()
            except RuntimeError:
                if PyThread_get_thread_ident() == self.thread_id or not self.loop_is_closed():
                    raise
        return 0

    def _drain(self):
        """Serve ready agents until none is left or the slice is over; the loop calls this."""
        cdef Cell cell
        cdef bint more
        self.now_ns = self.clock.now()
        self.now_is_fresh = True
        self.slice_end_ns = self.now_ns + self.slice_ns
        self.budget = SLICE_MESSAGES
        self.draining = True
        try:
            while True:
                if self.are_calls_due():
                    self.run_calls()
                cell = self.pop()
                if cell is not None:
                    self.run(cell)
                elif self.wakes.first is None and not self.are_calls_due():
                    break
                if self.wakes.first is not None and self.is_none_ready():
                    self.run_wakes()
                if self.now_ns >= self.slice_end_ns or self.budget <= 0:
                    break
        finally:
            self.leave()
            self.draining = False
            with cython.critical_section(self):
                more = self.ready_first is not None or self.wakes.first is not None or self.has_calls
                self.drain_scheduled = more
            if more:
                self.schedule()

    cdef inline bint is_none_ready(self) except -1:
        cdef bint none
        if PMESH_GIL:
            return self.ready_first is None
        with cython.critical_section(self):
            none = self.ready_first is None
        return none

    cdef inline bint are_calls_due(self) except -1:
        cdef bint due
        if PMESH_GIL:
            return self.has_calls
        with cython.critical_section(self):
            due = self.has_calls
        return due

    cdef int run_calls(self) except -1:
        """Call what is to be called in the loop, until nothing is left or the slice is over."""
        cdef object function
        cdef tuple args
        self.leave()
        with cython.critical_section(self):
            self.has_calls = False
        try:
            while self.calls:
                function, args = self.calls.popleft()
                function(*args)
                self.budget -= 1
                # Threads may ask for more calls than are made meanwhile.
                if self.budget <= 0 or (self.budget % 16 == 0 and self.clock.now() >= self.slice_end_ns):
                    break
        finally:
            # SystemExit or KeyboardInterrupt goes through the loop; the rest is called when it runs again.
            if self.calls:
                with cython.critical_section(self):
                    self.has_calls = True
            self.now_ns = self.clock.now()
            self.now_is_fresh = False
        return 0

    cdef int run_wakes(self) except -1:
        """Resume the Tasks that were waiting, each in its own Context, as the loop would."""
        cdef Waiter waiter
        cdef object callback, context, done
        cdef int64_t before
        self.leave()
        while self.wakes.first is not None:
            waiter = self.wakes.first
            self.wakes.remove(waiter)
            callback = waiter.callback
            if callback is None:
                continue
            context = waiter.context
            waiter.callback = waiter.context = None
            before = self.now_ns
            # A Task only wants to know whether to throw a cancellation; of a future that is not asyncio's own
            # it asks so by a string that it decodes each time, which costs as much as the rest of its step.
            done = waiter if waiter.state == WAITER_CANCELLED else self.done_future
            if context is None:
                callback(done)
            else:
                PyContext_Enter(context)
                try:
                    callback(done)
                finally:
                    PyContext_Exit(context)
            self.budget -= 1
            if self.now_ns == before:
                self.now_ns = self.clock.now()
            if self.now_ns >= self.slice_end_ns or self.budget <= 0:
                break
        self.now_is_fresh = False
        return 0

    # Handling.

    cdef int run(self, Cell cell) except -1:
        """Let one agent handle a batch, and put it back in the queue if it has more."""
        cdef Py_ssize_t left = self.batch
        cdef Slot slot
        if not self.now_is_fresh:
            self.now_ns = self.clock.now()
            self.now_is_fresh = True
        try:
            while left > 0 and not cell.paused and cell.count_waiting():
                slot = cell.free_slot()
                if slot is None:
                    break
                left = self.run_slot(cell, slot, left)
                if self.now_ns >= self.slice_end_ns or self.budget <= 0:
                    break
        finally:
            if cell.ran():
                self.push(cell)
        return 0

    cdef Py_ssize_t run_slot(self, Cell cell, Slot slot, Py_ssize_t left) except -1:
        """Handle messages in `slot` until one suspends, none is left or the batch or slice is over.

        Returns how much of the batch is left; the slot is free again unless its handler suspended.
        """
        cdef Message message
        cdef bint suspended = False
        if slot.task is None and cell.table.has_async:
            self.leave()
            slot.make_task()
        PyContext_Enter(slot.context)
        try:
            while left > 0:
                message = cell.take()
                if message is None:
                    break
                if cell.has_waiters:
                    self.grant_room(cell)
                left -= 1
                self.budget -= 1
                if message.mark:
                    self.unwrap(message)
                suspended = self.step(cell, slot, message)
                message = None    # what that lets go of may run code, which the next message is not to be in the way of
                if suspended or cell.paused or slot.swallow_cancel:
                    break
                if self.now_ns >= self.slice_end_ns or self.budget <= 0:
                    break
            if suspended:
                self.leave()
                cell.occupy(slot)
                slot.hand_over()
                self.now_is_fresh = False
                if self.stall_ns:
                    begin_waiting(self, slot)
            elif slot.swallow_cancel:
                # A cancel that came too late: the slot is free again once its Task has taken it.
                cell.occupy(slot)
        finally:
            PyContext_Exit(slot.context)
        return left

    cdef inline int leave(self) except -1:
        """No Task is current any more."""
        cdef Slot slot = self.entered
        if slot is not None:
            self.entered = None
            if SWAPS_TASKS:
                self.swap_task(self.loop, None)
            else:
                del self.current_tasks[self.loop]
        return 0

    cdef inline int enter(self, Slot slot) except -1:
        """Make the Task of `slot` the current one; the slot's Context is entered."""
        if self.entered is slot:
            return 0
        if slot.task is None:
            # An eager Task enters its Context by itself, and expects no other to be current.
            self.leave()
            PyContext_Exit(slot.context)
            try:
                slot.make_task()
            finally:
                PyContext_Enter(slot.context)
        if SWAPS_TASKS:
            self.swap_task(self.loop, slot.task)
        else:
            self.current_tasks[self.loop] = slot.task
        self.entered = slot
        return 0

    cdef object start_in_place(self, Slot slot, object awaitable, int *status):
        """First step of an awaitable under the slot's Task: its value, or what it waits for (*status 1)."""
        cdef object iterator
        self.enter(slot)
        if PyCoro_CheckExact(awaitable):
            iterator = awaitable
        else:
            iterator = type(awaitable).__await__(awaitable) if hasattr(type(awaitable), "__await__") else awaitable
        value = pmesh_iter_send(iterator, None, status)
        if status[0]:
            slot.show_suspended(iterator, value)
            slot.has_yielded = True
        return value

    # Which handler runs right now, and what it has in hand, as other threads may see it; see `Slot`. With a GIL `step`
    # writes it itself: this is for every message, and an empty critical section counts its object's references.

    cdef int begin_step(self, Slot slot, Message message) noexcept:
        with cython.critical_section(self):
            slot.message = message
            self.stepping = slot
            self.steps += 1
        return 0

    cdef int show_handler(self, Slot slot, Handler handler) noexcept:
        cdef Handler before = slot.handler
        with cython.critical_section(self):
            slot.handler = handler
        return 0

    cdef int end_step(self, Slot slot, bint is_over) noexcept:
        """The caller holds the message, as of one that is over the slot lets go."""
        with cython.critical_section(self):
            self.stepping = None
            if is_over:
                slot.in_place = False
                slot.message = None
        return 0

    cdef inline int show_stepping(self, Slot slot, int steps) noexcept:
        """`steps` is 1 for the begin of one. The caller holds the slot that was shown before."""
        if PMESH_GIL:
            self.stepping = slot
            self.steps += steps
        else:
            with cython.critical_section(self):
                self.stepping = slot
                self.steps += steps
        return 0

    cdef int show_in_place(self, Slot slot, bint in_place, int64_t started_ns) noexcept:
        with cython.critical_section(self):
            slot.in_place = in_place
            slot.started_ns = started_ns
        return 0

    cdef bint step(self, Cell cell, Slot slot, Message message) except -1:
        """Handle `message` in place; True when the handler suspended and the slot must be handed over."""
        cdef Handler handler = None
        cdef object result = None
        cdef object error = None
        cdef int status = 0
        cdef bint expired
        cdef bint is_counted = False
        cdef int64_t started_ns = self.now_ns
        if started_ns < message.accepted_ns:
            started_ns = message.accepted_ns
        expired = message.deadline_ns and started_ns >= message.deadline_ns
        if cell.throttle is not None and message._lane == LANE_NORMAL:
            cell.watch_start(message.accepted_ns, started_ns, expired)
        if expired:
            self.expire(cell, message)
            return False
        try:
            if PMESH_GIL:
                slot.in_place = True
                slot.started_ns = started_ns
            else:
                self.show_in_place(slot, True, started_ns)
            slot.open_scope(message)
            if PMESH_GIL:
                slot.message = message
                self.stepping = slot
                self.steps += 1
            else:
                self.begin_step(slot, message)
            handler = cell.table.lookup(message.payload)
            if PMESH_GIL:
                slot.handler = handler
            else:
                self.show_handler(slot, handler)
            if handler is None:
                self.end_step(slot, True)
                slot.close_scope()
                is_counted = True
                self.unhandled(cell, message)
                return False
            if handler.is_async:
                self.enter(slot)
            elif self.entered is not None:
                self.leave()
            if handler.takes_agent:
                result = handler.function(cell.agent, message.payload)
            else:
                result = handler.function(message.payload)
            if result is not None and is_awaitable(result):
                result = self.start_in_place(slot, result, &status)
        except BaseException as raised:
            if is_counted:
                raise    # out of what is told of a dead letter
            error = raised
        if PMESH_GIL:
            self.stepping = None
        else:
            self.end_step(slot, not status)
        if status:
            # Still in place until it is handed over: a cancel that comes in between is meant for it.
            self.suspensions += 1
            slot.number = self.suspensions
            if message.windowed:
                self.leave_window(message)
            return True
        if PMESH_GIL:
            slot.in_place = False
        if slot.cancel_requested or (slot.state == SLOT_FRESH and slot.task is not None and slot.task.cancelling()):
            slot.clear_cancels()
        if PMESH_GIL:
            slot.message = None
        slot.close_scope()
        self.now_ns = self.clock.now()
        self.now_is_fresh = True
        self.finish(cell, handler, message, result, error, started_ns, self.now_ns)
        if error is not None and isinstance(error, (SystemExit, KeyboardInterrupt)):
            raise error
        return False

    cdef int finish(self, Cell cell, Handler handler, Message message, object value, object error,
                    int64_t started_ns, int64_t now_ns) except -1:
        """Record, count and answer a message whose handler is over."""
        cdef Waiter reply
        if message.mark and self.stash(cell, message, error):
            return 0
        if self.records:
            cell.meter.add_times(started_ns - message.accepted_ns, now_ns - started_ns)
            if message.intended_ns:
                cell.meter.add_one(cell.meter.intended, now_ns - message.intended_ns)
        if error is None:
            cell.count_end(END_HANDLED)
        else:
            cell.count_end(END_FAILED)
        if message.windowed:
            self.leave_window(message)
        if message.reply is not None:
            reply = message.reply
            if error is None:
                reply.settle(value, None)
            else:
                reply.settle(None, self.answerable(cell, handler, error))
        if cell.watched:
            self.check_quiet(cell)
        if error is not None:
            try:
                self.hooks.on_failure(cell, handler, message, error)
            except Exception as raised:
                self.report("reporting a failed handler", raised)
        return 0

    cdef int unwrap(self, Message message) except -1:
        """A timer's message was taken: from here on it is like any other, and cannot be withdrawn."""
        cdef Timer timer = <Timer>message.payload
        message.mark = 0
        try:
            timer.arrive(message)
        except Exception as raised:
            self.report("forgetting a timer whose message has arrived", raised)
        return 0

    cdef bint stash(self, Cell cell, Message message, object error) except -1:
        """At the end of a handler that called `context.stash()`: whether its message is kept and not finished."""
        cdef Kit kit = cell.kit
        if error is not None:
            message.mark = 0
            if kit is not None:
                kit.forget(message)
            return False
        if message.windowed:
            self.leave_window(message)
        if cell.retired:
            message.mark = 0
            cell.count_end(END_DEAD)
            self.bury_stopped(cell, message)
        elif kit is None or not kit.keep(message):
            # The instance that wanted it stashed was replaced meanwhile.
            cell.return_mail([message])
        return True

    cdef int report(self, str doing, object error) except -1:
        """Tell the loop of an error in what the coordinator does about a message; the message is over."""
        self.loop.call_exception_handler({"message": f"pmesh: {doing} failed", "exception": error})
        return 0

    cdef object answerable(self, Cell cell, Handler handler, object error):
        """The exception that an asker gets for one that a handler raised."""
        cdef str name = "dispatch" if handler is None else f"handler {handler.name}"
        if isinstance(error, asyncio.CancelledError):
            answer = HandlerCancelled(f"{name} of agent {cell.name!r} was cancelled")
        elif isinstance(error, (StopIteration, StopAsyncIteration)):
            # Raised into the asking coroutine it would end it.
            answer = RuntimeError(f"{name} of agent {cell.name!r} raised {type_name(error)}")
        elif isinstance(error, (SystemExit, KeyboardInterrupt, GeneratorExit)):
            answer = HandlerCancelled(
                f"{name} of agent {cell.name!r} ended with {type_name(error)}"
            )
        else:
            return error
        answer.__cause__ = error
        return answer

    cdef int check_quiet(self, Cell cell) except -1:
        cdef Py_ssize_t kept = 0 if cell.kit is None else cell.kit.kept
        if cell.watched & WATCH_IDLE and cell.in_hand == kept:
            cell.watched &= ~WATCH_IDLE
            self.call(cell.life.on_idle, ())
        if cell.watched & WATCH_QUIET:
            if cell.count_pending() == 0:
                cell.watched &= ~WATCH_QUIET
                self.call(cell.life.on_quiet, ())
            elif kept:
                cell.kit.tell_what_is_left()
        return 0

    # Accepted messages that no handler sees: each is counted, its asker told, and a dead letter made.

    cdef int expire(self, Cell cell, Message message) except -1:
        cell.count_end(END_EXPIRED)
        self.bury(cell, message, "expired", None)
        return 0

    cdef int unhandled(self, Cell cell, Message message) except -1:
        cell.count_end(END_DEAD)
        self.bury(cell, message, "unhandled", UnhandledMessage(
            f"agent {cell.name!r} has no handler for {type_name(message.payload)} and no receive()"
        ) if message.reply is not None else None)
        return 0

    cdef int bury(self, Cell cell, Message message, str kind, object error) except -1:
        """After the count: free the window, answer the asker (an expired one times out), tell the dead letters.

        From any thread; what belongs to the loop is called there.
        """
        if PyThread_get_thread_ident() == self.thread_id:
            self.bury_in_loop(cell, message, kind, error)
        elif (
            len(self.calls) < MOST_BURIED_LATER or message.windowed or message.reply is not None or cell.watched
        ):
            self.call(self._bury_later, (cell, message, kind, error))
        else:
            # Threads drop more than the loop keeps up with: what is to be called there must not grow for ever.
            self.tell_dead_letters(cell, message, kind)
        return 0

    def _bury_later(self, Cell cell, Message message, str kind, error):
        self.bury_in_loop(cell, message, kind, error)

    cdef int bury_in_loop(self, Cell cell, Message message, str kind, object error) except -1:
        if message.windowed:
            self.leave_window(message)
        if message.reply is not None:
            if error is None:
                message.reply.conclude(WAITER_TIMED_OUT)
            else:
                message.reply.settle(None, error)
        if cell.watched:
            self.check_quiet(cell)
        self.tell_dead_letters(cell, message, kind)
        return 0

    cdef int tell_dead_letters(self, Cell cell, Message message, str kind) except -1:
        try:
            self.hooks.on_dead_letter(kind, message, cell.ref)
        except Exception as raised:
            self.report("recording a dead letter", raised)
        return 0

    cdef int bury_dropped(self, Cell cell, Message message) except -1:
        self.bury(cell, message, "dropped", MailboxFull(
            f"a message to agent {cell.name!r} was dropped: its mailbox holds {cell.room()}, and the policy drops"
        ) if message.reply is not None else None)
        return 0

    def discard(self, Cell cell not None):
        """Dead-letter all that waits for a stopped agent, and refuse senders that wait for room."""
        cdef Message message, following
        cdef object error = None
        cell.retire()
        message = cell.discard_all()
        while message is not None:
            following = message.next
            message.next = None
            try:
                self.bury_stopped(cell, message)
            except BaseException as raised:
                error = raised    # as in `bury_displaced`
            message = following
        self.refuse_waiters(cell)
        if error is not None:
            raise error

    cdef int bury_stopped(self, Cell cell, Message message) except -1:
        self.bury(cell, message, "stopped", AgentStopped(
            f"agent {cell.name!r} stopped before it handled {type_name(message.payload)}"
        ) if message.reply is not None else None)
        return 0

    def refuse_waiters(self, Cell cell not None, bint outside_only=False):
        """Let senders that wait to send to `cell` (of them those outside handlers) fail with `AgentStopped`."""
        cdef WaiterQueue waiters
        cdef Waiter waiter, following
        for waiters in (cell.normal_waiters, cell.control_waiters, self.window_waiters):
            waiter = None if waiters is None else waiters.first
            while waiter is not None:
                following = waiter.behind
                if waiter.cell is cell and not (outside_only and waiter.exempt):
                    waiter.conclude(WAITER_STOPPED)
                waiter = following
        self.grant_room(cell)

    # Lifecycle hooks, in a slot of the agent: on_start and on_stop share the Task of its first handlers.

    cdef Slot make_slot(self):
        cdef Slot slot = Slot.__new__(Slot)
        slot.dispatcher = self
        slot.context = self.context.copy()
        return slot

    cdef Slot borrow_slot(self, Cell cell):
        """The spare slot, for the first hook of an agent that has none of its own."""
        cdef Slot slot = self.spare
        self.spare = None
        if slot is None or slot.killed or slot.ending:
            slot = self.make_slot()
        with cython.critical_section(self):
            slot.cell = cell
        if slot.scope is not None:
            slot.scope.cell = cell
        if slot.task is not None:
            slot.task.set_name(cell.name)
        return slot

    cdef bint give_back_slot(self, Slot slot, Py_ssize_t task_references, Py_ssize_t context_references) except -1:
        """Whether a borrowed slot bears no trace of the hook that ran in it, and is the spare one again.

        Nobody else may hold its Task, its Context must be as before, and nobody may have a copy of it.
        An idle agent then owns neither: half its memory, and half the time that it takes to spawn.
        """
        if self.spare is not None or slot.scope is None or slot.swallow_cancel or slot.killed or slot.ending:
            return False
        if slot.task is not None and Py_REFCNT(slot.task) != task_references:
            return False
        # A Task shows its Context from CPython 3.12 on; before, its first step holds that too.
        if EAGER_TASKS and Py_REFCNT(slot.context) != context_references + (slot.task is not None):
            return False
        with cython.critical_section(self):
            slot.cell = None
        slot.scope.cell = None
        self.spare = slot
        return True

    def run_hook(self, Cell cell not None, function, tuple args):
        """Call a hook; None when it is over, or a `Waiter` for its end. Raises what it raises."""
        cdef Slot slot
        cdef object outer_task
        cdef Slot outer_entered = self.entered
        cdef Slot outer_stepping = self.stepping
        cdef object result
        cdef int status = 0
        cdef bint borrowed = cell.all_slots is None
        cdef Py_ssize_t task_references = 0
        cdef Py_ssize_t context_references
        slot = self.borrow_slot(cell) if borrowed else cell.free_slot()
        if slot is None:
            # Handlers that outlived their cancellation hold all of them; on_stop must not wait for those.
            slot = cell.add_slot()
        # An agent with coroutines gets its Task now: before the Context is entered, since an eager
        # Task enters it by itself.
        if slot.task is None and cell.table.has_async:
            slot.make_task()
        context_references = Py_REFCNT(slot.context) - (slot.task is not None)
        outer_task = self.current_task(self.loop)
        if outer_task is not None:
            self.leave_task(self.loop, outer_task)
        self.entered = None
        self.show_in_place(slot, True, self.clock.now())
        slot.show_function(function)
        if outer_stepping is not None and outer_task is not None and outer_stepping.task is outer_task:
            slot.outer = outer_stepping
        try:
            PyContext_Enter(slot.context)
            try:
                slot.open_scope(None)
                if slot.task is not None:
                    task_references = Py_REFCNT(slot.task)
                self.show_stepping(slot, 1)
                try:
                    result = function(*args)
                    if result is not None and is_awaitable(result):
                        result = self.start_in_place(slot, result, &status)
                finally:
                    self.show_stepping(None, 0)
                    self.show_in_place(slot, status != 0, slot.started_ns)    # until it is handed over
                    self.leave()
                if status:
                    waiter = new_waiter(self)
                    waiter.cell = cell
                    waiter.since_ns = slot.started_ns
                    slot.show_hook(waiter)
                    if borrowed:
                        cell.adopt(slot)
                    else:
                        cell.occupy(slot)
                    slot.hand_over()
                    if self.stall_ns:
                        begin_waiting(self, slot)
                    return waiter
            finally:
                PyContext_Exit(slot.context)
                if not status:
                    slot.show_function(None)
                    slot.drop_shared_scope()
                    if slot.cancel_requested or (
                        slot.state == SLOT_FRESH and slot.task is not None and slot.task.cancelling()
                    ):
                        slot.clear_cancels()
                    if borrowed and not self.give_back_slot(slot, task_references, context_references):
                        cell.adopt(slot)
                        cell.put_back(slot)
                    if slot.swallow_cancel:
                        cell.occupy(slot)
        finally:
            slot.outer = None
            self.show_stepping(outer_stepping, 0)
            self.entered = outer_entered
            if outer_task is not None:
                self.enter_task(self.loop, outer_task)
        return None

    # What the outside of the loop can do to an agent.

    cdef int killed(self, Cell cell) except -1:
        """An idle slot's Task was cancelled from outside."""
        self.call(self.hooks.on_killed, (cell,))
        return 0

    cdef int overflowed(self, Cell cell, Message message) except -1:
        """The STOP policy: the agent fails, in the loop."""
        self.call(self.hooks.on_overflow, (cell, type_name(message.payload)))
        return 0

    # Submission.

    cdef inline Scope current_scope(self):
        """The handler that the calling code runs in, or was started by; None outside of handlers."""
        cdef Scope scope
        # Without a GIL other threads do not even look: it may be changing.
        if (
            (PMESH_GIL or PyThread_get_thread_ident() == self.thread_id)
            and self.stepping is not None
            and PyThread_get_thread_ident() == self.thread_id
        ):
            return self.stepping.scope
        scope = pmesh_var_get(self.scope_var)
        if scope is not None and scope.cell is None:
            return None    # a collection of garbage runs it while the spare slot's Task ends
        return scope

    cdef int check_usable(self) except -1:
        if self.forked:
            raise UsedAfterFork(
                "this coordinator was made before a fork; its event loop runs in the parent process."
                " Make a Coordinator of your own in the child"
            )
        return 0

    cdef inline bint is_in_drain(self) except -1:
        """Whether the calling code was called by `_drain`. Only the loop's own thread looks at the flag."""
        return PyThread_get_thread_ident() == self.thread_id and self.draining

    cdef int check_loop(self, str method) except -1:
        """`send` and `ask` wait in the coordinator's loop, and nowhere else."""
        cdef object running
        if self.is_in_drain():
            return 0    # asking asyncio costs a system call before CPython 3.12
        running = self.running_loop()
        if running is not self.loop:
            raise WrongLoop(
                f"{method}() belongs to the coordinator's event loop, but "
                + ("no event loop runs in this thread" if running is None else "was used in another one")
                + "; use tell() from other threads, or asyncio.run_coroutine_threadsafe"
            )
        return 0

    cdef int prepare(self, Cell cell, Message message, Scope scope) except -1:
        """Lane, size and sender of a message, before any lock: this may run the user's code."""
        cdef Handler handler
        if cell.has_control:
            handler = cell.current_table().lookup(message.payload)
            if handler is not None:
                message._lane = handler._lane
        if cell.max_bytes >= 0:
            cell.weigh(message)
        if scope is not None and message.sender is None:
            message.sender = scope.cell.ref
        return 0

    cdef bint submit(self, Cell cell, Message message) except -1:
        """Offer a prepared message; True when it was accepted. From any thread."""
        cdef bint ready = False
        cdef Message displaced
        if not (self.draining if PMESH_GIL else self.is_in_drain()) and self.loop_is_closed():
            # The loop was closed under a coordinator that was never left.
            message.outcome = OFFER_CLOSED
            cell.close()
            cell.count_refused()
            return False
        message.accepted_ns = self.clock.now()
        displaced = cell.accept(message, &ready)
        if ready:
            try:
                self.push(cell)
            except BaseException as raised:
                self.push_failed(cell, message, displaced, raised)
        if message.outcome == OFFER_ACCEPTED and displaced is None:
            return True
        if displaced is not None:
            self.bury_displaced(cell, displaced)
        if message.outcome == OFFER_DROPPED:
            self.bury_dropped(cell, message)
            return True
        if message.outcome == OFFER_OVERFLOW:
            self.overflowed(cell, message)
        else:
            cell.tell_heir(message)
        return message.outcome == OFFER_ACCEPTED

    cdef int push_failed(self, Cell cell, Message message, Message displaced, object error) except -1:
        """Reject `message` after all; raises `error` unless that means that another thread closed the loop just now."""
        cdef bint is_end = isinstance(error, RuntimeError) and not isinstance(error, RecursionError) and (
            PyThread_get_thread_ident() != self.thread_id or self.loop_is_closed()
        )
        if is_end:
            cell.close()
        else:
            # No stack or memory is left for it, or a signal came in between: the next message tries again.
            self.take_off(cell)
        if cell.retract(message):
            message.outcome = OFFER_CLOSED
        if not is_end:
            if displaced is not None:
                self.bury_displaced(cell, displaced)
            raise error
        return 0

    cdef int bury_displaced(self, Cell cell, Message displaced) except -1:
        cdef Message following
        cdef object error = None
        while displaced is not None:
            following = displaced.next
            displaced.next = None
            try:
                self.bury_dropped(cell, displaced)
            except BaseException as raised:
                error = raised    # an exit that a dead letter's subscriber asked for; the others are still to be buried
            displaced = following
        if error is not None:
            raise error
        return 0

    cdef bint notify(self, Cell cell, Message message) except -1:
        """Put mail of the runtime's own, in the loop: True unless the mailbox is closed."""
        message.accepted_ns = self.clock.now()
        cell.put_extra(message)
        if message.outcome != OFFER_ACCEPTED:
            cell.tell_heir(message)
            return False
        if cell.becomes_ready():
            try:
                self.push(cell)
            except BaseException:
                self.take_off(cell)
                if cell.withdraw_message(message):
                    message.mark = 0
                raise
        return True

    # Waiting senders.

    cdef int grant_room(self, Cell cell) except -1:
        """Promise places that fell free to the senders that have waited longest."""
        cdef WaiterQueue waiters
        cdef Waiter waiter
        cell.has_waiters = False
        for waiters in (cell.control_waiters, cell.normal_waiters):
            while waiters is not None and waiters.first is not None:
                waiter = waiters.first
                if not cell.promise(waiter.lane, waiter.size_bytes):
                    cell.has_waiters = True
                    break
                waiter.conclude(WAITER_DONE)
        return 0

    cdef int leave_window(self, Message message) except -1:
        message.windowed = False
        return self.free_window_place()

    cdef int free_window_place(self) except -1:
        """A place in the window goes to the oldest waiter."""
        cdef Waiter waiter
        self.window_used -= 1
        if self.window_waiters.first is not None and self.window_used < self.window:
            waiter = self.window_waiters.first
            self.window_used += 1
            waiter.conclude(WAITER_DONE)
        return 0

    # Timeouts of asks and sends, and agents' timers, swept by one timer of the loop. Most have the same length,
    # so their deadlines come in order and stand in a line; one that is due before the end of the line goes into
    # a binary heap. Each waiter knows its place, and an answer takes it out.

    @cython.boundscheck(False)
    @cython.wraparound(False)
    cdef int sift(self, Waiter waiter, Py_ssize_t place) except -1:
        """Put `waiter` at `place` (from 0) or where it belongs above or below it; len(timers) > place."""
        cdef list heap = self.timers
        cdef Py_ssize_t size = len(heap)
        cdef Py_ssize_t child, parent
        cdef Waiter other, right
        while place > 0:
            parent = (place - 1) >> 1
            other = <Waiter>heap[parent]
            if other.deadline_ns <= waiter.deadline_ns:
                break
            heap[place] = other
            other.place = place + 1
            place = parent
        while True:
            child = 2 * place + 1
            if child >= size:
                break
            other = <Waiter>heap[child]
            if child + 1 < size:
                right = <Waiter>heap[child + 1]
                if right.deadline_ns < other.deadline_ns:
                    other = right
                    child += 1
            if waiter.deadline_ns <= other.deadline_ns:
                break
            heap[place] = other
            other.place = place + 1
            place = child
        heap[place] = waiter
        waiter.place = place + 1
        return 0

    cdef int set_timeout(self, Waiter waiter, int64_t deadline_ns) except -1:
        cdef TimeoutLine line = self.timer_line if waiter.state == WAITER_TIMER else self.line
        waiter.deadline_ns = deadline_ns
        if not line.append(waiter):
            self.timers.append(waiter)
            self.sift(waiter, len(self.timers) - 1)
        if self.timer_ns == 0:
            self.arm_next()
        elif deadline_ns < self.timer_ns:
            self.arm(deadline_ns)
        return 0

    cdef int clear_timeout(self, Waiter waiter) except -1:
        cdef Waiter other
        cdef Py_ssize_t place
        if waiter.in_line:
            (self.timer_line if waiter.state == WAITER_TIMER else self.line).remove(waiter)
            return 0
        place = waiter.place - 1
        other = self.timers.pop()
        waiter.place = 0
        if other is not waiter:
            self.sift(other, place)
        return 0

    cdef int arm(self, int64_t deadline_ns) except -1:
        cdef object before = self.timer
        cdef object error = None
        cdef object timer
        self.timer = None
        self.timer_ns = deadline_ns
        try:
            if before is not None:
                before.cancel()
            timer = self.call_sweep_at(deadline_ns)
        except BaseException as raised:
            # As in `schedule`.
            try:
                timer = self.call_sweep_at(deadline_ns)
            except BaseException as again:
                self.timer_ns = 0    # the next timeout tries again, for all
                raise graver(raised, again)
            if not isinstance(raised, Exception):
                error = raised
        if self.timer_ns == deadline_ns and not self.ended:
            self.timer = timer
        else:
            timer.cancel()    # what ran there set an earlier one, or is the end
        if error is not None:
            raise error
        return 0

    cdef object call_sweep_at(self, int64_t deadline_ns):
        cdef int64_t delay_ns = deadline_ns - self.clock.now()
        return self.loop.call_later(
            delay_ns / <double>SECOND_NS if delay_ns > 0 else 0.0, self._sweep, context=self.context
        )

    cdef Waiter next_due(self):
        """Of all that wait for their time the one that is due first, or None."""
        cdef Waiter waiter = self.line.first
        if self.timers and (waiter is None or (<Waiter>self.timers[0]).deadline_ns < waiter.deadline_ns):
            waiter = self.timers[0]
        if self.timer_line.first is not None and (
            waiter is None or self.timer_line.first.deadline_ns < waiter.deadline_ns
        ):
            waiter = self.timer_line.first
        return waiter

    cdef int arm_next(self) except -1:
        cdef Waiter waiter = self.next_due()
        self.timer_ns = 0
        if waiter is not None:
            self.arm(waiter.deadline_ns)
        return 0

    def _sweep(self):
        """Time out what is due; the loop's timer calls this, perhaps early, and it sets the next one."""
        cdef Waiter waiter
        cdef Timer timer
        cdef int64_t now_ns = self.clock.now()
        cdef int fired = 0
        self.timer = None
        self.timer_ns = SWEEPING
        try:
            while True:
                waiter = self.next_due()
                if waiter is None or waiter.deadline_ns > now_ns:
                    break
                if waiter.state != WAITER_TIMER:
                    waiter.conclude(WAITER_TIMED_OUT)
                    continue
                # A million agents may want their tick at the same moment: the loop gets its turn between them.
                fired += 1
                if fired % 64 == 0 and self.clock.now() - now_ns >= self.slice_ns:
                    break
                self.clear_timeout(waiter)
                timer = <Timer>waiter.callback
                timer.fire(now_ns)
        finally:
            self.arm_next()

    # For the coordinator.

    def end(self):
        """Serve nothing any more and let go of the loop's timer."""
        cdef Slot spare = self.spare
        self.ended = True
        self.spare = None
        if spare is not None and not self.loop_is_closed():
            spare.end()
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.stall_timer is not None:
            self.stall_timer.cancel()
        while self.timers:
            self.clear_timeout(self.timers[0])
        for line in (self.line, self.timer_line):
            while (<TimeoutLine>line).first is not None:
                self.clear_timeout((<TimeoutLine>line).first)

    def mark_forked(self):
        """This is a copy in a forked child: every use raises from now on."""
        self.forked = True

    def scope(self):
        """(AgentRef, Message or None) of the handler that the calling code runs in; None outside."""
        cdef Scope scope = self.current_scope()
        return None if scope is None else (scope.cell.ref, scope.message)

    def current_cell(self):
        """The `Cell` of the agent in whose handler, or in something it started, the calling code runs."""
        cdef Scope scope = self.current_scope()
        return None if scope is None else scope.cell

    # For whoever looks for what is stuck; see `_core_stuck.pxi`.

    def _check_stalls(self):
        """Report handlers that wait for too long; the loop's timer calls this."""
        check_stalls(self)

    def step_in_hand(self):
        """The number of the step that runs right now and an `InHand`, or None; from any thread."""
        cdef Slot slot
        cdef int64_t number
        with cython.critical_section(self):
            slot = self.stepping
            number = self.steps
        return None if slot is None else (number, look_at(slot))

    def window_waits(self):
        """Senders that wait for the window: how many, and since when (ns) the oldest; None for none."""
        return waits_of(self.window_waiters)

    @property
    def closing(self):
        """Whether mail from outside handlers is refused."""
        return pmesh_load(self.is_closing)

    @closing.setter
    def closing(self, bint value):
        pmesh_store(self.is_closing, value)

    @property
    def in_window(self):
        """Places taken in the window."""
        return self.window_used

    @property
    def timeouts(self):
        """Timeouts of asks and sends, and agents' timers, that still wait."""
        return self.line.length + self.timer_line.length + len(self.timers)
