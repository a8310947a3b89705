"""Bounds of measured figures, and their verdict: what misses one is measured again.

Where processes share a core, the kernel takes it away for 4 ms and more at a time, and figures of such a time are
the machine's. What pmesh itself does wrong comes back in every attempt, and fails. All attempts are shown, each
with the share of its time in which the process had a processor.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["ATTEMPTS", "Attempt", "Bound", "GateFailed", "Outcome", "judge", "missed"]

ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 0.1


class GateFailed(AssertionError):
    """A figure missed its bound in every attempt."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure must reach, or not exceed, and where that number comes from."""

    figure: str
    value: float
    at_least: bool
    origin: str

    def miss(self, figures: Mapping[str, float]) -> str | None:
        """Observed against allowed, when `figures` do not keep the bound; what was not observed does not."""
        observed = figures.get(self.figure)
        side = "at least" if self.at_least else "at most"
        if observed is None:
            return f"{self.figure} was not observed (allowed: {side} {self.value:.3g}, {self.origin})"
        if observed >= self.value if self.at_least else observed <= self.value:
            return None
        return f"{self.figure} {observed:.3g} (allowed: {side} {self.value:.3g}, {self.origin})"


@dataclass(frozen=True, slots=True)
class Attempt:
    figures: Mapping[str, float]
    processor_share: float
    misses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The attempts of one benchmark; the last decides."""

    name: str
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def figures(self) -> Mapping[str, float]:
        return self.attempts[-1].figures

    @property
    def passed(self) -> bool:
        return not self.attempts[-1].misses

    def missed(self) -> list[str]:
        """What each attempt missed that missed something."""
        return [
            f"attempt {number}, which had a processor {attempt.processor_share:.0%} of the time: "
            + ", ".join(attempt.misses)
            for number, attempt in enumerate(self.attempts, 1)
            if attempt.misses
        ]

    def require(self) -> None:
        """Fail unless all bounds were kept in the last attempt.

        Raises:
            GateFailed: One was not.
        """
        if not self.passed:
            raise GateFailed(f"{self.name}: " + "; ".join(self.missed()))


def missed(bounds: Iterable[Bound], figures: Mapping[str, float]) -> tuple[str, ...]:
    """What each of `bounds` that is missed says."""
    return tuple(miss for bound in bounds if (miss := bound.miss(figures)) is not None)


def judge(
    name: str,
    measure: Callable[[], Mapping[str, float]],
    misses: Callable[[Mapping[str, float]], tuple[str, ...]],
    *,
    pause: Callable[[float], object] = time.sleep,
) -> Outcome:
    """Measure, and again while `misses` finds any in the figures, up to `ATTEMPTS` times."""
    outcome = Outcome(name)
    while True:
        gc.collect()
        start, start_cpu = time.perf_counter(), time.process_time()
        figures = measure()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
        outcome.attempts.append(Attempt(figures, min(cpu_seconds / seconds, 1.0), misses(figures)))
        if outcome.passed or len(outcome.attempts) == ATTEMPTS:
            return outcome
        pause(FIRST_PAUSE_SECONDS * 2 ** (len(outcome.attempts) - 1))
