"""autogen-core: agents in a SingleThreadedAgentRuntime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter

from autogen_core import (
    AgentId,
    MessageContext,
    RoutedAgent,
    SingleThreadedAgentRuntime,
    TopicId,
    TypeSubscription,
    message_handler,
)
from subjects import ASKERS, IN_FLIGHT, RING, SENDERS, Prepare, Work


@dataclass
class Item:
    """Messages have to be dataclasses or pydantic models; an int alone is refused."""

    number: int


class Goal:
    """What the agents of this process count towards."""

    left = 0
    reached = asyncio.Event()


class Sink(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("takes items")

    @message_handler
    async def take(self, message: Item, ctx: MessageContext) -> Item:
        Goal.left -= 1
        if not Goal.left:
            Goal.reached.set()
        return message


class Hop(RoutedAgent):
    def __init__(self) -> None:
        super().__init__("passes a token on")

    @message_handler
    async def take(self, message: Item, ctx: MessageContext) -> None:
        if message.number:
            following = (int(self.id.key) + 1) % RING
            await self.publish_message(Item(message.number - 1), TopicId("hops", str(following)))
        else:
            Goal.reached.set()


SINK = AgentId("sink", "default")
ITEMS = TopicId("items", "default")


def expect(count: int) -> None:
    Goal.left = count
    Goal.reached.clear()


async def publish_all(runtime: SingleThreadedAgentRuntime, count: int) -> None:
    for number in range(count):
        await runtime.publish_message(Item(number), ITEMS)
        while runtime.unprocessed_messages_count >= IN_FLIGHT:
            await asyncio.sleep(0)


async def tell(runtime: SingleThreadedAgentRuntime) -> Work:
    async def work(count: int) -> float:
        expect(count)
        start = perf_counter()
        await publish_all(runtime, count)
        await Goal.reached.wait()
        return perf_counter() - start

    return work


async def fan_in(runtime: SingleThreadedAgentRuntime) -> Work:
    async def work(count: int) -> float:
        expect(count)
        start = perf_counter()
        await asyncio.gather(*(publish_all(runtime, count // SENDERS) for _ in range(SENDERS)))
        await Goal.reached.wait()
        return perf_counter() - start

    return work


async def ask(runtime: SingleThreadedAgentRuntime) -> Work:
    async def work(count: int) -> float:
        start = perf_counter()
        for number in range(count):
            await runtime.send_message(Item(number), SINK)
        return perf_counter() - start

    return work


async def ask100(runtime: SingleThreadedAgentRuntime) -> Work:
    async def client(count: int) -> None:
        for number in range(count):
            await runtime.send_message(Item(number), SINK)

    async def work(count: int) -> float:
        start = perf_counter()
        await asyncio.gather(*(client(count // ASKERS) for _ in range(ASKERS)))
        return perf_counter() - start

    return work


async def ring(runtime: SingleThreadedAgentRuntime) -> Work:
    for number in range(RING):
        await runtime.try_get_underlying_agent_instance(AgentId("hop", str(number)))

    async def work(count: int) -> float:
        expect(1)
        start = perf_counter()
        await runtime.publish_message(Item(count), TopicId("hops", "0"))
        await Goal.reached.wait()
        return perf_counter() - start

    return work


async def make_agents(runtime: SingleThreadedAgentRuntime, numbers: range) -> None:
    for number in numbers:
        await runtime.try_get_underlying_agent_instance(AgentId("sink", str(number)))


async def spawn(runtime: SingleThreadedAgentRuntime) -> Work:
    made = 0

    async def work(count: int) -> float:
        nonlocal made
        start = perf_counter()
        await make_agents(runtime, range(made, made + count))
        seconds = perf_counter() - start
        made += count  # the runtime has no way to end one
        return seconds

    return work


async def memory(runtime: SingleThreadedAgentRuntime) -> Work:
    made = 0

    async def work(count: int) -> float:
        nonlocal made
        await make_agents(runtime, range(made, made + count))
        made += count
        return 0.0

    return work


def in_runtime(make: Callable[[SingleThreadedAgentRuntime], Awaitable[Work]]) -> Prepare:
    @asynccontextmanager
    async def prepare() -> AsyncIterator[Work]:
        runtime = SingleThreadedAgentRuntime()
        await Sink.register(runtime, "sink", Sink)
        await Hop.register(runtime, "hop", Hop)
        await runtime.add_subscription(TypeSubscription("items", "sink"))
        await runtime.add_subscription(TypeSubscription("hops", "hop"))
        runtime.start()
        yield await make(runtime)
        await runtime.stop()

    return prepare


WORK = {"autogen-core": {make.__name__: in_runtime(make) for make in (tell, ask, ask100, fan_in, ring, spawn, memory)}}
