"""What a test measures with: single calls in the compiled recorder, shown by pytest-benchmark.

pytest-benchmark times rounds with a timer that can be chosen. The one chosen here stands still but for what was
measured: the first round makes all the calls, in one run of the event loop, and each round moves the timer on by the
time of one call. So every row and column of its table is of single calls, and entering the loop is in none of them.
"""

from __future__ import annotations

import functools
import gc
import inspect
import math
import time
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pmesh.errors import InvalidArgument, InvalidType
from pmesh.gates.calls import Calls, run_in
from pmesh.gates.results import EXTRA_INFO, Attempt, Result, check_count
from pmesh.gates.stack import with_room

if TYPE_CHECKING:
    import asyncio

    from pmesh import LatencyRecorder

__all__ = ["TIMER", "CallTimer", "LatencyBenchmark"]

CALLS = 1_000
MOST_WARMUP_CALLS = 100

# A latency is of the wall clock. Where processes share a core, the kernel takes it away for milliseconds at a time;
# a pause between attempts gives whoever has it time to end. It doubles.
FIRST_PAUSE_SECONDS = 0.1

# A call takes more than this, whatever it does.
LEAST_SECONDS = 1e-15


class CallTimer:
    """The timer that pytest-benchmark reads before and after a round; whoever measured moves it on."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def __repr__(self) -> str:
        return "pmesh: time of a call"


TIMER = CallTimer()


class LatencyBenchmark:
    """The fixture `latency_benchmark`: times calls, and leaves what it measured to the gates.

    A test measures latencies once, throughput once, or both; what it measures first is what pytest-benchmark's own
    table shows. With benchmarks disabled everything runs once, and is judged by nothing.
    """

    def __init__(self, benchmark: Any, runner: asyncio.Runner, result: Result) -> None:
        self._benchmark = benchmark
        self._runner = runner
        self._result = result
        self._shown = False

    def __call__(
        self,
        function: Callable[..., Any],
        *args: Any,
        calls: int = CALLS,
        warmup: int | None = None,
        setup: Callable[[], Any] | None = None,
        **kwargs: Any,
    ) -> LatencyRecorder:
        """Call `function` `calls` times, one after the other, and time each call by itself.

        Args:
            function: Sync; or a coroutine function or whatever else returns an awaitable, which is then awaited
                within the time, all calls in one run of the event loop.
            args, kwargs: For `function`.
            calls: How many calls are timed.
            warmup: Calls that go ahead and are not timed; by default a tenth of `calls`, 100 at most.
            setup: Called before each call and not timed; awaited if it returns an awaitable and `function` is async.
                What it returns, if not None, is the pair `(args, kwargs)` of the call.

        Returns:
            The recorder of the times, in nanoseconds.

        Raises:
            InvalidArgument: A number of calls is out of range, or this test has timed calls already.
            InvalidType: `function` is something whose body a call would not run, such as an async generator.
            Exception: Whatever `function` or `setup` raises.
        """
        check_count("calls", calls, 1)
        ahead = min(MOST_WARMUP_CALLS, calls // 10) if warmup is None else check_count("warmup", warmup, 0)
        series = Calls(function, args, kwargs, setup, self._runner)
        if self._benchmark.disabled:
            calls, ahead = 1, 0
        spent: array[int] = array("q")

        def once() -> Attempt:
            nonlocal ahead
            gc.collect()
            share = _ProcessorShare()
            recorder, times_ns = series.time(calls, ahead)
            ahead = 0
            spent[:] = times_ns
            seconds = sum(times_ns) / 1e9
            return Attempt(recorder, calls / seconds if seconds else None, share.read())

        def measure() -> Sequence[float]:
            self._attempt(self._result.latency, once, "latencies")
            return [each_ns / 1e9 for each_ns in spent]

        self._show(measure, calls, functools.partial(series.time, 1, 0))
        return self._recorder()

    def record(self, work: Callable[[int], Any], *, calls: int) -> LatencyRecorder:
        """Time calls that only `work` can see the ends of, such as messages from accepted to handled.

        Args:
            work: `work(calls)` makes the calls and returns the `LatencyRecorder` with their times; sync, or async
                and then run in the event loop.
            calls: Handed to `work`.

        Raises:
            InvalidArgument: `calls` is out of range, or this test has timed calls already.
            InvalidType: `work` returned no recorder.
        """
        check_count("calls", calls, 1)

        def once() -> Attempt:
            gc.collect()
            share = _ProcessorShare()
            recorder = self._run(work, calls)
            from pmesh import LatencyRecorder

            if not isinstance(recorder, LatencyRecorder):
                raise InvalidType(f"{work!r} returned {recorder!r}; it must return the LatencyRecorder that it filled")
            # Mail that comes later goes into a recorder of the mesh, and must not count.
            return Attempt(recorder.snapshot(), None, share.read())

        def measure() -> Sequence[float]:
            self._attempt(self._result.latency, once, "latencies")
            return [self._recorder().mean / 1e9]

        self._show(measure, 1, lambda: self._run(work, calls))
        return self._recorder()

    def throughput(self, work: Callable[[int], Any], *, calls: int, rounds: int = 20) -> float:
        """How many calls per second `work` makes: the median of `rounds` rounds of `calls` calls.

        Args:
            work: `work(calls)` makes the calls and returns the seconds that they took, which leaves out what else it
                does; sync, or async and then run in the event loop.
            calls: Calls in a round, so that a round takes milliseconds.
            rounds: Rounds that count; one more goes ahead.

        Raises:
            InvalidArgument: A number is out of range, or this test has measured throughput already.
            InvalidType: `work` returned no positive number of seconds.
        """
        check_count("calls", calls, 1)
        check_count("rounds", rounds, 1)
        if self._benchmark.disabled:
            rounds = 1
        per_call: list[float] = []

        def one_round() -> float:
            seconds = self._run(work, calls)
            # So little that calls per second are beyond all numbers is no time that was measured.
            if (
                isinstance(seconds, bool)
                or not isinstance(seconds, (int, float))
                or not LEAST_SECONDS * calls < seconds < math.inf
            ):
                raise InvalidType(f"{work!r} returned {seconds!r}; it must return the seconds that its calls took")
            return seconds / calls

        def once() -> Attempt:
            gc.collect()
            if not self._benchmark.disabled:
                one_round()
            share = _ProcessorShare()
            per_call[:] = [one_round() for _ in range(rounds)]
            return Attempt(None, 1.0 / sorted(per_call)[len(per_call) // 2], share.read())

        def measure() -> Sequence[float]:
            self._attempt(self._result.throughput, once, "throughput")
            return per_call

        self._show(measure, rounds, lambda: self._run(work, calls))
        throughput = self._result.figure("throughput")
        assert throughput is not None
        return throughput

    def _attempt(self, series: list[Attempt], once: Callable[[], Attempt], what: str) -> None:
        """Measure, and again while an objective is missed and attempts are left."""
        if series:
            raise InvalidArgument(f"this test has measured {what} already; a test does so once: make two tests of it")
        promise = self._result.promise
        tries = 1 if promise is None or self._result.obstacle else promise.attempts
        while True:
            series.append(once())
            if len(series) >= tries or all(verdict.passed for verdict in series[-1].verdicts(promise)):
                return
            time.sleep(FIRST_PAUSE_SECONDS * 2 ** (len(series) - 1))

    def _show(self, measure: Callable[[], Sequence[float]], rounds: int, again: Callable[[], object]) -> None:
        """Run `measure` in pytest-benchmark's first round, and give each round one of the seconds it returns."""
        seconds: list[float] = []
        turn = 0

        def one_round() -> None:
            nonlocal turn
            if not turn:
                try:
                    seconds.extend(with_room(measure))
                except BaseException:
                    # Of a Ctrl-C pytest-benchmark does not notice, and cannot save a benchmark that has no rounds.
                    self._benchmark.has_error = True
                    raise
                self._benchmark.extra_info[EXTRA_INFO] = self._result.as_dict()
            elif turn == len(seconds):
                again()  # a round that was not asked for: pytest-benchmark profiles
                return
            TIMER.seconds += seconds[turn]
            turn += 1

        if self._shown:
            one_round()
        else:
            self._shown = True
            TIMER.seconds = 0.0  # so that a nanosecond is not lost beside what went before
            self._benchmark.pedantic(one_round, rounds=rounds)

    def _run(self, work: Callable[[int], Any], calls: int) -> Any:
        outcome = work(calls)
        return run_in(self._runner, outcome) if inspect.isawaitable(outcome) else outcome

    def _recorder(self) -> LatencyRecorder:
        """What the test gets: a copy, so that nothing it does with it changes what is judged."""
        recorder = self._result.recorder
        assert recorder is not None
        return recorder.snapshot()


class _ProcessorShare:
    """The share of the time since it was made in which this thread had a processor."""

    def __init__(self) -> None:
        self._start, self._start_cpu = time.perf_counter(), time.thread_time()

    def read(self) -> float:
        seconds = time.perf_counter() - self._start
        return min((time.thread_time() - self._start_cpu) / seconds, 1.0) if seconds else 1.0
