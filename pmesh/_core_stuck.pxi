"""What is stuck: a view of what is in hand, asks that would wait on themselves, handlers that wait for too long.

Nothing here runs for a message that is handled without waiting. What a suspended handler waits for is what its Task
waits for, so no note of it has to be kept or taken back: an ask is found there as its `Waiter`.
"""

AWAITED = ("end", "answer", "room", "place")

# Stalled handlers that one look shows in full; the others are counted.
cdef enum:
    STALLS_SHOWN = 10

# Between two looks for stalled handlers.
cdef enum:
    SHORTEST_LOOK_NS = 1_000_000

# Names in the text of an AskCycle; its `chain` has all.
cdef enum:
    CYCLE_SHOWN = 20


@cython.final
cdef class InHand:
    """What one slot has in hand at one instant; of the message only types and names, never the payload."""

    cdef readonly str agent
    cdef readonly str handler         # as in `Billing.charge`, or the lifecycle hook
    cdef readonly str payload_type    # None for a lifecycle hook
    cdef readonly str sender          # name of the agent that sent the message, or None
    cdef readonly int64_t started_ns  # on the coordinator's clock
    cdef readonly bint is_running     # its code runs right now; otherwise it waits
    cdef readonly object function     # what was called
    cdef readonly object coroutine    # what is suspended, or None
    cdef readonly object waits_on     # the future, `Waiter` or Task that it waits for, or None

    def __init__(self):
        raise InvalidType("InHand is made by Cell.in_hand_now(); it cannot be constructed")

    def __repr__(self):
        return f"<InHand {self.handler} of {self.agent!r}>"


cdef inline bint is_busy(Slot slot) noexcept:
    return slot.message is not None or slot.hook is not None or slot.in_place


cdef object waited_for(Slot slot):
    """What the suspended handler in `slot` waits for; None while it runs."""
    cdef object waits
    if slot.has_yielded:
        return slot.yielded     # its Task takes it over in its next step
    if slot.task is None:
        return None
    waits = slot.task._fut_waiter
    return None if waits is slot else waits


cdef str handler_name(Message message, Handler handler, object function):
    if message is not None:
        return "dispatch" if handler is None else handler.name
    return str(getattr(function, "__qualname__", "a lifecycle hook"))


cdef InHand look_at(Slot slot):
    """From any thread. The slot's own may change all of it meanwhile: what is shown is of one instant."""
    cdef InHand view = InHand.__new__(InHand)
    cdef Dispatcher dispatcher = slot.dispatcher
    cdef Cell cell
    cdef Message message
    cdef Handler handler
    cdef object function, task, waits
    cdef bint has_yielded
    with cython.critical_section(dispatcher):
        cell = slot.cell
        message = slot.message
        handler = slot.handler
        function = slot.function
        view.started_ns = slot.started_ns
        view.is_running = slot.in_place or slot is dispatcher.stepping
        view.coroutine = slot.running
        task = slot.task
        has_yielded = slot.has_yielded
        waits = slot.yielded
    view.agent = "" if cell is None else cell.name
    view.handler = handler_name(message, handler, function)
    view.function = function
    if message is not None:
        view.payload_type = type_name(message.payload)
        view.sender = getattr(message.sender, "name", None)
        view.function = None if handler is None else handler.function
    if view.is_running:
        view.coroutine = None
    elif has_yielded:
        view.waits_on = waits
    elif task is not None:
        waits = task._fut_waiter
        view.waits_on = None if waits is slot else waits
    return view


cdef list look_at_all(Cell cell):
    cdef list slots = []
    cdef Slot slot
    cdef Dispatcher dispatcher = cell.dispatcher
    with cython.critical_section(cell, dispatcher):
        slot = cell.all_slots
        while slot is not None:
            if is_busy(slot):
                slots.append(slot)
            slot = slot.next_slot
    return [look_at(slot) for slot in slots]


cdef tuple waits_of(WaiterQueue waiters):
    """How many wait there and since when the oldest does; None for none."""
    cdef Waiter waiter
    cdef int64_t since_ns = 0
    cdef Py_ssize_t count = 0
    if waiters is None:
        return None
    with cython.critical_section(waiters):
        waiter = waiters.first
        while waiter is not None:
            if count == 0 or waiter.since_ns < since_ns:
                since_ns = waiter.since_ns
            count += 1
            waiter = waiter.behind
    return (count, since_ns) if count else None


cdef tuple earliest(tuple one, tuple other):
    if one is None or other is None:
        return one or other
    return one[0] + other[0], min(one[1], other[1])


# Asks that would wait on themselves.
#
# Whoever is to be answered needs a slot to go on: the one that has the question in hand, or, while it waits in a
# mailbox, any slot of that agent. So the ask can never be answered when all slots that it needs, and those that these
# need in turn, wait for answers, and one of them is the slot that asks. A slot that waits for anything else may go on.


cdef Slot asking_slot(Scope scope):
    """The slot whose own handler runs right now, in that scope; None in a task that a handler started."""
    cdef Dispatcher dispatcher = scope.cell.dispatcher
    cdef Slot slot = dispatcher.stepping
    if slot is None or slot.scope is not scope or slot.task is None:
        return None
    # A child task that is started eagerly runs inside the handler's step.
    return slot if dispatcher.current_task(dispatcher.loop) is slot.task else None


cdef list way_back(Slot asker, Cell target):
    """The slots by which an ask of `target` would wait for `asker`, from that one on; None if it would not."""
    cdef dict needed_by = {}
    cdef list needed = []
    cdef list way
    cdef Slot slot
    cdef Py_ssize_t seen = 0
    if not need_one_of(target, asker, asker, needed_by, needed):
        return None
    while seen < len(needed):
        slot = needed[seen]
        seen += 1
        if slot is not asker and not need_what_it_awaits(slot, asker, needed_by, needed):
            return None
    if asker not in needed_by:
        return None
    way = [asker]
    slot = needed_by[asker]
    while slot is not asker:
        way.append(slot)
        slot = needed_by[slot]
    way.append(asker)
    way.reverse()
    return way


cdef int need(Slot slot, Slot by, dict needed_by, list needed) except -1:
    if slot not in needed_by:
        needed_by[slot] = by
        needed.append(slot)
    return 0


cdef bint need_one_of(Cell cell, Slot by, Slot asker, dict needed_by, list needed) except -1:
    """Note the slots that `by` needs one of, for a message that waits in the mailbox; False when one is free."""
    cdef Slot slot = cell.all_slots
    cdef bint found = False
    if cell.paused:
        # Nothing but the end of its hook lets it go on, or somebody from outside.
        if asker.cell is cell and asker.message is None:
            need(asker, by, needed_by, needed)
            return True
        while slot is not None:
            if slot.hook is not None:
                need(slot, by, needed_by, needed)
                found = True
            slot = slot.next_slot
        return found
    if cell.has_spare_slot():
        return False
    while slot is not None:
        need(slot, by, needed_by, needed)
        slot = slot.next_slot
    return True


cdef bint need_what_it_awaits(Slot slot, Slot asker, dict needed_by, list needed) except -1:
    """Note the slots that `slot` needs; False when it may go on without."""
    cdef Slot server = asker.outer
    cdef Waiter waiter
    while server is not None:
        if server is slot:
            # It waits for the hook that asks, which has not suspended yet.
            need(asker, slot, needed_by, needed)
            return True
        server = server.outer
    awaited = waited_for(slot)
    if type(awaited) is not Waiter:
        return False
    waiter = awaited
    if waiter.state != WAITER_PENDING or waiter.cell is None:
        return False
    if waiter.what != AWAITED_ANSWER and waiter.what != AWAITED_END:
        return False
    server = waiter.cell.all_slots
    while server is not None:
        if server.hook is waiter or (server.message is not None and server.message.reply is waiter):
            need(server, slot, needed_by, needed)
            return True
        server = server.next_slot
    return need_one_of(waiter.cell, slot, asker, needed_by, needed)


cdef object cycle_error(list way, Cell target):
    cdef list names = [(<Slot>slot).cell.name for slot in way]
    cdef list steps = [described((<Slot>slot)) for slot in way[:-1]]
    cdef str advice
    steps.append(names[-1])
    if len(steps) > CYCLE_SHOWN:
        steps[CYCLE_SHOWN // 2:-CYCLE_SHOWN // 2] = [f"({len(steps) - CYCLE_SHOWN} more)"]
    if target.paused:
        advice = f"ask once {target.name!r} has started"
    else:
        advice = f"give {target.name!r} a slot more (concurrency={target.concurrency + 1})"
    return AskCycle(
        f"ask of {target.name!r} by {names[0]!r} would wait on itself: {' -> '.join(steps)}; {advice}, or use tell",
        tuple(names),
    )


cdef str described(Slot slot):
    cdef str handled = "" if slot.message is None else f" of {type_name(slot.message.payload)}"
    return f"{slot.cell.name} ({handler_name(slot.message, slot.handler, slot.function)}{handled})"


# Handlers that wait for too long. They stand in a list, oldest first, from their first suspension to their end, and
# one timer of the loop looks at it; none is set while none waits.


cdef int begin_waiting(Dispatcher dispatcher, Slot slot) except -1:
    slot.is_waiting = True
    slot.report_ns = slot.started_ns + dispatcher.stall_ns
    slot.waits_before = dispatcher.waiting_last
    if dispatcher.waiting_last is None:
        dispatcher.waiting_first = slot
    else:
        dispatcher.waiting_last.waits_behind = slot
    dispatcher.waiting_last = slot
    if dispatcher.stall_timer is None:
        look_later(dispatcher, dispatcher.stall_ns)
    return 0


cdef int end_waiting(Dispatcher dispatcher, Slot slot) except -1:
    cdef Slot before = slot.waits_before
    cdef Slot behind = slot.waits_behind
    slot.is_waiting = False
    slot.waits_before = slot.waits_behind = None
    if before is None:
        dispatcher.waiting_first = behind
    else:
        before.waits_behind = behind
    if behind is None:
        dispatcher.waiting_last = before
    else:
        behind.waits_before = before
    return 0


cdef int look_later(Dispatcher dispatcher, int64_t delay_ns) except -1:
    dispatcher.stall_timer = dispatcher.loop.call_later(
        delay_ns / <double>SECOND_NS, dispatcher._check_stalls, context=dispatcher.context
    )
    return 0


cdef int check_stalls(Dispatcher dispatcher) except -1:
    """Tell the coordinator of handlers that have waited for `stall_ns`, and again whenever that has doubled."""
    cdef int64_t now_ns = dispatcher.clock.now()
    cdef int64_t next_ns = 0
    cdef Py_ssize_t count = 0
    cdef list shown = []
    cdef Slot slot = dispatcher.waiting_first
    dispatcher.stall_timer = None
    while slot is not None:
        if slot.report_ns <= now_ns:
            count += 1
            if count <= STALLS_SHOWN:
                shown.append(look_at(slot))
            slot.report_ns = now_ns + (now_ns - slot.started_ns)
        if next_ns == 0 or slot.report_ns < next_ns:
            next_ns = slot.report_ns
        if slot.started_ns + dispatcher.stall_ns > now_ns:
            break       # and so are all behind it
        slot = slot.waits_behind
    if next_ns and not dispatcher.ended:
        # Not for each of a hundred thousand by itself.
        look_later(dispatcher, max(next_ns - now_ns, dispatcher.stall_ns // 4, SHORTEST_LOOK_NS))
    if count:
        try:
            dispatcher.hooks.on_stalls(shown, count)
        except Exception as raised:
            dispatcher.report("reporting stalled handlers", raised)
    return 0
