"""What the core does across threads, one atomic step at a time: mailbox, dispatcher, and the asyncio loop under them.

A method is named after the one of the core that it mirrors, and a step after the method that it is part of. What the
core does in one critical section is one step; so is each reading and writing of shared data outside of one. Between
steps anything may happen in other threads, as on a free-threaded build; with a GIL fewer switches are possible. What
only the loop's thread ever touches is done along with the step before. Lanes, bytes, promised places, the window and
timers are not here: nobody but the loop decides about them, or they are decided in the same critical sections.

Faults are planted by subclasses that override one method; see `core_faults.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from core_invariants import TERMS, check_end, check_step
from loop_model import LoopClosed, LoopModel
from schedules import Steps, Violation

__all__ = ["Core", "Mail", "MailCell"]

REJECT, DROP_NEWEST, DROP_OLDEST, STOP = "REJECT", "DROP_NEWEST", "DROP_OLDEST", "STOP"
ACCEPTED, FULL, CLOSED, DROPPED, OVERFLOW, LATE = "ACCEPTED", "FULL", "CLOSED", "DROPPED", "OVERFLOW", "LATE"

BATCH = SLICE = 64


class Mail:
    """`Message`: who sent it to whom, and what became of it as its sender sees it."""

    __slots__ = ("answers", "cell", "is_ask", "late", "name", "number", "outcome", "result", "sender")

    def __init__(self, sender: str, number: int, cell: MailCell, is_ask: bool = False) -> None:
        self.name = f"{sender}{number}"
        self.sender = sender
        self.number = number
        self.cell = cell
        self.is_ask = is_ask
        self.outcome = ""
        self.result: bool | None = None  # of the tell, once it has returned
        self.late = False  # its tell began after the loop was closed
        self.answers: list[str] = []


class Account:
    """`Counters`."""

    def __init__(self) -> None:
        self.sent = self.accepted = self.rejected = self.handled = self.failed = self.dropped = self.dead = 0

    def terms(self) -> tuple[int, ...]:
        return self.sent, self.accepted, self.rejected, self.handled, self.failed, self.dropped, self.dead


class MailCell(Account):
    """`Cell`: one agent."""

    def __init__(
        self,
        name: str,
        handler: Callable[[MailCell, Mail], Steps] | None = None,
        *,
        capacity: int = 1024,
        overflow: str = REJECT,
        concurrency: int = 1,
        paused: bool = False,
        suspends: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.handler = handler
        self.capacity = capacity
        self.overflow = overflow
        self.concurrency = concurrency
        self.paused = paused
        self.suspends = suspends  # its handlers do, and end a turn of the loop later
        self.mail: list[Mail] = []
        self.in_hand = 0
        self.scheduled = False
        self.closed = False
        self.slots = self.free_slots = 0
        self.next_ready: MailCell | None = None
        self.heir: Account | None = None
        self.when_quiet: Callable[[MailCell], Steps] | None = None
        self.ending = False
        self.stopped = False
        self.newest: dict[str, int] = {}  # handled so far, by sender

    def pending(self) -> int:
        return len(self.mail) + self.in_hand

    def can_run(self) -> bool:
        return not self.paused and (self.free_slots > 0 or self.slots < self.concurrency)

    def state(self) -> tuple[Any, ...]:
        return (
            *self.terms(),
            tuple(mail.name for mail in self.mail),
            self.in_hand,
            self.scheduled,
            self.closed,
            self.paused,
            self.slots,
            self.free_slots,
            self.next_ready.name if self.next_ready else None,
            self.heir is None,
            self.when_quiet is None,
            self.ending,
            self.stopped,
        )


class Core(LoopModel):
    """One dispatcher, its loop and its agents; a `System` for `schedules.explore`."""

    name = "core"

    def __init__(self, cells: Iterable[MailCell], *, batch: int = BATCH, slice_messages: int = SLICE) -> None:
        super().__init__()
        self.cells = list(cells)
        self.batch = batch
        self.slice_messages = slice_messages
        self.threads: dict[str, Steps] = {}
        self.running = ""
        self.told: list[Mail] = []
        self.dead_letters: list[tuple[str, str]] = []
        self.handled: list[str] = []
        self.total = Account()  # of stopped agents
        # The dispatcher.
        self.ready_first: MailCell | None = None
        self.ready_last: MailCell | None = None
        self.drain_scheduled = False
        self.has_calls = False
        self.calls: deque[tuple[Callable[..., Steps], tuple[Any, ...]]] = deque()
        self.wakes: list[Mail] = []
        self.draining = False
        self.closing = False
        self.budget = 0

    # AgentRef.

    def tell(self, mail: Mail, *, from_handler: bool = False) -> Steps:
        mail.late = self.loop_closed
        self.told.append(mail)
        mail.result = yield from self.tell_one(mail, from_handler)
        return mail.result

    def tell_one(self, mail: Mail, from_handler: bool) -> Steps:
        if not from_handler:
            yield "AgentRef.tell_one: is the coordinator closing?"
            if self.closing:
                yield from self.count_refused(mail.cell)
                return False
        return (yield from self.submit(mail))

    # Dispatcher: submission.

    def submit(self, mail: Mail) -> Steps:
        cell = mail.cell
        yield "Dispatcher.submit: is the loop closed?"
        if not self.draining and self.loop_closed:
            mail.outcome = CLOSED
            yield from self.close(cell)
            yield from self.count_refused(cell)
            return False
        ready, displaced = yield from self.accept(cell, mail)
        if ready:
            try:
                yield from self.push(cell)
            except LoopClosed:
                yield from self.close(cell)
                if (yield from self.retract(cell, mail)):
                    mail.outcome = CLOSED
        for other in displaced:
            yield from self.bury(other, "dropped")
        if mail.outcome == DROPPED:
            yield from self.bury(mail, "dropped")
            return True
        if mail.outcome == OVERFLOW:
            yield from self.call(self.on_overflow, (cell,))
        elif mail.outcome == LATE:
            yield from self.count_at_heir(cell)
        return mail.outcome == ACCEPTED

    # Mailbox and Cell.

    def accept(self, cell: MailCell, mail: Mail) -> Steps:
        yield f"Cell.accept: {mail.name} to {cell.name}"
        displaced = self.put_locked(cell, mail)
        ready = mail.outcome == ACCEPTED and not cell.scheduled and cell.can_run()
        if ready:
            cell.scheduled = True
        return ready, displaced

    def put_locked(self, cell: MailCell, mail: Mail) -> list[Mail]:
        displaced: list[Mail] = []
        cell.sent += 1
        if cell.closed:
            mail.outcome = CLOSED if cell.heir is None else LATE
        elif len(cell.mail) < cell.capacity:
            mail.outcome = ACCEPTED
        elif cell.overflow == REJECT:
            mail.outcome = FULL
        elif cell.overflow == STOP:
            mail.outcome = OVERFLOW
        elif cell.overflow == DROP_OLDEST:
            displaced.append(cell.mail.pop(0))
            cell.dropped += 1
            mail.outcome = ACCEPTED
        else:
            mail.outcome = DROPPED
            cell.dropped += 1
        if mail.outcome in (ACCEPTED, DROPPED):
            cell.accepted += 1
            if mail.outcome == ACCEPTED:
                cell.mail.append(mail)
        else:
            cell.rejected += 1
        return displaced

    def becomes_ready(self, cell: MailCell) -> Steps:
        yield f"Cell.becomes_ready: {cell.name}"
        ready = not cell.scheduled and bool(cell.mail) and cell.can_run()
        if ready:
            cell.scheduled = True
        return ready

    def ran(self, cell: MailCell) -> Steps:
        yield f"Cell.ran: {cell.name}"
        again = cell.scheduled = bool(cell.mail) and cell.can_run()
        return again

    def take(self, cell: MailCell) -> Steps:
        yield f"Mailbox.take: {cell.name}"
        if not cell.mail:
            return None
        cell.in_hand += 1
        return cell.mail.pop(0)

    def count_end(self, cell: MailCell) -> Steps:
        yield f"Mailbox.count_end: {cell.name}"
        cell.in_hand -= 1
        cell.handled += 1

    def close(self, cell: MailCell) -> Steps:
        yield f"Mailbox.close: {cell.name}"
        cell.closed = True

    def retract(self, cell: MailCell, mail: Mail) -> Steps:
        yield f"Mailbox.retract: {mail.name} from {cell.name}"
        if mail not in cell.mail:
            return False
        cell.mail.remove(mail)
        cell.accepted -= 1
        cell.rejected += 1
        return True

    def discard_all(self, cell: MailCell) -> Steps:
        yield f"Mailbox.discard_all: {cell.name}"
        discarded = cell.mail[:]
        cell.dead += len(discarded)
        cell.mail.clear()
        return discarded

    def count_refused(self, cell: MailCell) -> Steps:
        yield f"Mailbox.count_refused: {cell.name}"
        late = cell.heir is not None
        cell.sent += 1
        cell.rejected += 1
        if late:
            yield from self.count_at_heir(cell)

    def count_at_heir(self, cell: MailCell) -> Steps:
        yield "Counters.count_stray: the total of stopped agents"
        self.total.sent += 1
        self.total.rejected += 1

    def bequeath(self, cell: MailCell) -> Steps:
        yield f"Mailbox.bequeath: {cell.name} names its heir and copies its account"
        cell.heir = self.total
        copy = cell.terms()
        yield from self.add_to_total(copy)

    def add_to_total(self, copy: tuple[int, ...]) -> Steps:
        yield "Counters.add: to the total of stopped agents"
        for term, value in zip(TERMS, copy, strict=True):
            setattr(self.total, term, getattr(self.total, term) + value)

    # Cell: slots. Which of them are free is read in any thread, under the lock, and changed in the loop.

    def add_slot(self, cell: MailCell) -> Steps:
        yield f"Cell.adopt: a slot of {cell.name}"
        cell.slots += 1
        yield from self.put_back(cell)

    def put_back(self, cell: MailCell) -> Steps:
        yield f"Cell.put_back: a slot of {cell.name}"
        cell.free_slots += 1

    def occupy(self, cell: MailCell) -> Steps:
        yield f"Cell.occupy: a slot of {cell.name}"
        cell.free_slots -= 1

    def release(self, cell: MailCell) -> Steps:
        yield from self.put_back(cell)
        if (yield from self.becomes_ready(cell)):
            yield from self.push(cell)

    # Dispatcher: the run queue.

    def push(self, cell: MailCell) -> Steps:
        yield f"Dispatcher.push: {cell.name}"
        self.append_ready(cell)
        schedule = not self.drain_scheduled
        self.drain_scheduled = True
        if schedule:
            yield from self.schedule()

    def append_ready(self, cell: MailCell) -> None:
        if self.ready_last is None:
            self.ready_first = cell
        else:
            self.ready_last.next_ready = cell
        self.ready_last = cell

    def pop(self) -> Steps:
        yield "Dispatcher.pop"
        cell = self.ready_first
        if cell is not None:
            self.ready_first = cell.next_ready
            cell.next_ready = None
            if self.ready_first is None:
                self.ready_last = None
        return cell

    def schedule(self) -> Steps:
        try:
            if self.running == "loop":
                yield from self.call_soon(self.drain)
            else:
                yield from self.call_soon_threadsafe(self.drain)
        except LoopClosed:
            yield "Dispatcher.schedule: failed"
            self.drain_scheduled = False
            raise

    def ensure_drain(self, *, has_calls: bool = False) -> Steps:
        yield "Dispatcher.ensure_drain"
        if has_calls:
            self.has_calls = True
        schedule = not self.drain_scheduled
        self.drain_scheduled = True
        if schedule:
            yield from self.schedule()

    def wake(self, mail: Mail) -> Steps:
        self.wakes.append(mail)
        yield from self.ensure_drain()

    def call(self, function: Callable[..., Steps], args: tuple[Any, ...]) -> Steps:
        yield f"Dispatcher.call: append {function.__name__}"
        self.calls.append((function, args))
        try:
            yield from self.ensure_drain(has_calls=True)
        except LoopClosed:
            if self.running == "loop":
                raise

    def drain(self) -> Steps:
        yield "Dispatcher._drain"
        self.budget = self.slice_messages
        self.draining = True
        while True:
            yield "Dispatcher._drain: any calls?"
            if self.has_calls:
                yield from self.run_calls()
            cell = yield from self.pop()
            if cell is not None:
                yield from self.run(cell)
            else:
                yield "Dispatcher._drain: nothing left?"
                if not self.wakes and not self.has_calls:
                    break
            if self.wakes:
                yield "Dispatcher._drain: nobody ready?"
                if self.ready_first is None:
                    self.run_wakes()
            if self.budget <= 0:
                break
        yield "Dispatcher._drain: over"
        self.draining = False
        yield from self.end_drain()

    def end_drain(self) -> Steps:
        yield "Dispatcher._drain: more?"
        more = self.ready_first is not None or bool(self.wakes) or self.has_calls
        self.drain_scheduled = more
        if more:
            yield from self.schedule()

    def run_calls(self) -> Steps:
        yield "Dispatcher.run_calls: clear the flag"
        self.has_calls = False
        while True:
            yield "Dispatcher.run_calls: next"
            if not self.calls:
                break
            function, args = self.calls.popleft()
            yield from function(*args)

    def run_wakes(self) -> None:
        self.budget -= len(self.wakes)
        self.wakes.clear()

    def run(self, cell: MailCell) -> Steps:
        left = self.batch
        while left > 0:
            yield f"Dispatcher.run: does anything wait for {cell.name}?"
            if cell.paused or not cell.mail:
                break
            if not cell.free_slots:
                if cell.slots >= cell.concurrency:
                    break
                yield from self.add_slot(cell)
            left = yield from self.run_slot(cell, left)
            if self.budget <= 0:
                break
        if (yield from self.ran(cell)):
            yield from self.push(cell)

    def run_slot(self, cell: MailCell, left: int) -> Steps:
        while left > 0:
            mail = yield from self.take(cell)
            if mail is None:
                break
            left -= 1
            self.budget -= 1
            yield from self.step(cell, mail)
            if cell.suspends:
                yield from self.occupy(cell)
                self.callbacks.append(self.later(self.over, cell, mail))
                break
            if cell.paused or self.budget <= 0:
                break
        return left

    def step(self, cell: MailCell, mail: Mail) -> Steps:
        """Along with `Mailbox.take` up to the handler's first step, or to its end."""
        self.handled.append(mail.name)
        if mail.number <= cell.newest.get(mail.sender, 0):
            raise Violation(f"{cell.name} handles {mail.name} after {mail.sender}{cell.newest[mail.sender]}")
        cell.newest[mail.sender] = mail.number
        if cell.handler is not None:
            yield from cell.handler(cell, mail)
        if not cell.suspends:
            yield from self.finish_mail(cell, mail)

    def over(self, cell: MailCell, mail: Mail) -> Steps:
        """`Slot.over` and `Slot.idle`: a handler that had suspended has ended."""
        yield from self.finish_mail(cell, mail)
        yield from self.release(cell)

    def finish_mail(self, cell: MailCell, mail: Mail) -> Steps:
        """`Dispatcher.finish`."""
        yield from self.count_end(cell)
        if mail.is_ask:
            yield from self.settle(mail, "value")
        yield from self.check_quiet(cell)

    def check_quiet(self, cell: MailCell) -> Steps:
        if cell.when_quiet is not None:
            yield f"Dispatcher.check_quiet: {cell.name}"
            if not cell.pending():
                then, cell.when_quiet = cell.when_quiet, None
                yield from self.call(then, (cell,))

    def settle(self, mail: Mail, answer: str) -> Steps:
        """`Waiter.settle`: only the first one counts, and the dispatcher resumes who waits."""
        if self.running != "loop":
            raise Violation(f"the asker of {mail.name} is answered in {self.running}, not in the loop")
        if not mail.answers:
            mail.answers.append(answer)
            yield from self.wake(mail)

    def bury(self, mail: Mail, kind: str) -> Steps:
        if self.running == "loop":
            yield from self.bury_in_loop(mail, kind)
        else:
            yield from self.call(self.bury_in_loop, (mail, kind))

    def bury_in_loop(self, mail: Mail, kind: str) -> Steps:
        if mail.is_ask:
            yield from self.settle(mail, kind)
        yield from self.check_quiet(mail.cell)
        self.dead_letters.append((kind, mail.name))

    # Lives: suspending and ending an agent, in the loop.

    def pause(self, cell: MailCell) -> Steps:
        yield f"Cell.pause: {cell.name}"
        cell.paused = True

    def resume(self, cell: MailCell) -> Steps:
        yield f"Cell.resume: {cell.name}"
        cell.paused = False
        if (yield from self.becomes_ready(cell)):
            yield from self.push(cell)

    def begin_stop(self, cell: MailCell) -> Steps:
        if cell.ending:
            return
        cell.ending = True
        yield from self.close(cell)
        for mail in (yield from self.discard_all(cell)):
            yield from self.bury(mail, "stopped")
        yield from self.watch_quiet(cell)

    def begin_drain(self, cell: MailCell) -> Steps:
        cell.ending = True
        yield from self.close(cell)
        yield from self.watch_quiet(cell)

    def watch_quiet(self, cell: MailCell) -> Steps:
        yield f"Cell.watch_quiet: {cell.name}"
        if cell.pending():
            cell.when_quiet = self.finish_life
        else:
            yield from self.finish_life(cell)

    def finish_life(self, cell: MailCell) -> Steps:
        """`Lives._finish`."""
        yield f"Cell.end_slots: {cell.name}"
        cell.paused = True
        cell.slots = cell.free_slots = 0
        yield from self.bequeath(cell)
        cell.stopped = True

    def on_overflow(self, cell: MailCell) -> Steps:
        yield from self.begin_stop(cell)

    # What must hold.

    def check(self) -> None:
        check_step(self)

    def finish(self) -> None:
        check_end(self)

    def state(self) -> object:
        return (
            tuple(cell.state() for cell in self.cells),
            tuple((mail.name, mail.outcome, mail.result, *mail.answers) for mail in self.told),
            self.ready_first and self.ready_first.name,
            self.ready_last and self.ready_last.name,
            self.drain_scheduled,
            self.has_calls,
            self.draining,
            self.closing,
            self.budget,
            tuple((function.__name__, *(getattr(arg, "name", arg) for arg in args)) for function, args in self.calls),
            tuple(mail.name for mail in self.wakes),
            tuple(self.dead_letters),
            tuple(self.handled),
            tuple(callback.__qualname__ for callback in self.callbacks),
            self.self_pipe,
            self.loop_closed,
            self.total.terms(),
        )
