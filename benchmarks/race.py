"""A workload, its baseline and the reference workload side by side: rounds of each in turn, in one event loop.

What the machine does to one of them in a round it does to the others too, so that ratios of the same round
say more than times of different ones.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workloads import BASELINES, REFERENCE, Work, Workload

from pmesh import LatencyRecorder

__all__ = ["ROUNDS", "Quiet", "Race", "Rate"]

ROUNDS = 20

# Single calls are timed in stretches of milliseconds, among rounds of the reference of under one.
STRETCHES = 10
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


@dataclass(frozen=True, slots=True)
class Quiet:
    """Latency in the quietest of some stretches of calls, in times of one item of the reference.

    On a busy machine the kernel takes the processor away for 8 ms now and then, and the 256 messages in flight wait:
    a few times in a run, and the p99 of all calls is the machine's. But 1 % of the calls of every stretch are
    beyond what pmesh itself does to its p99.

    Attributes:
        item_ns: Of the fastest round of the reference; nothing took the processor away in that either.
    """

    p50_items: float
    p99_items: float
    item_ns: float

    @classmethod
    def of(cls, recorders: Sequence[LatencyRecorder], item_ns: float) -> Quiet:
        p50_ns, p99_ns = (min(recorder.percentile(share) for recorder in recorders) for share in (50, 99))
        return cls(p50_ns / item_ns, p99_ns / item_ns, item_ns)


class Race:
    """Runs `workload` and those it is held against in turn; to be opened and closed in one event loop."""

    def __init__(self, workload: Workload, baselines: Mapping[str, Workload] = BASELINES) -> None:
        self.workload = workload
        entrants = {name: baselines[name] for name in (REFERENCE, workload.beside) if name in baselines}
        self._entrants: list[Workload] = [workload, *entrants.values()]
        self._works: dict[str, Work] = {}
        self._rounds: list[dict[str, float]] = []
        self._stack = contextlib.AsyncExitStack()
        self.quiet = Quiet(math.nan, math.nan, math.nan)

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
        """Time so many calls of the workload one by one, in some stretches with the reference before each.

        Cancel safety: `quiet` stays as it was.
        """
        latency = self._works[self.workload.name].latency
        if latency is None or calls % STRETCHES:
            raise ValueError(f"{self.workload.name!r} must have a latency, and timed_calls in multiples of {STRETCHES}")
        item_seconds = []
        recorders = []
        for _ in range(STRETCHES):
            item_seconds += [await self._works[REFERENCE](ITEMS) / ITEMS for _ in range(SHORT_ROUNDS)]
            recorders.append(await latency(calls // STRETCHES))
        self.quiet = Quiet.of(recorders, min(item_seconds) * 1e9)
        total = LatencyRecorder()
        for recorder in recorders:
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
