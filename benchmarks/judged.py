"""The tests of every workload; a bench file imports them, and they are collected there for its workloads.

Both are judged by `thresholds.toml`, and by the committed baseline of this class of machines where there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from race import ROUNDS, Race

if TYPE_CHECKING:
    from pmesh import LatencyRecorder

__all__ = ["test_latency", "test_rate"]

Gate = Callable[[Callable[[], Mapping[str, float]]], None]


def test_rate(race: Race, pmesh_runner: asyncio.Runner, latency_benchmark: Any, rate_gate: Gate) -> None:
    """Rounds of calls beside as many of the baseline and of the reference."""

    def measure() -> Mapping[str, float]:
        if race.started:
            again(pmesh_runner, race.rounds())
        else:
            latency_benchmark.throughput(race.round, calls=race.workload.calls, rounds=ROUNDS)
        return {name: value for name, value in asdict(race.rate()).items() if value is not None}

    rate_gate(measure)


def test_latency(race: Race, pmesh_runner: asyncio.Runner, latency_benchmark: Any, latency_gate: Gate) -> None:
    """Single calls, each timed by itself; the marker `slo` judges them too."""
    attempts = 0

    def measure() -> Mapping[str, float]:
        nonlocal attempts
        attempts += 1
        calls = race.workload.timed_calls
        if attempts > 1:
            return times(again(pmesh_runner, race.single_calls(calls)), race)
        return times(latency_benchmark.record(race.single_calls, calls=calls), race)

    latency_gate(measure)


def again(runner: asyncio.Runner, work: Coroutine[Any, Any, Any]) -> Any:
    """What `work` gives, with the room on the stack that `latency_benchmark` gave to the first attempt."""
    # Here, as bench-ab imports this file with the pmesh of revisions that do not have it.
    from pmesh.gates.stack import with_room

    return with_room(lambda: runner.run(work))


def times(recorder: LatencyRecorder, race: Race) -> dict[str, float]:
    """Percentiles in nanoseconds, and two of them in items of the reference workload."""
    names = ("p50_ns", "p90_ns", "p99_ns", "p99.9_ns", "max_ns")
    found: dict[str, float] = dict(zip(names, recorder.percentiles((50, 90, 99, 99.9, 100)), strict=True))
    items = {f"{name}_items": found[f"{name}_ns"] / race.item_ns for name in ("p50", "p99")}
    return {**found, **items, "item_ns": race.item_ns, "disturbed_stretches": race.disturbed}
