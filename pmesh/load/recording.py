"""The figures of a run as it goes on: intervals of latency, counts, backlog, memory and processor time."""

from __future__ import annotations

import asyncio
import dataclasses
import pickle
import resource
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from pmesh import AgentRef, Coordinator, LatencyRecorder
from pmesh.load.report import AgentRow, Counts, Point
from pmesh.load.resources import resident_bytes

__all__ = ["Recording"]

# Short runs want a fine grain, long ones would drown in it: two points a second for ten seconds, then one. Each
# holds up the loop for a millisecond or two, which must stay well below a hundredth of the time, or the 99th
# percentile would be that of taking it.
FINE_SECONDS = 0.5
FINE_POINTS = 20
COARSE_SECONDS = 1.0

# More points than this are joined two by two: nobody sees more in a plot.
MOST_POINTS = 1_000

EMPTY = LatencyRecorder()

# What a point takes in memory besides its packed recorder.
POINT_BYTES = 700


class Recording:
    """Collects what a mesh measures, from entering to leaving, in intervals.

    It takes over the mesh's recorders: what they hold is moved into `recorders` at each interval's end, on the
    event loop.

    Args:
        targets: The agents under load; looked at anew each time.
        per_agent: Each of them has recorders of its own; keep their latencies apart.
        is_open: Latency is timed from the intended send time.
        late: How many messages a schedule wanted sent by now and that were not.
        on_point: Called with each point, and with its times by the names of `recorders`.

    Attributes:
        recorders: All that was recorded so far, by the names that `Report.recorders` has.
        before: The account when the recording began.
        rss_bytes_before: Memory then.
    """

    def __init__(
        self,
        mesh: Coordinator,
        targets: Sequence[AgentRef],
        *,
        is_open: bool,
        per_agent: bool = False,
        late: Callable[[], int] = lambda: 0,
        on_point: Callable[[Point, Mapping[str, LatencyRecorder]], None] | None = None,
    ) -> None:
        self._mesh = mesh
        self._targets = targets
        self._is_open = is_open
        self._per_agent = per_agent
        self._late = late
        self._on_point = on_point
        self.recorders = {name: LatencyRecorder() for name in ("latency", "response", "queue", "service")}
        if is_open:
            self.recorders["send_delay"] = LatencyRecorder()
        self._points: list[tuple[Point, bytes]] = []
        self._packed_bytes = 0
        self._retired: dict[str, Counts] = {}
        self.rss_bytes_before = 0
        self._coarse_seconds = COARSE_SECONDS
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._own = {ref.name: LatencyRecorder() for ref in self._targets} if self._per_agent else {}
        self._mesh.reset_latency()
        # By the ref itself: one that takes the place of a stopped agent has its name.
        self._accounts_before = {ref: Counts.of(ref.counters()) for ref in self._targets}
        self._meters = {id(meter): meter for meter in map(self._mesh.latency_of, self._targets)}.values()
        self.before = self._last = Counts.of(self._mesh.totals())
        self.rss_bytes_before = resident_bytes()
        self._started_ns = self._last_ns = time.monotonic_ns()
        self._cpu_seconds = _cpu_seconds()
        self._schedule()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._sample()

    @property
    def elapsed_seconds(self) -> float:
        return (time.monotonic_ns() - self._started_ns) / 1e9

    @property
    def handled(self) -> int:
        """Messages whose handler is over since the start, whether it raised or not, as far as the agents
        of the start record it.
        """
        return self.recorders["response"].count + sum(meter.latency.count for meter in self._meters)

    def series(self) -> tuple[Point, ...]:
        """The intervals so far."""
        return tuple(dataclasses.replace(point, recorder=_unpack(packed)) for point, packed in self._points)

    def rows(self) -> tuple[AgentRow, ...]:
        """The account since the start of each agent that lives now, and of those whose place it took.

        Mail that was refused after one had stopped is in the whole account only.
        """
        rows = []
        for ref in self._targets:
            if not ref.is_alive:
                continue
            counts = self._since_start(ref)
            if ref.name in self._retired:
                counts = counts.plus(self._retired[ref.name])
            row = AgentRow(ref.name, counts)
            if self._own:
                own = self._own[ref.name].snapshot()
                own.merge(self._latency_of(ref))
                row = dataclasses.replace(row, p50_ns=own.percentile(50), p99_ns=own.percentile(99), max_ns=own.max)
            rows.append(row)
        return tuple(rows)

    def retire(self, ref: AgentRef) -> None:
        """Keep the account of an agent that has stopped for the row of the one that takes its place."""
        counts = self._since_start(ref)
        self._retired[ref.name] = counts.plus(self._retired[ref.name]) if ref.name in self._retired else counts

    def _since_start(self, ref: AgentRef) -> Counts:
        counts = Counts.of(ref.counters())
        before = self._accounts_before.get(ref)
        return counts if before is None else counts.since(before)

    def _latency_of(self, ref: AgentRef) -> LatencyRecorder:
        meter = self._mesh.latency_of(ref)
        return meter.intended if self._is_open else meter.latency

    def _schedule(self) -> None:
        seconds = FINE_SECONDS if len(self._points) < FINE_POINTS else self._coarse_seconds
        # From the interval's start, so that what a sample costs does not add up.
        due = self._last_ns / 1e9 + seconds - time.monotonic_ns() / 1e9
        self._timer = self._loop.call_later(max(due, 0.001), self._tick)

    def _tick(self) -> None:
        self._sample()
        self._schedule()

    def _sample(self) -> None:
        for ref in self._targets if self._own else ():
            if ref.is_alive:
                self._own[ref.name].merge(self._latency_of(ref))
        taken = self._mesh.take_times()
        now_ns = time.monotonic_ns()
        counts = Counts.of(self._mesh.totals())
        cpu_seconds = _cpu_seconds()
        times = {"queue": taken["queue"], "service": taken["service"], "response": taken["latency"]}
        times["latency"] = latency = taken["intended" if self._is_open else "latency"]
        if self._is_open:
            times["send_delay"] = taken["send_delay"]
        for name, recorder in times.items():
            self.recorders[name].merge(recorder)
        p50, p99 = latency.percentiles((50, 99))
        change = counts.since(self._last)
        point = Point(
            at_ns=now_ns - self._started_ns,
            interval_ns=now_ns - self._last_ns,
            sent=change.sent,
            handled=change.handled,
            failed=change.failed + change.expired + change.dropped + change.dead + change.rejected,
            latency_count=latency.count,
            latency_p50_ns=p50,
            latency_p99_ns=p99,
            latency_max_ns=latency.max,
            pending=counts.pending,
            late=self._late(),
            # Without what the series itself takes, which grows with the run.
            rss_bytes=resident_bytes() - self._packed_bytes,
            cpu_seconds=cpu_seconds - self._cpu_seconds,
            recorder=latency,
        )
        self._last, self._last_ns, self._cpu_seconds = counts, now_ns, cpu_seconds
        self._points.append((dataclasses.replace(point, recorder=EMPTY), _pack(latency)))
        self._packed_bytes = sum(len(packed) + POINT_BYTES for _, packed in self._points)
        if len(self._points) > MOST_POINTS:
            self._halve()
        if self._on_point is not None:
            self._on_point(point, times)

    def _halve(self) -> None:
        """Join each two neighbouring intervals, and make the next ones twice as long."""
        pairs = zip(self.series()[::2], self.series()[1::2], strict=False)
        self._points = [_join(first, second) for first, second in pairs] + self._points[len(self._points) & ~1 :]
        self._coarse_seconds *= 2


def _join(first: Point, second: Point) -> tuple[Point, bytes]:
    latency = first.recorder
    latency.merge(second.recorder)
    p50, p99 = latency.percentiles((50, 99))
    joined = dataclasses.replace(
        second,
        interval_ns=first.interval_ns + second.interval_ns,
        sent=first.sent + second.sent,
        handled=first.handled + second.handled,
        failed=first.failed + second.failed,
        latency_count=latency.count,
        latency_p50_ns=p50,
        latency_p99_ns=p99,
        latency_max_ns=latency.max,
        cpu_seconds=first.cpu_seconds + second.cpu_seconds,
        recorder=EMPTY,
    )
    return joined, _pack(latency)


def _pack(recorder: LatencyRecorder) -> bytes:
    """A recorder made small: it keeps a page for each part of its range that was used, 50 KB of which 2 tell all."""
    return zlib.compress(pickle.dumps(recorder), 1)


def _unpack(packed: bytes) -> LatencyRecorder:
    recorder: LatencyRecorder = pickle.loads(zlib.decompress(packed))
    return recorder


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
