"""Faults planted in `core_model.Core`, each of them in one method: what the explorer must find.

Those marked as the core's own were in it, and found by this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from core_model import ACCEPTED, CLOSED, LATE, Core, Mail, MailCell
from loop_model import LoopClosed
from schedules import Steps

__all__ = ["FAULTS", "Fault"]


class Fault(NamedTuple):
    core: type[Core]
    scenario: str  # that shows it
    violation: str  # a part of what is said then
    preemptions: int  # that it takes at most


FAULTS: dict[str, Fault] = {}


def fault(scenario: str, violation: str, preemptions: int = 2) -> Callable[[type[Core]], type[Core]]:
    """The class's docstring is the name of the fault."""

    def add(core: type[Core]) -> type[Core]:
        FAULTS[(core.__doc__ or "").strip(".")] = Fault(core, scenario, violation, preemptions)
        return core

    return add


# Ready or not.


@fault("two messages and the end of drain", "lost wake-up")
class ReadyDecidedAfterTheLock(Core):
    """accept decides that an empty mailbox becomes ready from what it saw, outside of the lock."""

    def accept(self, cell: MailCell, mail: Mail) -> Steps:
        yield "Cell.accept: was it empty?"
        was_empty = not cell.mail
        yield "Cell.accept"
        displaced = self.put_locked(cell, mail)
        ready = mail.outcome == ACCEPTED and was_empty and not cell.scheduled and cell.can_run()
        if ready:
            cell.scheduled = True
        return ready, displaced


@fault("two threads tell one agent", "run queue twice")
class ScheduledSetAfterTheLock(Core):
    """accept looks at scheduled under the lock and sets it after it."""

    def accept(self, cell: MailCell, mail: Mail) -> Steps:
        yield "Cell.accept"
        displaced = self.put_locked(cell, mail)
        ready = mail.outcome == ACCEPTED and not cell.scheduled and cell.can_run()
        yield "Cell.accept: scheduled"
        if ready:
            cell.scheduled = True
        return ready, displaced


@fault("two messages and the end of drain", "run queue twice")
class RanReadsScheduledAfterTheLock(Core):
    """ran returns scheduled as it reads after the lock (the core's own)."""

    def ran(self, cell: MailCell) -> Steps:
        yield from super().ran(cell)
        yield "Cell.ran: return scheduled"
        return cell.scheduled


@fault("two messages and the end of drain", "lost wake-up")
class RanLooksBeforeTheLock(Core):
    """ran looks whether mail waits before it takes the lock."""

    def ran(self, cell: MailCell) -> Steps:
        yield "Cell.ran: does anything wait?"
        again = bool(cell.mail) and cell.can_run()
        yield "Cell.ran"
        cell.scheduled = again
        return again


@fault("one message to an idle agent", "never served")
class PushedBeforeLinked(Core):
    """accept marks and pushes the agent before its message is linked."""

    def accept(self, cell: MailCell, mail: Mail) -> Steps:
        yield "Cell.accept: ready?"
        early = not cell.scheduled and cell.can_run() and not cell.closed
        if early:
            cell.scheduled = True
            yield from self.push(cell)
        yield "Cell.accept: link"
        return False, self.put_locked(cell, mail)


@fault("tell against the start", "lost wake-up")
class ResumeLooksFirst(Core):
    """resume looks for mail before it lets the agent run."""

    def resume(self, cell: MailCell) -> Steps:
        cell.paused = False
        ready = yield from self.becomes_ready(cell)
        if not ready:
            cell.paused = True
            yield "Cell.resume"
            cell.paused = False
        else:
            yield from self.push(cell)


@fault("a handler that suspends", "lost wake-up")
class SlotFreedAfterLooking(Core):
    """release looks for mail before it puts the slot back."""

    def release(self, cell: MailCell) -> Steps:
        if (yield from self.becomes_ready(cell)):
            yield from self.push(cell)
        yield from self.put_back(cell)


# The run queue and drain.


@fault("three messages to two agents", "run queue does not end where it should")
class RunQueueUnlocked(Core):
    """push links an agent to the run queue in two steps."""

    def push(self, cell: MailCell) -> Steps:
        yield "Dispatcher.push: the last one"
        last = self.ready_last
        yield "Dispatcher.push: link"
        if last is None:
            self.ready_first = cell
        else:
            last.next_ready = cell
        self.ready_last = cell
        yield from self.ensure_drain()


@fault("two messages and the end of drain", "lost wake-up")
class MoreDecidedBeforeTheLock(Core):
    """drain looks whether there is more, and clears drain_scheduled after it."""

    def end_drain(self) -> Steps:
        yield "Dispatcher._drain: more?"
        more = self.ready_first is not None or bool(self.wakes) or self.has_calls
        yield "Dispatcher._drain: clear drain_scheduled"
        self.drain_scheduled = more
        if more:
            yield from self.schedule()


@fault("three messages in slices of one", "scheduled twice")
class ClearedBeforeLooking(Core):
    """drain clears drain_scheduled, then looks whether there is more, and schedules itself without asking again."""

    def end_drain(self) -> Steps:
        yield "Dispatcher._drain: clear drain_scheduled"
        self.drain_scheduled = False
        yield "Dispatcher._drain: more?"
        if self.ready_first is not None or self.wakes or self.has_calls:
            self.drain_scheduled = True
            yield from self.schedule()
            return


@fault("two messages and the end of drain", "lost wake-up")
class ScheduledAfterTheCall(Core):
    """push notes that drain is scheduled after it has scheduled it."""

    def push(self, cell: MailCell) -> Steps:
        yield "Dispatcher.push"
        self.append_ready(cell)
        if not self.drain_scheduled:
            yield from self.schedule()
            yield "Dispatcher.push: drain_scheduled"
            self.drain_scheduled = True


@fault("capacity 1, DROP_OLDEST", "lost wake-up")
class MoreForgetsCalls(Core):
    """drain does not count calls as something more to do."""

    def end_drain(self) -> Steps:
        yield "Dispatcher._drain: more?"
        more = self.ready_first is not None or bool(self.wakes)
        self.drain_scheduled = more
        if more:
            yield from self.schedule()


@fault("one message to an idle agent", "lost wake-up")
class SelectorNotWoken(Core):
    """schedule uses call_soon in a foreign thread."""

    def schedule(self) -> Steps:
        yield from self.call_soon(self.drain)


# Calls from other threads.


@fault("capacity 1, DROP_OLDEST", "lost wake-up")
class FlagClearedAfterEmptying(Core):
    """run_calls clears has_calls after it has emptied the calls."""

    def run_calls(self) -> Steps:
        while True:
            yield "Dispatcher.run_calls: next"
            if not self.calls:
                break
            function, args = self.calls.popleft()
            yield from function(*args)
        yield "Dispatcher.run_calls: clear the flag"
        self.has_calls = False


@fault("capacity 1, DROP_OLDEST", "lost wake-up")
class FlagSetBeforeAppending(Core):
    """call sets has_calls, and has drain run, before it appends the call."""

    def call(self, function: Callable[..., Steps], args: tuple[Any, ...]) -> Steps:
        yield from self.ensure_drain(has_calls=True)
        yield "Dispatcher.call: append"
        self.calls.append((function, args))


@fault("a thread displaces an ask", "answered in thread, not in the loop")
class BuriedWhereItIs(Core):
    """bury answers the asker in the thread that displaced the ask."""

    def bury(self, mail: Mail, kind: str) -> Steps:
        yield from self.bury_in_loop(mail, kind)


# The mailbox.


@fault("capacity 1, DROP_OLDEST", "does not balance")
class TakeUnlocked(Core):
    """take reads the first message, and unlinks it in a step of its own."""

    def take(self, cell: MailCell) -> Steps:
        yield "Mailbox.take: first"
        mail = cell.mail[0] if cell.mail else None
        yield "Mailbox.take: unlink"
        if mail is None:
            return None
        if mail in cell.mail:
            cell.mail.remove(mail)
        cell.in_hand += 1
        return mail


@fault("one message to an idle agent", "does not balance")
class EndCountedInTwoSteps(Core):
    """count_end takes a message out of the hand and counts it in two steps."""

    def count_end(self, cell: MailCell) -> Steps:
        yield "Mailbox.count_end: in hand"
        cell.in_hand -= 1
        yield "Mailbox.count_end: handled"
        cell.handled += 1


@fault("two threads overflow one agent", "its capacity is 1")
class RoomAskedBeforeTheLock(Core):
    """accept asks for room, and links in a step of its own."""

    def accept(self, cell: MailCell, mail: Mail) -> Steps:
        yield "Cell.accept: has_room"
        room = len(cell.mail) < cell.capacity
        if not room:
            return (yield from super().accept(cell, mail))
        yield "Cell.accept"
        mail.outcome = ACCEPTED
        cell.sent += 1
        cell.accepted += 1
        cell.mail.append(mail)
        ready = not cell.scheduled and cell.can_run()
        cell.scheduled = cell.scheduled or ready
        return ready, []


@fault("capacity 1, DROP_OLDEST", "fates")
class DisplacedForgotten(Core):
    """what a message displaces is counted, and no dead letter is made of it."""

    def accept(self, cell: MailCell, mail: Mail) -> Steps:
        ready, _ = yield from super().accept(cell, mail)
        return ready, []


# Ends.


@fault("tell against drain of the agent", "never served")
class QuietBeforeClosed(Core):
    """begin_drain looks whether anything is pending before it closes the mailbox."""

    def begin_drain(self, cell: MailCell) -> Steps:
        cell.ending = True
        yield "Lives.begin_drain: anything pending?"
        quiet = not cell.pending()
        yield from self.close(cell)
        yield from self.finish_life(cell) if quiet else self.watch_quiet(cell)


@fault("tell against stop", "never served")
class DiscardedBeforeClosed(Core):
    """begin_stop discards what waits, and ends the agent, before it closes the mailbox."""

    def begin_stop(self, cell: MailCell) -> Steps:
        cell.ending = True
        for mail in (yield from self.discard_all(cell)):
            yield from self.bury(mail, "stopped")
        yield from self.finish_life(cell)
        yield from self.close(cell)


@fault("tell against stop", "total of stopped agents")
class AccountCopiedApart(Core):
    """bequeath names the heir and copies the account in two steps (the core's own)."""

    def put_locked(self, cell: MailCell, mail: Mail) -> list[Mail]:
        displaced = super().put_locked(cell, mail)
        if mail.outcome == LATE:
            mail.outcome = CLOSED
        return displaced

    def submit(self, mail: Mail) -> Steps:
        accepted = yield from super().submit(mail)
        if mail.outcome == CLOSED:
            yield "Mailbox.tell_heir: is there one?"
            if mail.cell.heir is not None:
                yield from self.count_at_heir(mail.cell)
        return accepted

    def bequeath(self, cell: MailCell) -> Steps:
        yield "Mailbox.bequeath: name the heir"
        cell.heir = self.total
        yield "Mailbox.counters: copy"
        yield from self.add_to_total(cell.terms())


@fault("tell against the closing of the loop", "accepted; tell said so")
class RetractForgotten(Core):
    """tell says False when the loop is found closed, and leaves its message accepted."""

    def retract(self, cell: MailCell, mail: Mail) -> Steps:
        yield "nothing"
        return True


@fault("tell against the closing of the loop", "raised LoopClosed")
class PushRaises(Core):
    """tell lets the closed loop's error out."""

    def submit(self, mail: Mail) -> Steps:
        yield "Dispatcher.submit: is the loop closed?"
        if self.loop_closed:
            yield from self.count_refused(mail.cell)
            return False
        ready, _ = yield from self.accept(mail.cell, mail)
        if ready:
            yield from self.push(mail.cell)
        return mail.outcome == ACCEPTED


@fault("dropping against the closing of the loop", "raised LoopClosed")
class CallRaises(Core):
    """tell raises when the loop closes before what it displaced is buried (the core's own)."""

    def call(self, function: Callable[..., Steps], args: tuple[Any, ...]) -> Steps:
        yield "Dispatcher.call: append"
        self.calls.append((function, args))
        yield from self.ensure_drain(has_calls=True)


@fault("dropping at resume against the closing of the loop", "fates", preemptions=3)
class RetractedBeforeBurying(Core):
    """tell returns from a closed loop without burying what its message displaced (the core's own)."""

    def submit(self, mail: Mail) -> Steps:
        cell = mail.cell
        yield "Dispatcher.submit: is the loop closed?"
        if self.loop_closed:
            yield from self.count_refused(cell)
            return False
        ready, displaced = yield from self.accept(cell, mail)
        if ready:
            try:
                yield from self.push(cell)
            except LoopClosed:
                yield from self.close(cell)
                if (yield from self.retract(cell, mail)):
                    return False
        for other in displaced:
            yield from self.bury(other, "dropped")
        return mail.outcome == ACCEPTED


@fault("tell against the closing of the loop", "after the loop was closed")
class ClosedLoopNotAsked(Core):
    """tell does not ask whether the loop is closed when the agent is scheduled already."""

    def submit(self, mail: Mail) -> Steps:
        ready, _ = yield from self.accept(mail.cell, mail)
        if ready:
            try:
                yield from self.push(mail.cell)
            except LoopClosed:
                yield from self.close(mail.cell)
                if (yield from self.retract(mail.cell, mail)):
                    mail.outcome = CLOSED
        return mail.outcome == ACCEPTED
