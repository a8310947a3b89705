"""What the A/B runner concludes from ratios: seldom anything from noise, always something from a fifth."""

from __future__ import annotations

import math
import random

import benchmark_tools  # noqa: F401 - makes the benchmarks importable
import pytest
from ab_statistics import FASTER, NO_DIFFERENCE, SLOWER, Rules, judge, student_quantile
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.tools

PAIRS, BATCHES = 16, 4
RULES = Rules(resamples=200)


def measured(generator: random.Random, ratio: float = 1.0, pairs: int = PAIRS) -> list[list[float]]:
    """Pairs as a busy machine gives them: a shift of each pair, sometimes a large one, and noise of each batch."""
    found = []
    for _ in range(pairs):
        shift = generator.gauss(0, 0.15 if generator.random() < 0.1 else 0.04)
        batches = [shift + generator.gauss(0, 0.3 if generator.random() < 0.1 else 0.03) for _ in range(BATCHES)]
        found.append([math.log(ratio) + batch for batch in batches])
    return found


def test_ten_comparisons_of_the_same_code_give_no_alarm() -> None:
    generator = random.Random(1)

    verdicts = [judge(measured(generator), comparisons=25, rules=RULES).verdict for _ in range(250)]

    assert set(verdicts) == {NO_DIFFERENCE}


def test_a_fifth_more_time_is_slower_and_a_fifth_less_is_faster() -> None:
    generator = random.Random(2)

    slower = [judge(measured(generator, 1.2, 40), comparisons=25, rules=RULES).verdict for _ in range(20)]
    faster = [judge(measured(generator, 1 / 1.2, 40), comparisons=25, rules=RULES).verdict for _ in range(20)]

    assert set(slower) == {SLOWER}
    assert set(faster) == {FASTER}


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    generator = random.Random(3)
    rules = Rules(confidence=0.9, resamples=200)

    found = [judge(measured(generator, 1.1), comparisons=1, rules=rules) for _ in range(200)]

    # 180 are expected; fewer than 166 would come by chance once in a thousand times.
    assert sum(each.low <= 1.1 <= each.high for each in found) >= 166


def test_a_difference_below_the_smallest_that_matters_is_none_however_sure() -> None:
    pairs = [[math.log(1.02) + number * 1e-6] * BATCHES for number in range(PAIRS)]

    found = judge(pairs, comparisons=25, rules=Rules(minimum_effect=0.03))
    strict = judge(pairs, comparisons=25, rules=Rules(minimum_effect=0.01))

    assert (found.verdict, strict.verdict) == (NO_DIFFERENCE, SLOWER)
    assert found.low > 1


def test_a_large_difference_that_is_not_sure_is_none() -> None:
    pairs = [[0.5], [-0.3], [0.6], [-0.2]]

    found = judge(pairs, comparisons=1, rules=RULES)

    assert found.ratio > 1.1
    assert found.verdict == NO_DIFFERENCE


def test_the_more_benchmarks_are_compared_the_wider_each_interval() -> None:
    pairs = measured(random.Random(4))

    few, many = (judge(pairs, comparisons=number, rules=RULES) for number in (1, 25))

    assert many.low < few.low < few.ratio < few.high < many.high


@settings(max_examples=20)
@given(st.floats(-0.5, 0.5), st.integers(0, 1_000))
def test_swapping_the_sides_inverts_the_ratio(shift: float, seed: int) -> None:
    pairs = measured(random.Random(seed), math.exp(shift), 5)

    there = judge(pairs, comparisons=1, rules=RULES)
    back = judge([[-batch for batch in batches] for batches in pairs], comparisons=1, rules=RULES)

    assert there.ratio * back.ratio == pytest.approx(1)
    assert there.low <= there.ratio <= there.high


@pytest.mark.parametrize(
    ("probability", "freedom", "quantile"),
    [(0.975, 1, 12.706), (0.975, 2, 4.303), (0.95, 3, 2.353), (0.995, 9, 3.250), (0.9995, 30, 3.646)],
)
def test_quantiles_of_student_are_those_of_the_tables(probability: float, freedom: int, quantile: float) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(quantile, abs=0.001)
