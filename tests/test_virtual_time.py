"""The event loop in virtual time: it jumps, waits for threads that it was told of, and says what hangs."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from typing import Any

import pytest

from pmesh import Coordinator, InvalidArgument, InvalidType, handler
from pmesh.agent import Agent
from pmesh.testing import Deadlock, VirtualTimeLoop


def run(main: Any, **options: Any) -> Any:
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(**options)) as runner:
        return runner.run(main())


class Ticker(Agent):
    def __init__(self) -> None:
        self.ticks = 0

    async def on_start(self) -> None:
        self.context.timers.every(60.0, "tick", key="tick")

    @handler
    def tick(self, message: str) -> None:
        self.ticks += 1

    @handler
    def count(self, message: int) -> int:
        return self.ticks


def test_a_day_of_timers_runs_in_under_a_second() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        async with Coordinator(clock=loop.clock) as mesh:
            ticker = await mesh.spawn(Ticker)
            await asyncio.sleep(86_400)
            ticks: int = await ticker.ask(0)
            return ticks

    began = time.process_time()
    assert run(main) == 1_440
    assert time.process_time() - began < 1.0


def test_time_stands_still_while_there_is_something_to_do() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        before = loop.time()
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert loop.time() == before
        await asyncio.sleep(0.25)
        assert loop.time() == pytest.approx(before + 0.25, abs=1e-9)

    run(main)


def test_what_waits_for_nothing_is_a_deadlock_that_names_the_tasks() -> None:
    async def main() -> None:
        asyncio.current_task().set_name("the one that hangs")  # type: ignore[union-attr]
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match=r"nothing is ready and nothing is scheduled(.|\n)*the one that hangs"):
        run(main)


def test_what_waits_for_a_thread_is_told_how_to_announce_one() -> None:
    async def main() -> None:
        called = asyncio.Event()
        loop = asyncio.get_running_loop()
        # In an hour of the real time: it has not called when the loop has nothing to do.
        thread = threading.Timer(3600.0, loop.call_soon_threadsafe, (called.set,))
        thread.daemon = True
        thread.start()
        try:
            await called.wait()
        finally:
            thread.cancel()

    with pytest.raises(Deadlock, match=r"nothing is scheduled; a thread .* must be announced: .* in_thread"):
        run(main)


def test_what_waits_for_a_socket_is_told_that_no_virtual_time_brings_it() -> None:
    async def main(announced: bool) -> bytes:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            timer = threading.Timer(0.05, there.send, (b"x",))
            if not announced:
                return await loop.sock_recv(here, 1)
            timer.start()
            with loop.threads_at_work():
                got = await loop.sock_recv(here, 1)
            timer.join()
            return got

    with pytest.raises(
        Deadlock, match=r"nothing is scheduled; sockets, pipes or processes .*\(1\) go by the real time"
    ):
        run(lambda: main(False))
    assert run(lambda: main(True)) == b"x"


def test_what_goes_on_for_ever_ends_at_the_horizon() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(1.0)

    with pytest.raises(Deadlock, match="still busy after 60 virtual s"):
        run(main, horizon_seconds=60.0)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), "60", None])
def test_a_horizon_that_cannot_be_is_refused_and_leaves_no_half_made_loop(seconds: Any) -> None:
    with pytest.raises((InvalidArgument, InvalidType), match=f"horizon_seconds is {seconds!r}"):
        VirtualTimeLoop(horizon_seconds=seconds)
    gc.collect()  # a finaliser that failed would be a warning, and that an error


def test_a_coordinator_that_goes_by_the_real_time_is_refused_in_a_loop_that_does_not() -> None:
    async def main() -> None:
        mesh = Coordinator("shop")
        with pytest.raises(InvalidArgument, match=r"'shop' goes by the real time.*\(clock=loop.clock\)"):
            await mesh.__aenter__()
        assert "not entered" in repr(mesh)

    run(main)


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_time_does_not_pass_backwards(seconds: float) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.advance(seconds)

    with pytest.raises(InvalidArgument, match=r"seconds is .*time passes forwards"):
        run(main)


def test_no_time_passes_while_threads_that_were_announced_live() -> None:
    async def main() -> tuple[float, list[int]]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        got: list[int] = []
        thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(got.append, 1))
        loop.expect_calls_of([thread])
        thread.start()
        began = loop.time()
        await asyncio.sleep(5.0)
        thread.join()
        assert await asyncio.to_thread(lambda: 2) == 2
        return loop.time() - began, got

    passed, got = run(main)
    assert passed == pytest.approx(5.0)
    assert got == [1]
