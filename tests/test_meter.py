"""The recorders of an agent class: whatever is read, at any moment, holds every message that is over."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from pmesh import Clock, LatencyRecorder
from pmesh._core import Meter

# Around the number of messages whose times are held back.
NUMBERS = [1, 2, 63, 64, 65, 127, 128, 129, 1_000]

READS: dict[str, Callable[[LatencyRecorder], int]] = {
    "count": lambda recorder: recorder.count,
    "snapshot": lambda recorder: recorder.snapshot().count,
    "counts": lambda recorder: sum(count for _, _, count in recorder.counts()),
    "encode": lambda recorder: LatencyRecorder.decode(recorder.encode()).count,
    "take": lambda recorder: recorder.take().count,
    "merge": lambda recorder: _merged(recorder).count,
    "reduce": lambda recorder: recorder.__copy__().count,
}


def _merged(recorder: LatencyRecorder) -> LatencyRecorder:
    total = LatencyRecorder()
    total.merge(recorder)
    return total


async def meter_of(mesh: Any, number: int) -> Meter:
    """The recorders of an agent that has handled `number` messages."""
    async with mesh() as bus:
        agent = await bus.spawn(lambda payload: None)
        agent.tell_many(range(number))
        meter: Meter = bus.latency_of(agent)
        await bus.drain(agent)
    return meter


@pytest.mark.parametrize("name", ["queue", "service", "latency"])
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("number", NUMBERS)
def test_every_way_to_read_a_recorder_sees_every_message(
    run: Any, mesh: Any, name: str, read: str, number: int
) -> None:
    meter = run(meter_of, mesh, number)
    assert READS[read](getattr(meter, name)) == number


def test_percentiles_minimum_and_maximum_are_of_every_message(run: Any, mesh: Any) -> None:
    meter = run(meter_of, mesh, 100)
    recorder: LatencyRecorder = meter.latency
    assert recorder.min == recorder.percentile(0) == recorder.percentiles([0])[0]
    meter = run(meter_of, mesh, 100)
    assert meter.latency.max == meter.latency.percentile(100)
    meter = run(meter_of, mesh, 100)
    assert meter.latency.min <= meter.latency.mean <= meter.latency.max
    meter = run(meter_of, mesh, 100)
    assert meter.latency.stddev >= 0.0


@pytest.mark.parametrize("number", NUMBERS)
def test_the_times_are_recorded_one_by_one_too(run: Any, mesh: Any, number: int) -> None:
    """Read after each message and once at the end: the same."""

    async def main() -> tuple[list[int], list[int]]:
        async with mesh() as bus:
            agent = await bus.spawn(lambda payload: payload)
            meter = bus.latency_of(agent)
            counts = []
            for item in range(number):
                await agent.ask(item)
                counts.append(meter.latency.count)
        return counts, [meter.queue.count, meter.service.count]

    counts, others = run(main)
    assert counts == list(range(1, number + 1))
    assert others == [number, number]


def test_a_reset_forgets_what_is_held_back(run: Any, mesh: Any) -> None:
    async def main() -> list[int]:
        async with mesh() as bus:
            agent = await bus.spawn(lambda payload: payload)
            for item in range(10):
                await agent.ask(item)
            bus.reset_latency()
            await agent.ask("one more")
            return [recorder.count for recorder in (bus.latency, bus.queue_time, bus.service_time)]

    assert run(main) == [1, 1, 1]


def test_taking_the_times_of_a_mesh_leaves_nothing_and_loses_nothing(run: Any, mesh: Any) -> None:
    async def main() -> list[int]:
        async with mesh() as bus:
            first, second = await bus.spawn(lambda payload: payload), await bus.spawn(lambda payload: [payload])
            taken = []
            for number in (10, 70, 5):
                for item in range(number):
                    await first.ask(item)
                    await second.ask(item)
                times = bus.take_times()
                taken.append(times["latency"].count)
                assert times["queue"].count == times["service"].count == taken[-1]
            assert bus.latency.count == 0
            return taken

    assert run(main) == [20, 140, 10]


def test_a_recorder_outlives_its_meter_with_all_that_was_recorded(run: Any, mesh: Any) -> None:
    async def main() -> LatencyRecorder:
        async with mesh() as bus:
            agent = await bus.spawn(lambda payload: payload)
            for item in range(10):
                await agent.ask(item)
            recorder: LatencyRecorder = bus.latency_of(agent).latency
            return recorder

    recorder = run(main)
    gc.collect()
    assert recorder.count == 10
    assert recorder.take().count == 10
    recorder.record(5)
    assert recorder.count == 1


def test_a_clock_that_goes_back_gives_times_below_the_range(run: Any, mesh: Any) -> None:
    async def main() -> tuple[int, int, int]:
        clock = Clock(virtual=True)
        clock.set_ns(10_000)

        def handle(payload: int) -> None:
            clock.set_ns(payload)

        async with mesh(clock=clock) as bus:
            agent = await bus.spawn(handle)
            for now_ns in (20_000, 30_000, 5_000, 70_000_000_000, 70_000_000_001):
                await agent.ask(now_ns)
            meter = bus.latency_of(agent)
            return meter.service.below_range, meter.service.above_range, meter.service.count

    assert run(main) == (1, 1, 5)
