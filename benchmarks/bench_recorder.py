"""The latency recorder beside HdrHistogram's own Python package, on the same values."""

from __future__ import annotations

import importlib.util
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterable
from time import perf_counter, perf_counter_ns

from judged import test_latency, test_rate  # noqa: F401 - collected here
from workloads import Work, baseline, workload

from pmesh import LatencyRecorder

# Latencies as a service has them: around 60 us, with a tail up to a second.
_generator = random.Random(7)
VALUES_NS = [1 + min(int(_generator.lognormvariate(11, 2)), 10**9) for _ in range(50_000)]
PERCENTILES = (50.0, 90.0, 99.0, 99.9)


def values_ns(count: int) -> list[int]:
    """So many values, the same again after 50,000."""
    return list(itertools.islice(itertools.cycle(VALUES_NS), count))


def filled() -> LatencyRecorder:
    recorder = LatencyRecorder()
    for value in VALUES_NS:
        recorder.record(value)
    return recorder


def repeated(call: Callable[[], object]) -> Work:
    """The work of calling `call`."""

    async def seconds(calls: int) -> float:
        start = perf_counter()
        for _ in range(calls):
            call()
        return perf_counter() - start

    return Work(seconds)


def over_values(record: Callable[[int], object]) -> Work:
    """The work of recording so many values."""

    async def seconds(calls: int) -> float:
        values = values_ns(calls)
        start = perf_counter()
        for value in values:
            record(value)
        return perf_counter() - start

    async def single(calls: int) -> LatencyRecorder:
        recorder = LatencyRecorder()
        for value in values_ns(calls):
            start = perf_counter_ns()
            record(value)
            recorder.record(perf_counter_ns() - start)
        return recorder

    return Work(seconds, single)


@workload("recorder: record", calls=300_000, beside="hdrh: record_value", timed_calls=50_000)
async def record() -> AsyncIterator[Work]:
    yield over_values(LatencyRecorder().record)


@workload("recorder: percentiles", calls=500, beside="hdrh: get_percentile_to_value_dict")
async def percentiles() -> AsyncIterator[Work]:
    """Four of them at once, of 50,000 values."""
    recorder = filled()
    yield repeated(lambda: recorder.percentiles(PERCENTILES))


@workload("recorder: merge", calls=2_000, beside="hdrh: add")
async def merge() -> AsyncIterator[Work]:
    """One recorder of 50,000 values into another."""
    recorder, total = filled(), LatencyRecorder()
    yield repeated(lambda: total.merge(recorder))


@workload("recorder: encode", calls=2, beside="hdrh: encode")
async def encode() -> AsyncIterator[Work]:
    yield repeated(filled().encode)


# Without hdrhistogram the recorder is compared with the reference only; the table of rates then says so.
if importlib.util.find_spec("hdrh") is not None:
    from hdrh.histogram import HdrHistogram

    def histogram(values: Iterable[int] = ()) -> HdrHistogram:
        made = HdrHistogram(1, 60_000_000_000, 3)
        for value in values:
            made.record_value(value)
        return made

    @baseline("hdrh: record_value", calls=5_000)
    async def hdrh_record() -> AsyncIterator[Work]:
        yield over_values(histogram().record_value)

    @baseline("hdrh: get_percentile_to_value_dict", calls=4)
    async def hdrh_percentiles() -> AsyncIterator[Work]:
        made = histogram(VALUES_NS)
        yield repeated(lambda: made.get_percentile_to_value_dict(PERCENTILES))

    @baseline("hdrh: add", calls=100)
    async def hdrh_add() -> AsyncIterator[Work]:
        made, total = histogram(VALUES_NS), histogram()
        yield repeated(lambda: total.add(made))

    @baseline("hdrh: encode", calls=10)
    async def hdrh_encode() -> AsyncIterator[Work]:
        yield repeated(histogram(VALUES_NS).encode)
