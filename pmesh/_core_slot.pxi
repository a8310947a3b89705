"""What a handler runs in: its agent's table, the slot with its Task and Context, and the cell.

A slot is at the same time the coroutine that its Task runs and the future that this Task waits on while
the slot is idle. That is what lets the dispatcher step a handler in place under the Task, learn at once
of a cancellation (asyncio calls `cancel` on what a Task waits on), and hand a handler that suspends over
to the Task without a turn of the loop: it calls the Task's own wake-up, and the Task finds in the slot
the future that the handler waits for.
"""

cdef extern from *:
    """
    /* Whether anything but this slot's own Context can see the scope that the slot set in it.

       Tasks, timers and threads started by a handler copy its Context, and must go on seeing the message
       of that handler after it has ended. Setting a fresh scope for each message would do, and costs
       four times as much as reading the clock; so the scope is only replaced when somebody may hold it.
       A copy of a Context shares the root of its (immutable) map until one of the two is changed, and a
       change copies the nodes from the root to the changed key. So nobody else holds the scope when the
       root is the one seen when the scope was set and nobody else holds that, and the scope, directly in the
       root's node, has as many references as then. References are found by the garbage collector's
       traversal, which is public; where a Context does not look as expected the scope counts as shared.
    */
    typedef struct { PyObject *wanted; PyObject *found; } pmesh_search;

    /* What nobody else has a hand on: the map of the slot's Context, held by that and by the slot (which keeps
       its address from being used again), and the scope, held by the map and by the slot. */
    #define PMESH_ROOT_REFERENCES 2
    #define PMESH_SCOPE_REFERENCES 2

    static PyTypeObject *pmesh_map_type = NULL;  /* of a Context's map; NULL while unknown */

    static int pmesh_visit_map(PyObject *object, void *arg) {
        if (Py_TYPE(object) == pmesh_map_type) ((pmesh_search *)arg)->found = object;
        return 0;
    }

    static int pmesh_visit_any(PyObject *object, void *arg) {
        ((pmesh_search *)arg)->found = object;
        return 0;
    }

    static int pmesh_visit_same(PyObject *object, void *arg) {
        pmesh_search *search = (pmesh_search *)arg;
        if (object == search->wanted) search->found = object;
        return 0;
    }

    static inline PyObject *pmesh_find(PyObject *object, visitproc visit, PyObject *wanted) {
        pmesh_search search = {wanted, NULL};
        if (object != NULL && Py_TYPE(object)->tp_traverse != NULL)
            Py_TYPE(object)->tp_traverse(object, visit, &search);
        return search.found;
    }

    /* Learn what a Context's map is from an empty Context that is entered nowhere: its only referent. */
    static void pmesh_learn_map_type(PyObject *empty_context) {
        PyObject *map = pmesh_find(empty_context, pmesh_visit_any, NULL);
        if (map != NULL && strcmp(Py_TYPE(map)->tp_name, "hamt") == 0) pmesh_map_type = Py_TYPE(map);
    }

    static PyObject *pmesh_scope_root(PyObject *context, PyObject *scope) {
    #if PMESH_GIL
        PyObject *root = pmesh_find(context, pmesh_visit_map, NULL);
        PyObject *node = pmesh_find(root, pmesh_visit_any, NULL);
        PyObject *found = pmesh_find(node, pmesh_visit_same, scope) == NULL ? Py_None : root;
    #else
        PyObject *found = Py_None;  /* reference counts are split between threads there */
    #endif
        return Py_NewRef(found);
    }

    static inline int pmesh_scope_shared(PyObject *context, PyObject *scope, PyObject *root) {
        if (root == Py_None) return 1;
        return pmesh_find(context, pmesh_visit_map, NULL) != root
            || Py_REFCNT(root) != PMESH_ROOT_REFERENCES || Py_REFCNT(scope) != PMESH_SCOPE_REFERENCES;
    }

    static inline int pmesh_awaitable(PyObject *object) {
        PyAsyncMethods *methods = Py_TYPE(object)->tp_as_async;
        return PyCoro_CheckExact(object) || (methods != NULL && methods->am_await != NULL);
    }
    """
    void pmesh_learn_map_type(object empty_context) noexcept
    object pmesh_scope_root(object context, object scope)
    bint pmesh_scope_shared(object context, PyObject *scope, PyObject *root) noexcept
    bint pmesh_awaitable(object value) noexcept

pmesh_learn_map_type(contextvars.Context())


cdef inline bint is_awaitable(object value) except -1:
    if PyGen_CheckExact(value):
        # Made by types.coroutine, or an ordinary generator and so an answer like any other.
        return (value.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE) != 0
    return pmesh_awaitable(value)


# What the coordinator has asked to be told of a cell.
cdef enum:
    WATCH_QUIET = 1     # nothing is pending
    WATCH_IDLE = 2      # no handler runs

cdef enum:
    SLOT_FRESH = 0      # its Task has not taken its first step (only before CPython 3.12)
    SLOT_PARKED = 1     # its Task waits on the slot: idle, or a handler is stepped in place
    SLOT_DRIVEN = 2     # its Task drives a handler that suspended
    SLOT_ENDED = 3      # its Task is over

# The first 3.12 task can take its first step while it is made; before, a loop turn later.
cdef bint EAGER_TASKS = sys.version_info >= (3, 12)


@cython.final
cdef class Handler:
    """One way to handle a payload: the function and how it is to be called."""

    cdef readonly object function
    cdef readonly str name
    cdef uint8_t _lane
    cdef readonly bint is_async      # an `async def`; a plain one may still return an awaitable
    cdef readonly bint takes_agent   # a method of the agent's class: called with the agent first

    def __init__(self, function not None, str name not None, *, str lane="normal", bint is_async=False,
                 bint takes_agent=True):
        if lane not in LANES:
            raise InvalidArgument(f"lane of handler {name!r} is {lane!r}; it must be 'normal' or 'control'")
        self.function = function
        self.name = name
        self._lane = LANES.index(lane)
        self.is_async = is_async
        self.takes_agent = takes_agent

    @property
    def lane(self):
        return LANES[self._lane]

    def __repr__(self):
        return f"<Handler {self.name} lane={self.lane}>"


@cython.final
cdef class HandlerTable:
    """From a payload's type to its handler, for one agent class: a cache over `resolve(type)`."""

    cdef dict cache
    cdef object newest_type          # the type looked up last and its handler; not where threads run at once
    cdef Handler newest
    cdef readonly object resolve
    cdef readonly bint has_control   # some handler is on the control lane
    cdef readonly bint has_async

    def __init__(self, resolve not None, *, bint has_control=False, bint has_async=False):
        self.cache = {}
        self.resolve = resolve
        self.has_control = has_control
        self.has_async = has_async

    cdef inline Handler lookup(self, object payload):
        # Agents are mostly sent one type for a while, and a look-up costs as much as all of `Mailbox.take`.
        if PMESH_GIL and type(payload) is self.newest_type:
            return self.newest
        return self.search(type(payload))

    cdef Handler search(self, object payload_type):
        # Resolving runs code of the payload's class, by which an agent may become another: then this goes on living.
        cdef HandlerTable held = self
        cdef object found = held.cache.get(payload_type, self)
        cdef object before_type, before
        # What nothing handled is asked for again: it may have been registered with an abstract base since.
        if found is self or found is None:
            found = self.fill(payload_type)
        if PMESH_GIL and found is not None:
            # The two change together: what they were is let go of, which may run code, after both are written.
            before_type, before = self.newest_type, self.newest
            self.newest_type = payload_type
            self.newest = found
        return found

    cdef object fill(self, object payload_type):
        cdef object found = self.resolve(payload_type)
        # Payload types made at run time must not pile up here for ever.
        if len(self.cache) >= 4096:
            self.cache.clear()
        self.cache[payload_type] = found
        return found

    def find(self, payload):
        """The `Handler` for `payload`, or None."""
        return self.lookup(payload)


@cython.final
@cython.freelist(64)
cdef class Scope:
    """Where code runs: in which agent's handler, and for which message."""

    cdef Cell cell
    cdef Message message


# Messages whose times a meter holds back: recording takes about 1.5 % of a message told and handled
# (`benchmarks/trust.py cost`), one by one 8 %.
cdef enum:
    STAGE = 128


# No garbage collection: recorders refer to nothing, and what clears cycles must not part them from what is staged.
@cython.no_gc
@cython.final
cdef class Meter:
    """The recorders of an agent class: queue (accept to start), service, latency (accept to end).

    Mail told on a schedule (`tell_intended`) is also in send_delay (intended to accept) and intended
    (intended to end).
    """

    cdef readonly LatencyRecorder queue
    cdef readonly LatencyRecorder service
    cdef readonly LatencyRecorder latency
    cdef readonly LatencyRecorder send_delay
    cdef readonly LatencyRecorder intended
    cdef readonly int64_t untimed     # times that were not recorded, as there was no memory for the counters
    cdef bint ready                   # the first three have their counters, which recorders keep
    cdef bint bequeathed              # another one has the times of this one as well
    cdef int staged                   # messages whose times are held back
    cdef uint64_t times_ns[STAGE]     # each the time in the queue, below 2**32, and above it that of service

    def __cinit__(self):
        self.queue = LatencyRecorder()
        self.service = LatencyRecorder()
        self.latency = LatencyRecorder()
        self.send_delay = LatencyRecorder()
        self.intended = LatencyRecorder()

    def __dealloc__(self):
        # One that found no memory for all of them has held nothing back.
        if self.latency is not None:
            self.flush()
            self.queue._stage = self.service._stage = self.latency._stage = NULL

    cdef inline int add_times(self, int64_t queue_ns, int64_t service_ns) noexcept:
        """Record one message: its latency is the sum of the two. Without memory for that it is counted in `untimed`.

        Where both are below 4.3 s and not negative (a test's clock may go back), they are held back to be recorded
        `STAGE` at a time. One by one they cost four times as much: counters all over three large arrays, between two
        readings of the clock that let nothing overlap.
        """
        cdef int at
        if PMESH_GIL and self.ready and <uint64_t>(queue_ns | service_ns) >> 32 == 0:
            at = self.staged
            self.times_ns[at] = <uint64_t>service_ns << 32 | <uint64_t>queue_ns
            self.staged = at + 1
            if at + 1 == STAGE:
                self.flush()
            return 0
        return self.add_one_by_one(queue_ns, service_ns)

    cdef int add_one_by_one(self, int64_t queue_ns, int64_t service_ns) noexcept:
        try:
            if not self.ready:
                # All or none, so that their counts are the same.
                self.queue.reserve()
                self.service.reserve()
                self.latency.reserve()
                if PMESH_GIL:
                    self.queue._stage = self.service._stage = self.latency._stage = <PyObject *>self
                self.ready = True
            self.queue.add(queue_ns)
            self.service.add(service_ns)
            self.latency.add(queue_ns + service_ns)
        except MemoryError:
            self.untimed += 1    # the message that ends here is still to be counted and answered
        return 0

    cdef int add_one(self, LatencyRecorder recorder, int64_t value_ns) noexcept:
        """Record a time in one of the recorders."""
        try:
            recorder.add(value_ns)
        except MemoryError:
            self.untimed += 1
        return 0

    @cython.boundscheck(False)
    cdef int flush(self) noexcept:
        """Record what is held back.

        All three recorders in one loop, so that their counters, often the same ones again, are not waited for.
        """
        cdef int64_t *queue = self.queue._counters
        cdef int64_t *service = self.service._counters
        cdef int64_t *latency = self.latency._counters
        cdef int count = self.staged
        cdef int64_t queue_ns
        cdef int64_t service_ns
        cdef int64_t least_queue_ns = INT64_MAX
        cdef int64_t most_queue_ns = 0
        cdef int64_t least_service_ns = INT64_MAX
        cdef int64_t most_service_ns = 0
        cdef int64_t least_ns = INT64_MAX
        cdef int64_t most_ns = 0
        cdef int i
        if count == 0:
            return 0
        self.staged = 0
        for i in range(count):
            queue_ns = <uint32_t>self.times_ns[i]
            service_ns = <int64_t>(self.times_ns[i] >> 32)
            queue[hdr_index(queue_ns)] += 1
            service[hdr_index(service_ns)] += 1
            latency[hdr_index(queue_ns + service_ns)] += 1
            least_queue_ns = min(least_queue_ns, queue_ns)
            most_queue_ns = max(most_queue_ns, queue_ns)
            least_service_ns = min(least_service_ns, service_ns)
            most_service_ns = max(most_service_ns, service_ns)
            least_ns = min(least_ns, queue_ns + service_ns)
            most_ns = max(most_ns, queue_ns + service_ns)
        self.queue.add_counted(count, least_queue_ns, most_queue_ns)
        self.service.add_counted(count, least_service_ns, most_service_ns)
        self.latency.add_counted(count, least_ns, most_ns)
        return 0

    def bequeath(self, Meter heir not None):
        """Add the times to those of `heir`, the first time only.

        Without memory for the counters of `heir` they are counted in its `untimed` instead.
        """
        if self.bequeathed:
            return
        self.bequeathed = True
        heir.untimed += self.untimed
        try:
            # All or none, so that their counts are the same.
            heir.queue.reserve()
            heir.service.reserve()
            heir.latency.reserve()
            heir.queue.merge(self.queue)
            heir.service.merge(self.service)
            heir.latency.merge(self.latency)
        except MemoryError:
            heir.untimed += self.latency.count
        heir.inherit(heir.send_delay, self.send_delay)
        heir.inherit(heir.intended, self.intended)

    cdef int inherit(self, LatencyRecorder recorder, LatencyRecorder source) except -1:
        """Add the times of `source` to one of the recorders that few messages need."""
        try:
            recorder.merge(source)
        except MemoryError:
            self.untimed += source.count
        return 0

    def by_name(self):
        """All of them."""
        return {
            "queue": self.queue,
            "service": self.service,
            "latency": self.latency,
            "send_delay": self.send_delay,
            "intended": self.intended,
        }


@cython.final
cdef class Slot:
    """Runs one handler at a time of one agent, in one Task and one Context of its own."""

    cdef public bint _asyncio_future_blocking
    cdef Cell cell                    # None for the dispatcher's spare slot
    cdef Dispatcher dispatcher
    cdef readonly object context      # contextvars.Context of every handler that runs here
    cdef readonly object task         # asyncio.Task, made when the first coroutine needs it
    cdef object wakeup                # the Task's wake-up, while it waits on this slot
    cdef object running               # the suspended handler: an iterator to send into
    cdef object yielded               # what the handler waits for, until the Task has taken it
    cdef object cancel_message
    cdef Message message              # in hand, or None
    cdef Handler handler              # that handles it
    cdef Waiter hook                  # told when a lifecycle hook is over, or None
    cdef Scope scope
    cdef object scope_root            # map of the Context with the scope in it; see pmesh_scope_shared
    cdef Slot next_free               # list of free slots, owned by the cell
    cdef Slot next_slot               # list of all slots, owned by the cell
    cdef object function              # the lifecycle hook that runs here, or None
    cdef Slot outer                   # the handler that waits for the hook stepped here, while it is stepped
    cdef Slot waits_before            # list of suspended slots, owned by the dispatcher
    cdef Slot waits_behind
    cdef int64_t started_ns           # the message or hook in hand
    cdef int64_t report_ns            # when it is next to be reported as stalled
    cdef int64_t number               # of the suspension of the handler that runs here; rises in order of start
    cdef uint8_t state
    cdef bint is_waiting              # in the list of suspended slots
    cdef bint has_yielded
    cdef bint in_place                # the dispatcher steps a handler here right now
    cdef bint cancel_requested        # somebody cancelled the Task meanwhile
    cdef bint swallow_cancel          # a cancel that came too late for the message it was meant for
    cdef bint ending                  # the Task is to end when it is idle
    cdef bint killed                  # the Task was cancelled while idle
    cdef bint abandoned               # its message was written off; what the handler still does is ignored

    def __init__(self):
        raise InvalidType("Slot is made by its agent's cell; it cannot be constructed")

    # The message in hand, as seen from the handler and all that it starts.

    cdef inline int open_scope(self, Message message) except -1:
        """Make `message` the one in hand; the slot's Context is entered."""
        if self.scope is None:
            self.renew_scope()
        self.scope.message = message
        return 0

    cdef inline int close_scope(self) noexcept:
        """No message is in hand any more, the Context is entered; those who copied it keep what they saw."""
        if self.drop_shared_scope():
            # Not left to the next message: until that comes, this Context would keep the last one alive.
            try:
                self.renew_scope()
            except MemoryError:
                pass    # the message that ends here is still to be counted; `open_scope` tries again for the next
        return 0

    cdef inline bint drop_shared_scope(self) noexcept:
        """Whether somebody may hold a copy of the Context, and the slot needs another scope."""
        if pmesh_scope_shared(self.context, <PyObject *>self.scope, <PyObject *>self.scope_root):
            self.scope = self.scope_root = None
            return True
        self.scope.message = None
        return False

    cdef int renew_scope(self) except -1:
        """Put a scope that nobody else has seen into the Context, which is entered."""
        cdef Scope scope = Scope.__new__(Scope)
        scope.cell = self.cell
        PyContextVar_Set(self.dispatcher.scope_var, scope)
        self.scope = scope
        self.scope_root = pmesh_scope_root(self.context, scope)
        return 0

    # What other threads may look at is changed in the loop only, and under the dispatcher's lock; see `look_at`. Where
    # there is a GIL that costs nothing. What was there before is let go of outside the lock, since that may run code.

    cdef inline int show_message(self, Message message) noexcept:
        cdef Message before
        if PMESH_GIL:
            self.message = message
        else:
            before = self.message
            with cython.critical_section(self.dispatcher):
                self.message = message
        return 0

    cdef int show_function(self, object function) noexcept:
        cdef object before = self.function
        with cython.critical_section(self.dispatcher):
            self.function = function
        return 0

    cdef int show_hook(self, Waiter hook) noexcept:
        cdef Waiter before = self.hook
        with cython.critical_section(self.dispatcher):
            self.hook = hook
        return 0

    cdef inline int show_suspended(self, object running, object yielded) noexcept:
        """The handler that is suspended, and what it waits for until the Task has taken that; None for neither."""
        cdef object running_before, yielded_before
        if PMESH_GIL:
            self.running = running
            self.yielded = yielded
        else:
            running_before = self.running
            yielded_before = self.yielded
            with cython.critical_section(self.dispatcher):
                self.running = running
                self.yielded = yielded
        return 0

    cdef int show_task(self, object task) noexcept:
        cdef object before = self.task
        with cython.critical_section(self.dispatcher):
            self.task = task
        return 0

    # The Task.

    cdef int make_task(self) except -1:
        """Give the slot its Task. Before CPython 3.12 it takes its first step in the next loop turn."""
        cdef Dispatcher dispatcher = self.dispatcher
        self.state = SLOT_FRESH
        if EAGER_TASKS:
            self.show_task(dispatcher.new_task(
                self, loop=dispatcher.loop, name=self.cell.name, context=self.context, eager_start=True
            ))
        else:
            self.show_task(dispatcher.new_task(
                self, loop=dispatcher.loop, name=self.cell.name, context=self.context
            ))
        return 0

    cdef object park(self):
        """What the Task waits on while it has nothing to drive: the slot itself."""
        self.state = SLOT_PARKED
        self._asyncio_future_blocking = True
        return self

    cdef int clear_cancels(self) except -1:
        """Between messages: a cancel meant for the last one must not reach the next."""
        self.cancel_requested = False
        self.cancel_message = None
        while self.task.cancelling():
            self.task.uncancel()
        if self.task._must_cancel:
            # Before 3.13 uncancel() leaves the pending cancel; it arrives at the Task's next wait.
            self.swallow_cancel = True
        return 0

    cdef int hand_over(self) except -1:
        """Let the Task drive the handler that suspended; the Context is entered, no Task is current."""
        cdef object wakeup = self.wakeup
        if PMESH_GIL:
            self.in_place = False
        else:
            self.dispatcher.show_in_place(self, False, self.started_ns)
        if self.state == SLOT_FRESH:
            return 0    # the Task's first step, already scheduled, takes `yielded`
        self.wakeup = None
        wakeup(self.dispatcher.done_future)
        if self.cancel_requested:
            # The handler cancelled its own Task before it suspended: a Task would cancel what it
            # waits for, or throw at the next step. cancel() does that now; it was already counted.
            self.cancel_requested = False
            if sys.version_info < (3, 13) or self.task.cancelling():
                self.task.cancel(self.cancel_message)
                self.task.uncancel()
            self.cancel_message = None
        return 0

    cdef object step(self, object error):
        """One step of the Task: what it is to wait for next. Raises StopIteration when it is over."""
        cdef object yielded
        if self.has_yielded:
            self.has_yielded = False
            self.state = SLOT_DRIVEN
            yielded = self.yielded
            self.show_suspended(self.running, None)
            if error is None:
                return yielded
            # Cancelled before the Task's first step: as a Task does, cancel what the handler waits for,
            # and throw only where there is nothing to cancel or it refuses.
            if (
                isinstance(error, asyncio.CancelledError)
                and getattr(yielded, "_asyncio_future_blocking", None) is not None
                and yielded.cancel(msg=error.args[0] if error.args else None)
            ):
                return yielded
            return self.drive(error)
        if self.state == SLOT_DRIVEN:
            return self.drive(error)
        if error is not None and not self.swallow_cancel:
            # Idle and cancelled from outside, as asyncio.run does with all tasks when it ends.
            self.state = SLOT_ENDED
            if self.cell is not None:
                self.cell.forget_slot(self)
                if not self.killed and not self.ending:
                    self.dispatcher.killed(self.cell)
            self.killed = True
            raise error
        if self.swallow_cancel:
            self.swallow_cancel = False
            if not self.ending:
                self.cell.release(self)
        if self.ending:
            self.state = SLOT_ENDED
            raise StopIteration
        return self.park()

    cdef object drive(self, object error):
        """Resume the suspended handler inside its Task; what it waits for next, or the slot when it ended."""
        cdef Dispatcher dispatcher = self.dispatcher
        cdef Slot outer = dispatcher.stepping
        cdef int status = 0
        cdef object value = None
        dispatcher.show_stepping(self, 1)
        try:
            if error is None:
                value = pmesh_iter_send(self.running, None, &status)
            else:
                if not hasattr(self.running, "throw"):
                    raise error
                try:
                    value = self.running.throw(error)
                    status = 1
                except StopIteration as stop:
                    value = stop.value
        except BaseException as raised:
            self.show_suspended(None, None)
            dispatcher.show_stepping(outer, 0)
            self.over(None, raised)
            if isinstance(raised, (SystemExit, KeyboardInterrupt)):
                self.leave_agent()
                raise
            return self.idle()
        dispatcher.show_stepping(outer, 0)
        if status:
            return value
        self.show_suspended(None, None)
        self.over(value, None)
        return self.idle()

    cdef int over(self, object value, object error) except -1:
        """A handler or a hook that had suspended is over."""
        cdef Message message = self.message
        cdef Waiter hook = self.hook
        cdef bint is_told = False
        try:
            if self.is_waiting:
                end_waiting(self.dispatcher, self)
            if hook is not None:
                self.show_hook(None)
                self.show_function(None)
                self.close_scope()
                hook.settle(value, error)
            elif not self.abandoned:
                self.show_message(None)
                self.close_scope()
                self.dispatcher.finish(
                    self.cell, self.handler, message, value, error, self.started_ns, self.dispatcher.clock.now()
                )
            is_told = True
        finally:
            if not is_told:
                self.leave_agent()    # an exit that was asked for there, or no memory: this ends the Task
        return 0

    cdef int leave_agent(self) except -1:
        """The Task ends; another one may be made in its place, at once if mail waits."""
        self.state = SLOT_ENDED
        self.cell.forget_slot(self)
        if self.cell.becomes_ready():
            self.dispatcher.push(self.cell)
        return 0

    cdef object idle(self):
        """After a handler that the Task drove: ready for the next message, or the end of the Task."""
        self.clear_cancels()
        if self.ending or self.abandoned or self.dispatcher.ended:
            self.state = SLOT_ENDED
            self.cell.forget_slot(self)
            raise StopIteration
        self.park()
        self.cell.release(self)
        return self

    cdef int end(self) except -1:
        """End the Task once it is idle."""
        self.ending = True
        if self.state == SLOT_PARKED and self.wakeup is not None and self.running is None:
            self.dispatcher.loop.call_soon(self.wakeup, self, context=self.context)
            self.wakeup = None
        return 0

    # The coroutine protocol, for the Task.

    def __iter__(self):
        return self

    def __await__(self):
        return self

    def __next__(self):
        return self.step(None)

    def send(self, value):
        return self.step(None)

    def throw(self, typ, value=None, traceback=None):
        if value is None:
            value = typ() if isinstance(typ, type) else typ
        return self.step(value)

    def close(self):
        cdef object running = self.running
        self.show_suspended(None, self.yielded)
        if running is not None and hasattr(running, "close"):
            running.close()

    # The future protocol, for the Task that waits here while idle.

    def get_loop(self):
        return self.dispatcher.loop

    def add_done_callback(self, callback, *, context=None):
        self.wakeup = callback

    def remove_done_callback(self, callback):
        self.wakeup = None
        return 1

    def done(self):
        return self.killed

    def cancelled(self):
        return self.killed

    def result(self):
        if self.killed:
            raise asyncio.CancelledError(*(() if self.cancel_message is None else (self.cancel_message,)))

    def exception(self):
        return None

    def cancel(self, msg=None):
        """asyncio cancels what a Task waits on, this slot, when the Task is cancelled."""
        cdef object wakeup = self.wakeup
        if self.swallow_cancel:
            self.swallow_cancel = False
            return True
        if self.in_place:
            self.cancel_requested = True
            self.cancel_message = msg
            return True
        if wakeup is None:
            return False
        self.killed = True
        self.cancel_message = msg
        self.wakeup = None
        self.dispatcher.loop.call_soon(wakeup, self, context=self.context)
        if self.cell is not None:
            self.cell.occupy(self)
            if not self.ending:
                self.cell.pause()    # a batch that is under way ends here
                self.dispatcher.killed(self.cell)
        return True

    def __repr__(self):
        return "<Slot of no agent>" if self.cell is None else f"<Slot of {self.cell.name!r}>"


collections.abc.Coroutine.register(Slot)


@cython.final
cdef class Cell(Mailbox):
    """What the runtime keeps for one agent: the mailbox, the agent itself, and its slots."""

    cdef readonly str name
    cdef readonly AgentRef ref
    cdef public object agent          # the instance; None for a function agent and after the end
    cdef public object life           # the coordinator's record of this agent
    cdef HandlerTable table           # changed in the loop only, under the lock
    cdef Kit kit                      # timers and stash of the instance; None while it uses neither
    cdef readonly Dispatcher dispatcher
    cdef Meter meter
    cdef Slot free_slots
    cdef Slot all_slots
    cdef int slots                    # made so far
    cdef int concurrency
    cdef Cell next_ready              # run queue, owned by the dispatcher
    cdef bint scheduled               # in the run queue, or being run
    cdef bint paused                  # takes mail but handles none: starting or suspended
    cdef uint8_t watched              # bits WATCH_*: what the coordinator is to be told
    cdef uint8_t has_control          # the table's, where senders in any thread may look
    cdef uint8_t retired              # its end has begun: no timers, and no stash

    def __init__(self, policy not None, Dispatcher dispatcher not None, HandlerTable table not None, str name not None,
                 agent, Meter meter not None, *, int concurrency=1):
        self.capacity = self.limit = policy.capacity
        self.max_bytes = -1 if policy.max_bytes is None else policy.max_bytes
        self.overflow = policy.overflow._value_    # `value` is a Python call
        self.measure = policy.size
        if policy.adaptive:
            self.throttle = new_throttle(policy, dispatcher.clock)
        self.dispatcher = dispatcher
        self.table = table
        self.has_control = table.has_control
        self.name = name
        self.agent = agent
        self.meter = meter
        self.concurrency = concurrency
        self.paused = True
        self.ref = AgentRef.__new__(AgentRef)
        self.ref.cell = self
        self.ref.name = name

    cdef bint has_spare_slot(self) noexcept:
        """Whether a slot is free beside the one whose handler runs right now."""
        cdef Slot slot = self.free_slots
        if slot is not None and slot.in_place:
            slot = slot.next_free
        return slot is not None or self.slots < self.concurrency

    cdef inline bint can_run(self) noexcept:
        return not self.paused and (self.free_slots is not None or self.slots < self.concurrency)

    cdef Message accept(self, Message message, bint *ready):
        """`put`, and whether the cell has become ready and is to be pushed to the run queue."""
        cdef Message displaced
        with cython.critical_section(self):
            displaced = self.put_locked(message)
            self.check()
            ready[0] = message.outcome == OFFER_ACCEPTED and not self.scheduled and self.can_run()
            if ready[0]:
                self.scheduled = True
        return displaced

    cdef bint becomes_ready(self) noexcept:
        """Whether the cell is to be pushed, now that a slot is free, it is resumed or mail was put."""
        cdef bint ready
        with cython.critical_section(self):
            ready = not self.scheduled and self.normal_size + self.control_size > 0 and self.can_run()
            if ready:
                self.scheduled = True
        return ready

    cdef bint ran(self) noexcept:
        """After a run: whether the cell goes back to the run queue."""
        cdef bint again    # `scheduled` may be another thread's by the time that this returns
        with cython.critical_section(self):
            again = self.normal_size + self.control_size > 0 and self.can_run()
            self.scheduled = again
        return again

    cdef inline Slot free_slot(self):
        """The free slot to use next, made if there are fewer than `concurrency`; None otherwise.

        It stays in the list of free ones while a handler is stepped in it, and leaves when that suspends.
        """
        return self.new_slot() if self.free_slots is None else self.free_slots

    cdef Slot new_slot(self):
        return self.add_slot() if self.slots < self.concurrency else None

    cdef Slot add_slot(self):
        cdef Slot slot = self.dispatcher.make_slot()
        self.adopt(slot)
        self.put_back(slot)
        return slot

    cdef int adopt(self, Slot slot) noexcept:
        """Make `slot` one of this agent's; it is not free yet."""
        slot.cell = self
        with cython.critical_section(self):
            slot.next_slot = self.all_slots
            self.all_slots = slot
            self.slots += 1
        return 0

    cdef int occupy(self, Slot slot) noexcept:
        """Take a slot off the list of free ones."""
        cdef Slot here, before = None
        with cython.critical_section(self):
            here = self.free_slots
            while here is not None and here is not slot:
                before = here
                here = here.next_free
            if here is not None:
                if before is None:
                    self.free_slots = slot.next_free
                else:
                    before.next_free = slot.next_free
                slot.next_free = None
        return 0

    cdef int put_back(self, Slot slot) noexcept:
        with cython.critical_section(self):
            slot.next_free = self.free_slots
            self.free_slots = slot
        return 0

    cdef int release(self, Slot slot) except -1:
        """A slot is free again after its Task drove a handler."""
        self.put_back(slot)
        if self.becomes_ready():
            self.dispatcher.push(self)
        return 0

    cdef int forget_slot(self, Slot slot) noexcept:
        """A slot's Task is over; another one may be made in its place."""
        cdef Slot here, before = None
        with cython.critical_section(self):
            here = self.all_slots
            while here is not None and here is not slot:
                before = here
                here = here.next_slot
            if here is None:
                return 0
            if before is None:
                self.all_slots = slot.next_slot
            else:
                before.next_slot = slot.next_slot
            slot.next_slot = None
            self.slots -= 1
        self.occupy(slot)
        return 0

    # Timers, stash and behaviour of the instance; see Kit.

    cdef HandlerTable current_table(self):
        """From any thread."""
        cdef HandlerTable table
        with cython.critical_section(self):
            table = self.table
        return table

    cdef int set_table(self, HandlerTable table) except -1:
        cdef HandlerTable before     # let go of outside the lock
        with cython.critical_section(self):
            before = self.table
            self.table = table
            self.has_control = table.has_control
        return 0

    cdef int return_mail(self, list messages) except -1:
        """Messages in hand wait again, ahead of newer mail."""
        self.return_first(messages)
        if self.becomes_ready():
            self.dispatcher.push(self)
        return 0

    def kit_of(self, context not None):
        """The `Kit` of the instance whose `AgentContext` this is; one without use when that is over."""
        cdef Kit kit = self.kit
        if kit is None or kit.context is not context:
            kit = Kit.__new__(Kit)
            kit.cell = self
            kit.context = context
            if self.retired or self.agent is None or self.agent.context is not context:
                kit.over = True
            else:
                self.kit = kit
        return kit

    def end_instance(self):
        """Undo what the instance set up: timers, stash (its mail waits again) and behaviour. For a restart, too."""
        cdef Kit kit = self.kit    # held: what it lets go of may end the agent, which lets go of it
        if kit is not None:
            kit.end()

    cdef int retire(self) except -1:
        """The end of the agent begins."""
        self.retired = True
        self.end_instance()
        self.kit = None
        return 0

    # Mail of the runtime's own.

    def notify(self, payload, *, bint control=False):
        """Put mail of the runtime's own into the mailbox, in the loop; only a closed one refuses it.

        It is in the account as any mail is, takes no place of the capacity, and is not displaced. What bounds it
        is the number of those who may send it. Returns the `Message` for `withdraw`, or None when it was refused.
        """
        cdef Message message = new_message(payload)
        message._lane = LANE_CONTROL if control else LANE_NORMAL
        return message if self.dispatcher.notify(self, message) else None

    def withdraw(self, Message message not None):
        """Take back what `notify` sent, as if it had never been: True unless it was taken or discarded before."""
        return self.take_back(message)

    cdef bint take_back(self, Message message) except -1:
        if not self.withdraw_message(message):
            return False
        self.dispatcher.check_quiet(self)
        return True

    # For the coordinator, in its loop, once or twice in the life of an agent.

    def resume(self):
        """Handle mail from now on."""
        with cython.critical_section(self):
            self.paused = False
        self.forget_queue()
        if self.becomes_ready():
            self.dispatcher.push(self)

    def pause(self):
        """Take mail but handle none until `resume`; handlers that run finish."""
        with cython.critical_section(self):
            self.paused = True

    def squeeze(self, Py_ssize_t limit):
        """Let only `limit` normal messages wait, at least 1, until the next call; for tests of full mailboxes.

        What waits already stays. More than the capacity is the capacity. An adaptive mailbox has a limit of its own,
        and keeps it.
        """
        if limit < 1:
            raise InvalidArgument(f"limit is {limit}; it must be at least 1 message")
        if self.throttle is not None:
            return
        with cython.critical_section(self):
            self.limit = min(limit, self.capacity)
        if self.has_waiters:
            self.dispatcher.grant_room(self)

    @property
    def is_forgotten(self):
        """Whether mail waits that could be handled, and nothing is going to: a lost wake-up, which must not be."""
        cdef bint forgotten
        with cython.critical_section(self):
            forgotten = not self.scheduled and self.normal_size + self.control_size > 0 and self.can_run()
        return forgotten

    def run_hook(self, function, *args):
        """Call a lifecycle hook in a slot of this agent; None when it is over, else a `Waiter` to await."""
        return self.dispatcher.run_hook(self, function, args)

    def waiting(self):
        """The messages that wait, in the order of their lanes, control before normal."""
        cdef list messages = []
        cdef Message message
        with cython.critical_section(self):
            for first in (self.control_first, self.normal_first):
                message = first
                while message is not None:
                    messages.append(message)
                    message = message.next
        return messages

    def discard(self):
        """Dead-letter all mail that waits; senders that wait for room get `AgentStopped`."""
        self.dispatcher.discard(self)

    def refuse_waiters(self, *, bint outside_only=False):
        """Let senders that wait, for room or for the window, fail with `AgentStopped`."""
        self.dispatcher.refuse_waiters(self, outside_only)

    def watch_quiet(self):
        """Call `life.on_quiet()` in the loop once nothing is pending; at once when nothing is."""
        if self.count_pending() == 0:
            self.life.on_quiet()
        else:
            self.watched |= WATCH_QUIET
            if self.kit is not None:
                self.kit.tell_what_is_left()

    def watch_idle(self):
        """Call `life.on_idle()` in the loop once no handler runs; at once when none does."""
        if self.in_hand == (0 if self.kit is None else self.kit.kept):
            self.life.on_idle()
        else:
            self.watched |= WATCH_IDLE

    def cancel_handlers(self):
        """Cancel the Task of each slot whose handler is suspended; returns how many."""
        cdef Slot slot = self.all_slots
        cdef int cancelled = 0
        while slot is not None:
            if slot.running is not None or slot.has_yielded:
                slot.task.cancel()
                cancelled += 1
            slot = slot.next_slot
        return cancelled

    def abandon_handlers(self):
        """Write off handlers that outlived their cancellation: their messages count failed. Returns how many."""
        cdef Slot slot = self.all_slots
        cdef int abandoned = 0
        cdef object error
        while slot is not None:
            if slot.is_waiting:
                end_waiting(self.dispatcher, slot)
            if slot.hook is not None:
                slot.abandoned = True
                error = HandlerCancelled(f"a hook of agent {self.name!r} did not end when it was cancelled")
                slot.hook.settle(None, error)
                slot.show_hook(None)
            elif slot.message is not None and not slot.abandoned:
                error = HandlerCancelled(
                    f"handler {slot.handler.name} of agent {self.name!r} did not end when it was cancelled"
                )
                slot.abandoned = True
                abandoned += 1
                self.dispatcher.finish(
                    self, slot.handler, slot.message, None, error, slot.started_ns, self.dispatcher.clock.now()
                )
            slot = slot.next_slot
        return abandoned

    def end_slots(self):
        """End the Tasks of all slots, and let go of the agent; nothing is handled here any more."""
        with cython.critical_section(self):
            self.paused = True
        self.retire()
        self.renew_slots()
        self.agent = None

    def renew_slots(self):
        """End the Tasks of all slots; what is handled from now on runs in new ones, with new Contexts."""
        cdef Slot slot, following
        with cython.critical_section(self):
            slot = self.all_slots
            self.all_slots = self.free_slots = None
            self.slots = 0
        while slot is not None:
            following = slot.next_slot
            slot.end()
            slot.next_slot = None
            slot = following

    # For whoever looks for what is stuck, from any thread.

    def in_hand_now(self):
        """An `InHand` for each message and hook in hand."""
        return look_at_all(self)

    def lanes(self):
        """Messages that wait, by lane."""
        cdef Py_ssize_t normal, control
        with cython.critical_section(self):
            normal = self.normal_size
            control = self.control_size
        return {"normal": normal, "control": control}

    def room_waits(self):
        """Senders that wait for room, either lane: how many, and since when (ns) the oldest; None for none."""
        return earliest(waits_of(self.normal_waiters), waits_of(self.control_waiters))

    @property
    def policy(self):
        """Most messages that may wait in a lane, and how many are handled at a time."""
        return self.capacity, self.concurrency

    @property
    def recorders(self):
        """The `Meter` that this agent's class records into."""
        return self.meter
