"""Inside a handler asyncio behaves as in any task: tasks, timeouts, groups, threads, context variables.

Every promise is tried before and after the handler's first suspension, in the first message of a slot
and in a later one, with one slot and with several. After each, the same slot handles one more message,
which must find nothing left over.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from pmesh import Agent, handler

Body = Callable[[], Coroutine[Any, Any, Any]]
VAR: contextvars.ContextVar[object] = contextvars.ContextVar("VAR", default="unset")
TESTS = Path(__file__).parent


def eager_tasks(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    """`asyncio.eager_task_factory`, also for a uvloop that gives it options it does not know."""
    return asyncio.Task(coro, loop=loop, **{**options, "eager_start": True})


async def nothing_is_left_over() -> str:
    """What the message after another one must find: an uncancelled task that can wait and group."""
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await asyncio.sleep(0)
    assert task.cancelling() == 0
    return "clean"


class Handled:
    """`handled(body)`: what `body` returns or raises as part of a handler."""

    def __init__(self, run: Any, mesh: Any, moment: str, warm: bool, concurrency: int) -> None:
        self.run = run
        self.mesh = mesh
        self.after = moment == "after"
        self.warm = warm
        self.concurrency = concurrency

    def __call__(self, *bodies: Body) -> Any:
        return self.run(self._main, bodies)

    async def _main(self, bodies: tuple[Body, ...]) -> Any:
        async def agent(body: Body) -> object:
            if self.after:
                await asyncio.sleep(0)
            return await body()

        results = []
        async with self.mesh() as bus:
            ref = await bus.spawn(agent, name="agent", concurrency=self.concurrency)
            if self.warm:
                assert await ref.ask(nothing_is_left_over) == "clean"
            try:
                for body in bodies:
                    results.append(await ref.ask(body))
            finally:
                assert await ref.ask(nothing_is_left_over) == "clean"
                assert ref.is_alive
        return results[0] if len(results) == 1 else results


@pytest.fixture(params=["before", "after"])
def moment(request: pytest.FixtureRequest) -> str:
    """Whether the handler has suspended when the promise is tried."""
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["first", "later"])
def warm(request: pytest.FixtureRequest) -> bool:
    """Whether the slot has handled something before."""
    return bool(request.param)


@pytest.fixture(params=[1, 3], ids=["one_slot", "three_slots"])
def concurrency(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def handled(run: Any, mesh: Any, loop_kind: str, moment: str, warm: bool, concurrency: int) -> Handled:
    return Handled(run, mesh, moment, warm, concurrency)


# The current task.


def test_current_task_is_the_same_task_all_through_a_handler(handled: Handled) -> None:
    async def body() -> None:
        first = asyncio.current_task()
        assert isinstance(first, asyncio.Task)
        assert first in asyncio.all_tasks()
        assert first.get_name() == "agent"
        assert not first.done()
        await asyncio.sleep(0)
        assert asyncio.current_task() is first
        await asyncio.sleep(0.001)
        assert asyncio.current_task() is first
        assert await asyncio.create_task(other(first)) is first

    async def other(outer: object) -> object:
        assert asyncio.current_task() is not outer
        return outer

    handled(body)


def test_the_task_of_a_handler_can_be_shown_by_tools(handled: Handled) -> None:
    async def body() -> None:
        task = asyncio.current_task()
        assert task is not None
        assert "agent" in repr(task)
        assert isinstance(task.get_stack(), list)
        assert task.get_coro() is not None

    handled(body)


def test_current_task_is_none_in_a_plain_handler_and_set_in_what_it_returns(
    run: Any, mesh: Any, loop_kind: str
) -> None:
    seen: list[tuple[str, object]] = []

    class Mixed(Agent):
        @handler
        def plain(self, message: int) -> None:
            seen.append(("plain", asyncio.current_task()))

        @handler
        async def waiting(self, message: str) -> None:
            seen.append(("async", asyncio.current_task()))

        @handler
        def deferred(self, message: bytes) -> Coroutine[Any, Any, None]:
            seen.append(("plain", asyncio.current_task()))
            return self.waiting("")

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Mixed)
            # One batch: the dispatcher enters and leaves the task between them.
            ref.tell_many([1, "a", 2, b"", 3, "b"])
            await ref.ask(4)

    run(main)
    assert [kind for kind, _ in seen] == [
        "plain", "async", "plain", "plain", "async", "plain", "async", "plain",
    ]  # fmt: skip
    assert all((task is None) == (kind == "plain") for kind, task in seen)
    assert len({task for kind, task in seen if kind == "async"}) == 1


def test_a_plain_handler_called_between_suspended_ones_has_no_current_task(run: Any, mesh: Any, loop_kind: str) -> None:
    class Mixed(Agent):
        concurrency = 3

        @handler
        async def wait(self, message: float) -> object:
            await asyncio.sleep(message)
            return asyncio.current_task()

        @handler
        def plain(self, message: str) -> object:
            return asyncio.current_task()

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Mixed)
            first, second, none = await asyncio.gather(ref.ask(0.002), ref.ask(0.001), ref.ask("now"))
            assert none is None
            assert isinstance(first, asyncio.Task)
            assert isinstance(second, asyncio.Task)
            assert first is not second

    run(main)


def test_an_agent_of_plain_handlers_needs_no_task(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            before = asyncio.all_tasks()
            echo = await bus.spawn(lambda payload: payload)
            assert await echo.ask(1) == 1
            assert asyncio.all_tasks() == before

    run(main)


def test_the_caller_of_spawn_keeps_its_own_current_task_in_and_after_on_start(
    run: Any, mesh: Any, loop_kind: str
) -> None:
    seen: list[object] = []

    class Starter(Agent):
        async def on_start(self) -> None:
            seen.append(asyncio.current_task())
            await asyncio.sleep(0)
            seen.append(asyncio.current_task())

        @handler
        async def handle(self, message: int) -> None:
            seen.append(asyncio.current_task())

    async def main() -> None:
        async with mesh() as bus:
            mine = asyncio.current_task()
            ref = await bus.spawn(Starter)
            assert asyncio.current_task() is mine
            await ref.ask(1)
            assert asyncio.current_task() is mine
            assert mine not in seen
            assert len(set(seen)) == 1

    run(main)


# Timeouts.


def test_a_timeout_that_fires_raises_timeout_error_at_the_block(handled: Handled) -> None:
    async def body() -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.002) as timeout:
                await asyncio.Event().wait()
        assert timeout.expired()
        await asyncio.sleep(0)
        return "went on"

    assert handled(body) == "went on"


def test_a_timeout_that_does_not_fire_leaves_nothing(handled: Handled) -> None:
    async def body() -> str:
        async with asyncio.timeout(60) as timeout:
            await asyncio.sleep(0)
        assert not timeout.expired()
        return "in time"

    assert handled(body, body) == ["in time", "in time"]


@pytest.mark.parametrize("delay", [0, -1])
def test_a_timeout_of_nothing_fires_at_the_next_wait(handled: Handled, delay: float) -> None:
    async def body() -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(delay):
                await asyncio.sleep(60)
        return "fired"

    assert handled(body, body) == ["fired", "fired"]


def test_a_timeout_of_nothing_around_code_that_never_waits_leaves_nothing(handled: Handled) -> None:
    async def body() -> str:
        async with asyncio.timeout(0):
            pass
        return "unharmed"

    assert handled(body, body) == ["unharmed", "unharmed"]


@pytest.mark.parametrize("inner_first", [True, False])
def test_of_nested_timeouts_the_shorter_one_fires(handled: Handled, inner_first: bool) -> None:
    short, long = 0.002, 60.0

    async def body() -> list[bool]:
        fired = []
        try:
            async with asyncio.timeout(long if inner_first else short) as outer:
                try:
                    async with asyncio.timeout(short if inner_first else long) as inner:
                        await asyncio.Event().wait()
                except TimeoutError:
                    fired.append("inner")
                await asyncio.sleep(0)
        except TimeoutError:
            fired.append("outer")
        assert fired == (["inner"] if inner_first else ["outer"])
        return [inner.expired(), outer.expired()]

    assert handled(body) == [inner_first, not inner_first]


def test_a_timeout_that_the_handler_lets_through_fails_its_message_alone(handled: Handled) -> None:
    async def body() -> None:
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        handled(body)


def test_the_timeout_of_one_handler_does_not_cancel_another(run: Any, mesh: Any, loop_kind: str) -> None:
    async def agent(delay: float) -> str:
        try:
            async with asyncio.timeout(delay):
                await asyncio.sleep(0.01)
        except TimeoutError:
            return "timed out"
        return "slept"

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(agent, concurrency=4)
            got = await asyncio.gather(*(ref.ask(delay) for delay in (0.001, 60.0, 0.002, 60.0)))
            assert got == ["timed out", "slept", "timed out", "slept"]

    run(main)


def test_wait_for_gives_the_result_or_the_timeout(handled: Handled) -> None:
    async def value() -> int:
        await asyncio.sleep(0)
        return 7

    async def body() -> int:
        assert await asyncio.wait_for(value(), 60) == 7
        future = asyncio.get_running_loop().create_future()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(future, 0.001)
        assert future.cancelled()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(value(), 0)
        return await asyncio.wait_for(value(), 60)

    assert handled(body) == 7


# Task groups.


def test_a_task_group_runs_its_children_and_joins_them(handled: Handled) -> None:
    async def child(number: int) -> int:
        await asyncio.sleep(0.001 * (3 - number))
        return number

    async def body() -> list[int]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(child(number)) for number in range(3)]
        return [task.result() for task in tasks]

    assert handled(body) == [0, 1, 2]


def test_a_failing_child_cancels_its_group_and_comes_out_as_a_group(handled: Handled) -> None:
    cancelled: list[int] = []

    async def failing() -> None:
        await asyncio.sleep(0.001)
        raise LookupError("child")

    async def sleeping(number: int) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    async def body() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(sleeping(1))
                group.create_task(failing())
                group.create_task(sleeping(2))
                await asyncio.sleep(60)
        except* LookupError as errors:
            assert [str(error) for error in errors.exceptions] == ["child"]
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)
        return "went on"

    assert handled(body) == "went on"
    assert sorted(cancelled) == [1, 2]


def test_an_error_in_the_body_of_a_group_cancels_the_children(handled: Handled) -> None:
    async def body() -> bool:
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                child = group.create_task(asyncio.sleep(60))
                await asyncio.sleep(0)
                raise LookupError("body")
        assert caught.value.subgroup(LookupError) is not None
        return child.cancelled()

    assert handled(body) is True


def test_a_task_group_cancelled_by_a_timeout_cancels_its_children(handled: Handled) -> None:
    async def body() -> bool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.002), asyncio.TaskGroup() as group:
                child = group.create_task(asyncio.sleep(60))
        return child.cancelled()

    assert handled(body) is True


def test_a_task_group_in_a_group_fails_inside_out(handled: Handled) -> None:
    async def failing() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async def body() -> None:
        async with asyncio.TaskGroup() as outer:
            outer.create_task(asyncio.sleep(60))
            async with asyncio.TaskGroup() as inner:
                inner.create_task(failing())
                await asyncio.sleep(60)

    with pytest.raises(ExceptionGroup) as caught:
        handled(body)
    nested = caught.value.exceptions[0]
    assert isinstance(nested, ExceptionGroup)
    assert isinstance(nested.exceptions[0], ZeroDivisionError)


def test_a_left_over_cancellation_does_not_reach_the_task_group_of_the_next_message(
    handled: Handled,
) -> None:
    async def leave_cancels() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        task.cancel("twice")
        return "returned without waiting"

    async def group() -> str:
        async with asyncio.TaskGroup() as group:
            child = group.create_task(asyncio.sleep(0.001, "child"))
            await asyncio.sleep(0)
        return child.result()

    assert handled(leave_cancels, group, leave_cancels, leave_cancels, group) == [
        "returned without waiting", "child", "returned without waiting",
        "returned without waiting", "child",
    ]  # fmt: skip


def test_a_cancellation_that_was_caught_does_not_reach_the_next_message(handled: Handled) -> None:
    async def swallow() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel("mine")
        with pytest.raises(asyncio.CancelledError, match="mine"):
            await asyncio.sleep(60)
        assert task.cancelling() == 1
        return "swallowed"

    async def group() -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0.001))
            await asyncio.sleep(0.002)
        return "whole"

    assert handled(swallow, group, swallow, group) == ["swallowed", "whole"] * 2


def test_uncancel_gives_back_a_cancellation_as_in_any_task(handled: Handled) -> None:
    async def body() -> int:
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        task.cancel()
        assert task.cancelling() == 1
        assert task.uncancel() == 0
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            assert sys.version_info < (3, 13), "since 3.13 uncancel() also takes back the request"
        else:
            assert sys.version_info >= (3, 13), "before 3.13 uncancel() only counts"
        return task.cancelling()

    assert handled(body) == 0


# Tasks and threads that a handler starts.


def test_a_task_can_outlive_the_handler_that_started_it(handled: Handled) -> None:
    gate: list[asyncio.Event] = []
    tasks: list[asyncio.Task[str]] = []

    async def child() -> str:
        await gate[0].wait()
        return "outlived"

    async def start() -> None:
        gate.append(asyncio.Event())
        tasks.append(asyncio.create_task(child()))

    async def finish() -> str:
        assert not tasks[0].done()
        gate[0].set()
        return await tasks[0]

    assert handled(start, finish)[1] == "outlived"


def test_to_thread_runs_elsewhere_with_the_handlers_context(handled: Handled) -> None:
    async def body() -> object:
        VAR.set("seen by the thread")
        here = threading.get_ident()

        def work() -> tuple[bool, object]:
            return threading.get_ident() != here, VAR.get()

        return await asyncio.to_thread(work)

    assert handled(body) == (True, "seen by the thread")


def test_gather_and_as_completed_work_in_a_handler(handled: Handled) -> None:
    async def body() -> list[object]:
        both = await asyncio.gather(asyncio.sleep(0, 1), asyncio.sleep(0.001, 2))
        late = [await one for one in asyncio.as_completed([asyncio.sleep(0.001, 3)])]
        return [*both, *late]

    assert handled(body) == [1, 2, 3]


def test_locks_queues_and_events_work_across_handlers(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue(1)
        lock = asyncio.Lock()
        got: list[int] = []

        async def producer(count: int) -> None:
            for number in range(count):
                async with lock:
                    await queue.put(number)

        async def consumer(count: int) -> None:
            for _ in range(count):
                got.append(await queue.get())

        async with mesh() as bus:
            source = await bus.spawn(producer)
            sink = await bus.spawn(consumer)
            await asyncio.gather(source.ask(20), sink.ask(20))
        assert got == list(range(20))

    run(main)


def test_shield_keeps_inner_work_alive_when_a_timeout_fires(handled: Handled) -> None:
    async def body() -> str:
        inner = asyncio.create_task(asyncio.sleep(0.003, "finished"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.shield(inner)
        return await inner

    assert handled(body) == "finished"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_eager_tasks_nest_in_a_handler_and_give_the_current_task_back(handled: Handled) -> None:
    async def eager(outer: object, wait: bool) -> object:
        assert asyncio.current_task() is not outer
        if wait:
            await asyncio.sleep(0)
        assert asyncio.current_task() is not outer
        return outer

    async def body() -> str:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(eager_tasks)
        try:
            mine = asyncio.current_task()
            for wait in (False, True):
                task = asyncio.create_task(eager(mine, wait))
                assert asyncio.current_task() is mine
                assert task.done() is not wait
                assert await task is mine
            async with asyncio.TaskGroup() as group:
                group.create_task(eager(mine, True))
                group.create_task(eager(mine, False))
            assert asyncio.current_task() is mine
        finally:
            loop.set_task_factory(None)
        return "done"

    assert handled(body) == "done"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_an_eager_child_that_fails_before_the_first_wait_cancels_its_group_only(
    handled: Handled,
) -> None:
    async def failing() -> None:
        raise LookupError("at once")

    async def body() -> str:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(eager_tasks)
        try:
            with pytest.raises(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(failing())
                    await asyncio.sleep(60)
        finally:
            loop.set_task_factory(None)
        return "went on"

    assert handled(body) == "went on"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_a_mesh_works_in_a_loop_whose_tasks_are_all_eager(run: Any, mesh: Any, loop_kind: str) -> None:
    async def agent(payload: int) -> int:
        await asyncio.sleep(0 if payload % 2 else 0.001)
        return payload

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(eager_tasks)
        async with mesh() as bus:
            ref = await bus.spawn(agent, concurrency=4)
            assert await asyncio.gather(*(ref.ask(n) for n in range(20))) == list(range(20))
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(ref.ask(n)) for n in range(20)]
            assert [task.result() for task in tasks] == list(range(20))

    run(main)


# Context variables.


def test_a_context_variable_keeps_its_value_across_waits(handled: Handled) -> None:
    async def body() -> list[object]:
        seen = []
        VAR.set(1)
        await asyncio.sleep(0)
        seen.append(VAR.get())
        token = VAR.set(2)
        await asyncio.sleep(0.001)
        seen.append(VAR.get())
        VAR.reset(token)
        seen.append(VAR.get())
        return seen

    assert handled(body) == [1, 2, 1]


def test_what_a_child_task_sets_is_not_seen_by_the_handler(handled: Handled) -> None:
    async def child() -> object:
        seen = VAR.get()
        VAR.set("the child's")
        return seen

    async def body() -> tuple[object, object]:
        VAR.set("the handler's")
        return await asyncio.create_task(child()), VAR.get()

    assert handled(body) == ("the handler's", "the handler's")


def test_a_decimal_context_stays_in_its_handler(handled: Handled) -> None:
    import decimal

    async def body() -> int:
        with decimal.localcontext(prec=5):
            await asyncio.sleep(0)
            assert decimal.getcontext().prec == 5
        return decimal.getcontext().prec

    assert handled(body) == 28


# anyio, where it is installed.


def test_anyio_scopes_and_groups_work_in_a_handler(handled: Handled) -> None:
    anyio = pytest.importorskip("anyio")

    async def child(results: list[int]) -> None:
        await anyio.sleep(0.001)
        results.append(1)

    async def body() -> list[int]:
        results: list[int] = []
        with anyio.move_on_after(0.002) as scope:
            await anyio.sleep(60)
        assert scope.cancelled_caught
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep(60)
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError), anyio.fail_after(0.001):
            await anyio.sleep(60)
        async with anyio.create_task_group() as group:
            group.start_soon(child, results)
            group.start_soon(child, results)
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 60)
            group.cancel_scope.cancel()
        lock = anyio.Lock()
        async with lock:
            await anyio.sleep(0)
        return results

    assert handled(body) == [1, 1]


def test_the_loops_of_asyncio_say_in_an_attribute_whether_they_are_closed() -> None:
    # Read for each message told from outside of handlers: without it tell is right too, and a tenth slower.
    loop = asyncio.SelectorEventLoop()
    assert type(loop).is_closed is asyncio.BaseEventLoop.is_closed
    assert loop._closed is False  # type: ignore[attr-defined]
    loop.close()
    assert loop._closed is True  # type: ignore[attr-defined]
