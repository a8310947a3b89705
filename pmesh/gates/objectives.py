"""The marker `slo`: which objectives a test promises, and whether what it measured is enough to judge them by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from pmesh.errors import InvalidArgument, InvalidType
from pmesh.slo import Objective, parse_objective

if TYPE_CHECKING:
    import pytest

__all__ = ["MINIMUM_CALLS", "Promise", "promise_of", "too_few"]

# Each leaves ten calls or more beyond the percentile; a maximum is what it is.
MINIMUM_CALLS: Mapping[str, int] = MappingProxyType(
    {
        "p50": 100,
        "p90": 100,
        "p95": 100,
        "p99": 1_000,
        "p99.9": 10_000,
        "p99.99": 100_000,
        "mean": 100,
        "max": 1,
    }
)
FIGURES = (*MINIMUM_CALLS, "throughput")


@dataclass(frozen=True, slots=True)
class Promise:
    """What the `slo` markers of a test say.

    Attributes:
        objectives: All must hold, in one and the same attempt.
        attempts: How often it is measured at most; the last attempt decides.
    """

    objectives: tuple[Objective, ...]
    attempts: int = 1


def promise_of(item: pytest.Item) -> Promise | None:
    """The promise of a test, or None where it has no `slo` marker.

    The objectives of all its markers count, those of its class and module too: none is dropped silently. Of the
    numbers of attempts the closest counts.

    Raises:
        InvalidArgument: A marker is no promise; the text says what it has and what would be right.
        InvalidType: The same, for what is of the wrong type.
    """
    objectives: list[Objective] = []
    attempts: int | None = None
    for marker in item.iter_markers("slo"):
        unknown = sorted(set(marker.kwargs) - {"attempts"})
        if unknown:
            raise InvalidArgument(
                f"slo got {unknown[0]}={marker.kwargs[unknown[0]]!r}; beside objectives it takes attempts"
            )
        if not marker.args:
            raise InvalidArgument("slo has no objective; it needs one or more, such as @pytest.mark.slo('p99<5ms')")
        objectives.extend(map(_measurable, marker.args))
        if attempts is None and "attempts" in marker.kwargs:
            attempts = _attempts(marker.kwargs["attempts"])
    return Promise(tuple(dict.fromkeys(objectives)), attempts or 1) if objectives else None


def too_few(figures: Iterable[str], calls: int) -> str | None:
    """Why `calls` timed calls are too few to judge `figures` by, or None."""
    for figure in figures:
        needed = MINIMUM_CALLS.get(figure, 0)
        if calls < needed:
            return (
                f"{calls:,} {'call was' if calls == 1 else 'calls were'} timed, and {figure} needs {needed:,} or more"
            )
    return None


def _measurable(text: object) -> Objective:
    objective = text if isinstance(text, Objective) else parse_objective(text)  # type: ignore[arg-type]
    if objective.figure not in FIGURES:
        raise InvalidArgument(
            f"objective {objective.text!r} is about {objective.figure}, which latency_benchmark does not measure;"
            f" it measures {', '.join(FIGURES)}"
        )
    return objective


def _attempts(attempts: object) -> int:
    if isinstance(attempts, bool) or not isinstance(attempts, int):
        raise InvalidType(f"attempts is {attempts!r}; it must be a whole number, 1 or more")
    if attempts < 1:
        raise InvalidArgument(f"attempts is {attempts}; it must be 1 or more")
    return attempts
