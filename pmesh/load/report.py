"""The result of a load run, and its JSON (schema `pmesh.load/1`). How it looks is `terminal`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pmesh import LatencyRecorder, Stats
    from pmesh.load.environment import Environment
    from pmesh.load.profiles import Profile
    from pmesh.load.resources import Resources
    from pmesh.load.slo import Verdict

__all__ = ["SCHEMA", "Counts", "Report", "Spread", "as_document"]

SCHEMA = "pmesh.load/1"


@dataclass(frozen=True, slots=True)
class Counts:
    """The coordinator's account after the run, in messages."""

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
    def of(cls, stats: Stats) -> Self:
        return cls(**{field.name: getattr(stats, field.name) for field in dataclasses.fields(cls)})


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
    max: int

    @classmethod
    def of(cls, recorder: LatencyRecorder) -> Self:
        frozen = recorder.snapshot()
        p50, p90, p95, p99, p99_9 = frozen.percentiles((50, 90, 95, 99, 99.9))
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
            max=frozen.max,
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What one profile's run measured.

    Attributes:
        latency_ns: Accept to end of handling.
        queue_ns: Accept to start of handling.
        service_ns: Start to end of handling.
        duration_ns: From the first send of each round until all of it is handled, over all rounds;
            neither set-up nor what happens between rounds.
        overhead_bytes: Memory of a process with a coordinator and no agents, over one that imported
            asyncio.
        faults: What does not add up in the account, in words; empty as long as pmesh is right.
        interrupted: The run was ended before all was sent.
    """

    profile: Profile
    mode: str
    window: int
    counts: Counts
    duration_ns: int
    latency_ns: Spread
    queue_ns: Spread
    service_ns: Spread
    resources: Resources
    overhead_bytes: int
    environment: Environment
    slo: tuple[Verdict, ...] = ()
    faults: tuple[str, ...] = ()
    interrupted: bool = False

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

    def as_dict(self) -> dict[str, Any]:
        """This profile's part of the JSON document."""
        profile = self.profile
        return {
            "profile": profile.name,
            "mode": self.mode,
            "agents": profile.agents,
            "messages_per_agent": profile.messages_per_agent,
            "rounds": profile.rounds,
            "concurrency": profile.concurrency,
            "window": self.window,
            "payload_bytes": profile.payload_bytes,
            "counts": dataclasses.asdict(self.counts),
            "success_rate": self.success_rate,
            "duration_ns": self.duration_ns,
            "throughput_per_second": self.throughput_per_second,
            "latency_ns": dataclasses.asdict(self.latency_ns),
            "queue_ns": dataclasses.asdict(self.queue_ns),
            "service_ns": dataclasses.asdict(self.service_ns),
            "resources": dataclasses.asdict(self.resources),
            "slo": [
                {
                    "objective": verdict.objective.text,
                    "observed": verdict.observed,
                    "passed": verdict.passed,
                }
                for verdict in self.slo
            ],
        }


def as_document(environment: Environment, reports: Sequence[Report]) -> dict[str, Any]:
    """The JSON document of a command: its environment and a part for each profile that ran."""
    return {
        "schema": SCHEMA,
        "environment": dataclasses.asdict(environment),
        "profiles": [report.as_dict() for report in reports],
    }
