"""A handler that fails: its message counts failed, its asker hears of it, the agent goes on."""

from __future__ import annotations

import asyncio
import logging
import types
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from conftest import make_loop

from pmesh import Agent, Coordinator, HandlerCancelled, PmeshError, SupervisionPolicy, handler


class Boom(Exception):
    pass


@pytest.fixture(params=["plain", "before", "after"])
def moment(request: pytest.FixtureRequest) -> str:
    """Where the handler raises: in a plain function, before its first suspension, or after it."""
    return str(request.param)


def raiser(moment: str, made: Callable[[], BaseException]) -> Callable[[object], Any]:
    """A function agent that raises on the payload "fail", and answers any other with itself."""

    def plain(payload: object) -> object:
        if payload == "fail":
            raise made()
        return payload

    async def coroutine(payload: object) -> object:
        if moment == "after":
            await asyncio.sleep(0)
        return plain(payload)

    return plain if moment == "plain" else coroutine


def failures(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [r for r in caplog.records if r.name == "pmesh" and r.levelno >= logging.ERROR]


def recurse() -> BaseException:
    return recurse()


@pytest.mark.parametrize(
    "made",
    [
        Boom,
        lambda: ExceptionGroup("several", [Boom(1), ValueError(2)]),
        lambda: BaseExceptionGroup("base", [Boom(1), asyncio.CancelledError()]),
        MemoryError,
        recurse,
        lambda: TimeoutError("mine"),
        lambda: asyncio.InvalidStateError("mine"),
    ],
    ids=["exception", "group", "base_group", "memory", "recursion", "timeout", "invalid_state"],
)
def test_an_exception_is_counted_logged_once_and_given_to_the_asker(
    run: Any, mesh: Any, loop_kind: str, moment: str, caplog: pytest.LogCaptureFixture,
    made: Callable[[], BaseException],
) -> None:  # fmt: skip
    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(raiser(moment, made), name="fragile")
            try:
                await ref.ask("fail")
            except BaseException as error:
                expected = RecursionError if made is recurse else type(made())
                assert type(error) is expected
            else:
                pytest.fail("the asker got an answer")
            account = bus.stats().agents["fragile"]
            assert (account.failed, account.handled, account.pending) == (1, 0, 0)
            assert await ref.ask("next") == "next"
            assert bus.stats().agents["fragile"].handled == 1
            assert ref.is_alive

    run(main)
    (record,) = failures(caplog)
    assert "fragile" in record.getMessage()
    assert "str" in record.getMessage()
    assert record.exc_info


def test_a_failing_told_message_is_counted_and_logged_like_an_asked_one(
    run: Any, mesh: Any, loop_kind: str, moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(raiser(moment, Boom))
            assert ref.tell_many(["fail", "ok", "fail", "ok"]) == 4
            assert await ref.ask("last") == "last"
            stats = bus.stats()
            assert (stats.failed, stats.handled, stats.pending) == (2, 3, 0)

    run(main)
    assert len(failures(caplog)) == 2


def test_the_traceback_of_a_failure_leads_into_the_handler(
    run: Any, mesh: Any, loop_kind: str, moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(raiser(moment, Boom))
            with pytest.raises(Boom):
                await ref.ask("fail")

    run(main)
    assert "raise made()" in caplog.text


def test_a_message_is_counted_before_its_asker_hears_of_it(run: Any, mesh: Any, loop_kind: str, moment: str) -> None:
    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            goes_on = SupervisionPolicy(directives="resume")
            ref = await bus.spawn(raiser(moment, Boom), name="a", supervision=goes_on)
            for number in range(1, 20):
                await ref.ask("ok")
                assert bus.stats().agents["a"].handled == number
                with pytest.raises(Boom):
                    await ref.ask("fail")
                assert bus.stats().agents["a"].failed == number
                assert bus.stats().pending == 0

    run(main)


def test_the_cancelled_error_of_a_handler_is_a_failure_of_its_message_alone(
    run: Any, mesh: Any, loop_kind: str, moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(raiser(moment, asyncio.CancelledError), name="a")
            with pytest.raises(HandlerCancelled, match="'a'") as caught:
                await ref.ask("fail")
            assert isinstance(caught.value.__cause__, asyncio.CancelledError)
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            assert await ref.ask("next") == "next"
            assert bus.stats().agents["a"].failed == 1
            assert ref.is_alive

    run(main)
    assert len(failures(caplog)) == 1


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
def test_a_stop_iteration_reaches_the_asker_as_a_runtime_error(
    run: Any, mesh: Any, loop_kind: str, moment: str, kind: type[Exception]
) -> None:
    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(raiser(moment, lambda: kind("value")))
            with pytest.raises(RuntimeError, match=r"Stop(Async)?Iteration") as caught:
                await ref.ask("fail")
            assert isinstance(caught.value.__cause__, kind)
            assert bus.stats().failed == 1
            assert await ref.ask("next") == "next"

    run(main)


def test_generator_exit_is_a_failure_and_not_the_end_of_the_asker(
    run: Any, mesh: Any, loop_kind: str, moment: str
) -> None:
    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(raiser(moment, GeneratorExit))
            with pytest.raises(PmeshError, match="GeneratorExit"):
                await ref.ask("fail")
            assert bus.stats().failed == 1
            assert await ref.ask("next") == "next"

    run(main)


# SystemExit and KeyboardInterrupt: out of the loop, with nothing lost.


class OwnLoop:
    """A loop that is run again after something came out of it."""

    def __init__(self, kind: str) -> None:
        self.loop = make_loop(kind)
        self.reported: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda loop, context: self.reported.append(context))

    def coordinator(self, **options: Any) -> Coordinator:
        return Coordinator("exits", clock=getattr(self.loop, "clock", None), **options)

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)


@pytest.fixture
def own_loop(loop_kind: str) -> Iterator[OwnLoop]:
    own = OwnLoop(loop_kind)
    try:
        yield own
    finally:
        own.loop.close()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_leaves_the_loop_with_its_message_failed_and_the_rest_handled_later(
    own_loop: OwnLoop, moment: str, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    handled: list[object] = []
    answers: list[object] = []
    leave = raiser(moment, lambda: kind("leaving"))

    class Leaver(Agent):
        if moment == "plain":

            def receive(self, payload: object) -> object:  # type: ignore[override]
                result = leave(payload)
                handled.append(payload)
                return result

        else:

            async def receive(self, payload: object) -> object:
                result = await leave(payload)
                handled.append(payload)
                return result

    async def ask(ref: Any) -> None:
        try:
            answers.append(await ref.ask("fail"))
        except HandlerCancelled as error:
            answers.append(type(error.__cause__))

    async def main() -> None:
        async with own_loop.coordinator(drain_timeout=1) as bus:
            ref = await bus.spawn(Leaver, name="leaver")
            other = await bus.spawn(lambda payload: payload)
            ref.tell_many(["a", "b"])
            asking = asyncio.create_task(ask(ref))
            await asyncio.sleep(0)
            ref.tell_many(["c", "d"])
            # No further message, so that nothing but the rescheduled drain can serve "c" and "d".
            async with asyncio.timeout(5):
                while bus.stats().pending:
                    await asyncio.sleep(0.001)
            await asking
            assert await other.ask("other") == "other"
            stats = bus.stats().agents["leaver"]
            assert (stats.handled, stats.failed, stats.pending) == (4, 1, 0)
            assert await ref.ask("e") == "e"

    task = own_loop.loop.create_task(main())
    with pytest.raises(kind, match="leaving"):
        own_loop.run(task)
    assert not task.done()
    own_loop.run(task)
    assert handled == ["a", "b", "c", "d", "e"]
    assert answers == [kind]
    assert len(failures(caplog)) == 1


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_an_exit_does_not_wedge_the_loop(own_loop: OwnLoop, moment: str, kind: type[BaseException]) -> None:
    async def main() -> None:
        async with own_loop.coordinator(drain_timeout=1) as bus:
            ref = await bus.spawn(raiser(moment, kind))
            for _ in range(3):
                ref.tell("fail")
                await asyncio.sleep(0.002)
            assert asyncio.current_task() is task
            assert await ref.ask("ok") == "ok"

    task = own_loop.loop.create_task(main())
    for _ in range(3):
        with pytest.raises(kind):
            own_loop.run(task)
        assert asyncio.tasks.current_task(own_loop.loop) is None
    own_loop.run(task)


def test_an_exit_in_one_slot_leaves_the_handlers_of_the_others_alone(own_loop: OwnLoop, moment: str) -> None:
    done: list[int] = []
    leave = raiser(moment, SystemExit)

    async def agent(payload: object) -> None:
        if payload == "fail":
            result = leave(payload)
            if result is not None:
                await result
        else:
            await asyncio.sleep(0.003)
            done.append(1)

    async def main() -> None:
        async with own_loop.coordinator(drain_timeout=1) as bus:
            ref = await bus.spawn(agent, concurrency=3)
            ref.tell_many(["wait", "fail", "wait", "wait", "wait"])
            async with asyncio.timeout(5):
                while bus.stats().pending:
                    await asyncio.sleep(0.001)
            assert (bus.stats().handled, bus.stats().failed) == (4, 1)

    task = own_loop.loop.create_task(main())
    with pytest.raises(SystemExit):
        own_loop.run(task)
    own_loop.run(task)
    assert len(done) == 4


# Handlers that wait for what cannot be waited for.


@types.coroutine
def yield_once(value: object) -> Generator[object, Any, None]:
    yield value


@pytest.mark.parametrize("garbage", [42, "text", object()], ids=["int", "str", "object"])
@pytest.mark.parametrize("suspended", [False, True], ids=["before", "after"])
def test_a_handler_that_yields_garbage_fails_as_a_task_would(
    run: Any, mesh: Any, loop_kind: str, garbage: object, suspended: bool
) -> None:
    async def agent(payload: object) -> object:
        if suspended:
            await asyncio.sleep(0)
        if payload == "fail":
            await yield_once(garbage)
        return payload

    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(agent)
            with pytest.raises(RuntimeError, match="bad yield"):
                await ref.ask("fail")
            assert await ref.ask("next") == "next"

    run(main)


@pytest.mark.parametrize("suspended", [False, True], ids=["before", "after"])
def test_a_handler_that_waits_for_itself_fails_as_a_task_would(
    run: Any, mesh: Any, loop_kind: str, suspended: bool
) -> None:
    async def agent(payload: object) -> object:
        if suspended:
            await asyncio.sleep(0)
        if payload == "fail":
            task = asyncio.current_task()
            assert task is not None
            await task
        return payload

    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(agent)
            with pytest.raises(RuntimeError, match="await on itself"):
                await ref.ask("fail")
            assert await ref.ask("next") == "next"

    run(main)


@pytest.mark.parametrize("suspended", [False, True], ids=["before", "after"])
def test_a_handler_that_waits_for_another_loops_future_fails_as_a_task_would(
    run: Any, mesh: Any, loop_kind: str, suspended: bool
) -> None:
    stranger = asyncio.SelectorEventLoop()

    async def agent(payload: object) -> object:
        if suspended:
            await asyncio.sleep(0)
        if payload == "fail":
            await stranger.create_future()
        return payload

    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(agent)
            with pytest.raises(RuntimeError, match="attached to a different loop"):
                await ref.ask("fail")
            assert await ref.ask("next") == "next"

    try:
        run(main)
    finally:
        stranger.close()


class NoThrow:
    """An awaitable whose iterator has no `throw`, as any iterator may lack it."""

    def __await__(self) -> Iterator[None]:
        return iter([None] * 1_000)


def test_a_cancelled_awaitable_without_throw_counts_as_cancelled(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(lambda payload: NoThrow() if payload == "wait" else payload)
            asking = asyncio.create_task(ref.ask("wait"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await bus.kill(ref)
            with pytest.raises(HandlerCancelled):
                await asking

    run(main)


@pytest.mark.parametrize("made", [5, None, []], ids=repr)
def test_an_awaitable_that_is_none_fails_its_message(run: Any, mesh: Any, loop_kind: str, made: object) -> None:
    class Broken:
        def __await__(self) -> Any:
            return made

    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(lambda payload: Broken() if payload == "fail" else payload)
            with pytest.raises((TypeError, AttributeError)):
                await ref.ask("fail")
            assert await ref.ask("next") == "next"
            assert asyncio.current_task() is not None

    run(main)


# Failures while a failure is reported.


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise Boom("in __str__")

    __repr__ = __str__


class NamelessType(type):
    def __getattribute__(cls, name: str) -> object:
        if name in ("__name__", "__qualname__"):
            raise Boom(f"in {name}")
        return super().__getattribute__(name)

    def __repr__(cls) -> str:
        raise Boom("in __repr__")


class Nameless(metaclass=NamelessType):
    def __repr__(self) -> str:
        raise Boom("in __repr__")


def test_an_error_that_cannot_be_printed_is_still_a_failure_like_any_other(
    run: Any, mesh: Any, loop_kind: str, moment: str
) -> None:
    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(raiser(moment, UnprintableError))
            with pytest.raises(UnprintableError):
                await ref.ask("fail")
            assert await ref.ask("next") == "next"
            assert (bus.stats().failed, bus.stats().pending) == (1, 0)

    run(main)


def test_a_payload_that_cannot_be_named_fails_alone(run: Any, mesh: Any, loop_kind: str, moment: str) -> None:
    fail = raiser(moment, Boom)

    def agent(payload: object) -> Any:
        return fail("fail" if isinstance(payload, Nameless) else payload)

    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(agent)
            with pytest.raises(Boom):
                await ref.ask(Nameless(), timeout=1)
            ref.tell(Nameless())
            assert await ref.ask("next") == "next"
            assert (bus.stats().failed, bus.stats().pending) == (2, 0)

    run(main)


def test_a_payload_that_cannot_be_named_can_be_unhandled(run: Any, mesh: Any, loop_kind: str) -> None:
    class Picky(Agent):
        @handler
        async def number(self, message: int) -> int:
            return message

    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(Picky)
            with pytest.raises(PmeshError) as caught:
                await ref.ask(Nameless(), timeout=1)
            assert not isinstance(caught.value, TimeoutError)
            ref.tell(Nameless())
            assert await ref.ask(5) == 5
            assert (bus.stats().dead, bus.stats().pending) == (2, 0)

    run(main)


class Sabotage(logging.Filter):
    """A filter of the user's that fails."""

    def filter(self, record: logging.LogRecord) -> bool:
        raise Boom("in a logging filter")


def test_logging_that_fails_neither_loses_a_message_nor_stops_the_agent(
    run: Any, mesh: Any, loop_kind: str, moment: str
) -> None:
    logger = logging.getLogger("pmesh")
    sabotage = Sabotage()

    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(raiser(moment, Boom))
            logger.addFilter(sabotage)
            try:
                ref.tell_many(["fail", "ok", "fail"])
                with pytest.raises(Boom):
                    await ref.ask("fail", timeout=1)
                assert await ref.ask("next", timeout=1) == "next"
                assert (bus.stats().failed, bus.stats().pending) == (3, 0)
                # The last thing an agent handles before a drain may fail too.
                ref.tell("fail")
                assert await bus.drain(ref, timeout=1)
            finally:
                logger.removeFilter(sabotage)
        run.loop_errors.clear()

    run(main)


def test_a_hook_that_fails_says_so_and_the_agent_still_stops(
    run: Any, mesh: Any, loop_kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(Agent):
        async def on_stop(self, reason: object) -> None:
            await asyncio.sleep(0)
            raise Boom("in on_stop")

        @handler
        async def handle(self, message: int) -> int:
            return message

    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(Bad, name="bad")
            assert await ref.ask(1) == 1
            await bus.stop(ref)
            assert not ref.is_alive

    run(main)
    (record,) = failures(caplog)
    assert "bad" in record.getMessage()


@pytest.mark.parametrize("suspends", [False, True])
def test_an_on_start_that_fails_makes_spawn_raise_and_frees_the_name(
    run: Any, mesh: Any, loop_kind: str, suspends: bool
) -> None:
    class Bad(Agent):
        async def on_start(self) -> None:
            if suspends:
                await asyncio.sleep(0)
            raise Boom("in on_start")

    async def main() -> None:
        async with mesh(drain_timeout=1) as bus:
            mine = asyncio.current_task()
            for _ in range(2):
                with pytest.raises(Boom, match="in on_start"):
                    await bus.spawn(Bad, name="bad")
                assert asyncio.current_task() is mine
            good = await bus.spawn(lambda payload: payload, name="bad")
            assert await good.ask(1) == 1

    run(main)
