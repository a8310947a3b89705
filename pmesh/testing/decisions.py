"""What a seed decides in a simulation, and which of it matters.

Every decision has an outcome that it would have without a simulation: the first that came is served, nothing fails.
Any other one is a departure. A run is repeated exactly by its seed, and one with fewer departures by the numbers of
those that may happen; so a failing run can be reduced to the few that it takes.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

__all__ = ["Decisions", "fewest"]

_DRAWS = 1 << 32
_WORD = (1 << 64) - 1


def seed_of(seed: int) -> int | str:
    """What the module random makes other numbers of for each seed; of an int it takes the absolute value."""
    return seed if seed >= 0 else str(seed)


class Decisions:
    """The decisions of one run, in order.

    Args:
        seed: Decides.
        allowed: Numbers of the departures that may happen; None for all of them.

    Attributes:
        departures: Numbers of those that did happen.
    """

    __slots__ = ("_allowed", "_bits", "_detail", "_number", "departures")

    def __init__(self, seed: int, allowed: AbstractSet[int] | None = None) -> None:
        self._bits = random.Random(seed_of(seed)).getrandbits
        self._detail = 0
        self._allowed = allowed
        self._number = 0
        self.departures: list[int] = []

    def choose(self, count: int) -> int:
        """An index below `count`; 0 is no departure."""
        return self._depart(self._draw() % count) if count > 1 else 0

    def happens(self, probability: float) -> bool:
        """Whether something does that otherwise would not."""
        # One of probability 0 is no decision: what is switched off changes nothing.
        return probability > 0 and bool(self._depart(int(self._draw() < probability * _DRAWS)))

    def pick(self, count: int) -> int:
        """An index below `count`, for what happens in any case."""
        return self._more() % count

    def between(self, low: float, high: float) -> float:
        """How much of something that does happen."""
        return low + (high - low) * self._more() / _DRAWS

    def _draw(self) -> int:
        # One number for each decision, details included: those of one that may not happen are not drawn, and all later
        # decisions come out as before.
        bits = self._bits(64)
        self._detail = bits >> 32
        return bits & (_DRAWS - 1)

    def _more(self) -> int:
        """The next number of the detail that belongs to the last decision."""
        # SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
        self._detail = (self._detail + 0x9E3779B97F4A7C15) & _WORD
        mixed = ((self._detail ^ (self._detail >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _WORD
        return (mixed ^ (mixed >> 31)) >> 32

    def _depart(self, outcome: int) -> int:
        number = self._number
        self._number += 1
        if not outcome or (self._allowed is not None and number not in self._allowed):
            return 0
        self.departures.append(number)
        return outcome


def fewest(
    departures: Sequence[int],
    failing: Callable[[frozenset[int]], Sequence[int] | None],
    most_runs: int,
    most_seconds: float = math.inf,
) -> list[int]:
    """As few of the departures of a failing run as still make it fail; removing any one of them makes it pass.

    Delta debugging (A. Zeller, R. Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE TSE 28(2),
    2002), by complements.

    Args:
        failing: Runs with the given departures allowed; those that happened when it failed in the same way, or None.
        most_runs, most_seconds: Stop here, with what has been reached.
    """
    runs = 0
    end = time.monotonic() + most_seconds

    def is_over() -> bool:
        return runs >= most_runs or time.monotonic() >= end

    def attempt(allowed: Sequence[int]) -> list[int] | None:
        nonlocal runs
        runs += 1
        happened = failing(frozenset(allowed))
        return None if happened is None else list(happened)

    kept = list(departures)
    none_needed = attempt(())
    if none_needed is not None:
        return none_needed
    size = (len(kept) + 1) // 2
    while size:
        at = 0
        reduced = False
        while at < len(kept) and not is_over():
            happened = attempt(kept[:at] + kept[at + size :])
            if happened is None:
                at += size
            else:
                kept = happened
                reduced = True
        if is_over():
            break
        if size > 1 or not reduced:
            size //= 2
    return kept
