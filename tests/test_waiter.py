"""What a Task waits on while it sends or asks: the future protocol, by whatever route it is used."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pmesh import MailboxPolicy
from pmesh._core import Waiter

Look = Callable[[Waiter, "asyncio.Future[str]"], Awaitable[None]]


@pytest.fixture
def while_asking(run: Any, mesh: Any) -> Callable[[Look], None]:
    """`while_asking(look)`: await `look` with the `Waiter` of an ask, and the future of its answer."""

    async def main(look: Look) -> None:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        async def slow(payload: object) -> str:
            return await answer

        async with mesh() as bus:
            agent = await bus.spawn(slow)

            ask = agent.ask("question").__await__()
            waiter = next(ask)
            assert isinstance(waiter, Waiter)
            waiter._asyncio_future_blocking = False
            await look(waiter, answer)
            ask.close()
            if not answer.done():
                answer.set_result("answer")

    return lambda look: run(main, look)


def test_all_tasks_that_wait_go_on_when_there_are_more_than_one_slice_resumes(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            agent = await bus.spawn(lambda payload: payload, mailbox=MailboxPolicy(capacity=10_000))
            answers = await asyncio.gather(*[agent.ask(number) for number in range(10_000)])
            assert answers == list(range(10_000))

    run(main)


@pytest.mark.parametrize("kind", ["Task", "tasks._PyTask"], ids=["in C", "in Python"])
def test_tasks_of_either_kind_send_and_ask(run: Any, mesh: Any, loop_kind: str, kind: str) -> None:
    make: Any = asyncio.Task if kind == "Task" else asyncio.tasks._PyTask  # type: ignore[attr-defined]
    seen: list[tuple[int, str]] = []

    async def handle(payload: tuple[int, str]) -> tuple[int, str]:
        seen.append(payload)
        return payload

    async def main() -> None:
        async with mesh(window=1) as bus:
            agent = await bus.spawn(handle)

            async def drive(number: int) -> object:
                await agent.send((number, "sent"))
                return await agent.ask((number, "asked"))

            loop = asyncio.get_running_loop()
            answers = await asyncio.gather(*[make(drive(number), loop=loop) for number in range(10)])
        assert answers == [(number, "asked") for number in range(10)]
        assert sorted(seen) == [(number, word) for number in range(10) for word in ("asked", "sent")]

    run(main)


@pytest.mark.parametrize("shape", ["none", "keyword", "keywords", "type"])
def test_a_callback_runs_in_the_context_that_is_given_with_it(while_asking: Any, shape: str) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    seen: list[int] = []

    def callback(future: object) -> None:
        seen.append(variable.get())

    async def look(waiter: Waiter, answer: asyncio.Future[str]) -> None:
        context = contextvars.copy_context()
        context.run(variable.set, 7)
        if shape == "none":
            waiter.add_done_callback(callback)
        elif shape == "keyword":
            waiter.add_done_callback(callback, context=context)
        elif shape == "keywords":
            waiter.add_done_callback(context=context, callback=callback)
        else:
            Waiter.add_done_callback(waiter, callback, context=context)
        answer.set_result("answer")
        for _ in range(3):
            await asyncio.sleep(0)
        assert seen == [0 if shape == "none" else 7]

    while_asking(look)


@pytest.mark.parametrize(
    ("positional", "keywords"),
    [
        ((), {}),
        ((print, None), {}),
        ((print,), {"contexts": None}),
        ((print,), {"callback": print}),
        ((print,), {"context": None, "other": None}),
        ((), {"context": None}),
    ],
)
def test_a_callback_given_in_a_wrong_way_is_refused(
    while_asking: Any, positional: tuple[Any, ...], keywords: dict[str, Any]
) -> None:
    async def look(waiter: Waiter, answer: asyncio.Future[str]) -> None:
        with pytest.raises(TypeError):
            waiter.add_done_callback(*positional, **keywords)
        assert not waiter.done()

    while_asking(look)


def test_the_attributes_of_a_waiter_are_those_of_its_type(while_asking: Any) -> None:
    async def look(waiter: Any, answer: asyncio.Future[str]) -> None:
        assert waiter.get_loop() is Waiter.get_loop(waiter) is asyncio.get_running_loop()
        assert waiter._asyncio_future_blocking is False
        waiter._asyncio_future_blocking = True
        assert waiter._asyncio_future_blocking is True
        waiter._asyncio_future_blocking = False
        for name in ("nothing", "dispatcher", "call"):
            with pytest.raises(AttributeError):
                getattr(waiter, name)
            with pytest.raises(AttributeError):
                setattr(waiter, name, 1)

    while_asking(look)
