"""Objectives, and whether a report meets them: what is judged, not how it is measured."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pmesh.load.report import Report

__all__ = ["DEFAULT_OBJECTIVES", "Objective", "Verdict", "judge"]

MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Objective:
    """One promise about one figure, such as `p99<5ms`.

    Args:
        text: How people write it, and its name in reports.
        figure: A key of `FIGURES`.
        comparison: "<", "<=", ">" or ">=".
        bound: In the unit of the figure: ns, bytes, messages per second or a ratio.
    """

    text: str
    figure: str
    comparison: str
    bound: float

    def holds(self, observed: float) -> bool:
        return _COMPARISONS[self.comparison](observed, self.bound)


@dataclass(frozen=True, slots=True)
class Verdict:
    """An objective, what was observed in the objective's unit, and whether it holds."""

    objective: Objective
    observed: float
    passed: bool


_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
)

FIGURES: Mapping[str, Callable[[Report], float]] = MappingProxyType(
    {
        "throughput": lambda report: report.throughput_per_second,
        "p50": lambda report: report.latency_ns.p50,
        "p99": lambda report: report.latency_ns.p99,
        "max": lambda report: report.latency_ns.max,
        "success": lambda report: report.success_rate,
        "memory_per_agent": lambda report: report.resources.rss_bytes_per_agent,
        "overhead": lambda report: report.overhead_bytes,
    }
)

# The reference SLOs (design, section 7).
DEFAULT_OBJECTIVES = (
    Objective("throughput>=5000/s", "throughput", ">=", 5_000),
    Objective("p50<500us", "p50", "<", 500_000),
    Objective("p99<5ms", "p99", "<", 5_000_000),
    Objective("max<50ms", "max", "<", 50_000_000),
    Objective("success>99.5%", "success", ">", 0.995),
    Objective("memory_per_agent<3MB", "memory_per_agent", "<", 3 * MEGABYTE),
    Objective("overhead<50MB", "overhead", "<", 50 * MEGABYTE),
)


def judge(report: Report, objectives: Iterable[Objective]) -> tuple[Verdict, ...]:
    """A verdict for each of `objectives`, in order."""
    verdicts = []
    for objective in objectives:
        observed = FIGURES[objective.figure](report)
        verdicts.append(Verdict(objective, observed, objective.holds(observed)))
    return tuple(verdicts)
