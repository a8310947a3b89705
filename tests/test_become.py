"""Become: an agent that handles its mail by a function or an object until it goes back to its own handlers."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest

from pmesh import (
    Agent,
    AgentRef,
    AgentStopped,
    HandlerDefinitionError,
    InvalidType,
    MailboxPolicy,
    UnhandledMessage,
    handler,
)
from pmesh._core import cell_of
from pmesh.agent import behaviour_table

Run = Callable[..., Any]
Mesh = Callable[..., Any]


class Become:
    def __init__(self, behaviour: Any) -> None:
        self.behaviour = behaviour


class Actor(Agent):
    """Answers with what handled the payload."""

    def receive(self, payload: object) -> object:  # type: ignore[override]
        if isinstance(payload, Become):
            behaviour = payload.behaviour
            self.context.become(getattr(self, behaviour) if isinstance(behaviour, str) else behaviour)
            return "becomes"
        return "own", payload

    def plain(self, payload: object) -> object:
        if payload == "back":
            self.context.become(None)
        return "plain", payload

    async def suspending(self, payload: object) -> object:
        await asyncio.sleep(0)
        if payload == "back":
            self.context.become(None)
            await asyncio.sleep(0)
        return "suspending", payload


class Urgent:
    pass


class Rules:
    """A behaviour with handlers, one of them on the control lane."""

    def __init__(self, name: str = "rules") -> None:
        self.name = name

    @handler
    async def number(self, payload: int) -> object:
        await asyncio.sleep(0)
        return self.name, "number", payload

    @handler(lane="control")
    def urgent(self, payload: Urgent) -> object:
        return self.name, "urgent"


class MoreRules(Rules):
    @handler
    def text(self, payload: str) -> object:
        return self.name, "text", payload

    def receive(self, payload: object) -> object:
        return self.name, "anything", payload


def instance(ref: AgentRef) -> Any:
    return cell_of(ref).agent


async def function(payload: object) -> object:
    await asyncio.sleep(0)
    return "function", payload


class Caller:
    async def __call__(self, payload: object) -> object:
        await asyncio.sleep(0)
        return "callable", payload


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        ("plain", "plain"),
        ("suspending", "suspending"),
        (function, "function"),
        (Caller(), "callable"),
        (lambda payload: ("lambda", payload), "lambda"),
        (functools.partial(lambda name, payload: (name, payload), "partial"), "partial"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_function_takes_all_mail_from_the_next_message_on(
    run: Run, mesh: Mesh, loop_kind: str, behaviour: Any, expected: str
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Actor)
            assert await ref.ask(1) == ("own", 1)
            assert await ref.ask(Become(behaviour)) == "becomes"
            assert await ref.ask(2) == (expected, 2)
            assert await ref.ask(None) == (expected, None)
            instance(ref).context.become(None)
            assert await ref.ask(3) == ("own", 3)

    run(main)


@pytest.mark.parametrize("behaviour", ["plain", "suspending"])
def test_the_message_in_hand_is_handled_to_its_end_by_what_began_it(run: Run, mesh: Mesh, behaviour: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Actor)
            assert await ref.ask(Become(behaviour)) == "becomes"
            assert await ref.ask("back") == (behaviour, "back")
            assert await ref.ask("next") == ("own", "next")

    run(main)


def test_mail_that_waits_is_handled_by_what_the_agent_is_when_its_turn_comes(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Actor)
            answers = await asyncio.gather(*map(ref.ask, [1, Become("plain"), 2, 3, "back", 4]))
            assert answers == [("own", 1), "becomes", ("plain", 2), ("plain", 3), ("plain", "back"), ("own", 4)]

    run(main)


def test_an_object_with_handlers_is_dispatched_on_the_payload_as_an_agent_is(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Actor)
            await ref.ask(Become(Rules()))
            assert await ref.ask(7) == ("rules", "number", 7)
            assert await ref.ask(Urgent()) == ("rules", "urgent")
            with pytest.raises(UnhandledMessage):
                await ref.ask("text")
            instance(ref).context.become(MoreRules("more"))
            assert await ref.ask(7) == ("more", "number", 7)
            assert await ref.ask("text") == ("more", "text", "text")
            assert await ref.ask(1.5) == ("more", "anything", 1.5)
            # Two objects of one class are two behaviours.
            instance(ref).context.become(Rules("other"))
            assert await ref.ask(7) == ("other", "number", 7)

    run(main)


def test_a_class_may_change_while_its_handlers_are_looked_for() -> None:
    """As when a mesh in another thread gives it its table; here that happens at each look at one of its attributes."""
    looks = itertools.count()

    class OtherThread:
        def __getattr__(self, name: str) -> Any:
            setattr(Changing, f"set_{next(looks)}", None)
            raise AttributeError(name)

    class Numbers:
        @handler
        def number(self, payload: int) -> int:
            return payload

    class Changing(Numbers):
        other_thread = OtherThread()

    table = behaviour_table(Changing())
    assert next(looks) >= 2
    assert table.resolve(int) is not None
    assert table.resolve(str) is None


def test_another_agent_object_can_be_the_behaviour(run: Run, mesh: Mesh) -> None:
    class Speaks(Agent):
        @handler
        def take(self, payload: str) -> str:
            return f"{type(self).__name__} {payload}"

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Actor)
            await ref.ask(Become(Speaks()))
            assert await ref.ask("x") == "Speaks x"

    run(main)


def test_new_mail_is_accepted_in_the_lane_of_what_the_agent_has_become(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        handled: list[object] = []

        class Notes(MoreRules):
            @handler(lane="control")
            def urgent(self, payload: Urgent) -> None:  # type: ignore[override]
                handled.append("urgent")

            @handler
            def text(self, payload: str) -> None:
                handled.append(payload)

        async with mesh() as bus:
            ref = await bus.spawn(Actor, mailbox=MailboxPolicy(capacity=8))
            for behaviour, expected in ((Notes(), ["urgent", "a"]), (None, [])):
                instance(ref).context.become(behaviour)
                handled.clear()
                cell_of(ref).pause()
                ref.tell("a")
                ref.tell(Urgent())
                cell_of(ref).resume()
                await asyncio.sleep(0.1)
                assert handled == expected

    run(main)


def test_an_agent_may_become_something_else_again_and_again(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Actor)
            for number in range(100):
                instance(ref).context.become(Rules(str(number)) if number % 2 else instance(ref).suspending)
                answer = await ref.ask(1)
                assert answer == ((str(number), "number", 1) if number % 2 else ("suspending", 1))
            instance(ref).context.become(None)
            assert await ref.ask(1) == ("own", 1)

    run(main)


def test_becoming_works_from_on_start_and_with_overlapping_handlers(run: Run, mesh: Mesh) -> None:
    class Eager(Actor):
        def on_start(self) -> None:  # type: ignore[override]
            self.context.become(self.suspending)

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Eager, concurrency=3)
            answers = await asyncio.gather(*map(ref.ask, range(6)))
            assert answers == [("suspending", number) for number in range(6)]

    run(main)


def test_a_handler_of_plain_functions_may_become_one_that_suspends_within_a_batch(
    run: Run, mesh: Mesh, loop_kind: str
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Actor)
            cell_of(ref).pause()
            asks = [asyncio.ensure_future(ref.ask(payload)) for payload in (Become("suspending"), 1, "back", 2)]
            await asyncio.sleep(0.01)
            cell_of(ref).resume()
            assert await asyncio.gather(*asks) == ["becomes", ("suspending", 1), ("suspending", "back"), ("own", 2)]

    run(main)


def test_stash_and_become_together_wait_for_a_connection(run: Run, mesh: Mesh) -> None:
    class Client(Agent):
        def __init__(self) -> None:
            self.got: list[object] = []

        def on_start(self) -> None:  # type: ignore[override]
            self.context.timers.after(1.0, "connected")
            self.context.become(self.connecting)

        def connecting(self, payload: object) -> None:
            if payload == "connected":
                self.context.become(None)
                self.context.unstash_all()
            else:
                self.context.stash()

        def receive(self, payload: object) -> None:  # type: ignore[override]
            self.got.append(payload)

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Client)
            ref.tell_many(range(3))
            await asyncio.sleep(1.5)
            ref.tell(3)
            await asyncio.sleep(0.1)
            assert instance(ref).got == [0, 1, 2, 3]

    run(main)


# The end.


def test_an_instance_that_is_replaced_leaves_its_behaviour_behind(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Actor)
            await ref.ask(Become(Rules()))
            old = instance(ref)
            cell_of(ref).end_instance()
            new = cell_of(ref).agent = Actor()
            new.context = type(old.context)(ref, bus)
            assert await ref.ask(1) == ("own", 1)
            with pytest.raises(AgentStopped):
                old.context.become(Rules())
            assert await ref.ask(1) == ("own", 1)

    run(main)


def test_a_stopped_agent_becomes_nothing_else(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Actor, name="actor")
            context = instance(ref).context
            await bus.stop(ref)
            with pytest.raises(AgentStopped, match="'actor'"):
                context.become(Rules())

    run(main)


# Bad input.


class TwoParameters:
    @handler
    def take(self, payload: int, more: int) -> None: ...


@pytest.mark.parametrize(
    ("behaviour", "error", "text"),
    [
        (7, InvalidType, r"behaviour is 7; it must be a function of one payload, an object whose class has @handler"),
        ("plain", InvalidType, r"behaviour is 'plain'"),
        (object(), InvalidType, r"None for the agent's own handlers"),
        (Rules, InvalidType, r"behaviour is the class Rules; give an instance"),
        (Actor, InvalidType, r"behaviour is the class Actor; give an instance"),
        (lambda: None, InvalidType, r"behaviour .*<lambda> must be callable with one argument"),
        (lambda one, two: None, InvalidType, r"behaviour .*<lambda> must be callable with one argument"),
        (TwoParameters(), HandlerDefinitionError, r"TwoParameters\.take must take self and one payload"),
    ],
)
def test_what_cannot_be_a_behaviour_is_refused_and_says_what_can(
    run: Run, mesh: Mesh, behaviour: Any, error: type[Exception], text: str
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Actor)
            with pytest.raises(error, match=text):
                instance(ref).context.become(behaviour)
            assert await ref.ask(1) == ("own", 1)

    run(main)


def test_a_payload_type_that_cannot_be_found_is_named(run: Run, mesh: Mesh) -> None:
    class Local:
        pass

    class Hidden:
        @handler
        def take(self, payload: Local) -> None: ...

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Actor)
            with pytest.raises(
                HandlerDefinitionError, match=r"Hidden is annotated with a name that cannot be found.*Local"
            ):
                instance(ref).context.become(Hidden())

    run(main)


def test_a_behaviour_that_fails_counts_failed_and_is_named_in_the_log(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Actor)

            def breaks(payload: object) -> None:
                raise ZeroDivisionError

            instance(ref).context.become(breaks)
            with pytest.raises(ZeroDivisionError):
                await ref.ask(1)
            assert ref.counters().failed == 1

    with caplog.at_level(logging.ERROR):
        run(main)
    assert "breaks failed on int" in caplog.text


def test_a_payload_class_that_changes_the_behaviour_while_it_is_looked_up_is_harmless(run: Run, mesh: Mesh) -> None:
    changes: list[Callable[[], None]] = []

    class Meta(type):
        @property
        def __mro__(cls) -> Any:
            for change in changes:
                change()
            return type.__dict__["__mro__"].__get__(cls)

    class Odd(metaclass=Meta):
        pass

    class Anything:
        @handler
        def text(self, payload: str) -> None: ...

        def receive(self, payload: object) -> str:
            return "anything"

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Actor)
            context = instance(ref).context
            changes.append(lambda: context.become(lambda payload: "changed"))
            context.become(Anything())
            assert await ref.ask(Odd()) == "anything"
            assert await ref.ask(Odd()) == "changed"

    run(main)
