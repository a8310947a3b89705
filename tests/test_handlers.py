"""Which handler gets a payload, what counts as a handler, and what is refused at class definition."""

from __future__ import annotations

import abc
import asyncio
import collections.abc
import functools
import re
import sys
import textwrap
import types
import typing
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any

import pytest

from pmesh import (
    Agent,
    DeadLetterKind,
    HandlerDefinitionError,
    InvalidArgument,
    InvalidType,
    PmeshError,
    Request,
    UnhandledMessage,
    handler,
)


class Base:
    pass


class Middle(Base):
    pass


class Leaf(Middle):
    pass


class Other:
    pass


class Unrelated:
    pass


class Sized(abc.ABC):  # noqa: B024 - only registered with
    pass


class Coloured(abc.ABC):  # noqa: B024 - only registered with
    pass


Sized.register(Unrelated)


def answers(run: Any, mesh: Any, factory: Any, *payloads: object) -> list[object]:
    """What a new agent of `factory` answers to each payload; the class of the error where it fails."""

    async def main() -> list[object]:
        results: list[object] = []
        async with mesh() as bus:
            ref = await bus.spawn(factory)
            for payload in payloads:
                try:
                    results.append(await ref.ask(payload))
                except Exception as error:
                    results.append(type(error))
            assert ref.is_alive
        return results

    return typing.cast("list[object]", run(main))


def define(source: str, **names: object) -> Any:
    """The class `A` that `source` defines in a module of its own, without postponed annotations."""
    module = types.ModuleType("defined_by_test")
    vars(module).update(
        Agent=Agent, handler=handler, typing=typing, Base=Base, Middle=Middle, Leaf=Leaf, Other=Other, **names
    )
    sys.modules[module.__name__] = module
    exec(compile(textwrap.dedent(source), "<test>", "exec", dont_inherit=True), vars(module))
    return module.A  # type: ignore[attr-defined]


# Dispatch on the annotation.


@pytest.mark.parametrize("form", ["plain", "async"])
def test_a_payload_goes_to_the_handler_annotated_with_its_type(run: Any, mesh: Any, loop_kind: str, form: str) -> None:
    prefix = "async " if form == "async" else ""
    agent = define(f"""
        class A(Agent):
            @handler
            {prefix}def one(self, message: Base): return "base", message
            @handler
            {prefix}def two(self, message: Other): return "other", message
            @handler()
            {prefix}def three(self, message: int): return "int", message
    """)
    base, other = Base(), Other()
    assert answers(run, mesh, agent, base, other, 3) == [("base", base), ("other", other), ("int", 3)]


@pytest.mark.parametrize(
    "annotation",
    [
        "Base | Other",
        "typing.Union[Base, Other]",
        "'Base | Other'",
        "'typing.Union[Base, Other]'",
        "typing.Union['Base', 'Other']",
        "typing.Union[Base, typing.Union[Other, int]]",
        "Base | Other | None",
        "typing.Annotated[Base | Other, 'note']",
        "typing.Annotated[Base, 'note'] | Other",
    ],
)
def test_a_union_is_handled_for_each_of_its_members(run: Any, mesh: Any, annotation: str) -> None:
    agent = define(f"""
        class A(Agent):
            @handler
            async def both(self, message: {annotation}): return type(message).__name__
    """)
    assert answers(run, mesh, agent, Base(), Other(), Leaf()) == ["Base", "Other", "Leaf"]
    assert answers(run, mesh, agent, "text") == [UnhandledMessage]


@pytest.mark.parametrize(
    "annotation",
    ["Base | None", "typing.Optional[Base]", "'Base | None'", "typing.Optional['Base']", "Base | type(None)"],
)
def test_an_optional_is_handled_for_none_too(run: Any, mesh: Any, annotation: str) -> None:
    agent = define(f"""
        class A(Agent):
            @handler
            def optional(self, message: {annotation}): return message is None
    """)
    assert answers(run, mesh, agent, None, Base(), 1) == [True, False, UnhandledMessage]


def test_none_alone_is_a_payload_type(run: Any, mesh: Any) -> None:
    class A(Agent):
        @handler
        def nothing(self, message: None) -> str:
            return "nothing"

    assert answers(run, mesh, A, None, 0) == ["nothing", UnhandledMessage]


def test_a_subclass_is_handled_by_the_handler_of_its_nearest_base(run: Any, mesh: Any) -> None:
    class A(Agent):
        @handler
        def any_object(self, message: object) -> str:
            return "object"

        @handler
        def middle(self, message: Middle) -> str:
            return "middle"

        @handler
        def base(self, message: Base) -> str:
            return "base"

    assert answers(run, mesh, A, Leaf(), Middle(), Base(), Other(), None, True) == [
        "middle", "middle", "base", "object", "object", "object",
    ]  # fmt: skip


def test_bool_goes_to_int_unless_it_has_a_handler_of_its_own(run: Any, mesh: Any) -> None:
    class A(Agent):
        @handler
        def number(self, message: int) -> str:
            return "int"

    class B(A):
        @handler
        def flag(self, message: bool) -> str:
            return "bool"

    assert answers(run, mesh, A, True, 1) == ["int", "int"]
    assert answers(run, mesh, B, True, 1) == ["bool", "int"]


def test_an_abstract_base_handles_what_is_registered_or_looks_like_it(run: Any, mesh: Any) -> None:
    class A(Agent):
        @handler
        def sized(self, message: Sized) -> str:
            return "sized"

        @handler
        def mapping(self, message: collections.abc.Mapping) -> str:  # type: ignore[type-arg]
            return "mapping"

        @handler
        def iterable(self, message: collections.abc.Iterable) -> str:  # type: ignore[type-arg]
            return "iterable"

    assert answers(run, mesh, A, Unrelated(), {}, [], "text", 1) == [
        "sized", "mapping", "iterable", "iterable", UnhandledMessage,
    ]  # fmt: skip


def test_a_runtime_protocol_handles_what_has_its_methods(run: Any, mesh: Any) -> None:
    @typing.runtime_checkable
    class Closeable(typing.Protocol):
        def close(self) -> None: ...

    class File:
        def close(self) -> None:
            pass

    class A(Agent):
        @handler
        def closeable(self, message: Closeable) -> str:
            return "closeable"

    assert answers(run, mesh, A, File(), 1) == ["closeable", UnhandledMessage]


def test_any_takes_everything(run: Any, mesh: Any) -> None:
    class A(Agent):
        @handler
        def everything(self, message: Any) -> str:
            return "any"

    assert answers(run, mesh, A, 1, None, Base()) == ["any"] * 3


def test_a_generic_request_is_handled_by_its_class(run: Any, mesh: Any) -> None:
    class Charge(Request[int]):
        pass

    class A(Agent):
        @handler
        async def charge(self, message: Charge) -> int:
            return 5

        @handler
        async def request(self, message: Request) -> str:  # type: ignore[type-arg]
            return "some request"

    class Refund(Request[str]):
        pass

    assert answers(run, mesh, A, Charge(), Refund()) == [5, "some request"]


# Where the names of annotations are looked for.


class BeforeItsPayload(Agent):
    @handler
    async def handle(self, message: DefinedLater) -> str:
        return "found"

    @handler
    async def either(self, message: int | DefinedLaterToo) -> str:
        return "either"


class DefinedLater:
    pass


class DefinedLaterToo:
    pass


def test_a_payload_type_may_be_defined_after_the_agent(run: Any, mesh: Any) -> None:
    assert answers(run, mesh, BeforeItsPayload, DefinedLater(), DefinedLaterToo(), 1) == [
        "found", "either", "either",
    ]  # fmt: skip


def test_a_payload_type_may_be_local_to_a_function(run: Any, mesh: Any) -> None:
    class Local:
        pass

    class A(Agent):
        @handler
        async def local(self, message: Local) -> str:
            return "local"

        @handler
        async def quoted(self, message: "int | Local2") -> str:  # noqa: UP037
            return "quoted"

    class Local2(Local):
        pass

    try:
        results = answers(run, mesh, A, Local(), 1)
    except HandlerDefinitionError as error:
        # A name bound after the class is out of sight there; then it must say what to do.
        assert "Local2" in str(error)
        assert "before the agent class" in str(error)
    else:
        assert results == ["local", "quoted"]


def test_a_payload_type_may_be_nested_in_the_agent(run: Any, mesh: Any) -> None:
    class A(Agent):
        class Nested:
            pass

        @handler
        async def nested(self, message: Nested) -> str:
            return "nested"

    assert answers(run, mesh, A, A.Nested()) == ["nested"]


def test_local_types_are_found_under_a_base_that_customizes_its_subclasses(run: Any, mesh: Any) -> None:
    class Plugin(Agent):
        def __init_subclass__(cls, **options: Any) -> None:
            super().__init_subclass__(**options)

    class Local:
        pass

    class A(Plugin):
        @handler
        async def local(self, message: Local) -> str:
            return "local"

    assert answers(run, mesh, A, Local()) == ["local"]


def test_the_other_annotations_of_a_handler_need_not_resolve(run: Any, mesh: Any) -> None:
    class A(Agent):
        @handler
        # The names are nowhere, which is what is tested.
        async def handle(self: Nowhere, message: Base) -> NotHereEither:  # type: ignore[name-defined]  # noqa: F821
            return "handled"

    assert answers(run, mesh, A, Base()) == ["handled"]


def test_string_annotations_of_a_decorated_handler_are_those_of_its_module(run: Any, mesh: Any) -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args)

        return wrapper

    agent = define(
        """
        from __future__ import annotations
        class OnlyThere: pass
        class A(Agent):
            There = OnlyThere
            @logged
            @handler
            async def inside(self, message: OnlyThere): return "inside"
            @handler
            @logged
            async def outside(self, message: int): return "outside"
        """,
        logged=logged,
    )
    assert answers(run, mesh, agent, agent.There(), 1) == ["inside", "outside"]


def test_a_name_that_is_nowhere_is_refused_at_spawn_with_the_name_and_the_fix(run: Any, mesh: Any) -> None:
    class A(Agent):
        @handler
        # The name is nowhere, which is what is tested.
        async def handle(self, message: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
            pass

    async def main() -> None:
        async with mesh() as bus:
            with pytest.raises(HandlerDefinitionError, match=r"A\b.*'Nowhere'.*module level"):
                await bus.spawn(A, name="a")
            assert bus.agents == ()

    run(main)


# Subclasses of agents.


def test_a_subclass_inherits_overrides_and_adds_handlers(run: Any, mesh: Any) -> None:
    class A(Agent):
        @handler
        def base(self, message: Base) -> str:
            return "A.base"

        @handler
        def other(self, message: Other) -> str:
            return "A.other"

    class B(A):
        @handler
        def other(self, message: Other) -> str:
            return "B.other after " + super().other(message)

        @handler
        async def text(self, message: str) -> str:
            return "B.text"

    assert answers(run, mesh, B, Base(), Other(), "") == ["A.base", "B.other after A.other", "B.text"]
    assert answers(run, mesh, A, Base(), Other(), "") == ["A.base", "A.other", UnhandledMessage]


def test_a_subclass_may_take_over_a_type_under_another_name(run: Any, mesh: Any) -> None:
    class A(Agent):
        @handler
        def first(self, message: Base) -> str:
            return "A"

    class B(A):
        @handler
        def second(self, message: Base) -> str:
            return "B"

    assert answers(run, mesh, B, Base(), Leaf()) == ["B", "B"]


def test_an_override_may_handle_another_type(run: Any, mesh: Any) -> None:
    class A(Agent):
        @handler
        def handle(self, message: Base) -> str:
            return "A"

    class B(A):
        @handler
        def handle(self, message: Other) -> str:  # type: ignore[override]
            return "B"

    assert answers(run, mesh, B, Other(), Base()) == ["B", UnhandledMessage]


def test_an_override_without_the_decorator_still_handles_what_its_base_did(run: Any, mesh: Any) -> None:
    class A(Agent):
        @handler
        def handle(self, message: Base) -> str:
            return "A"

    class B(A):
        def handle(self, message: Base) -> str:
            return "B"

    assert answers(run, mesh, B, Base()) == ["B"]


def test_the_method_resolution_order_decides_among_several_bases(run: Any, mesh: Any) -> None:
    class Left(Agent):
        @handler
        def left(self, message: Base) -> str:
            return "left"

    class Right(Agent):
        @handler
        def right(self, message: Base) -> str:
            return "right"

        @handler
        def other(self, message: Other) -> str:
            return "right"

    class A(Left, Right):
        pass

    assert answers(run, mesh, A, Base(), Other()) == ["left", "right"]


def test_handlers_of_a_mixin_that_is_no_agent_count(run: Any, mesh: Any) -> None:
    class Mixin:
        @handler
        def mixed(self, message: Base) -> str:
            return "mixed"

    class A(Mixin, Agent):
        pass

    assert answers(run, mesh, A, Base()) == ["mixed"]


# receive, and no handler.


@pytest.mark.parametrize("form", ["plain", "async"])
def test_receive_catches_what_no_handler_takes(run: Any, mesh: Any, loop_kind: str, form: str) -> None:
    prefix = "async " if form == "async" else ""
    agent = define(f"""
        class A(Agent):
            @handler
            async def base(self, message: Base): return "base"
            {prefix}def receive(self, payload): return "caught", payload
        class B(A): pass
    """)
    assert answers(run, mesh, agent, Leaf(), 5, None) == ["base", ("caught", 5), ("caught", None)]


def test_a_payload_without_a_handler_is_counted_dead_and_its_ask_told(run: Any, mesh: Any, loop_kind: str) -> None:
    class A(Agent):
        @handler
        async def base(self, message: Base) -> str:
            return "base"

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(A, name="picky")
            with pytest.raises(UnhandledMessage, match=r"'picky'.*\bint\b.*receive"):
                await ref.ask(5)
            assert ref.tell("text")
            assert await ref.ask(Base()) == "base"
            account = bus.stats().agents["picky"]
            assert (account.dead, account.handled, account.failed) == (2, 1, 0)
            assert [(letter.kind, letter.payload, letter.receiver) for letter in bus.dead_letters] == [
                (DeadLetterKind.UNHANDLED, 5, "picky"),
                (DeadLetterKind.UNHANDLED, "text", "picky"),
            ]

    run(main)


def test_an_agent_without_any_handler_leaves_everything_unhandled(run: Any, mesh: Any) -> None:
    class A(Agent):
        pass

    assert answers(run, mesh, A, 1, "x") == [UnhandledMessage] * 2


class Hostile(type):
    """A class whose instances cannot be looked up in a dict by type."""

    def __eq__(cls, other: object) -> bool:
        raise LookupError("no comparisons")

    def __hash__(cls) -> int:
        raise LookupError("no hashing")


@pytest.mark.parametrize("how", ["ask", "tell"])
def test_a_payload_that_cannot_be_dispatched_fails_alone_and_is_accounted_for(
    run: Any, mesh: Any, loop_kind: str, how: str
) -> None:
    class Both:
        pass

    Sized.register(Both)
    Coloured.register(Both)

    class Unhashable(metaclass=Hostile):
        pass

    class A(Agent):
        @handler
        async def sized(self, message: Sized) -> str:
            return "sized"

        @handler
        async def coloured(self, message: Coloured) -> str:
            return "coloured"

        @handler
        async def number(self, message: int) -> int:
            return message

    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(A, name="a")
            for payload in (Both(), object.__new__(Unhashable)):
                if how == "tell":
                    assert ref.tell(payload)
                else:
                    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is not promised
                        await ref.ask(payload, timeout=1)
                    assert not isinstance(caught.value, TimeoutError)
                assert await ref.ask(7) == 7
            account = bus.stats().agents["a"]
            assert account.pending == 0
            assert account.failed + account.dead == 2

    run(main)


def test_late_registration_with_an_abstract_base_is_noticed(run: Any, mesh: Any) -> None:
    class Late:
        pass

    class A(Agent):
        @handler
        def sized(self, message: Sized) -> str:
            return "sized"

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(A)
            with pytest.raises(UnhandledMessage):
                await ref.ask(Late())
            Sized.register(Late)
            assert await ref.ask(Late()) == "sized"

    run(main)


def test_more_payload_types_than_the_cache_holds_are_all_handled(run: Any, mesh: Any) -> None:
    class A(Agent):
        @handler
        def base(self, message: Base) -> str:
            return type(message).__name__

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(A)
            for number in range(5_000):
                made = type(f"Made{number}", (Base,), {})()
                if number % 500 == 0:
                    assert await ref.ask(made) == f"Made{number}"
                else:
                    await ref.send(made)
            assert await ref.ask(Base()) == "Base"
            assert bus.stats().failed == bus.stats().dead == 0

    run(main)


# Function agents.


class CallableAsync:
    async def __call__(self, payload: int) -> int:
        await asyncio.sleep(0)
        return payload + 1


class CallablePlain:
    def __call__(self, payload: int) -> int:
        return payload + 1

    def method(self, payload: int) -> int:
        return payload + 1

    async def method_async(self, payload: int) -> int:
        await asyncio.sleep(0)
        return payload + 1

    @staticmethod
    def static(payload: int) -> int:
        return payload + 1


async def coroutine_function(payload: int) -> int:
    await asyncio.sleep(0)
    return payload + 1


async def with_default(payload: int, extra: int = 1, *, more: int = 0) -> int:
    return payload + extra + more


@types.coroutine
def generator_coroutine(payload: int) -> Generator[Any, Any, int]:
    yield from asyncio.sleep(0).__await__()
    return payload + 1


@pytest.mark.parametrize(
    "function",
    [
        lambda payload: payload + 1,
        lambda *payloads: payloads[0] + 1,
        coroutine_function,
        with_default,
        generator_coroutine,
        CallableAsync(),
        CallablePlain(),
        CallablePlain().method,
        CallablePlain().method_async,
        CallablePlain.static,
        functools.partial(with_default, extra=1),
        functools.partial(functools.partial(lambda a, b: a + b, 1)),
        (1).__add__,
        functools.partial(max, 8),
    ],
    ids=lambda function: getattr(function, "__name__", type(function).__name__),
)
def test_anything_callable_with_one_argument_is_an_agent(run: Any, mesh: Any, loop_kind: str, function: Any) -> None:
    assert answers(run, mesh, function, 7) == [8]


@pytest.mark.parametrize(
    ("function", "payload", "answer"),
    [(len, "four", 4), (print, "", None), (repr, 1, "1"), (abs, -2, 2), (str.upper, "x", "X")],
    ids=["len", "print", "repr", "abs", "str.upper"],
)
def test_a_builtin_is_an_agent(run: Any, mesh: Any, function: Any, payload: object, answer: object) -> None:
    assert answers(run, mesh, function, payload) == [answer]


@pytest.mark.parametrize(
    "function",
    [lambda: None, lambda a, b: None, lambda *, key: None, functools.partial(len, "x"), lambda a, *, k: None],
)
def test_a_function_that_does_not_take_one_payload_is_refused(run: Any, mesh: Any, function: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            with pytest.raises(InvalidType, match="one argument, the payload"):
                await bus.spawn(function)
            assert bus.agents == ()

    run(main)


# Awaitables returned from plain handlers.


class Awaited:
    """An awaitable of the user's own making."""

    def __init__(self, waits: int) -> None:
        self.waits = waits

    def __await__(self) -> Generator[Any, Any, str]:
        for _ in range(self.waits):
            yield
        return f"waited {self.waits}"


@pytest.mark.parametrize("as_method", [True, False], ids=["handler", "function"])
def test_what_a_plain_handler_returns_is_awaited_if_it_can_be(
    run: Any, mesh: Any, loop_kind: str, as_method: bool
) -> None:
    async def value(result: str, wait: bool) -> str:
        if wait:
            await asyncio.sleep(0)
        return result

    def future_of(result: str, delay: float | None) -> asyncio.Future[str]:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        if delay is None:
            future.set_result(result)
        else:
            loop.call_later(delay, future.set_result, result)
        return future

    makers: dict[str, Callable[[], Awaitable[object]]] = {
        "coroutine": lambda: value("coroutine", wait=False),
        "waiting coroutine": lambda: value("waiting coroutine", wait=True),
        "task": lambda: asyncio.ensure_future(value("task", wait=True)),
        "done future": lambda: future_of("done future", None),
        "future": lambda: future_of("future", 0.001),
        "waited 0": lambda: Awaited(0),
        "waited 3": lambda: Awaited(3),
    }

    def function(payload: str) -> Awaitable[object]:
        return makers[payload]()

    class Deferring(Agent):
        @handler
        def handle(self, message: str) -> Awaitable[object]:
            return function(message)

    factory = Deferring if as_method else function
    assert answers(run, mesh, factory, *makers) == list(makers)


def test_a_plain_handler_can_pass_an_ask_on(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            echo = await bus.spawn(lambda payload: payload)
            front = await bus.spawn(lambda payload: echo.ask(payload))
            sender = await bus.spawn(lambda payload: echo.send(payload))
            assert await front.ask("passed on") == "passed on"
            assert await sender.ask("sent on") is None

    run(main)


def test_a_failing_awaitable_fails_the_message(run: Any, mesh: Any, loop_kind: str) -> None:
    async def fail(wait: bool) -> None:
        if wait:
            await asyncio.sleep(0)
        raise LookupError

    assert answers(run, mesh, lambda wait: fail(wait), False, True) == [LookupError] * 2


def test_what_only_looks_awaitable_is_a_plain_answer(run: Any, mesh: Any) -> None:
    class Lookalike:
        def __init__(self) -> None:
            self.__await__ = lambda: iter(())

    answer = Lookalike()
    generator = (number for number in range(3))
    assert answers(run, mesh, lambda payload: payload, answer, generator, 0, "", []) == [
        answer, generator, 0, "", [],
    ]  # fmt: skip


# Refused when the class is defined.

REFUSED = {
    "no payload": ("def handle(self): ...", r"A\.handle.*one payload"),
    "two payloads": ("def handle(self, a: int, b: int): ...", r"A\.handle.*one payload.*a, b"),
    "keyword payload": ("def handle(self, *, message: int): ...", r"A\.handle.*one payload"),
    "required keyword": ("def handle(self, message: int, *, more): ...", r"A\.handle.*one payload"),
    "only varargs": ("def handle(self, *messages: int): ...", r"A\.handle.*one payload"),
    "not annotated": ("def handle(self, message): ...", r"A\.handle\(message\).*no annotation"),
    "list[int]": ("def handle(self, message: list[int]): ...", r"list\[int\].*annotate it with list"),
    "dict in a union": (
        "def handle(self, message: int | dict[str, int]): ...",
        r"dict\[str, int\].*annotate it with dict",
    ),
    "string generic": ("def handle(self, message: 'list[int]'): ...", r"list\[int\].*annotate it with list"),
    "typing.List": ("def handle(self, message: typing.List[int]): ...", "annotate it with list"),
    "literal": ("def handle(self, message: typing.Literal['x']): ...", "Literal.*cannot be dispatched"),
    "type variable": ("def handle(self, message: typing.TypeVar('T')): ...", "T.*cannot be dispatched"),
    "new type": ("def handle(self, message: typing.NewType('Id', int)): ...", "cannot be dispatched"),
    "a value": ("def handle(self, message: 5): ...", r"A\.handle"),
    "plain protocol": ("def handle(self, message: Proto): ...", r"A\.handle.*Proto"),
    "data protocol": ("def handle(self, message: DataProto): ...", r"A\.handle.*DataProto"),
    "typed dict": ("def handle(self, message: Typed): ...", r"A\.handle.*Typed"),
    "generator": ("def handle(self, message: int): yield message", r"A\.handle.*(yield|generator)"),
    "async generator": ("async def handle(self, message: int): yield 1", r"A\.handle.*(yield|generator)"),
}


class Proto(typing.Protocol):
    def close(self) -> None: ...


@typing.runtime_checkable
class DataProto(typing.Protocol):
    name: str


class Typed(typing.TypedDict):
    name: str


@pytest.mark.parametrize("case", REFUSED)
def test_a_handler_that_cannot_be_dispatched_to_is_refused_at_class_definition(case: str) -> None:
    source, text = REFUSED[case]
    with pytest.raises(HandlerDefinitionError, match=text) as caught:
        define(
            f"""
            class A(Agent):
                @handler
                {source}
            """,
            Proto=Proto,
            DataProto=DataProto,
            Typed=Typed,
        )
    assert isinstance(caught.value, PmeshError)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    "second",
    [
        "def two(self, m: Base): ...",
        "async def two(self, m: Other | Base): ...",
        "def two(self, m: 'Base'): ...",
    ],
)
def test_two_handlers_for_one_type_in_a_class_are_refused(second: str) -> None:
    with pytest.raises(HandlerDefinitionError, match=r"A\.two and A\.one both handle Base"):
        define(f"""
            class A(Agent):
                @handler
                def one(self, m: Base): ...
                @handler
                {second}
        """)


@pytest.mark.parametrize("receive", ["def receive(self): ...", "def receive(self, a, b): ..."])
def test_a_receive_that_does_not_take_one_payload_is_refused(receive: str) -> None:
    with pytest.raises(HandlerDefinitionError, match=r"A\.receive must take self and one payload"):
        define(f"""
            class A(Agent):
                {receive}
        """)


@pytest.mark.parametrize("lane", ["urgent", "", None, 0, "Control"])
def test_an_unknown_lane_is_refused_where_the_handler_is_defined(lane: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"lane is .*'normal' or 'control'"):
        handler(lane=lane)


@pytest.mark.parametrize("marked", [print, 5, Base, functools.partial(print), staticmethod(print)])
def test_only_a_method_can_be_marked(marked: Any) -> None:
    with pytest.raises(HandlerDefinitionError, match="must mark a method"):
        handler(marked)


@pytest.mark.parametrize(
    "wrapper",
    [
        "staticmethod",
        "classmethod",
        "property",
        "functools.cached_property",
        "functools.partialmethod",
        "functools.singledispatchmethod",
        "functools.lru_cache",
    ],
)
def test_a_marked_method_that_is_hidden_from_dispatch_is_refused(wrapper: str) -> None:
    with pytest.raises(HandlerDefinitionError, match=rf"A\.handle is a .*{wrapper.removeprefix('functools.')}"):
        define(f"""
            import functools

            class A(Agent):
                @{wrapper}
                @handler
                def handle(self, message: int): ...
        """)


def test_an_attribute_that_has_every_attribute_is_no_handler(run: Any, mesh: Any) -> None:
    class Everything:
        def __getattr__(self, name: str) -> Everything:
            return self

    class A(Agent):
        client = Everything()

        @handler
        def handle(self, message: int) -> int:
            return message

    assert answers(run, mesh, A, 1) == [1]


@pytest.mark.parametrize("method", ["receive", "on_start", "on_stop", "pre_restart", "post_restart"])
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_hook_or_receive_that_is_a_generator_is_refused_since_none_of_its_body_would_run(
    kind: str, method: str
) -> None:
    with pytest.raises(HandlerDefinitionError, match=rf"A\.{method} is a generator, since it has a yield"):
        define(f"""
            class A(Agent):
                {kind} {method}(self, given=None):
                    yield 1
        """)


def plain_generator(payload: int) -> Generator[int, None, None]:
    yield payload


async def async_generator(payload: int) -> AsyncGenerator[int, None]:
    yield payload


class CallMakesAGenerator:
    def __call__(self, payload: int) -> Generator[int, None, None]:
        yield payload


@pytest.mark.parametrize(
    "function",
    [plain_generator, async_generator, functools.partial(plain_generator), CallMakesAGenerator(), lambda p: (yield p)],
)
def test_a_function_agent_that_is_a_generator_is_refused(run: Any, mesh: Any, function: Any) -> None:
    async def main() -> None:
        async with mesh() as coordinator:
            with pytest.raises(InvalidType, match="is a generator, since it has a yield; it must return its answer"):
                await coordinator.spawn(function)

    run(main)


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [("int |", "SyntaxError"), ("", ""), ("1 / 0", "ZeroDivisionError"), ("enum.Nope", "AttributeError")],
)
def test_a_string_annotation_that_cannot_be_evaluated_is_refused_by_name(annotation: str, kind: str) -> None:
    with pytest.raises(HandlerDefinitionError, match=rf"A\.handle\(message: '{re.escape(annotation)}'\) .*{kind}"):
        define(f"""
            import enum

            class A(Agent):
                @handler
                def handle(self, message: {annotation!r}): ...
        """)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("mailbox", 5), ("mailbox", None), ("concurrency", 0), ("concurrency", "4"), ("concurrency", True)],
)
def test_a_class_attribute_of_the_wrong_kind_is_refused(attribute: str, value: object) -> None:
    with pytest.raises(PmeshError, match=rf"A\.{attribute} is {value!r}") as caught:
        type("A", (Agent,), {attribute: value})
    assert isinstance(caught.value, TypeError | ValueError)


def test_optional_parameters_of_a_handler_keep_their_defaults(run: Any, mesh: Any) -> None:
    class A(Agent):
        @handler
        async def handle(self, message: int, extra: int = 1, *rest: int, more: int = 2) -> int:
            return message + extra + more

        @handler
        def other(self, message: str, /) -> str:
            return message

    assert answers(run, mesh, A, 1, "x") == [4, "x"]


def test_a_handler_can_be_called_as_an_ordinary_method(run: Any, mesh: Any) -> None:
    class A(Agent):
        @handler
        async def double(self, message: int) -> int:
            return message * 2

        @handler
        async def text(self, message: str) -> int:
            return await self.double(int(message))

    assert answers(run, mesh, A, "4") == [8]
    assert asyncio.run(A().double(2)) == 4
