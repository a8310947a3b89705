"""What a coordinator shows of itself: recorders of classes and of single agents, and their sums."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pmesh import Agent, UnknownAgent, handler


class Echo(Agent):
    @handler
    async def echo(self, message: int) -> int:
        await asyncio.sleep(message)
        return message


def test_agents_of_a_class_share_recorders_and_the_sum_has_each_message_once(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            first, second = await bus.spawn(Echo), await bus.spawn(Echo)
            other = await bus.spawn(lambda payload: payload)
            for ref in (first, second, other):
                await ref.ask(0)
            assert bus.latency_of(first) is bus.latency_of(second)
            assert bus.latency_of(first).latency.count == 2
            assert bus.latency_of(other).queue.count == 1
            assert bus.latency.count == bus.queue_time.count == bus.service_time.count == 3

    run(main)


def test_an_agent_with_recorders_of_its_own_is_seen_apart_and_in_the_sum(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            shared = await bus.spawn(Echo)
            apart = await bus.spawn(Echo, own_recorders=True)
            await shared.ask(0)
            for _ in range(4):
                await apart.ask(0)
            assert bus.latency_of(shared).latency.count == 1
            assert bus.latency_of(apart).latency.count == 4
            assert bus.latency.count == 5
            await bus.stop(apart)
            assert bus.latency_of(shared).latency.count == 5
            assert bus.latency.count == 5
            bus.reset_latency()
            assert bus.latency.count == 0

    run(main)


def test_queue_and_service_time_add_up_to_latency(run: Any, mesh: Any, loop_kind: str) -> None:
    if loop_kind != "virtual":
        pytest.skip("times are exact in virtual time only")

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Echo)
            await asyncio.gather(ref.ask(1), ref.ask(2), ref.ask(1))
            meter = bus.latency_of(ref)
            assert [meter.queue.min, meter.queue.max] == [0, 3 * 10**9]
            assert [meter.service.min, meter.service.max] == [10**9, 2 * 10**9]
            assert [meter.latency.min, meter.latency.max] == [10**9, 4 * 10**9]

    run(main)


def test_stats_have_each_agent_and_the_total_of_stopped_ones(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            kept, gone = await bus.spawn(Echo, name="kept"), await bus.spawn(Echo, name="gone")
            await kept.ask(0)
            await gone.ask(0)
            await bus.stop(gone)
            assert not gone.tell(0)
            with pytest.raises(UnknownAgent, match="did you mean 'kept'"):
                bus.tell("kep", 0)
            stats = bus.stats()
            assert list(stats.agents) == ["kept"]
            assert (stats.agents["kept"].sent, stats.agents["kept"].handled) == (1, 1)
            assert (stats.sent, stats.accepted, stats.handled, stats.rejected) == (4, 2, 2, 2)
            assert stats.imbalance is None

    run(main)


def test_totals_are_those_of_stats_with_stopped_agents_and_unknown_names(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            kept, gone = await bus.spawn(Echo), await bus.spawn(Echo)
            for ref in (kept, gone):
                await ref.ask(0)
            await bus.stop(gone)
            gone.tell(0)
            with pytest.raises(UnknownAgent):
                bus.tell("nobody", 0)
            terms = {name: getattr(bus.stats(), name) for name in bus.totals().as_dict()}
            assert bus.totals().as_dict() == terms
            assert (terms["sent"], terms["accepted"], terms["rejected"]) == (4, 2, 2)

    run(main)
