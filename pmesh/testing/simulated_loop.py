"""The event loop of a simulation, which is asked before each turn, how late timers are, and when other threads call."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

from pmesh.testing.loop import VirtualTimeLoop
from pmesh.testing.trace import name_of, shown

if TYPE_CHECKING:
    from pmesh.testing.simulation import Simulation

__all__ = ["THREAD_PATIENCE_SECONDS", "Call", "SimulatedLoop"]

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

# Real seconds that a call in another thread may take.
THREAD_PATIENCE_SECONDS = 30.0

# Real seconds that a call in an executor may go on after it has called the loop, before it is taken to wait for that.
THREAD_GRACE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Call:
    """A call that another thread is to make, and who makes it."""

    future: asyncio.Future[Any]
    function: Callable[..., Any]
    args: tuple[Any, ...]
    make: Callable[[Call], None]

    @property
    def text(self) -> str:
        function, args = self.function, self.args
        if isinstance(function, functools.partial) and isinstance(
            getattr(function.func, "__self__", None), contextvars.Context
        ):
            # As asyncio.to_thread() has it.
            function, *args = function.args  # type: ignore[assignment]
        return f"{name_of(function)}({', '.join(map(shown, args))})"

    def end(self, result: object, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        elif isinstance(error, StopIteration):
            # As a generator does: raised where a future is awaited, it would end the awaiting coroutine.
            self.future.set_exception(_caused(RuntimeError(f"{name_of(self.function)} raised StopIteration"), error))
        else:
            self.future.set_exception(error)


class SimulatedLoop(VirtualTimeLoop):
    """Asks the simulation before each turn, how late timers are, and when an executor makes a call."""

    def __init__(self, simulation: Simulation, horizon_seconds: float) -> None:
        self._simulation = simulation
        self._executor: Executor | None = None
        # Set when a thread for which this stands still has ended its call, or has called this loop.
        self._stirred = threading.Event()
        super().__init__(horizon_seconds=horizon_seconds)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        late = self._simulation.lateness(callback)
        return super().call_at(when + late, callback, *args, context=context)

    def set_default_executor(self, executor: Any) -> None:
        super().set_default_executor(executor)
        self._executor = executor

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Arguments]], Result], *args: *Arguments
    ) -> asyncio.Future[Result]:
        future: asyncio.Future[Result] | None = self._simulation.in_executor(executor, func, args)
        return super().run_in_executor(executor, func, *args) if future is None else future

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        self._stirred.set()
        return handle

    def stand_still(self, executor: Executor | None, call: Call) -> concurrent.futures.Future[Any]:
        """Have an executor make a call, and stand still until it is over or seems to wait for this loop."""
        if executor is None:
            if self._executor is None:
                self.set_default_executor(concurrent.futures.ThreadPoolExecutor(thread_name_prefix="asyncio"))
            executor = self._executor
            assert executor is not None
        self._stirred.clear()
        work = executor.submit(call.function, *call.args)
        work.add_done_callback(lambda work: self._stirred.set())
        self._stirred.wait(THREAD_PATIENCE_SECONDS)
        concurrent.futures.wait([work], THREAD_GRACE_SECONDS)
        return work

    def go_on_beside(self, work: concurrent.futures.Future[Any], future: asyncio.Future[Any]) -> None:
        """Go on, and wait for `work` before time passes."""

        def end(ended: asyncio.Future[Any]) -> None:
            self._threads -= 1
            if future.done():
                return
            error = ended.exception()
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(ended.result())

        self._threads += 1
        asyncio.wrap_future(work, loop=self).add_done_callback(end)

    def create_task(self, *args: Any, **kwargs: Any) -> asyncio.Task[Any]:
        task = super().create_task(*args, **kwargs)
        self._simulation.has_task(task)
        return task

    def wait_for_events(self, selector: Any, timeout: float | None) -> Any:
        if self._simulation.turn(timeout is None or timeout > 0):
            timeout = 0
        return super().wait_for_events(selector, timeout)


def _caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error
