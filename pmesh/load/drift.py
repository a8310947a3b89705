"""Drift of a soak test: how fast a figure grows over a run, and how sure that is.

p99 per second is noisy and heavy-tailed, resident memory is a staircase, and in both a second resembles the one
before: a plain least-squares interval would be far too narrow and find growth in nothing. So the points are put
into blocks of equal size, each block is its median (which outliers hardly move), a line is fitted to the medians,
and its interval is widened for what the residuals of neighbouring blocks have in common: they count as
n (1 - r) / (1 + r) independent ones, in the standard error and in the degrees of freedom of Student's t. That is
the adjusted method of B. D. Santer et al., "Statistical significance of trends and trend differences in
layer-average atmospheric temperature time series", J. Geophys. Res. 105 (2000); r, their lag-1 autocorrelation,
is corrected for its bias after a fitted line, -(2 + 4 r) / n.

What that is worth (`python tests/test_drift.py 2000` simulates it, with 2,000 seeds each and a point a second).
Where there is no drift, growth or shrinking (each about half) is found all the same, after 1, 10 and 60 minutes:

    independent, normal         3.9%    4.3%    3.9%
    AR(1), phi 0.5              4.8%    4.0%    3.4%
    AR(1), phi 0.9              4.3%    5.1%    4.0%
    Pareto, alpha 1.5           2.7%    3.6%    3.2%
    staircase, 10 s a step      4.1%    5.2%    3.3%
    staircase, 30 s a step      1.9%    5.1%    4.8%

A real drift, in shares of the level, is found within 10 minutes with a probability of:

    3 %/h in AR(1), phi 0.5, of 0.2 %           100%
    5 %/h in steps of 10 s and 0.3 %             80%
    10 %/h in steps of 10 s and 0.3 %            98%
    30 %/h in a p99 that scatters by 5 %         99%
    50 %/h in a p99 that scatters by 10 %        95%
    50 %/h in one with 5 % spikes too            92%

So memory, which scatters little, shows a few percent per hour after ten minutes; p99 does not: where it scatters by
10 % from second to second, a drift of 3 %/h is found after 10, 30, 60 and 90 minutes in 2 %, 19 %, 89 % and 100 %.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence

from pmesh.load.report import Drift, Point, Soak

__all__ = ["FEWEST_POINTS", "START_UP_SHARE", "fit_drift", "soak_of"]

# The share of the run that is left out: caches, allocators and adaptive interpreters settle in it.
START_UP_SHARE = 0.1

# With fewer points than this left, an interval would say more about its assumptions than about the run.
FEWEST_POINTS = 20

# Enough for the autocorrelation to be estimated, and few enough that each median is of many points.
BLOCKS = 30

SECONDS_PER_HOUR = 3_600.0


def fit_drift(figure: str, points: Sequence[tuple[float, float]]) -> Drift:
    """The drift of a figure over a run, by the method above.

    Args:
        figure: Its name in the result.
        points: (seconds since the start, value), ascending. Those of the first 10 % of the time are start-up and left
            out.

    Returns:
        The slope per hour with its 95 % confidence interval. The verdict is "no growth" only if that includes
        zero. With fewer than 20 points left it is "too few points", and the slope and the interval are 0.
        `points` is the number of those left, `start` the fitted value at second 0.
    """
    kept = _after_start_up(points)
    if len(kept) < FEWEST_POINTS or kept[0][0] == kept[-1][0]:
        start = statistics.median(value for _, value in kept) if kept else 0.0
        return Drift(figure, start, 0.0, 0.0, 0.0, len(kept), "too few points")
    blocks = _medians(kept)
    slope, margin = _fit_line(blocks)
    low, high = slope - margin, slope + margin
    middle_seconds = statistics.fmean(seconds for seconds, _ in blocks)
    middle_value = statistics.fmean(value for _, value in blocks)
    return Drift(
        figure=figure,
        start=middle_value - slope * middle_seconds,
        slope_per_hour=slope * SECONDS_PER_HOUR,
        low_per_hour=low * SECONDS_PER_HOUR,
        high_per_hour=high * SECONDS_PER_HOUR,
        points=len(kept),
        verdict="growth" if low > 0 else "shrinking" if high < 0 else "no growth",
    )


def soak_of(duration_ns: int, series: Sequence[Point]) -> Soak:
    """The drift of p99 latency and of memory over a run of `duration_ns`, from its series.

    Intervals in which nothing was timed have no p99 and are left out of its drift.
    """
    return Soak(
        duration_ns=duration_ns,
        p99=fit_drift("p99", [(point.at_ns / 1e9, point.latency_p99_ns) for point in series if point.latency_count]),
        rss=fit_drift("rss", [(point.at_ns / 1e9, point.rss_bytes) for point in series]),
    )


def _after_start_up(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    if not points:
        return points
    first, last = points[0][0], points[-1][0]
    begin = first + START_UP_SHARE * (last - first)
    return [point for point in points if point[0] >= begin]


def _medians(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `BLOCKS` points: each the mean time and the median value of neighbours, in even shares."""
    count = len(points)
    number = min(BLOCKS, count)
    shares = (points[count * index // number : count * (index + 1) // number] for index in range(number))
    return [
        (statistics.fmean(seconds for seconds, _ in share), statistics.median(value for _, value in share))
        for share in shares
    ]


def _fit_line(blocks: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The least-squares slope through `blocks`, and half the width of its 95 % interval."""
    count = len(blocks)
    middle_x = statistics.fmean(x for x, _ in blocks)
    middle_y = statistics.fmean(y for _, y in blocks)
    spread = sum((x - middle_x) ** 2 for x, _ in blocks)
    slope = sum((x - middle_x) * (y - middle_y) for x, y in blocks) / spread
    residuals = [y - middle_y - slope * (x - middle_x) for x, y in blocks]
    squares = sum(residual * residual for residual in residuals)
    if not squares:
        return slope, 0.0
    shared = sum(before * after for before, after in itertools.pairwise(residuals)) / squares
    # Below 0 it would make the interval narrower than independence does, on the word of few residuals.
    autocorrelation = min(max((count * shared + 2) / (count - 4), 0.0), 0.99)
    independent = count * (1 - autocorrelation) / (1 + autocorrelation)
    freedom = max(independent - 2, 1.0)
    return slope, _student_t(freedom) * math.sqrt(squares / freedom / spread)


def _student_t(freedom: float) -> float:
    """The 97.5 % quantile of Student's t, to 0.2 %; for `freedom` of 1 and more.

    By Abramowitz and Stegun, 26.7.5; from 1 to 3, where that is too coarse, on lines between the exact values.
    """
    if freedom < 2:
        return 12.7062 + (4.3027 - 12.7062) * (freedom - 1)
    if freedom < 3:
        return 4.3027 + (3.1824 - 4.3027) * (freedom - 2)
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
