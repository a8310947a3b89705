"""`LatencyRecorder.record` beside HdrHistogram's own Python package, on the same values."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from time import perf_counter, perf_counter_ns
from typing import TYPE_CHECKING

import pytest

from pmesh import LatencyRecorder

if TYPE_CHECKING:
    from conftest import Measure, Slo

CALLS = 10_000
TIMED_CALLS = 50_000

# Latencies as a service has them: around 60 us, with a tail up to a second.
_generator = random.Random(7)
VALUES_NS = [1 + min(int(_generator.lognormvariate(11, 2)), 10**9) for _ in range(TIMED_CALLS)]


def measure_record(measure: Measure, record: Callable[[int], object], timed: str, slo: Slo | None) -> None:
    async def values(count: int) -> float:
        start = perf_counter()
        for value in VALUES_NS[:count]:
            record(value)
        return perf_counter() - start

    async def calls(count: int) -> LatencyRecorder:
        recorder = LatencyRecorder()
        for value in VALUES_NS[:count]:
            start = perf_counter_ns()
            record(value)
            recorder.record(perf_counter_ns() - start)
        return recorder

    measure.throughput(values, calls=CALLS)
    measure.latency(timed, calls, calls=TIMED_CALLS, slo=slo)


@pytest.mark.benchmark(group="record a latency")
def test_recorder(measure: Measure, slo: Slo) -> None:
    measure_record(measure, LatencyRecorder().record, "record()", slo)


@pytest.mark.benchmark(group="record a latency")
def test_hdrh(measure: Measure) -> None:
    if importlib.util.find_spec("hdrh") is None:
        pytest.skip("hdrhistogram IS NOT INSTALLED: the recorder was compared with nothing")
    from hdrh.histogram import HdrHistogram

    measure_record(measure, HdrHistogram(1, 60_000_000_000, 3).record_value, "record_value()", None)
