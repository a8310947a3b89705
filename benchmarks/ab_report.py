"""How a comparison is shown: a table with a picture of each interval, JSON, and figures for other programs."""

from __future__ import annotations

import math
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ab_pairs import Effort, Measured
from ab_statistics import FASTER, NO_DIFFERENCE, SLOWER, Difference, Rules, judge
from export import Figure

BAR_WIDTH = 33

# An interval this wide hides differences that matter.
WIDE = 0.10


@dataclass(frozen=True, slots=True)
class Row:
    """One benchmark: the median processor time of a call on both sides, and how they differ."""

    name: str
    before_ns: float
    after_ns: float
    difference: Difference


@dataclass(frozen=True, slots=True)
class Comparison:
    """What one comparison found."""

    before: str
    after: str
    effort: Effort
    rules: Rules
    rows: Sequence[Row]
    not_before: dict[str, str]
    broken: dict[str, str]

    def count(self, verdict: str) -> int:
        return sum(row.difference.verdict == verdict for row in self.rows)


def compare(before: str, after: str, effort: Effort, rules: Rules, measured: Measured) -> Comparison:
    """Judge all that was measured."""
    rows = [
        Row(
            name,
            statistics.median(series.before_ns),
            statistics.median(series.after_ns),
            judge(series.pairs, comparisons=len(measured.series), rules=rules),
        )
        for name, series in measured.series.items()
    ]
    return Comparison(before, after, effort, rules, rows, measured.not_before, measured.broken)


def table(comparison: Comparison) -> str:
    """The rows under each other, with what could not be compared and the sum of it."""
    rules = comparison.rules
    bounds = [math.log(bound) for row in comparison.rows for bound in (row.difference.low, row.difference.high)]
    reach = min(max([math.log1p(2 * rules.minimum_effect), *map(abs, bounds)]), math.log(2))
    width = max([len(name) for name in (*(row.name for row in comparison.rows), *comparison.not_before)] + [9])
    lines = [
        f"processor time of a call: {comparison.before} against {comparison.after}",
        f"{comparison.effort.pairs} pairs of processes, {comparison.effort.batches} batches of each side in each;"
        f" all intervals together hold with {rules.confidence:.1%}",
        "",
        f"{'':<{width}}  {'before':>10}  {'after':>10}  {'ratio':>6}  {'interval':^14}  {_axis(reach)}",
    ]
    for row in comparison.rows:
        found = row.difference
        lines.append(
            f"{row.name:<{width}}  {_time(row.before_ns)}  {_time(row.after_ns)}  {found.ratio:>6.3f}"
            f"  {found.low:>6.3f}..{found.high:<6.3f}  {_bar(found, reach)}  {_shown(found.verdict)}"
        )
    lines += [f"{name:<{width}}  not in {comparison.before}: {why}" for name, why in comparison.not_before.items()]
    lines += [f"{name:<{width}}  FAILED in {comparison.after}: {why}" for name, why in comparison.broken.items()]
    lines += [
        "",
        f"{comparison.count(SLOWER)} slower, {comparison.count(FASTER)} faster, {comparison.count(NO_DIFFERENCE)} no"
        f" difference (a difference is sure and at least {rules.minimum_effect:.0%})",
    ]
    wide = [
        row.name
        for row in comparison.rows
        if row.difference.verdict == NO_DIFFERENCE and row.difference.high / row.difference.low > (1 + WIDE) ** 2
    ]
    if wide:
        lines.append(f"wider than 10 % to a side, so more --pairs would tell more: {', '.join(wide)}")
    return "\n".join(lines)


def _shown(verdict: str) -> str:
    return verdict.upper() if verdict == SLOWER else verdict


def _time(nanoseconds: float) -> str:
    for unit, size in (("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:>7,.2f} {unit}"
    return f"{nanoseconds:>7,.1f} ns"


def _place(logarithm: float, reach: float) -> int:
    """The column of a logarithm of a ratio; what lies outside goes to the edge."""
    half = BAR_WIDTH // 2
    return half + max(-half, min(half, round(logarithm / reach * half)))


def _axis(reach: float) -> str:
    low, high = f"{math.exp(-reach):.2f}", f"{math.exp(reach):.2f}"
    return f"{low}{'1':^{BAR_WIDTH - len(low) - len(high)}}{high}"


def _bar(found: Difference, reach: float) -> str:
    """The interval on a line, the ratio as `o`, and no difference as `|`."""
    columns = [" "] * BAR_WIDTH
    for column in range(_place(math.log(found.low), reach), _place(math.log(found.high), reach) + 1):
        columns[column] = "-"
    columns[BAR_WIDTH // 2] = "|"
    columns[_place(math.log(found.ratio), reach)] = "o"
    return "".join(columns)


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """For --json."""
    return {
        "format": "pmesh-ab",
        "version": 1,
        "interpreter": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": platform.machine(),
        **asdict(comparison),
    }


def figures(comparison: Comparison) -> list[Figure]:
    """The times of the second side and the ratios, for programs that keep histories."""
    found = []
    for row in comparison.rows:
        difference = row.difference
        note = f"{difference.verdict}; {difference.ratio:.3f} times that of {comparison.before}"
        found += [
            Figure(row.name, "latency", row.after_ns, "ns", note=note),
            Figure(row.name, "ratio", difference.ratio, "x", difference.low, difference.high, note=note),
        ]
    return found
