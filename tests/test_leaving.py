"""Leaving a coordinator in a hurry: by Ctrl-C, by a cancellation, with agents that do not want to end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from pmesh import Agent, Coordinator, InvalidType, StopReason

FOREVER = 3600.0


async def wait_forever(payload: object) -> None:
    await asyncio.sleep(FOREVER)


@pytest.mark.parametrize("verb", ["stop", "drain", "kill"])
def test_an_end_that_is_cancelled_before_its_first_step_is_an_end_all_the_same(
    python: Callable[..., str], verb: str
) -> None:
    printed = python(f"""
        import asyncio, pmesh

        class Busy(pmesh.Agent):
            async def receive(self, payload):
                await asyncio.sleep(0.2)

            async def on_stop(self, reason):
                pass

        async def main():
            main.mesh = await pmesh.Coordinator(drain_timeout=0.3).__aenter__()
            ref = await main.mesh.spawn(Busy)
            ref.tell(1)
            asyncio.create_task(main.mesh.{verb}(ref))
            await asyncio.sleep(0)
            for task in asyncio.all_tasks() - {{asyncio.current_task()}}:
                task.cancel()

        asyncio.run(main())
        stats = main.mesh.stats()
        print(stats.imbalance, stats.pending, stats.failed + stats.dead, len(stats.agents))
    """)
    assert printed.split() == ["None", "0", "1", "0"]


def test_a_cancelled_body_leaves_at_once_and_what_waits_is_accounted_for(run: Any, mesh: Any) -> None:
    async def main() -> None:
        bus: Coordinator = mesh()
        loop = asyncio.get_running_loop()

        async def body() -> None:
            async with bus:
                ref = await bus.spawn(wait_forever)
                ref.tell_many(range(3))
                await asyncio.sleep(FOREVER)

        task = asyncio.create_task(body())
        await asyncio.sleep(0.01)
        began = loop.time()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert loop.time() - began < 1.0
        stats = bus.stats()
        assert (stats.accepted, stats.failed, stats.dead, stats.pending) == (3, 1, 2, 0)

    run(main)


def test_an_error_in_the_body_still_lets_accepted_mail_be_handled(run: Any, mesh: Any) -> None:
    async def main() -> None:
        bus: Coordinator = mesh()
        handled: list[int] = []
        with pytest.raises(KeyError):
            async with bus:
                (await bus.spawn(handled.append)).tell_many(range(5))
                raise KeyError
        assert handled == [0, 1, 2, 3, 4]

    run(main)


def test_leaving_takes_one_drain_timeout_however_many_hooks_do_not_end(
    run: Any, mesh: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Stubborn(Agent):
        async def on_stop(self, reason: StopReason) -> None:
            await asyncio.sleep(FOREVER)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh(drain_timeout=0.2) as bus:
            for _ in range(20):
                await bus.spawn(Stubborn)
            began = loop.time()
        assert loop.time() - began < 2.0

    with caplog.at_level(logging.ERROR):
        run(main)
    assert caplog.text.count("on_stop did not end") == 20


def test_a_chooser_that_fails_is_reported_once_and_mail_is_served_all_the_same(run: Any, mesh: Any) -> None:
    async def main() -> None:
        reported: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: reported.append(context))

        def broken(ready: list[Any]) -> int:
            raise ZeroDivisionError

        async with mesh(chooser=broken) as bus:
            ref = await bus.spawn(lambda payload: payload)
            assert [await ref.ask(number) for number in range(3)] == [0, 1, 2]
        assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]

    run(main)


@pytest.mark.parametrize("option", [{"chooser": 0}, {"clock": 1}])
def test_a_wrong_chooser_or_clock_is_refused_at_once(option: dict[str, Any]) -> None:
    with pytest.raises(InvalidType, match=f"{next(iter(option))} is .*; it must be"):
        Coordinator(**option)
