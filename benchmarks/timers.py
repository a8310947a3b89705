"""What a timer of an agent costs beside `loop.call_later`: time and memory each, for very many of them.

    python benchmarks/timers.py                     a million timers, five rounds, about three minutes
    python benchmarks/timers.py --timers 100000     fewer
    python benchmarks/timers.py --uvloop            on uvloop

Both do the same in turns, in both orders, in one process; the median of each and of the rounds' ratios is shown.
A timer of pmesh sends a message that is accounted for, timed and handled by an agent; `call_later` calls a function.
Collection of garbage stays on, because it does in the programs that use pmesh.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

from pmesh import BUILD_INFO, Agent, AgentRef, Coordinator, Timers
from pmesh._core import cell_of

# None of those that are cancelled is to become due meanwhile.
FAR_SECONDS = 3600.0

Work = Callable[[int], Awaitable[float]]


class Counter(Agent):
    """Counts what its timers send."""

    def __init__(self) -> None:
        self.count = 0
        self.expected = -1
        self.done = asyncio.Event()

    def receive(self, payload: object) -> None:  # type: ignore[override]
        self.count += 1
        if self.count == self.expected:
            self.done.set()


class Mesh:
    """The work of each figure, by the timers of an agent."""

    def __init__(self, agent: Counter) -> None:
        self.agent = agent
        self.timers: Timers = agent.context.timers

    async def set_and_cancel(self, count: int) -> float:
        after, cancel = self.timers.after, self.timers.cancel
        begin = time.perf_counter()
        for _ in range(count):
            cancel(after(FAR_SECONDS, None))
        await asyncio.sleep(0)
        return time.perf_counter() - begin

    async def replace(self, count: int) -> float:
        after = self.timers.after
        begin = time.perf_counter()
        for _ in range(count):
            after(FAR_SECONDS, None, key="key")
        await asyncio.sleep(0)
        spent = time.perf_counter() - begin
        self.timers.cancel("key")
        return spent

    async def set_all(self, count: int) -> float:
        after = self.timers.after
        begin = time.perf_counter()
        self.keys = [after(FAR_SECONDS, None) for _ in range(count)]
        return time.perf_counter() - begin

    async def cancel_all(self, count: int) -> float:
        cancel = self.timers.cancel
        begin = time.perf_counter()
        for key in self.keys:
            cancel(key)
        await asyncio.sleep(0)
        spent = time.perf_counter() - begin
        self.keys.clear()
        return spent

    async def fire(self, count: int) -> float:
        agent, after = self.agent, self.timers.after
        agent.count, agent.expected = 0, count
        agent.done.clear()
        begin = time.perf_counter()
        for _ in range(count):
            after(0.0, None)
        await agent.done.wait()
        return time.perf_counter() - begin


class Loop:
    """The same by `loop.call_later`."""

    def __init__(self) -> None:
        self.call_later = asyncio.get_running_loop().call_later
        self.count = 0

    def receive(self, payload: object) -> None:
        self.count += 1
        if self.count == self.expected:
            self.done.set()

    async def set_and_cancel(self, count: int) -> float:
        call_later, receive = self.call_later, self.receive
        begin = time.perf_counter()
        for _ in range(count):
            call_later(FAR_SECONDS, receive, None).cancel()
        await asyncio.sleep(0)
        return time.perf_counter() - begin

    async def replace(self, count: int) -> float:
        call_later, receive = self.call_later, self.receive
        begin = time.perf_counter()
        handle = call_later(FAR_SECONDS, receive, None)
        for _ in range(count):
            handle.cancel()
            handle = call_later(FAR_SECONDS, receive, None)
        await asyncio.sleep(0)
        spent = time.perf_counter() - begin
        handle.cancel()
        return spent

    async def set_all(self, count: int) -> float:
        call_later, receive = self.call_later, self.receive
        begin = time.perf_counter()
        self.keys = [call_later(FAR_SECONDS, receive, None) for _ in range(count)]
        return time.perf_counter() - begin

    async def cancel_all(self, count: int) -> float:
        begin = time.perf_counter()
        for handle in self.keys:
            handle.cancel()
        await asyncio.sleep(0)
        spent = time.perf_counter() - begin
        self.keys.clear()
        return spent

    async def fire(self, count: int) -> float:
        call_later, receive = self.call_later, self.receive
        self.count, self.expected, self.done = 0, count, asyncio.Event()
        begin = time.perf_counter()
        for _ in range(count):
            call_later(0.0, receive, None)
        await self.done.wait()
        return time.perf_counter() - begin


FIGURES = {
    "set and cancelled at once": "set_and_cancel",
    "replaced, over and over": "replace",
    "set, all pending": "set_all",
    "cancelled, one by one": "cancel_all",
    "set with no delay, and fired": "fire",
}


async def bytes_each(side: Any, count: int) -> float:
    """Memory that each of `count` pending timers takes, the list of their keys left out."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        await side.set_all(count)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0] - before - side.keys.__sizeof__()
    finally:
        tracemalloc.stop()
    await side.cancel_all(count)
    return held / count


async def measure(timers: int, rounds: int) -> None:
    async with Coordinator() as mesh:
        ref: AgentRef = await mesh.spawn(Counter)
        sides: dict[str, Any] = {"pmesh": Mesh(cell_of(ref).agent), "call_later": Loop()}
        spent: dict[tuple[str, str], list[float]] = {(name, side): [] for name in FIGURES for side in sides}
        for number in range(rounds):
            for name, method in FIGURES.items():
                order = list(sides) if number % 2 == 0 else list(reversed(sides))
                for side in order:
                    gc.collect()
                    spent[name, side].append(await getattr(sides[side], method)(timers) / timers * 1e9)
        print(f"{timers:,} timers, {rounds} rounds, {type(asyncio.get_running_loop()).__module__}")
        print(f"{'':<30} {'pmesh':>12} {'call_later':>12} {'ratio':>8}")
        for name in FIGURES:
            ours, theirs = spent[name, "pmesh"], spent[name, "call_later"]
            ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
            print(f"{name:<30} {statistics.median(ours):>9,.0f} ns {statistics.median(theirs):>9,.0f} ns {ratio:>8.2f}")
        few = min(timers, 100_000)
        memory = {side: await bytes_each(sides[side], few) for side in sides}
        print(
            f"{'memory of a pending one':<30} {memory['pmesh']:>10,.0f} B {memory['call_later']:>10,.0f} B"
            f" {memory['pmesh'] / max(memory['call_later'], 1):>8.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timers", type=int, default=1_000_000, help="how many of each kind (default: a million)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (default: 5)")
    parser.add_argument("--uvloop", action="store_true", help="measure on uvloop instead of asyncio's own loop")
    options = parser.parse_args()
    if options.timers < 1 or options.rounds < 1:
        parser.error("--timers and --rounds must be at least 1")
    if BUILD_INFO["debug"] or BUILD_INFO["trace"]:
        parser.error("this is a debug or trace build of pmesh; its figures would say nothing")
    if options.uvloop:
        import uvloop

        factory: Any = uvloop.new_event_loop
    else:
        factory = asyncio.SelectorEventLoop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(measure(options.timers, options.rounds))


if __name__ == "__main__":
    main()
