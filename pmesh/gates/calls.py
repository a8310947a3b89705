"""Calls of one function, sync or async, each timed by itself."""

from __future__ import annotations

import asyncio
import functools
import inspect
from array import array
from collections.abc import Awaitable, Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from pmesh.errors import InvalidArgument, InvalidType, WrongLoop

if TYPE_CHECKING:
    from pmesh import LatencyRecorder

__all__ = ["Calls", "run_in"]


class Calls:
    """A function to be called again and again, and what each call of it needs."""

    def __init__(
        self,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        setup: Callable[[], Any] | None,
        runner: asyncio.Runner,
    ) -> None:
        if not callable(function):
            _close(function)
            raise InvalidType(
                f"{function!r} cannot be called; latency_benchmark takes a function, and its arguments behind it"
            )
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise InvalidType(
                f"{function!r} is a generator function: calling it runs none of its body; give latency_benchmark a"
                " function that goes through it"
            )
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._setup = setup
        self._runner = runner
        # Whether calls must be awaited; None until the first one has shown.
        self._is_async = True if inspect.iscoroutinefunction(function) else None

    def time(self, calls: int, warmup: int) -> tuple[LatencyRecorder, array[int]]:
        """Make `warmup` calls and then `calls` timed ones: their recorder, and each time in nanoseconds."""
        from pmesh import LatencyRecorder

        recorder = LatencyRecorder()
        times_ns: array[int] = array("q")
        if self._is_async is None:
            first_ns = self._first_call()
            if warmup:
                warmup -= 1
            elif not self._is_async:
                recorder.record(first_ns)
                times_ns.append(first_ns)
                calls -= 1
        if self._is_async:
            run_in(self._runner, self._time_async(calls, warmup, recorder, times_ns))
        else:
            self._time_sync(warmup, LatencyRecorder(), array("q"))
            self._time_sync(calls, recorder, times_ns)
        return recorder, times_ns

    def _first_call(self) -> int:
        """Make one call, to see whether it returns an awaitable; the nanoseconds that a sync one took."""
        prepared = None if self._setup is None else self._setup()
        call = self._bind(run_in(self._runner, prepared) if inspect.isawaitable(prepared) else prepared)
        try:
            start_ns = perf_counter_ns()
            outcome = call()
            first_ns = perf_counter_ns() - start_ns
        except RuntimeError as error:
            if "event loop" in str(error):
                error.add_note(
                    "latency_benchmark makes the first call outside of the event loop, as it cannot tell whether"
                    " this function is async: give it an `async def`"
                )
            raise
        goes_through = {"a function": inspect.isgenerator(outcome), "an `async def`": hasattr(outcome, "__aiter__")}
        for kind, is_one in goes_through.items():
            if is_one and not inspect.isawaitable(outcome):
                raise InvalidType(
                    f"{self._function!r} returned {outcome!r}, which nothing would go through; give latency_benchmark"
                    f" {kind} that does"
                )
        self._is_async = inspect.isawaitable(outcome)
        if self._is_async:
            run_in(self._runner, outcome)
        return first_ns

    def _bind(self, prepared: Any) -> Callable[[], Any]:
        """The function with its arguments; `prepared` is what `setup` returned."""
        args, kwargs = self._args, self._kwargs
        if prepared is not None:
            if args or kwargs:
                raise InvalidArgument("setup returned arguments, and latency_benchmark was given some: only one may")
            try:
                args, kwargs = prepared
            except (TypeError, ValueError):
                raise InvalidType(
                    f"setup returned {prepared!r}; it must return None or the pair (args, kwargs) of the call"
                ) from None
        return functools.partial(self._function, *args, **kwargs) if args or kwargs else self._function

    def _time_sync(self, calls: int, recorder: LatencyRecorder, times_ns: array[int]) -> None:
        record, append, setup = recorder.record, times_ns.append, self._setup
        call = self._bind(None)
        for _ in range(calls):
            if setup is not None:
                call = self._bind(setup())
            start_ns = perf_counter_ns()
            call()
            spent_ns = perf_counter_ns() - start_ns
            record(spent_ns)
            append(spent_ns)

    async def _time_async(self, calls: int, warmup: int, recorder: LatencyRecorder, times_ns: array[int]) -> None:
        """Await `warmup` calls and then `calls` timed ones.

        Cancel safety: a cancelled call has recorded those that were over.
        """
        record, append, setup = recorder.record, times_ns.append, self._setup
        call = self._bind(None)
        for number in range(-warmup, calls):
            if setup is not None:
                prepared = setup()
                call = self._bind(await prepared if inspect.isawaitable(prepared) else prepared)
            start_ns = perf_counter_ns()
            await call()
            spent_ns = perf_counter_ns() - start_ns
            if number >= 0:
                record(spent_ns)
                append(spent_ns)


def run_in(runner: asyncio.Runner, awaitable: Awaitable[Any]) -> Any:
    """What `awaitable` gives, awaited in the runner's event loop.

    Raises:
        WrongLoop: An event loop runs here already.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return runner.run(_wait(awaitable))
    _close(awaitable)
    raise WrongLoop(
        "latency_benchmark awaits in an event loop of its own and was called inside another one; make the test a plain"
        " `def`, which needs no asyncio plugin"
    )


async def _wait(awaitable: Awaitable[Any]) -> Any:
    """What `awaitable` gives; any one, where a Runner takes coroutines. Cancel safety: that of `awaitable`."""
    return await awaitable


def _close(value: object) -> None:
    """Spare a coroutine that is refused the warning that nobody awaited it."""
    if inspect.iscoroutine(value):
        value.close()
