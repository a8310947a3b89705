"""Axes of plots: how values become places, and where the ticks stand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

__all__ = ["Axis", "linear_axis", "log_axis", "percentile_axis", "time_axis"]

# A line along the upper edge of its plot is easily overlooked.
HEADROOM = 1.05


@dataclass(frozen=True, slots=True)
class Axis:
    """How values become places from 0.0 to 1.0, and its ticks.

    Attributes:
        low, high: What stands at 0.0 and 1.0, after `scale`.
        scale: Applied to a value first, such as log10.
        ticks: Value, text, and whether it may be left out where there is little room.
    """

    low: float
    high: float
    scale: Callable[[float], float]
    ticks: tuple[tuple[float, str, bool], ...]

    def place(self, value: float) -> float:
        """Where `value` stands; values outside stand at the end they are beyond."""
        return min(1.0, max(0.0, (self.scale(value) - self.low) / (self.high - self.low)))


def linear_axis(
    values: Iterable[float], text: Callable[[float], str], *, from_zero: bool = True, whole: bool = False
) -> Axis:
    """An axis for `values` with ticks at round numbers, whole ones if they are counts, and room above the greatest.

    Without `from_zero` it starts near the least value, though never so near that a change below a tenth of the
    value fills the plot.
    """
    known = list(values)
    high = max(known, default=0.0)
    low = 0.0 if from_zero else min(known, default=0.0)
    if not from_zero and high - low < 0.1 * high:
        middle = (low + high) / 2
        low, high = max(0.0, middle - 0.05 * high), middle + 0.05 * high
    if high <= low:
        high = low + 1.0
    step = _round_up((high - low) / 5)
    if whole:
        step = max(1.0, math.ceil(step))
    first, last = math.floor(low / step + 1e-9), math.ceil(HEADROOM * high / step - 1e-9)
    ticks = tuple((number * step, text(number * step), (number - first) % 2 == 1) for number in range(first, last + 1))
    return Axis(first * step, last * step, float, ticks)


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= value * (1 - 1e-9))


def log_axis(values: Iterable[float], text: Callable[[float], str], *, headroom: float = HEADROOM) -> Axis:
    """A decimal logarithmic axis for `values`; those below 1 stand at its lower end."""
    known = [max(1.0, value) for value in values] or [1.0]
    low, high = _series_125(max(1.0, min(known) / headroom), up=False), _series_125(headroom * max(known), up=True)
    if high / low < 9.9:
        low, high = 10.0 ** math.floor(math.log10(low) + 1e-9), 10.0 ** math.ceil(math.log10(high) - 1e-9)
    if high <= low:
        high = low * 10
    decades = math.log10(high / low)
    ticks = []
    for power in range(math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9) + 1):
        for factor in (1, 2, 5) if decades <= 2.5 else (1,):
            value = factor * 10.0**power
            if low * 0.999 <= value <= high * 1.001:
                ticks.append((value, text(value), factor != 1))
    return Axis(math.log10(low), math.log10(high), lambda value: math.log10(max(1.0, value)), tuple(ticks))


def _series_125(value: float, *, up: bool) -> float:
    """The nearest of 1, 2, 5 times a power of ten that is not below (`up`) or not above `value`."""
    power = 10.0 ** math.floor(math.log10(value))
    near = [factor * power for factor in (1.0, 2.0, 5.0, 10.0)]
    if up:
        return next(bound for bound in near if bound >= value * (1 - 1e-12))
    return next(bound for bound in reversed(near) if bound <= value * (1 + 1e-12))


def percentile_axis(count: int) -> Axis:
    """Percentiles on log10(100 / (100 - p)), up to one in `count`.

    The axis of HdrHistogram's plots: each nine after the point has the same room.
    """
    end = max(2.0, math.log10(max(1, count)))
    known = [(0.0, "p0"), (50.0, "p50"), (75.0, "p75"), (90.0, "p90")]
    known += [(100 - 10.0 ** (2 - nines), f"p{100 - 10.0 ** (2 - nines):.10g}") for nines in range(2, 10)]
    ticks = tuple((p, text, text in ("p0", "p75")) for p, text in known if _nines(p) <= end + 1e-9)
    return Axis(0.0, end, _nines, ticks)


def _nines(percentile: float) -> float:
    return 2.0 - math.log10(max(1e-12, 100.0 - percentile))


# Seconds between ticks that people count in.
TIME_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


def time_axis(seconds: float) -> Axis:
    """Seconds from 0 to `seconds`, with ticks in the unit that suits."""
    end = seconds if seconds > 0 else 1.0
    if end <= 5:
        step = _round_up(end / 5)
    else:
        step = next((step for step in TIME_STEPS if end / step <= 6), _round_up(end / 6 / 86400) * 86400)
    count = math.floor(end / step + 1e-9)
    ticks = tuple((number * step, _clock_text(number * step, step), number % 2 == 1) for number in range(count + 1))
    return Axis(0.0, end, float, ticks)


def _clock_text(seconds: float, step: float) -> str:
    if step >= 3600:
        return f"{seconds / 3600:g} h"
    if step >= 60:
        return f"{seconds / 60:g} min"
    if step < 0.1:
        return f"{1000 * seconds:.6g} ms"
    return f"{seconds:.6g} s"
