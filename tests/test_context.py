"""What a handler and all that it starts see: their message, and the context variables of their slot."""

from __future__ import annotations

import asyncio
import contextvars
import random
import sys
from collections.abc import Callable
from typing import Any

import pytest

from pmesh import Agent, AgentRef, handler

VAR: contextvars.ContextVar[object] = contextvars.ContextVar("VAR", default="unset")


class Seer(Agent):
    """Runs the function it is sent, with itself as the argument."""

    async def receive(self, payload: Callable[[Seer], Any]) -> object:
        result = payload(self)
        return await result if asyncio.iscoroutine(result) else result


def seen(agent: Seer) -> object:
    """The message in hand, as code sees it wherever it runs."""
    message = agent.context.message
    return None if message is None else message.headers["n"]  # type: ignore[index]


@pytest.fixture(params=["plain", "before", "after"])
def moment(request: pytest.FixtureRequest) -> str:
    """In a plain handler, before the first suspension, or after it."""
    return str(request.param)


async def call(ref: AgentRef, moment: str, number: object, function: Callable[[Seer], Any]) -> Any:
    """Run `function(agent)` in the handler of a message with the header n=`number`."""

    async def wrapped(agent: Seer) -> object:
        if moment == "after":
            await asyncio.sleep(0)
        result = function(agent)
        return await result if asyncio.iscoroutine(result) else result

    return await ref.ask(function if moment == "plain" else wrapped, headers={"n": number})


class PlainSeer(Seer):
    def receive(self, payload: Callable[[Seer], Any]) -> object:  # type: ignore[override]
        return payload(self)


def seer(moment: str) -> type[Seer]:
    return PlainSeer if moment == "plain" else Seer


# The envelope in hand.


def test_the_context_shows_the_envelope_of_the_message_in_hand(
    run: Any, mesh: Any, loop_kind: str, moment: str
) -> None:
    def look(agent: Seer) -> tuple[object, ...]:
        context = agent.context
        message = context.message
        assert message is not None
        assert message.expects_reply
        assert message.lane == "normal"
        assert context.deadline is not None
        return context.sender, context.deadline, dict(context.headers), context.name, context.ref

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            ref = await bus.spawn(seer(moment), name="seer")
            before = loop.time()
            sender, deadline, headers, name, own = await call(ref, moment, 7, look)
            assert sender is None
            # uvloop's time() is that of the start of the turn.
            assert before + 4.9 < deadline < loop.time() + 5.1
            assert headers == {"n": 7}
            assert name == "seer"
            assert own == ref

    run(main)


def test_the_sender_is_the_agent_whose_handler_sent_it(run: Any, mesh: Any, loop_kind: str, moment: str) -> None:
    async def main() -> None:
        got: list[object] = []
        done = asyncio.Event()

        class Sink(Agent):
            def receive(self, payload: object) -> None:  # type: ignore[override]
                got.append((payload, self.context.sender))
                if len(got) == 4:
                    done.set()

        async with mesh() as bus:
            sink = await bus.spawn(Sink)
            ref = await bus.spawn(seer(moment))

            async def from_child() -> None:
                await asyncio.sleep(0.001)
                sink.tell("child")

            def send(agent: Seer) -> None:
                sink.tell("handler")
                asyncio.get_running_loop().call_soon(sink.tell, "call_soon")
                agent.child = asyncio.ensure_future(from_child())  # type: ignore[attr-defined]

            await call(ref, moment, 1, send)
            sink.tell("outside")
            await done.wait()
        assert dict(got) == {"handler": ref, "call_soon": ref, "child": ref, "outside": None}  # type: ignore[arg-type]

    run(main)


def test_outside_of_handlers_there_is_no_message(run: Any, mesh: Any, loop_kind: str) -> None:
    agents: list[Seer] = []

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Seer)
            await call(ref, "after", 1, agents.append)
            context = agents[0].context
            assert context.message is None
            assert context.sender is None
            assert context.deadline is None
            assert dict(context.headers) == {}

    run(main)


def test_a_message_without_headers_or_deadline_has_none(run: Any, mesh: Any, loop_kind: str) -> None:
    got: list[object] = []

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Seer)

            def look(agent: Seer) -> None:
                got.append((agent.context.deadline, dict(agent.context.headers)))

            ref.tell(look)
            await ref.ask(look)
            assert got[0] == (None, {})
            assert got[1][0] is not None  # type: ignore[index]

    run(main)


# Each sees its own message: handlers, and all that they start.


def test_concurrent_handlers_each_see_their_own_message_all_along(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        rng = random.Random(1)

        async def look(agent: Seer) -> tuple[object, ...]:
            first = seen(agent)
            views = [first]
            for _ in range(3):
                await asyncio.sleep(rng.choice((0, 0.001, 0.002)))
                views.append(seen(agent))
            views.append(await asyncio.to_thread(seen, agent))
            return tuple(views)

        async with mesh() as bus:
            ref = await bus.spawn(Seer, concurrency=5)
            results = await asyncio.gather(*(ref.ask(look, headers={"n": n}) for n in range(40)))
            assert results == [(n,) * 5 for n in range(40)]

    run(main)


STARTERS = ["task", "call_soon", "call_later", "thread", "copy", "future", "eager"]


@pytest.mark.parametrize("starter", STARTERS)
@pytest.mark.parametrize("sets", [False, True], ids=["reads", "sets_variables"])
def test_what_outlives_its_handler_still_sees_its_own_message(
    run: Any, mesh: Any, loop_kind: str, moment: str, starter: str, sets: bool
) -> None:
    if starter == "eager" and sys.version_info < (3, 12):
        pytest.skip("eager tasks came with 3.12")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = asyncio.Event()
        views: dict[int, list[object]] = {}
        running: list[Any] = []
        copies: list[tuple[int, contextvars.Context]] = []

        def view(agent: Seer, number: int) -> None:
            if sets:
                VAR.set(number)
            views.setdefault(number, []).append(seen(agent))

        async def child(agent: Seer, number: int) -> None:
            view(agent, number)
            await gate.wait()
            view(agent, number)
            await asyncio.sleep(0)
            view(agent, number)

        def start(agent: Seer, number: int) -> None:
            if sets:
                VAR.set(f"handler {number}")
            if starter == "task":
                running.append(loop.create_task(child(agent, number)))
            elif starter == "eager":
                running.append(asyncio.Task(child(agent, number), loop=loop, eager_start=True))  # type: ignore[call-arg]
            elif starter == "call_soon":
                loop.call_soon(loop.call_soon, loop.call_soon, view, agent, number)
            elif starter == "call_later":
                loop.call_later(0.002, view, agent, number)
            elif starter == "thread":
                running.append(asyncio.ensure_future(asyncio.to_thread(view, agent, number)))
            elif starter == "future":
                future = loop.create_future()
                future.add_done_callback(lambda _: view(agent, number))
                loop.call_later(0.001, future.set_result, None)
            else:
                copies.append((number, contextvars.copy_context()))

        async with mesh() as bus:
            ref = await bus.spawn(seer(moment))
            agents: list[Seer] = []
            await call(ref, moment, -1, agents.append)
            for number in range(6):
                await call(ref, moment, number, lambda agent, n=number: start(agent, n))
                # One without a child between them, so that a scope could be used again.
                assert await call(ref, moment, 100 + number, seen) == 100 + number
            gate.set()
            await asyncio.sleep(0.01)
            if running:
                await asyncio.wait(running)
            for number, context in copies:
                context.run(view, agents[0], number)
                context.run(view, agents[0], number)
            for number in range(6):
                assert views[number], f"nothing ran for {number}"
                assert set(views[number]) == {number}

    run(main)


def test_a_child_started_by_on_start_sees_no_message(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        class Starter(Seer):
            async def on_start(self) -> None:
                assert self.context.message is None
                self.child = asyncio.create_task(self.watch())
                await asyncio.sleep(0)
                assert self.context.message is None

            async def watch(self) -> object:
                await gate.wait()
                return self.context.message

        async with mesh() as bus:
            ref = await bus.spawn(Starter)

            async def during(agent: Any) -> object:
                gate.set()
                return await agent.child, seen(agent)

            assert await call(ref, "before", 1, during) == (None, 1)

    run(main)


@pytest.mark.parametrize("deep", [0, 3, 15, 16, 17, 40, 100])
def test_copies_of_a_deep_context_keep_their_message(run: Any, mesh: Any, deep: int, moment: str) -> None:
    """The context is a tree of 32-way nodes; the slot's scope may lie in the root or below."""
    variables = [contextvars.ContextVar[int](f"deep_{n}") for n in range(deep)]
    extra = [contextvars.ContextVar[int](f"extra_{n}") for n in range(3)]

    async def main() -> None:
        copies: list[tuple[int, contextvars.Context]] = []
        agents: list[Seer] = []

        def fill(agent: Seer) -> None:
            agents.append(agent)
            for variable in variables:
                variable.set(0)

        def keep(number: int) -> None:
            if number % 4 == 1:
                extra[0].set(number)
            copies.append((number, contextvars.copy_context()))
            if number % 4 >= 2:
                extra[1].set(number)
            if number % 4 == 3:
                copies[-1][1].run(extra[2].set, number)
                del copies[-1]
                copies.append((number, contextvars.copy_context()))

        async with mesh() as bus:
            ref = await bus.spawn(seer(moment))
            await call(ref, moment, "fill", fill)
            for number in range(40):
                await call(ref, moment, number, lambda agent, n=number: keep(n))
                if number % 3 == 0:
                    await call(ref, moment, "between", seen)
            await call(ref, moment, "last", seen)
            for number, context in copies:
                assert context.run(seen, agents[0]) == number

    run(main)


def test_a_copy_taken_while_the_context_grows_keeps_its_message(run: Any, mesh: Any) -> None:
    """Roots of the tree come and go while variables are set, and their addresses come back."""

    async def main() -> None:
        wrong: list[tuple[int, int, int, object]] = []
        async with mesh() as bus:
            for before in range(0, 34, 3):
                for until in range(1, 40):
                    for after in (0, 1, 2, 3):
                        variables = [contextvars.ContextVar[int](f"v{n}") for n in range(until + after)]
                        kept: list[tuple[Seer, contextvars.Context]] = []

                        def work(agent: Seer) -> None:
                            for variable in variables[before:until]:
                                variable.set(1)
                            kept.append((agent, contextvars.copy_context()))
                            for variable in variables[until:]:
                                variable.set(2)

                        def prepare(agent: Seer) -> None:
                            for variable in variables[:before]:
                                variable.set(0)

                        ref = await bus.spawn(PlainSeer)
                        await call(ref, "plain", "prepare", prepare)
                        await call(ref, "plain", "mine", work)
                        await call(ref, "plain", "next", seen)
                        agent, context = kept[0]
                        if (view := context.run(seen, agent)) != "mine":
                            wrong.append((before, until, after, view))
                        await bus.kill(ref)
        assert not wrong, wrong[:10]

    run(main)


def test_a_window_place_and_a_deadline_are_inherited_by_what_a_handler_starts(
    run: Any, mesh: Any, loop_kind: str
) -> None:
    async def main() -> None:
        async with mesh(window=1) as bus:
            gate = asyncio.Event()
            deadlines: list[object] = []

            class Slow(Agent):
                async def receive(self, payload: object) -> None:
                    deadlines.append(self.context.deadline)

            slow = await bus.spawn(Slow)
            front = await bus.spawn(Seer)

            async def child() -> None:
                await gate.wait()
                await slow.ask("from a child")

            async def start(agent: Seer) -> object:
                agent.child = asyncio.create_task(child())  # type: ignore[attr-defined]
                return agent.context.deadline

            outer = await front.ask(start, timeout=0.5)
            gate.set()
            while not deadlines:
                await asyncio.sleep(0.001)
            assert deadlines == [outer]

    run(main)


# Context variables of the user.


def test_a_variable_set_in_one_message_is_seen_by_the_next_in_the_slot(
    run: Any, mesh: Any, loop_kind: str, moment: str
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(seer(moment))
            other = await bus.spawn(seer(moment))
            assert await call(ref, moment, 0, lambda _: VAR.get()) == "unset"
            await call(ref, moment, 1, lambda _: VAR.set("slot's") and None)
            assert await call(ref, moment, 2, lambda _: VAR.get()) == "slot's"
            assert await call(ref, "plain", 3, lambda _: VAR.get()) == "slot's"
            assert await call(other, moment, 4, lambda _: VAR.get()) == "unset"
            assert VAR.get() == "unset"

    run(main)


def test_a_variable_does_not_leak_between_the_slots_of_an_agent(run: Any, mesh: Any, loop_kind: str) -> None:
    async def hold(agent: Seer) -> object:
        found = VAR.get()
        VAR.set(seen(agent))
        await asyncio.sleep(0.001)
        assert VAR.get() == seen(agent)
        return found

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Seer, concurrency=3)
            found = await asyncio.gather(*(ref.ask(hold, headers={"n": n}) for n in range(3)))
            assert found == ["unset"] * 3
            # The second time each slot finds what it was left with, in whatever order.
            found = await asyncio.gather(*(ref.ask(hold, headers={"n": n}) for n in range(3)))
            assert sorted(found) == [0, 1, 2]

    run(main)


def test_a_handler_does_not_see_variables_of_whoever_spawned_or_asked(
    run: Any, mesh: Any, loop_kind: str, moment: str
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            VAR.set("caller's")
            ref = await bus.spawn(seer(moment))
            assert await call(ref, moment, 1, lambda _: VAR.get()) == "unset"
            await call(ref, moment, 1, lambda _: VAR.set("handler's") and None)
            assert VAR.get() == "caller's"

            async def spawn_child(agent: Seer) -> object:
                child = await agent.context.spawn(Seer)
                return await call(child, "before", 2, lambda _: VAR.get())

            parent = await bus.spawn(Seer)
            assert await call(parent, "before", 1, spawn_child) == "unset"

    run(main)


def test_on_start_shares_the_context_of_the_first_slot(run: Any, mesh: Any, loop_kind: str) -> None:
    class Starter(Agent):
        async def on_start(self) -> None:
            VAR.set("from on_start")
            await asyncio.sleep(0)

        @handler
        async def get(self, message: int) -> object:
            return VAR.get()

    async def main() -> None:
        async with mesh() as bus:
            assert await (await bus.spawn(Starter)).ask(1) == "from on_start"
            assert VAR.get() == "unset"

    run(main)
