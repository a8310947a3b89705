"""What comes at a bad moment: code that finalisers and collections run, no memory, no stack left, an exit, a signal.

None of it may crash, hang, or leave the account out of balance, and the mesh serves its agents afterwards.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from pmesh import (
    Agent,
    InvalidArgument,
    MailboxPolicy,
    SupervisionPolicy,
    handler,
)
from pmesh._core import cell_of

RESUME = SupervisionPolicy(directives="resume")


class Number(Agent):
    """Takes numbers and gives them back."""

    supervision = RESUME

    @handler
    async def number(self, payload: int) -> int:
        return payload


class Bomb:
    """Calls a function when it is let go of."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function

    def __del__(self) -> None:
        self.function()


def test_what_carries_one_message_cannot_be_copied(run: Any, mesh: Any) -> None:
    """A copy of a send would put its envelope, which is the node of the mailbox's list, there twice."""

    async def main() -> None:
        async with mesh() as bus:
            messages: list[Any] = []

            class Keeps(Number):
                @handler
                def text(self, payload: str) -> None:
                    messages.append(self.context.message)

            ref = await bus.spawn(Keeps)
            calls = (ref.send(1), ref.ask(1))
            await ref.ask("hello")
            for thing in (*calls, *messages, cell_of(ref).agent.context.timers):
                for copies in (copy.copy, copy.deepcopy, pickle.dumps):
                    with pytest.raises(TypeError, match="cannot pickle"):
                        copies(thing)
            for call in calls:
                await call
            assert copy.copy(ref.counters()) == ref.counters()

    run(main)


def test_a_send_that_is_begun_and_dropped_keeps_no_place(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Number, mailbox=MailboxPolicy(capacity=1))
            bus.suspend(ref)
            ref.tell(1)
            call = ref.send(2)
            next(call)
            del call
            gc.collect()
            bus.resume(ref)
            await asyncio.sleep(1.0)
            bus.suspend(ref)
            assert ref.tell(3)
            bus.resume(ref)

    run(main)


def test_a_size_far_below_zero_is_refused_by_name(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Number, mailbox=MailboxPolicy(max_bytes=10, size=lambda payload: -(2**70)))
            with pytest.raises(InvalidArgument, match=r"size\(int\) returned -1180591620717411303424"):
                ref.tell(1)

    run(main)
