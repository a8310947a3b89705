"""How the benchmarks measure and judge: the shared event loop, the time of a call, the p99 gates.

A benchmark says twice what its work costs. `measure.throughput` gives pytest-benchmark the mean
time of a call in each of a few rounds. `measure.latency` times single calls in the compiled
recorder and, for pmesh, holds p50, p99 and max against the reference SLOs. Both run in one
`asyncio.Runner` that all benchmarks share, and are timed inside it. What is measured stands in the
`test_bench_*.py` files; that the gates can fail, in `test_gates.py`.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

import pmesh
from pmesh import Coordinator, LatencyRecorder

# Below this a p99 rests on fewer than 100 values.
MINIMUM_CALLS = 10_000

# A latency is of the wall clock. Where processes share a core, the kernel takes it away for 4 ms
# and more at a time, and all 256 messages in flight wait through that: twice in 50,000 messages,
# and the p99 is the machine's. So what misses an SLO is measured again, and what misses it every
# time fails: what pmesh itself does wrong comes back. All runs are shown, each with the share of
# its time in which it had the processor.
RUNS = 5
FIRST_PAUSE_SECONDS = 0.1

# As many messages as the baseline's asyncio.Queue holds.
WINDOW = 256


@dataclass(frozen=True, slots=True)
class Slo:
    """What a latency must stay below, in nanoseconds; by default the reference's for messages."""

    p50_ns: int = 500_000
    p99_ns: int = 5_000_000
    max_ns: int = 50_000_000


class GateFailed(AssertionError):
    """A latency missed its SLO, or there were too few calls to tell."""


@dataclass(frozen=True, slots=True)
class Run:
    """One series of single calls, and the share of its time in which it had the processor."""

    recorder: LatencyRecorder
    processor_share: float

    @classmethod
    def of(cls, work: Callable[[], LatencyRecorder]) -> Run:
        gc.collect()
        start, start_cpu = time.perf_counter(), time.thread_time()
        recorder = work()
        seconds, cpu_seconds = time.perf_counter() - start, time.thread_time() - start_cpu
        return cls(recorder, min(cpu_seconds / seconds, 1.0))

    def misses(self, slo: Slo) -> list[str]:
        """Each objective that was missed: observed against allowed."""
        p50_ns, p99_ns = self.recorder.percentiles((50, 99))
        objectives = [
            ("p50", p50_ns, slo.p50_ns),
            ("p99", p99_ns, slo.p99_ns),
            ("max", self.recorder.max, slo.max_ns),
        ]
        return [
            f"{what} {observed / 1e6:,.3f} ms (allowed: below {allowed / 1e6:,.3f} ms)"
            for what, observed, allowed in objectives
            if observed >= allowed
        ]

    def as_dict(self) -> dict[str, Any]:
        p50_ns, p99_ns = self.recorder.percentiles((50, 99))
        return {
            "calls": self.recorder.count,
            "p50_ns": p50_ns,
            "p99_ns": p99_ns,
            "max_ns": self.recorder.max,
            "processor_share": round(self.processor_share, 3),
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """The runs of one benchmark: the last decides. Without an SLO it is a baseline, not judged."""

    name: str
    timed: str
    slo: Slo | None
    runs: list[Run]

    @property
    def decisive(self) -> Run:
        return self.runs[-1]

    @property
    def passed(self) -> bool:
        return self.slo is None or (
            self.decisive.recorder.count >= MINIMUM_CALLS and not self.decisive.misses(self.slo)
        )

    def require(self) -> None:
        """Fail unless the SLO was kept.

        Raises:
            GateFailed: An objective was missed in every run, or there were too few calls.
        """
        if self.slo is None or self.passed:
            return
        count = self.decisive.recorder.count
        if count < MINIMUM_CALLS:
            why = f"{count:,} calls timed; a p99 needs {MINIMUM_CALLS:,} or more"
        else:
            why = "; ".join(self.missed_runs())
        raise GateFailed(f"{self.name}, {self.timed}: {why}")

    def missed_runs(self) -> list[str]:
        """What each run missed that missed something."""
        if self.slo is None:
            return []
        return [
            f"run {number}, which had the processor {run.processor_share:.0%} of the time: " + ", ".join(misses)
            for number, run in enumerate(self.runs, 1)
            if (misses := run.misses(self.slo))
        ]

    def as_dict(self) -> dict[str, Any]:
        """For the saved JSON: the run that decides, and all of them."""
        runs = [run.as_dict() for run in self.runs]
        return {"timed": self.timed, **runs[-1], "passed": self.passed, "runs": runs}


def observe(
    name: str,
    timed: str,
    slo: Slo | None,
    work: Callable[[], LatencyRecorder],
    *,
    pause: Callable[[float], object] = time.sleep,
) -> Verdict:
    """Time single calls with `work`, and again while they miss `slo`, up to `RUNS` times."""
    runs = [Run.of(work)]
    while slo is not None and runs[-1].misses(slo) and len(runs) < RUNS:
        pause(FIRST_PAUSE_SECONDS * 2 ** (len(runs) - 1))
        runs.append(Run.of(work))
    return Verdict(name, timed, slo, runs)


class PerCallTimer:
    """The timer that pytest-benchmark reads; at the end of a round it goes on by one call's time.

    So the table shows calls, whatever their number in a round, without the cost of entering the
    loop.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def __repr__(self) -> str:
        return type(self).__name__


TIMER = PerCallTimer()
VERDICTS = pytest.StashKey[list[Verdict]]()


class Measure:
    """What a benchmark measures with; the work it is given returns what it timed."""

    def __init__(self, benchmark: Any, runner: asyncio.Runner, verdicts: list[Verdict]) -> None:
        self._benchmark = benchmark
        self._runner = runner
        self._verdicts = verdicts

    def throughput(self, work: Callable[[int], Coroutine[Any, Any, float]], *, calls: int, rounds: int = 20) -> None:
        """Time `rounds` of `work(calls)`, which returns the seconds that its calls took."""

        def one_round() -> None:
            TIMER.seconds += self._runner.run(work(calls)) / calls

        gc.collect()
        self._benchmark.extra_info["calls_per_round"] = calls
        self._benchmark.pedantic(one_round, rounds=rounds, warmup_rounds=1)

    def latency(
        self,
        timed: str,
        work: Callable[[int], Coroutine[Any, Any, LatencyRecorder]],
        *,
        calls: int,
        slo: Slo | None = None,
    ) -> None:
        """Time single calls with `work(calls)`, which returns its recorder, and judge by `slo`.

        Raises:
            GateFailed: An objective was missed in every run, or there were too few calls.
        """
        verdict = observe(self._benchmark.name, timed, slo, lambda: self._runner.run(work(calls)))
        self._verdicts.append(verdict)
        self._benchmark.extra_info.update(verdict.as_dict())
        verdict.require()


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """The event loop of all benchmarks."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def mesh(runner: asyncio.Runner) -> Iterator[Coordinator]:
    """A running coordinator; in the end its account must balance, and all mail be handled."""
    mesh = Coordinator("bench", window=WINDOW)
    runner.run(mesh.__aenter__())
    yield mesh
    runner.run(mesh.close())
    stats = mesh.stats()
    assert stats.imbalance is None, stats
    assert stats.handled == stats.accepted, stats


@pytest.fixture
def measure(benchmark: Any, runner: asyncio.Runner, request: pytest.FixtureRequest) -> Measure:
    return Measure(benchmark, runner, request.config.stash[VERDICTS])


@pytest.fixture
def slo() -> Slo:
    """The reference's SLO of message latencies."""
    return Slo()


@pytest.fixture
def judge() -> Callable[..., Verdict]:
    """`observe`, for the tests of the gates."""
    return observe


@pytest.fixture
def check_build() -> Callable[[Mapping[str, object]], None]:
    """`require_release_build`, for the tests of the gates."""
    return require_release_build


def require_release_build(build: Mapping[str, object]) -> None:
    """Refuse to judge a build that is slow on purpose.

    Raises:
        UsageError: The core was built with PMESH_DEBUG or PMESH_TRACE, so its speed says nothing.
    """
    variants = [variant for variant in ("debug", "trace") if build[variant]]
    if variants:
        switches = " and ".join(f"PMESH_{variant.upper()}" for variant in variants)
        raise pytest.UsageError(
            f"benchmarks do not run on a {' and '.join(variants)} build of pmesh"
            f" ({pmesh.__file__}): its figures would say nothing. Install it without {switches}"
        )


def pytest_configure(config: pytest.Config) -> None:
    require_release_build(pmesh.BUILD_INFO)
    config.stash[VERDICTS] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "measure" in getattr(item, "fixturenames", ()):
            # The closest marker counts alone, so what it says is repeated.
            marker = item.get_closest_marker("benchmark")
            options = {} if marker is None else marker.kwargs
            item.add_marker(pytest.mark.benchmark(**options, timer=TIMER), append=False)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    verdicts = config.stash[VERDICTS]
    if not verdicts:
        return
    name_width = max(len(verdict.name) for verdict in verdicts)
    timed_width = max(len(verdict.timed) for verdict in verdicts)
    terminalreporter.section("latency of single calls, in microseconds")
    terminalreporter.write_line(
        f"{'':<{name_width}}  {'timed':<{timed_width}}  {'calls':>7} {'p50':>9} {'p99':>9} {'max':>9}"
    )
    for verdict in verdicts:
        recorder = verdict.decisive.recorder
        p50_us, p99_us, max_us = (value / 1e3 for value in recorder.percentiles((50, 99, 100)))
        outcome = "baseline" if verdict.slo is None else "ok" if verdict.passed else "MISSED"
        terminalreporter.write_line(
            f"{verdict.name:<{name_width}}  {verdict.timed:<{timed_width}}  {recorder.count:>7,}"
            f" {p50_us:>9,.2f} {p99_us:>9,.2f} {max_us:>9,.1f}  {outcome}",
            red=not verdict.passed,
        )
        for missed in verdict.missed_runs():
            terminalreporter.write_line(f"{'':<{name_width}}  {missed}")
    slo = Slo()
    terminalreporter.write_line(
        f"allowed: p50 below {slo.p50_ns / 1e3:,.0f}, p99 below {slo.p99_ns / 1e3:,.0f},"
        f" max below {slo.max_ns / 1e3:,.0f}, all three in one of at most {RUNS} runs"
    )
