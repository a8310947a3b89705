"""Drift of a soak test: what a fitted slope says, and how often it is wrong.

`python tests/test_drift.py 2000` simulates with 2,000 seeds each, and writes the figures that
`pmesh/load/drift.py` gives.
"""

from __future__ import annotations

import json
import math
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
from load_samples import point

from pmesh.load.drift import fit_drift, soak_of
from pmesh.load.report import Drift

Noise = Callable[[random.Random, int], list[float]]

LEVEL = 100.0


# Noise about the level, as a share of it.


def autoregressive(phi: float, deviation: float) -> Noise:
    def make(generator: random.Random, length: int) -> list[float]:
        value = generator.gauss(0, 1)
        made = []
        for _ in range(length):
            value = phi * value + math.sqrt(1 - phi * phi) * generator.gauss(0, 1)
            made.append(value * deviation)
        return made

    return make


def staircase(hold: int, deviation: float) -> Noise:
    """Levels that last `hold` points on average."""

    def make(generator: random.Random, length: int) -> list[float]:
        value = generator.gauss(0, 1)
        made = []
        for _ in range(length):
            if generator.random() < 1 / hold:
                value = generator.gauss(0, 1)
            made.append(value * deviation)
        return made

    return make


def pareto(alpha: float, deviation: float) -> Noise:
    def make(generator: random.Random, length: int) -> list[float]:
        return [deviation * (generator.paretovariate(alpha) - 1) for _ in range(length)]

    return make


def scattered(deviation: float, spikes: float = 0.0) -> Noise:
    """Log-normal, and a share of the points several times as high."""

    def make(generator: random.Random, length: int) -> list[float]:
        return [
            math.exp(generator.gauss(0, deviation))
            - 1
            + (generator.paretovariate(1) if generator.random() < spikes else 0)
            for _ in range(length)
        ]

    return make


NO_DRIFT: dict[str, Noise] = {
    "independent, normal": autoregressive(0.0, 0.1),
    "AR(1), phi 0.5": autoregressive(0.5, 0.1),
    "AR(1), phi 0.9": autoregressive(0.9, 0.1),
    "Pareto, alpha 1.5": pareto(1.5, 0.1),
    "staircase, 10 s a step": staircase(10, 0.1),
    "staircase, 30 s a step": staircase(30, 0.1),
}

# Noise, the drift per hour as a share of the level, and how often it must be found.
DRIFT: dict[str, tuple[Noise, float, float]] = {
    "3 %/h in AR(1), phi 0.5, of 0.2 %": (autoregressive(0.5, 0.002), 0.03, 0.97),
    "5 %/h in steps of 10 s and 0.3 %": (staircase(10, 0.003), 0.05, 0.7),
    "10 %/h in steps of 10 s and 0.3 %": (staircase(10, 0.003), 0.10, 0.95),
    "30 %/h in a p99 that scatters by 5 %": (scattered(0.05), 0.30, 0.95),
    "50 %/h in a p99 that scatters by 10 %": (scattered(0.10), 0.50, 0.85),
    "50 %/h in one with 5 % spikes too": (scattered(0.10, 0.05), 0.50, 0.8),
}


def series(noise: Noise, length: int, seed: int, per_hour: float = 0.0) -> list[tuple[float, float]]:
    values = noise(random.Random(seed), length)
    return [(second, LEVEL * (1 + value + per_hour * second / 3_600)) for second, value in enumerate(values, 1)]


def share_found(noise: Noise, length: int, seeds: int, per_hour: float = 0.0) -> tuple[float, float]:
    """How often growth is found, and how often shrinking."""
    verdicts = [fit_drift("rss", series(noise, length, seed, per_hour)).verdict for seed in range(seeds)]
    return verdicts.count("growth") / seeds, verdicts.count("shrinking") / seeds


def line(length: int, slope_per_hour: float, start: float = LEVEL) -> list[tuple[float, float]]:
    return [(second, start + slope_per_hour * second / 3_600) for second in range(length)]


# How often it is wrong, and what it sees.


@pytest.mark.parametrize("length", [60, 600])
@pytest.mark.parametrize("name", NO_DRIFT)
def test_no_drift_is_called_drift_in_at_most_7_percent_of_runs(name: str, length: int) -> None:
    seeds = 400
    grown, shrunk = share_found(NO_DRIFT[name], length, seeds)
    # Three standard deviations of so few seeds are 3.8 % more; half of it is growth.
    assert grown + shrunk <= 0.07 + 0.038
    assert grown <= 0.035 + 0.028


@pytest.mark.parametrize("name", DRIFT)
def test_a_real_drift_is_found_in_ten_minutes(name: str) -> None:
    noise, per_hour, power = DRIFT[name]
    grown, shrunk = share_found(noise, 600, 200, per_hour)
    assert grown >= power - 0.05
    assert shrunk == 0


def test_the_interval_holds_the_true_slope() -> None:
    held = 0
    for seed in range(400):
        drift = fit_drift("rss", series(autoregressive(0.5, 0.02), 600, seed, 0.5))
        held += drift.low_per_hour <= 0.5 * LEVEL <= drift.high_per_hour
    assert held / 400 >= 0.95 - 0.033


# What it says.


def test_a_line_is_its_own_slope() -> None:
    drift = fit_drift("rss", line(600, 36.0))
    assert drift.slope_per_hour == pytest.approx(36.0)
    assert drift.low_per_hour == pytest.approx(36.0)
    assert drift.high_per_hour == pytest.approx(36.0)
    assert drift.start == pytest.approx(LEVEL)
    assert (drift.figure, drift.verdict) == ("rss", "growth")


def test_a_falling_line_shrinks() -> None:
    assert fit_drift("rss", line(600, -36.0)).verdict == "shrinking"


def test_what_never_changes_does_not_grow() -> None:
    assert fit_drift("rss", line(600, 0.0)) == Drift("rss", LEVEL, 0.0, 0.0, 0.0, 540, "no growth")


@pytest.mark.parametrize("seed", range(20))
def test_the_verdict_is_what_the_interval_says(seed: int) -> None:
    drift = fit_drift("rss", series(scattered(0.05), 200, seed, random.Random(seed).uniform(-2, 2)))
    assert drift.low_per_hour <= drift.slope_per_hour <= drift.high_per_hour
    says = "growth" if drift.low_per_hour > 0 else "shrinking" if drift.high_per_hour < 0 else "no growth"
    assert drift.verdict == says


def test_one_step_in_the_middle_is_no_growth() -> None:
    points = [(second, LEVEL + (second >= 330)) for second in range(600)]
    assert fit_drift("rss", [(float(second), value) for second, value in points]).verdict == "no growth"


def test_a_leak_in_steps_is_growth() -> None:
    points = [(float(second), LEVEL + second // 30) for second in range(600)]
    drift = fit_drift("rss", points)
    assert drift.verdict == "growth"
    assert drift.slope_per_hour == pytest.approx(120, rel=0.05)


def test_one_wild_second_changes_nothing() -> None:
    points = line(600, 36.0)
    points[500] = (500.0, 1e9)
    assert fit_drift("rss", points).slope_per_hour == pytest.approx(36.0, rel=0.01)


def test_the_first_tenth_is_left_out() -> None:
    points = [(second, 1e6 if second < 60 else LEVEL) for second in map(float, range(601))]
    assert fit_drift("rss", points) == Drift("rss", LEVEL, 0.0, 0.0, 0.0, 541, "no growth")


@pytest.mark.parametrize(("length", "left"), [(0, 0), (1, 1), (21, 19)])
def test_too_few_points_get_no_verdict(length: int, left: int) -> None:
    drift = fit_drift("rss", line(length, 3_600.0))
    assert drift.verdict == "too few points"
    assert drift.points == left
    assert (drift.slope_per_hour, drift.low_per_hour, drift.high_per_hour) == (0, 0, 0)


def test_twenty_points_left_are_enough() -> None:
    assert fit_drift("rss", line(23, 3_600.0)).verdict == "growth"


def test_points_of_one_moment_get_no_verdict() -> None:
    assert fit_drift("rss", [(1.0, float(value)) for value in range(100)]).verdict == "too few points"


def test_an_hour_of_points_is_fitted_in_a_blink() -> None:
    points = series(scattered(0.1), 3_600, 1)
    began = time.perf_counter()
    fit_drift("p99", points)
    assert time.perf_counter() - began < 0.5  # about 3 ms


# Of a run.


def test_a_soak_is_of_p99_and_memory() -> None:
    points = tuple(
        replace(point(1), at_ns=second * 1_000_000_000, latency_p99_ns=90_000, rss_bytes=30_000_000 + 1_000 * second)
        for second in range(1, 101)
    )
    soak = soak_of(100_000_000_000, points)
    assert soak.duration_ns == 100_000_000_000
    assert (soak.p99.figure, soak.p99.verdict, soak.p99.start) == ("p99", "no growth", 90_000)
    assert (soak.rss.figure, soak.rss.verdict) == ("rss", "growth")
    assert soak.rss.slope_per_hour == pytest.approx(3_600_000)
    json.dumps(asdict(soak), allow_nan=False)


def test_intervals_in_which_nothing_was_timed_have_no_p99() -> None:
    idle = replace(point(1), latency_count=0, latency_p99_ns=0)
    points = tuple(replace(idle if second % 2 else point(1), at_ns=second * 1_000_000_000) for second in range(1, 101))
    soak = soak_of(100_000_000_000, points)
    assert soak.p99.points == 45
    assert soak.p99.start == point(1).latency_p99_ns
    assert soak.rss.points == 90


def test_a_soak_of_nothing_has_too_few_points() -> None:
    soak = soak_of(0, ())
    assert (soak.p99.verdict, soak.rss.verdict) == ("too few points", "too few points")
    json.dumps(asdict(soak), allow_nan=False)


def simulate(seeds: int) -> str:
    """The figures of the docstring of `pmesh.load.drift`."""
    lines = []
    for name, noise in NO_DRIFT.items():
        shares = (sum(share_found(noise, length, seeds)) for length in (60, 600, 3_600))
        lines.append(f"{name:<24}{''.join(f'{share:>8.1%}' for share in shares)}")
    lines.append("")
    for name, (noise, per_hour, _) in DRIFT.items():
        lines.append(f"{name:<40}{share_found(noise, 600, seeds, per_hour)[0]:>8.0%}")
    for minutes in (10, 30, 60, 90):
        share = share_found(scattered(0.1), minutes * 60, seeds // 4, 0.03)[0]
        lines.append(f"3 %/h in a p99 that scatters by 10 %, {minutes} minutes{share:>8.0%}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(simulate(int(sys.argv[1])))
