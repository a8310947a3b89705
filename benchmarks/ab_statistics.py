"""What a comparison of two builds says: the ratio of their times, how sure it is, and the verdict.

The unit of evidence is a pair of processes, one of each build: hash seed and memory layout shift all the times
of a process by a per cent or two, however many batches it runs. Within a pair, batches of the two alternate, and the
ratio of two neighbours has most of the machine's noise on both sides. So a pair's ratio is the median of its batches'
ratios, the result is the trimmed mean over the pairs, and the bootstrap draws pairs, and batches within each.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

SLOWER = "slower"
FASTER = "faster"
NO_DIFFERENCE = "no difference"

# The part of the bootstrap's distribution that is known well from a thousand resamples; its far ends are not.
CENTRAL = 0.95

# Of the pairs at each end.
TRIMMED = 0.2


@dataclass(frozen=True, slots=True)
class Rules:
    """When a difference is one.

    Attributes:
        confidence: That all intervals of one comparison together hold their true ratios.
        minimum_effect: Ratios closer to 1 than this are no difference, however sure.
        resamples: Of the bootstrap.
    """

    confidence: float = 0.999
    minimum_effect: float = 0.03
    resamples: int = 1_000


@dataclass(frozen=True, slots=True)
class Difference:
    """Time after divided by time before, with its interval, and what follows from both."""

    ratio: float
    low: float
    high: float
    verdict: str


def judge(pairs: Sequence[Sequence[float]], *, comparisons: int, rules: Rules, seed: int = 0) -> Difference:
    """The verdict on one benchmark.

    Args:
        pairs: For each pair of processes the logarithms of after / before of its neighbouring batches; two pairs at
            least, each with one batch at least.
        comparisons: How many benchmarks are judged beside each other; the confidence is shared among them.
    """
    estimate = _trimmed_mean([statistics.median(batches) for batches in pairs])
    low, high = _interval(pairs, estimate, comparisons, rules, random.Random(seed))
    least = math.log1p(rules.minimum_effect)
    if low > 0 and estimate >= least:
        verdict = SLOWER
    elif high < 0 and estimate <= -least:
        verdict = FASTER
    else:
        verdict = NO_DIFFERENCE
    return Difference(math.exp(estimate), math.exp(low), math.exp(high), verdict)


def _trimmed_mean(values: list[float]) -> float:
    """The mean without the `TRIMMED` lowest and highest: an unlucky layout of memory costs a fifth."""
    cut = int(len(values) * TRIMMED)
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


def _interval(
    pairs: Sequence[Sequence[float]], estimate: float, comparisons: int, rules: Rules, generator: random.Random
) -> tuple[float, float]:
    """The central part of the bootstrap's distribution, spread to the confidence that is wanted.

    The percentiles of a bootstrap over ten or so pairs are too close together, and never leave the range of what was
    seen. The correction is Hesterberg's (What Teachers Should Know About the Bootstrap, 2015, section 5.3): as much
    wider as Student's t is than the normal distribution, and sqrt(n / (n - 1)). The same factor carries it from 95 %
    to the confidence of many comparisons (Bonferroni's), for which no number of resamples would do.
    """
    means = sorted(
        _trimmed_mean(
            [
                statistics.median(generator.choices(batches, k=len(batches)))
                for batches in generator.choices(pairs, k=len(pairs))
            ]
        )
        for _ in range(rules.resamples)
    )
    tail = round((1 - CENTRAL) / 2 * rules.resamples)
    wanted = 1 - (1 - rules.confidence) / (2 * comparisons)
    spread = student_quantile(wanted, len(pairs) - 1) / statistics.NormalDist().inv_cdf((1 + CENTRAL) / 2)
    spread *= math.sqrt(len(pairs) / (len(pairs) - 1))
    return estimate + spread * (means[tail] - estimate), estimate + spread * (means[-1 - tail] - estimate)


def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution for a probability above one half."""
    low, high = 0.0, 1.0
    while _student_between(high, freedom) < 2 * probability - 1:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        if _student_between(middle, freedom) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return high


def _student_between(t: float, freedom: int) -> float:
    """The probability between -t and t (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return (2 / math.pi) * (angle + sine * total) if odd else sine * total
