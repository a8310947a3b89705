"""Load reports with made-up figures, for tests of what reads and shows them."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from pmesh import LatencyRecorder
from pmesh.environment import Environment
from pmesh.load.profiles import PROFILES
from pmesh.load.report import AgentRow, Counts, Plan, Point, Report, Spread
from pmesh.load.resources import Resources
from pmesh.slo import DEFAULT_OBJECTIVES, judge

ENVIRONMENT = Environment(
    pmesh="0.1.0",
    python="3.14.0",
    implementation="CPython",
    gil=True,
    platform="Linux-6.1.0-x86_64-with-glibc2.41",
    cpu="Example CPU",
    cpu_count=2,
    event_loop="asyncio",
    build={"debug": False, "trace": False, "cython": "3.3.1"},
    started_at="2026-11-23T12:00:00.000+00:00",
)


def recorder(seed: int, count: int = 5_000, median_ns: float = 50_000.0) -> LatencyRecorder:
    """Log-normal latencies: the same for the same arguments."""
    generator = random.Random(seed)
    made = LatencyRecorder()
    for _ in range(count):
        made.record(int(median_ns * generator.lognormvariate(0.0, 0.5)))
    return made


def point(second: int) -> Point:
    latencies = recorder(second, 500)
    return Point(
        at_ns=second * 1_000_000_000,
        interval_ns=1_000_000_000,
        sent=500,
        handled=500,
        failed=0,
        latency_count=latencies.count,
        latency_p50_ns=latencies.percentile(50),
        latency_p99_ns=latencies.percentile(99),
        latency_max_ns=latencies.max,
        pending=second % 3,
        late=0,
        rss_bytes=30_000_000 + second * 1_000,
        cpu_seconds=0.9,
        recorder=latencies,
    )


def report(profile: str = "low", *, open_loop: bool = False, **changes: Any) -> Report:
    """A report of 5,000 messages over ten seconds; `changes` replace its fields."""
    shape = PROFILES[profile]
    plan = Plan(shape, window=shape.concurrency, rate_per_second=500.0 if open_loop else None)
    recorders = {
        "latency": recorder(1, median_ns=60_000.0),
        "response": recorder(2),
        "queue": recorder(3, median_ns=40_000.0),
        "service": recorder(4, median_ns=10_000.0),
    }
    if open_loop:
        recorders["send_delay"] = recorder(5, median_ns=5_000.0)
    account = Counts(5_000, 5_000, 0, 5_000, 0, 0, 0, 0, 0)
    share = 5_000 // shape.agents
    made = Report(
        plan=plan,
        counts=account,
        duration_ns=10_000_000_000,
        latency_ns=Spread.of(recorders["latency"]),
        response_ns=Spread.of(recorders["response"]),
        queue_ns=Spread.of(recorders["queue"]),
        service_ns=Spread.of(recorders["service"]),
        send_delay_ns=Spread.of(recorders["send_delay"]) if open_loop else None,
        resources=Resources(30_000_000, 31_000_000, 200_000, 8.9, 0.1),
        overhead_bytes=5_000_000,
        environment=ENVIRONMENT,
        recorders=recorders,
        series=tuple(point(second) for second in range(1, 11)),
        agents=tuple(
            AgentRow(f"load-{number}", Counts(share, share, 0, share, 0, 0, 0, 0, 0))
            for number in range(1, shape.agents + 1)
        ),
    )
    made = dataclasses.replace(made, **changes)
    return dataclasses.replace(made, slo=judge(made.figure, DEFAULT_OBJECTIVES))


def nothing_handled() -> Report:
    """A report of a run in which nothing was sent."""
    nothing = Spread(0, 0, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0)
    return report(
        counts=Counts(0, 0, 0, 0, 0, 0, 0, 0, 0),
        duration_ns=0,
        latency_ns=nothing,
        response_ns=nothing,
        queue_ns=nothing,
        service_ns=nothing,
        recorders={},
        series=(),
        agents=(),
    )
