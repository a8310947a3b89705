"""What must hold of `core_model.Core` after every step, and what at the end."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from schedules import Violation

if TYPE_CHECKING:
    from core_model import Core, MailCell

__all__ = ["TERMS", "check_end", "check_step"]

TERMS = ("sent", "accepted", "rejected", "handled", "failed", "dropped", "dead")


def check_step(core: Core) -> None:
    """After every step: the accounts, the capacities, the run queue."""
    for cell in core.cells:
        ended = cell.handled + cell.failed + cell.dropped + cell.dead
        if cell.sent != cell.accepted + cell.rejected or cell.accepted != ended + cell.pending():
            terms = dict(zip(TERMS, cell.terms(), strict=True))
            raise Violation(f"the account of {cell.name} does not balance: {terms}, pending {cell.pending()}")
        if len(cell.mail) > cell.capacity:
            raise Violation(f"{cell.name} holds {len(cell.mail)} messages; its capacity is {cell.capacity}")
    seen: list[MailCell] = []
    here = last = core.ready_first
    while here is not None:
        if here in seen:
            raise Violation(f"{here.name} is in the run queue twice")
        seen.append(here)
        last = here
        here = here.next_ready
    if last is not core.ready_last:
        raise Violation("the run queue does not end where it should")
    if core.callbacks.count(core.drain) > 1:
        raise Violation("drain is scheduled twice")
    if len(core.handled) != len(set(core.handled)):
        raise Violation(f"{core.handled[-1]} is handled twice")


def check_end(core: Core) -> None:
    """Once nothing can go on any more."""
    if not core.loop_closed:
        _check_served(core)
    _check_messages(core)
    for cell in core.cells:
        if cell.ending and not cell.stopped and not core.loop_closed:
            raise Violation(f"{cell.name} never ends: pending {cell.pending()}")
    heirs = [cell for cell in core.cells if cell.heir is not None]
    if heirs:
        wanted = tuple(map(sum, zip(*(cell.terms() for cell in heirs), strict=True)))
        if core.total.terms() != wanted:
            raise Violation(
                f"the total of stopped agents is {core.total.terms()}, that of their accounts {wanted}; the terms"
                f" are {', '.join(TERMS)}"
            )


def _check_served(core: Core) -> None:
    """Everything has come to rest: nothing that could be done is left."""
    for name, thread in core.threads.items():
        if name != "loop" and inspect.getgeneratorstate(thread) != inspect.GEN_CLOSED:
            raise Violation(f"{name} waits for ever")
    for cell in core.cells:
        if cell.mail and (cell.closed or cell.can_run()):
            raise Violation(f"{cell.name} is never served: {len(cell.mail)} messages wait (a lost wake-up)")
        if cell.scheduled:
            raise Violation(f"{cell.name} counts as scheduled, and nothing will run it")
        if cell.in_hand:
            raise Violation(f"{cell.name} has {cell.in_hand} messages in hand for ever")
    if core.ready_first is not None or core.wakes or core.calls or core.drain_scheduled:
        raise Violation(
            f"the loop sleeps: {len(core.calls)} calls and {len(core.wakes)} wake-ups are left,"
            f" drain_scheduled is {core.drain_scheduled} (a lost wake-up)"
        )


def _check_messages(core: Core) -> None:
    """Each message has met one fate, the one that its sender was told of."""
    buried = [name for _, name in core.dead_letters]
    for cell in core.cells:
        waiting = {mail.name for mail in cell.mail}
        mine = [mail for mail in core.told if mail.cell is cell]
        if cell.sent != len(mine):
            raise Violation(f"{len(mine)} messages were sent to {cell.name}, which counts {cell.sent}")
        if cell.accepted != sum(bool(mail.result) for mail in mine):
            raise Violation(f"{cell.name} counts {cell.accepted} accepted; tell said so {[m.result for m in mine]}")
        for mail in mine:
            fates = core.handled.count(mail.name) + buried.count(mail.name) + (mail.name in waiting)
            # What was to happen in a loop that was closed never does.
            undone = core.loop_closed and any(mail in args for _, args in core.calls)
            if fates + undone != bool(mail.result):
                raise Violation(f"tell said {mail.result} of {mail.name}, which met {fates} fates")
            if mail.result and mail.late:
                raise Violation(f"{mail.name} was told after the loop was closed, and accepted")
            if mail.is_ask and len(mail.answers) != 1 and not core.loop_closed:
                raise Violation(f"{mail.name} is answered {len(mail.answers)} times")
