"""Service level objectives: the text `p99<5ms`, what it means, and whether it holds.

What is judged, not how it is measured: a load report, a benchmark or a live mesh gives the figures.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["DEFAULT_OBJECTIVES", "SERIES_OF_TIMES", "Objective", "Verdict", "as_objective", "judge", "parse_objective"]

# Prefixes of a latency figure, as in `queue.p99`; without one it is of the latency.
SERIES_OF_TIMES = ("queue", "service", "response", "send_delay")


@dataclass(frozen=True, slots=True)
class Objective:
    """One promise about one figure, such as `p99<5ms`.

    Args:
        text: How people write it, and its name in reports.
        figure: What it is about: "p99", "queue.p99", "success", "throughput", ...
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
    """An objective, what was observed in its unit (None when nothing was), and whether it holds."""

    objective: Objective
    observed: float | None
    passed: bool


_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
)


def parse_objective(text: str) -> Objective:
    raise NotImplementedError


def as_objective(objective: str | Objective) -> Objective:
    """The objective itself, or the one that a text says."""
    return objective if isinstance(objective, Objective) else parse_objective(objective)


def judge(figure: Callable[[str], float | None], objectives: Iterable[Objective]) -> tuple[Verdict, ...]:
    """A verdict for each of `objectives`, in order; what was not observed does not hold.

    Args:
        figure: The observed value of the figure of that name, or None.
    """
    verdicts = []
    for objective in objectives:
        observed = figure(objective.figure)
        verdicts.append(Verdict(objective, observed, observed is not None and objective.holds(observed)))
    return tuple(verdicts)


DEFAULT_OBJECTIVES: tuple[Objective, ...] = ()
