"""The load tester's four profiles, judged by what the reference report measured for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from bounds import judge

import pmesh.load
from pmesh import slo


@pytest.mark.benchmark(group="profiles")
@pytest.mark.parametrize("profile", list(pmesh.load.PROFILES))
def test_profile(
    profile: str,
    profile_objectives: Mapping[str, tuple[str, ...]],
    pmesh_runner: asyncio.Runner,
    latency_benchmark: Any,
    shown: Callable[..., None],
) -> None:
    """Absolute figures: the reference's are those of another machine and 50 times slower."""
    objectives = [slo.parse_objective(text) for text in profile_objectives[profile]]
    figures = {objective.figure for objective in objectives}
    report = None

    async def run(calls: int) -> float:
        nonlocal report
        report = await pmesh.load.run(profile, objectives=objectives)
        return calls / report.throughput_per_second

    def measure() -> Mapping[str, float]:
        if report is None:
            latency_benchmark.throughput(run, calls=pmesh.load.PROFILES[profile].messages, rounds=1)
        else:
            pmesh_runner.run(run(1))
        return {figure: value for figure in figures if (value := report.figure(figure)) is not None}

    def misses(figures: Mapping[str, float]) -> tuple[str, ...]:
        return tuple(str(verdict) for verdict in slo.judge(figures.get, objectives) if not verdict.passed)

    outcome = judge(profile, measure, misses)
    shown(outcome)
    outcome.require()
