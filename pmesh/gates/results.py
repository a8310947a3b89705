"""What a test measured: its attempts, their figures, and how they are saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pmesh.errors import InvalidArgument
from pmesh.gates.objectives import Promise, too_few
from pmesh.slo import Verdict, judge
from pmesh.units import observed_text

if TYPE_CHECKING:
    from pmesh import LatencyRecorder

__all__ = ["EXTRA_INFO", "Attempt", "Result"]

# The key of what is saved, in pytest-benchmark's `extra_info`.
EXTRA_INFO = "pmesh"

# Saved as `p50_ns` and so on, and in pytest-benchmark's stats in seconds as `p50`.
SAVED_PERCENTILES: Mapping[str, float] = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One series of calls.

    Attributes:
        recorder: The time of each call, or None where only the throughput was measured.
        throughput: Calls per second, or None where calls overlapped and were timed one by one.
        processor_share: The share of its time in which this thread had a processor.
    """

    recorder: LatencyRecorder | None
    throughput: float | None
    processor_share: float

    def figure(self, name: str) -> float | None:
        """The observed value of an objective's figure, in its unit; None when it was not measured."""
        if name == "throughput":
            return self.throughput
        if self.recorder is None or not self.recorder.count:
            return None
        if name in ("mean", "max"):
            return float(getattr(self.recorder, name))
        return self.recorder.percentile(float(name.removeprefix("p")))

    def verdicts(self, promise: Promise | None) -> tuple[Verdict, ...]:
        """Of the objectives whose figures this measured."""
        objectives = () if promise is None else promise.objectives
        return judge(self.figure, [each for each in objectives if self.figure(each.figure) is not None])

    def as_dict(self) -> dict[str, Any]:
        figures: dict[str, Any] = {"processor_share": round(self.processor_share, 3)}
        if self.throughput is not None:
            figures["throughput"] = self.throughput
        if self.recorder is not None:
            figures |= {"calls": self.recorder.count, "mean_ns": self.recorder.mean, "max_ns": self.recorder.max}
            values_ns = self.recorder.percentiles(SAVED_PERCENTILES.values())
            figures |= {f"{name}_ns": value for name, value in zip(SAVED_PERCENTILES, values_ns, strict=True)}
        return figures


@dataclass(slots=True)
class Result:
    """What one test measured, and why that cannot be judged where it cannot.

    Attributes:
        obstacle: Why nothing it measured can be judged, such as disabled benchmarks; None when it can.
        build: "release", or the variants of the build of pmesh that it measured with.
        disabled: Whether everything ran once only and nothing was measured.
        latency: Attempts at timing single calls.
        throughput: Attempts at counting calls per second.
        passed: Whether the test itself did; what one that failed measured is not compared.
    """

    nodeid: str
    name: str
    promise: Promise | None
    obstacle: str | None
    build: str
    disabled: bool = False
    latency: list[Attempt] = field(default_factory=list)
    throughput: list[Attempt] = field(default_factory=list)
    passed: bool = False

    @property
    def recorder(self) -> LatencyRecorder | None:
        """The times of the calls of the attempt that decides."""
        return self.latency[-1].recorder if self.latency else None

    def figure(self, name: str) -> float | None:
        """What was observed in the attempt that decides; throughput is what was measured as such, if it was."""
        series = self.throughput if name == "throughput" and self.throughput else self.latency
        return series[-1].figure(name) if series else None

    @property
    def measured(self) -> bool:
        return bool(self.latency or self.throughput) and not self.disabled

    def calls_timed(self) -> int:
        return 0 if self.recorder is None else self.recorder.count

    def why_not(self) -> str | None:
        """Why the promise cannot be judged, or None."""
        promise = self.promise
        if promise is None:
            return None
        if self.obstacle is not None:
            return self.obstacle
        if not self.latency and not self.throughput:
            return "the test measured nothing: it has latency_benchmark and did not call it"
        figures = [objective.figure for objective in promise.objectives]
        if self.recorder is not None and (why := too_few(figures, self.recorder.count)):
            return f"{why}: latency_benchmark(..., calls=N)"
        if self.recorder is not None and self.recorder.below_range:
            return f"{self.recorder.below_range:,} of the times are below zero: what took them went backwards"
        missing = [figure for figure in figures if self.figure(figure) is None]
        if missing:
            return f"the test did not measure {', '.join(missing)}"
        return None

    def missed(self) -> list[Verdict]:
        """The objectives that do not hold."""
        return [] if self.promise is None else [v for v in judge(self.figure, self.promise.objectives) if not v.passed]

    def explain(self) -> str:
        """What was missed, by how much, and in every attempt: the text of a failure."""
        assert self.promise is not None
        verdicts = judge(self.figure, self.promise.objectives)
        missed = [_against(verdict) for verdict in verdicts if not verdict.passed]
        kept = [_against(verdict) for verdict in verdicts if verdict.passed]
        lines = [f"slo missed: {'; '.join(missed)}"]
        lines.extend(f"  kept: {each}" for each in kept)
        lines.extend(f"  {line}" for line in self.attempt_lines())
        return "\n".join(lines)

    def attempt_lines(self) -> list[str]:
        """One line for each attempt that missed something, with the share of its time in which it had a processor."""
        lines = []
        for series in (self.throughput, self.latency):
            for number, attempt in enumerate(series, 1):
                misses = [str(verdict) for verdict in attempt.verdicts(self.promise) if not verdict.passed]
                if misses:
                    lines.append(
                        f"attempt {number} of {len(series)}, which had a processor {attempt.processor_share:.0%} of the"
                        f" time: {', '.join(misses)}"
                    )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """For pytest-benchmark's `extra_info`: figures of the attempt that decides, histogram, and all attempts."""
        saved: dict[str, Any] = {"build": self.build}
        if self.throughput:
            saved |= self.throughput[-1].as_dict()
        if self.latency:
            counted = saved.get("throughput")
            saved |= self.latency[-1].as_dict()
            if counted is not None:
                saved["throughput"] = counted
            assert self.recorder is not None
            saved["histogram"] = self.recorder.encode()
        saved["attempts"] = [attempt.as_dict() for attempt in (*self.throughput, *self.latency)]
        return saved


def _against(verdict: Verdict) -> str:
    """What was observed, against what is allowed."""
    objective = verdict.objective
    bound = observed_text(objective.figure, objective.bound)
    return f"{objective.figure} observed {verdict.observed_text}, allowed {objective.comparison} {bound}"


def seconds_of(saved: Mapping[str, Any]) -> dict[str, float]:
    """The percentiles of a saved result as pytest-benchmark's stats have their figures: in seconds."""
    return {name: saved[f"{name}_ns"] / 1e9 for name in SAVED_PERCENTILES if f"{name}_ns" in saved}


def check_count(what: str, value: object, at_least: int) -> int:
    """`value`, which must be a whole number of `at_least` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise InvalidArgument(f"{what} is {value!r}; it must be a whole number, {at_least} or more")
    return value
