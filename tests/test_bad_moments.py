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
    Coordinator,
    InvalidArgument,
    MailboxPolicy,
    SupervisionPolicy,
    handler,
    lives,
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


@pytest.mark.parametrize("messages", [1, 2])
@pytest.mark.parametrize("has_hook", [False, True])
def test_a_finaliser_may_stop_the_agent_that_stops_already(
    run: Any, mesh: Any, messages: int, has_hook: bool
) -> None:  # fmt: skip
    async def main() -> None:
        async with mesh(dead_letters=0) as bus:
            stopped = []

            class Stops(Number):
                async def on_stop(self, reason: Any) -> None:
                    stopped.append(reason)

            ref = await bus.spawn(Stops if has_hook else Number)
            context = cell_of(ref).agent.context
            bus.suspend(ref)
            for _ in range(messages):
                ref.tell(Bomb(context.stop))
            await bus.stop(ref)
            assert bus.state(ref).name == "STOPPED"
            assert len(stopped) == has_hook

    run(main)


def test_who_sums_up_may_be_interrupted_by_code_that_sums_up(python: Any) -> None:
    """A signal handler or a finaliser that looks at the figures while this thread does must not wait for itself."""
    python(
        """
        import asyncio, faulthandler, gc
        from pmesh import Coordinator
        faulthandler.dump_traceback_later(30, exit=True)
        looks = 0

        async def main():
            async with Coordinator() as bus:
                refs = [await bus.spawn(lambda payload: payload, own_recorders=n < 5) for n in range(20)]
                inside = False

                def look(phase, info):
                    nonlocal inside
                    global looks
                    if not inside:
                        inside = True
                        looks += 1
                        assert bus.stats().imbalance is None
                        bus.latency, bus.totals()
                        inside = False

                gc.callbacks.append(look)
                gc.set_threshold(1)
                for ref in refs[:10]:
                    await ref.ask(1)
                    bus.stats(), bus.latency, bus.totals(), bus.take_times()
                    await bus.stop(ref)
                gc.callbacks.remove(look)
                gc.set_threshold(700)

        asyncio.run(main())
        assert looks > 50
        """
    )


def test_an_interrupt_while_an_agent_begins_to_stop_leaves_nobody_waiting(
    run: Any, mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Number)

            def interrupt(cls: Any, method: str) -> bool:
                raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(lives, "is_overridden", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    cell_of(ref).agent.context.stop()
            await bus.stop(ref)
            assert bus.state(ref).name == "STOPPED"
        assert bus.totals().imbalance is None

    run(main)


@pytest.mark.parametrize("agents", [0, 2])
def test_a_mesh_all_of_whose_tasks_are_cancelled_in_its_first_turn_ends(run: Any, mesh: Any, agents: int) -> None:
    """As `asyncio.run` does when it ends while another task has just entered a mesh."""

    async def main() -> None:
        entered: list[Coordinator] = []

        async def other() -> None:
            async with mesh() as bus:
                entered.append(bus)
                for _ in range(agents):
                    await bus.spawn(Number)
                for task in asyncio.all_tasks() - {this}:
                    task.cancel()
                await asyncio.sleep(1.0)

        this = asyncio.current_task()
        task = asyncio.create_task(other())
        done, _ = await asyncio.wait([task], timeout=100)
        assert done
        assert task.cancelled()
        assert "closed" in repr(entered[0])
        assert entered[0].agents == ()

    run(main)


def test_a_size_far_below_zero_is_refused_by_name(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Number, mailbox=MailboxPolicy(max_bytes=10, size=lambda payload: -(2**70)))
            with pytest.raises(InvalidArgument, match=r"size\(int\) returned -1180591620717411303424"):
                ref.tell(1)

    run(main)
