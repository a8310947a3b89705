"""A workload, its baseline and the reference workload side by side: rounds of each in turn, in one event loop.

What the machine does to one of them in a round it does to the others too, so that ratios of the same round
say more than times of different ones.
"""

from __future__ import annotations

import contextlib
import math
import resource
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

from workloads import BASELINES, REFERENCE, Work, Workload

from pmesh import LatencyRecorder

__all__ = ["ROUNDS", "Race", "Rate"]

ROUNDS = 20

# Single calls are timed in stretches of milliseconds, among rounds of the reference of under one.
STRETCHES = 10
MOST_STRETCHES = 50
PAUSE_SECONDS = 0.001
SHORT_ROUNDS = 5
ITEMS = 1_024


@dataclass(frozen=True, slots=True)
class Rate:
    """Of a series of rounds: the medians of the workload's calls per second, and of its ratios to the others.

    Attributes:
        against_baseline: None where nothing does the same work, or what does is not installed.
    """

    per_second: float
    against_reference: float
    against_baseline: float | None


def processor_losses() -> int:
    """How often the kernel has taken the processor from this thread that wanted to go on."""
    who = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)  # of threads on Linux only
    return resource.getrusage(who).ru_nivcsw


class Race:
    """Runs `workload` and those it is held against in turn; to be opened and closed in one event loop."""

    def __init__(self, workload: Workload, baselines: Mapping[str, Workload] = BASELINES) -> None:
        self.workload = workload
        entrants = {name: baselines[name] for name in (REFERENCE, workload.beside) if name in baselines}
        self._entrants: list[Workload] = [workload, *entrants.values()]
        self._works: dict[str, Work] = {}
        self._rounds: list[dict[str, float]] = []
        self._stack = contextlib.AsyncExitStack()
        # Of the last single calls: the time of an item in the fastest round of the reference, and stretches made again.
        self.item_ns = math.nan
        self.disturbed = 0

    async def open(self) -> None:
        """Set all of them up.

        Cancel safety: what is set up by then is cleaned up by `close`.
        """
        for entrant in self._entrants:
            self._works[entrant.name] = await self._stack.enter_async_context(entrant.prepare())

    async def close(self) -> None:
        """Clean all of them up.

        Cancel safety: what is left is not cleaned up.
        """
        await self._stack.aclose()

    async def round(self, calls: int) -> float:
        """Run each of them once, in another order than last time; the seconds of the workload's `calls`.

        Cancel safety: the round does not count.
        """
        turn = len(self._rounds) % len(self._entrants)
        seconds = {}
        for entrant in self._entrants[turn:] + self._entrants[:turn]:
            count = calls if entrant is self.workload else entrant.calls
            seconds[entrant.name] = await self._works[entrant.name](count) / count
        self._rounds.append(seconds)
        return seconds[self.workload.name] * calls

    async def single_calls(self, calls: int) -> LatencyRecorder:
        """Time so many calls of the workload one by one, in stretches with rounds of the reference between them.

        Where processes share a core, the kernel takes it away for 8 ms at a time, and all 256 messages in flight
        wait: a p99 of such calls is the machine's. So a stretch in which it did so is made again, up to
        `MOST_STRETCHES` in all; beyond that they count too. Who sleeps or blocks gives the processor up and has not
        lost it, so such stretches count always; and what pmesh does to a p99 by using the processor, it does to a
        hundredth of the calls of every stretch.

        Cancel safety: `item_ns` and `disturbed` stay as they were.
        """
        latency = self._works[self.workload.name].latency
        if latency is None or calls % STRETCHES:
            raise ValueError(f"{self.workload.name!r} must have a latency, and timed_calls in multiples of {STRETCHES}")
        quiet: list[LatencyRecorder] = []
        disturbed: list[LatencyRecorder] = []
        item_seconds = []
        while len(quiet) < STRETCHES and len(quiet) + len(disturbed) < MOST_STRETCHES:
            item_seconds += [await self._works[REFERENCE](ITEMS) / ITEMS for _ in range(SHORT_ROUNDS)]
            if disturbed:
                time.sleep(PAUSE_SECONDS)  # noqa: ASYNC251 - who has slept is given the processor for longer
            losses = processor_losses()
            recorder = await latency(calls // STRETCHES)
            (quiet if processor_losses() == losses else disturbed).append(recorder)
        self.item_ns = min(item_seconds) * 1e9
        self.disturbed = len(disturbed)
        total = LatencyRecorder()
        for recorder in (quiet + disturbed)[:STRETCHES]:
            total.merge(recorder)
        return total

    @property
    def started(self) -> bool:
        return bool(self._rounds)

    async def rounds(self, count: int = ROUNDS) -> Rate:
        """Run so many rounds, and return the rate in them.

        Cancel safety: as of `round`.
        """
        for _ in range(count):
            await self.round(self.workload.calls)
        return self.rate(count)

    def rate(self, count: int = ROUNDS) -> Rate:
        """The rate in the last so many rounds."""
        rounds = self._rounds[-count:]
        beside = self.workload.beside
        return Rate(
            1 / statistics.median(seconds[self.workload.name] for seconds in rounds),
            self._ratio(rounds, REFERENCE),
            self._ratio(rounds, beside) if beside in self._works else None,
        )

    def _ratio(self, rounds: list[dict[str, float]], other: str | None) -> float:
        return statistics.median(seconds[other] / seconds[self.workload.name] for seconds in rounds)
