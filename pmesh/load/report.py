"""The result of a load run, and its JSON (schema `pmesh.load/1`). Reading it back is `document`; how it looks
is `terminal`, `markdown`, `html`, `tables`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from pmesh.errors import PmeshError
from pmesh.load.plan import Plan
from pmesh.slo import Objective, Verdict, as_objective, judge, split_figure

if TYPE_CHECKING:
    from pmesh import Counters, LatencyRecorder
    from pmesh.environment import Environment
    from pmesh.load.profiles import Profile
    from pmesh.load.resources import Resources

__all__ = [
    "SCHEMA",
    "AgentRow",
    "Counts",
    "Drift",
    "Injected",
    "ObjectivesMissed",
    "Plan",
    "Point",
    "Report",
    "Search",
    "Soak",
    "Spread",
    "Step",
    "as_document",
]

SCHEMA = "pmesh.load/1"


class ObjectivesMissed(PmeshError, AssertionError):
    """`Report.require` found objectives that do not hold; the text lists each with what was observed.

    Attributes:
        verdicts: All that were asked for, in order.
    """

    def __init__(self, text: str, verdicts: tuple[Verdict, ...]) -> None:
        super().__init__(text)
        self.verdicts = verdicts


@dataclass(frozen=True, slots=True)
class Counts:
    """The account of a run, in messages."""

    sent: int
    accepted: int
    rejected: int
    handled: int
    failed: int
    expired: int
    dropped: int
    dead: int
    pending: int

    @classmethod
    def of(cls, counters: Counters) -> Self:
        return cls(**{field.name: getattr(counters, field.name) for field in dataclasses.fields(cls)})

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(
            *(one + two for one, two in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True))
        )

    def since(self, earlier: Counts) -> Counts:
        """What happened after `earlier`."""
        return Counts(
            *(now - before for now, before in zip(dataclasses.astuple(self), dataclasses.astuple(earlier), strict=True))
        )


@dataclass(frozen=True, slots=True)
class Spread:
    """How times are distributed, in nanoseconds; all 0 when there are none."""

    count: int
    min: int
    mean: float
    stddev: float
    p50: int
    p90: int
    p95: int
    p99: int
    p99_9: int
    p99_99: int
    max: int

    @classmethod
    def of(cls, recorder: LatencyRecorder) -> Self:
        frozen = recorder.snapshot()
        p50, p90, p95, p99, p99_9, p99_99 = frozen.percentiles((50, 90, 95, 99, 99.9, 99.99))
        return cls(
            count=frozen.count,
            min=frozen.min,
            mean=frozen.mean,
            stddev=frozen.stddev,
            p50=p50,
            p90=p90,
            p95=p95,
            p99=p99,
            p99_9=p99_9,
            p99_99=p99_99,
            max=frozen.max,
        )


@dataclass(frozen=True, slots=True)
class Point:
    """One interval of a run.

    Attributes:
        at_ns: End of the interval, from the start of what is measured.
        interval_ns: Its length.
        sent: Messages sent in it, rejected ones included.
        handled: Messages handled in it.
        failed: Messages that were not handled but ended (failed, expired, dropped, dead) or were rejected in it.
        latency_count: How many times the percentiles are of.
        latency_p50_ns, latency_p99_ns, latency_max_ns: Latency of what was handled in it; 0 when nothing was.
        pending: Messages accepted and not finished, at its end.
        late: Messages that the schedule of an open loop wanted sent by its end and that were not.
        rss_bytes: Resident memory of the process at its end.
        cpu_seconds: Processor time of the process in it.
        recorder: The latencies themselves.
    """

    at_ns: int
    interval_ns: int
    sent: int
    handled: int
    failed: int
    latency_count: int
    latency_p50_ns: int
    latency_p99_ns: int
    latency_max_ns: int
    pending: int
    late: int
    rss_bytes: int
    cpu_seconds: float
    recorder: LatencyRecorder

    def as_dict(self) -> dict[str, Any]:
        row = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del row["recorder"]
        return {**row, "histogram": self.recorder.encode()}

    @property
    def throughput_per_second(self) -> float:
        """Messages handled per second."""
        return self.handled * 1e9 / self.interval_ns if self.interval_ns else 0.0


@dataclass(frozen=True, slots=True)
class AgentRow:
    """One agent's account at the end of the run; its latency only where it has recorders of its own."""

    name: str
    counts: Counts
    p50_ns: int | None = None
    p99_ns: int | None = None
    max_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Injected:
    """What was made to go wrong, as it happened: failures raised, handlers slowed down, agents stopped."""

    failures: int = 0
    delays: int = 0
    stops: int = 0


@dataclass(frozen=True, slots=True)
class Drift:
    """How a figure changed over a run: a fitted slope per hour, and its 95 % confidence interval.

    Attributes:
        figure: "p99" (ns) or "rss" (bytes).
        start: The fitted value at the start.
        verdict: "no growth" (the interval includes zero), "growth", "shrinking" or "too few points".
    """

    figure: str
    start: float
    slope_per_hour: float
    low_per_hour: float
    high_per_hour: float
    points: int
    verdict: str


@dataclass(frozen=True, slots=True)
class Soak:
    """What a soak test was run for: drift of p99 latency and of memory over `duration_ns`."""

    duration_ns: int
    p99: Drift
    rss: Drift


@dataclass(frozen=True, slots=True)
class Report:
    """What one profile's run measured.

    Attributes:
        latency_ns: Open loop: intended send time to end of handling. Closed loop: accept to end.
        response_ns: Accept to end of handling.
        queue_ns: Accept to start of handling.
        service_ns: Start to end of handling.
        send_delay_ns: Intended to actual send time; None in a closed loop, which has no schedule.
        duration_ns: From the first send (of each round) until all of it is handled; without set-up, warm-up
            and what happens between rounds.
        overhead_bytes: Memory of a process with a coordinator and no agents, over one that imported
            asyncio.
        unsent: Messages of an open loop's schedule that were given up, since the sender was too far behind.
        recorders: The histograms behind the spreads, by the same names without `_ns`.
        series: The run in intervals.
        agents: The account of each agent that lived at the end.
        faults: What does not add up in the account, in words; empty as long as pmesh is right.
        interrupted: The run was ended before all was sent.
        aborted: The objective whose breach ended the run, in words; None when none did.
    """

    plan: Plan
    counts: Counts
    duration_ns: int
    latency_ns: Spread
    response_ns: Spread
    queue_ns: Spread
    service_ns: Spread
    resources: Resources
    overhead_bytes: int
    environment: Environment
    send_delay_ns: Spread | None = None
    unsent: int = 0
    injected: Injected = Injected()
    recorders: Mapping[str, LatencyRecorder] = field(default_factory=dict)
    series: tuple[Point, ...] = ()
    agents: tuple[AgentRow, ...] = ()
    soak: Soak | None = None
    slo: tuple[Verdict, ...] = ()
    faults: tuple[str, ...] = ()
    interrupted: bool = False
    aborted: str | None = None

    @property
    def profile(self) -> Profile:
        return self.plan.profile

    @property
    def mode(self) -> str:
        return self.plan.mode

    @property
    def window(self) -> int:
        return self.plan.window

    @property
    def success_rate(self) -> float:
        """Handled of sent; 0.0 when nothing was sent."""
        return self.counts.handled / self.counts.sent if self.counts.sent else 0.0

    @property
    def throughput_per_second(self) -> float:
        """Messages handled per second."""
        return self.counts.handled * 1e9 / self.duration_ns if self.duration_ns else 0.0

    @property
    def cpu_seconds(self) -> float:
        return self.resources.cpu_user_seconds + self.resources.cpu_system_seconds

    @property
    def missed(self) -> tuple[Verdict, ...]:
        """The objectives that do not hold."""
        return tuple(verdict for verdict in self.slo if not verdict.passed)

    def figure(self, name: str) -> float | None:
        """The observed value of an objective's figure, in its unit; None when the run has none.

        Latency figures are None when nothing was timed, so that no objective holds for lack of messages.
        """
        if name == "throughput":
            return self.throughput_per_second
        if name == "success":
            return self.success_rate if self.counts.sent else None
        if name == "memory_per_agent":
            return self.resources.rss_bytes_per_agent
        if name == "overhead":
            return self.overhead_bytes
        series, statistic = split_figure(name)
        spread: Spread | None = getattr(self, f"{series}_ns")
        if spread is None or not spread.count:
            return None
        value: float = getattr(spread, statistic.replace(".", "_"))
        return value

    def judged(self, objectives: Iterable[Objective]) -> Report:
        """This report with a verdict on each of `objectives`."""
        return dataclasses.replace(self, slo=judge(self.figure, objectives))

    def require(self, *objectives: str | Objective) -> None:
        """Raise unless every one of `objectives` holds, such as "p99<5ms" and "success>=99.5%".

        Raises:
            ObjectivesMissed: One does not hold; the text lists all of them with what was observed.
            InvalidArgument: A text is no objective.
        """
        verdicts = judge(self.figure, map(as_objective, objectives))
        if all(verdict.passed for verdict in verdicts):
            return
        lines = "\n".join(f"  {'held  ' if verdict.passed else 'MISSED'} {verdict}" for verdict in verdicts)
        raise ObjectivesMissed(f"profile {self.profile.name!r} misses objectives:\n{lines}", verdicts)

    def as_dict(self) -> dict[str, Any]:
        """This profile's part of the JSON document."""
        plan, profile = self.plan, self.profile
        return {
            "profile": profile.name,
            "mode": plan.mode,
            "agents": profile.agents,
            "messages_per_agent": profile.messages_per_agent,
            "rounds": profile.rounds,
            "concurrency": profile.concurrency,
            "window": plan.window,
            "payload_bytes": profile.payload_bytes,
            **{name: value for name, value in dataclasses.asdict(plan).items() if name not in ("profile", "window")},
            "reference": None if profile.reference is None else dataclasses.asdict(profile.reference),
            "counts": dataclasses.asdict(self.counts),
            "unsent": self.unsent,
            "injected": dataclasses.asdict(self.injected),
            "success_rate": self.success_rate,
            "duration_ns": self.duration_ns,
            "throughput_per_second": self.throughput_per_second,
            "latency_ns": dataclasses.asdict(self.latency_ns),
            "response_ns": dataclasses.asdict(self.response_ns),
            "queue_ns": dataclasses.asdict(self.queue_ns),
            "service_ns": dataclasses.asdict(self.service_ns),
            "send_delay_ns": None if self.send_delay_ns is None else dataclasses.asdict(self.send_delay_ns),
            "histograms": {name: recorder.encode() for name, recorder in self.recorders.items()},
            "resources": dataclasses.asdict(self.resources),
            "overhead_bytes": self.overhead_bytes,
            "series": [point.as_dict() for point in self.series],
            "per_agent_accounts": [dataclasses.asdict(row) for row in self.agents],
            "soak": None if self.soak is None else dataclasses.asdict(self.soak),
            "slo": [
                {
                    "objective": verdict.objective.text,
                    "observed": verdict.observed,
                    "passed": verdict.passed,
                }
                for verdict in self.slo
            ],
            "faults": list(self.faults),
            "interrupted": self.interrupted,
            "aborted": self.aborted,
        }


@dataclass(frozen=True, slots=True)
class Step:
    """One rate that a search for the highest one tried."""

    rate_per_second: float
    throughput_per_second: float
    success_rate: float
    p50_ns: int
    p99_ns: int
    max_ns: int
    observed: float | None
    held: bool


@dataclass(frozen=True, slots=True)
class Search:
    """A search for the highest rate that holds an objective.

    Attributes:
        objective: Its text.
        steps: What was tried, in order.
        highest_rate_per_second: None when no rate held it.
        lowest_missed_per_second: The lowest rate above it that missed; None when none did.
    """

    profile: str
    objective: str
    steps: tuple[Step, ...]
    highest_rate_per_second: float | None
    lowest_missed_per_second: float | None
    interrupted: bool = False


def as_document(environment: Environment, reports: Iterable[Report], searches: Sequence[Search] = ()) -> dict[str, Any]:
    """The JSON document of a command: its environment and a part for each profile that ran."""
    return {
        "schema": SCHEMA,
        "environment": dataclasses.asdict(environment),
        "profiles": [report.as_dict() for report in reports],
        "find_max": [
            {**dataclasses.asdict(search), "steps": [dataclasses.asdict(step) for step in search.steps]}
            for search in searches
        ],
    }
