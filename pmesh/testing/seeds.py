"""Tests that run under many seeds: the decorator `simulate`, and what it says of a seed that fails."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Coroutine, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, overload

from pmesh._core import timeout_seconds
from pmesh.errors import InvalidArgument, InvalidType
from pmesh.testing.decisions import fewest
from pmesh.testing.faults import Faults
from pmesh.testing.loop import HORIZON_SECONDS
from pmesh.testing.outcomes import leaving
from pmesh.testing.simulation import Simulation
from pmesh.testing.trace import trace_text

__all__ = ["NotDeterministic", "Ordered", "Tally", "parse_seeds", "simulate"]

SEEDS = 100

# Further runs of a failing seed, to find how little of it is enough.
MOST_SHRINKING_RUNS = 400

# Real seconds that they may take: who waits for a test does not see what it does.
MOST_SHRINKING_SECONDS = 60.0

SHOWN_NAMES = 20

ADVICE = (
    "What differs may be state kept between runs, the order of a set, the real time, threads that the event loop does"
    " not know of, or random numbers from elsewhere than the module random; check_determinism=False goes on all the"
    " same"
)

# Where code stands that is none of a user's; parts of the core are named as in its sources.
_NO_USERS = (os.path.dirname(os.path.dirname(__file__)), os.path.dirname(asyncio.__file__), "pmesh")

LOGGERS = ("pmesh", "pmesh.dead_letters", "pmesh.stalls")

Test = Callable[..., Coroutine[Any, Any, object]]


class NotDeterministic(AssertionError):
    """The same seed did not give the same run, so that nothing can be repeated."""


@dataclass(slots=True)
class Tally:
    """What was run: for the summary of a test session.

    Attributes:
        seeds: How many.
        seconds: Virtual ones, in all of them.
        handled: Messages.
    """

    seeds: int = 0
    seconds: float = 0.0
    handled: int = 0

    def add(self, simulation: Simulation) -> None:
        self.seeds += 1
        self.seconds += simulation.seconds
        self.handled += simulation.handled


@dataclass(frozen=True, slots=True)
class Ordered:
    """What the pytest plugin gives a simulated test: the seeds that the command line asks for, and who counts them.

    Attributes:
        current: Of the test that runs. Not an argument: whoever calls a simulated test (`unittest.TestCase`, hypothesis
            for each example, another test) knows of none.
    """

    current: ClassVar[Ordered | None] = None

    seeds: range | None
    tally: Tally


def parse_seeds(text: str) -> range:
    """ "1000" or "5000:6000" as the seeds to run.

    Raises:
        InvalidArgument: It is neither, or there are none in it.
    """
    first, colon, end = text.partition(":")
    try:
        seeds = range(int(first), int(end)) if colon else range(int(first))
    except ValueError:
        raise InvalidArgument(
            f"seeds is {text!r}; it must be how many, such as 1000, or from where to where, such as 5000:6000"
        ) from None
    if not seeds:
        raise InvalidArgument(f"seeds is {text!r}, which is none; it must be at least 1")
    return seeds


@overload
def simulate(test: Test, /) -> Callable[..., None]: ...
@overload
def simulate(
    *,
    seeds: int | range = ...,
    faults: Faults | None = ...,
    check_determinism: bool = ...,
    horizon_seconds: float = ...,
) -> Callable[[Test], Callable[..., None]]: ...
def simulate(
    test: Any = None,
    /,
    *,
    seeds: int | range = SEEDS,
    faults: Faults | None = None,
    check_determinism: bool = True,
    horizon_seconds: float = HORIZON_SECONDS,
) -> Any:
    """Run an `async def` test in virtual time, once for each seed; its first parameter is the `Simulation`.

        @simulate(seeds=1000)
        async def test_transfers_keep_the_sum(sim: Simulation) -> None:
            async with sim.coordinator() as mesh:
                ...

    What it becomes is a plain function, whose other parameters stay: fixtures, or those of `parametrize`. The first
    seed that fails ends it, with the test's own exception and a note: the seed, and the shortest way found to the
    failure. Under pytest `--pmesh-seed N` runs only that seed, `--pmesh-seeds N` or `A:B` others than those given here.

    Args:
        seeds: How many, from 0 on; or a range of them.
        faults: What goes wrong on purpose in each run; nothing by default.
        check_determinism: Run the first seed twice, and fail unless both runs are the same.
        horizon_seconds: Virtual seconds after which a run that is still busy goes round in circles; by default a week.

    Raises:
        NotDeterministic: Of the test: the same seed did not give the same run.
    """
    chosen = _checked_seeds(seeds)
    if faults is not None and not isinstance(faults, Faults):
        raise InvalidType(f"faults is {faults!r}; it must be a pmesh.testing.Faults")
    if not isinstance(check_determinism, bool):
        raise InvalidType(f"check_determinism is {check_determinism!r}; it must be True or False")

    horizon_seconds = timeout_seconds(horizon_seconds, "horizon_seconds")

    def decorate(test: Test) -> Callable[..., None]:
        before, rest = _parameters_of(test)

        @functools.wraps(test)
        def run_seeds(*args: object, **kwargs: object) -> None:
            __tracebackhide__ = True
            ordered = Ordered.current or Ordered(None, Tally())
            # Who replaces something by mock.patch() around this gives its own arguments by position.
            at = len(before)
            runner = _Runner(test, args[:at], args[at:], kwargs, faults, horizon_seconds, ordered.tally)
            which = chosen if ordered.seeds is None else ordered.seeds
            if check_determinism:
                runner.check_determinism(which[0])
            for seed in which:
                runner.run(seed, which)
            # A few seeds, as of a failure that is repeated, may be without an agent that others have.
            if ordered.seeds is None:
                runner.check_faults()

        # Not what functools.wraps made of it: pytest takes fixtures from here.
        del run_seeds.__wrapped__
        vars(run_seeds).pop("patchings", None)
        run_seeds.__signature__ = inspect.Signature([*before, *rest])  # type: ignore[attr-defined]
        return run_seeds

    return decorate if test is None else decorate(test)


def _checked_seeds(seeds: object) -> range:
    if isinstance(seeds, range):
        if not seeds:
            raise InvalidArgument(f"seeds is {seeds!r}, which is empty; it must hold at least 1 seed")
        return seeds
    if isinstance(seeds, bool) or not isinstance(seeds, int):
        raise InvalidType(f"seeds is {seeds!r}; it must be how many, or a range of seeds")
    if seeds < 1:
        raise InvalidArgument(f"seeds is {seeds}; it must be at least 1")
    return range(seeds)


def _parameters_of(test: Any) -> tuple[list[inspect.Parameter], list[inspect.Parameter]]:
    """Those before the simulation, which is the first or comes after self, and those after it that are asked for."""
    if not inspect.iscoroutinefunction(test):
        raise InvalidType(
            f"@simulate decorates {test!r}; it must decorate an `async def` test, and what makes something else of one,"
            " such as @given or @staticmethod, goes above it"
        )
    parameters = list(inspect.signature(test).parameters.values())
    # In a class the simulation comes after self.
    own = 2 if parameters and parameters[0].name == "self" else 1
    if len(parameters) < own or parameters[own - 1].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise InvalidType(
            f"@simulate decorates {test.__qualname__}, which takes no simulation: its first parameter must be one, as"
            f" in `async def {test.__name__}(sim: Simulation)`"
        )
    for other in parameters[own:]:
        if other.annotation in (Simulation, Simulation.__name__):
            raise InvalidType(
                f"@simulate decorates {test.__qualname__}, which takes the simulation as {other.name!r}: it is given as"
                f" the first parameter{' after self' if own == 2 else ''}, here {parameters[own - 1].name!r}"
            )
    return parameters[: own - 1], parameters[own + _given_by_mock(test) :]


def _given_by_mock(test: Any) -> int:
    """How many arguments `unittest.mock.patch` below `simulate` adds, right after the simulation."""
    mock = sys.modules.get("unittest.mock")
    if mock is None:
        return 0
    return sum(not patch.attribute_name and patch.new is mock.DEFAULT for patch in getattr(test, "patchings", ()))


class _Runner:
    """Runs one test by seeds."""

    def __init__(
        self,
        test: Test,
        before: tuple[object, ...],
        after: tuple[object, ...],
        kwargs: dict[str, object],
        faults: Faults | None,
        horizon_seconds: float,
        tally: Tally,
    ) -> None:
        self._test = test
        self._before = before
        self._after = after
        self._kwargs = kwargs
        self._faults = faults
        self._horizon_seconds = horizon_seconds
        self._tally = tally
        self._agents: set[str] = set()

    def _main(self, simulation: Simulation) -> Coroutine[Any, Any, object]:
        return self._test(*self._before, simulation, *self._after, **self._kwargs)

    def check_determinism(self, seed: int) -> None:
        """Run a seed twice; both runs must be the same, failures included."""
        __tracebackhide__ = True
        first, error = self._attempt(seed, traced=True)
        second, repeated = self._attempt(seed, traced=True)
        if first.trace == second.trace:
            if (error and _kind_of(error)) != (repeated and _kind_of(repeated)):
                raise NotDeterministic(f"seed {seed} {_two_outcomes(error, repeated)}. {ADVICE}") from (
                    error or repeated
                )
            return
        at = next(
            (i for i, (one, two) in enumerate(zip(first.trace, second.trace, strict=False)) if one != two),
            min(len(first.trace), len(second.trace)),
        )
        runs = [str(run.trace[at]) if at < len(run.trace) else "  (nothing more)" for run in (first, second)]
        raise NotDeterministic(
            f"seed {seed} gave two different runs, so a failure could not be repeated. Event {at + 1} was\n"
            f"{runs[0]}\nand then\n{runs[1]}\n{ADVICE}"
        )

    def run(self, seed: int, among: range) -> None:
        __tracebackhide__ = True
        simulation, error = self._attempt(seed, traced=False)
        self._tally.add(simulation)
        self._agents |= simulation.agents
        if error is not None:
            self._explain(seed, error, among)

    def check_faults(self) -> None:
        """Warn when the faults are for agents that there never were: nothing went wrong that was to.

        No error: with other arguments, as of `parametrize` or hypothesis, there may be some.
        """
        faults = self._faults
        if faults is not None and self._agents and not any(map(faults.concern, self._agents)):
            names = sorted(self._agents)
            warnings.warn(
                f"the faults of {self._test.__qualname__} are for agents {faults.agents!r}, and no agent had such a"
                f" name in any seed; there were {', '.join(names[:SHOWN_NAMES])}"
                f"{' and more' if len(names) > SHOWN_NAMES else ''}",
                RuntimeWarning,
                stacklevel=3,
            )

    def _attempt(
        self, seed: int, *, traced: bool, allowed: AbstractSet[int] | None = None, loud: bool = False
    ) -> tuple[Simulation, BaseException | None]:
        simulation = Simulation(
            seed, faults=self._faults, traced=traced, allowed=allowed, horizon_seconds=self._horizon_seconds
        )
        try:
            with contextlib.nullcontext() if loud else _quiet():
                simulation.run(self._main)
        except BaseException as error:
            if not _is_failure(error):
                raise
            if _comes_of_a_timeout(error):
                # Whose time is over: to run it again would take for ever.
                error.add_note(f"\nSimulation: in seed {seed}. Again: --pmesh-seed {seed}")
                raise
            return simulation, error
        return simulation, None

    def _explain(self, seed: int, error: BaseException, among: range) -> None:
        """Raise what the shortest way to the failure raises, with a note."""
        __tracebackhide__ = True
        again, repeated = self._attempt(seed, traced=True)
        if repeated is None or _kind_of(repeated) != _kind_of(error):
            raise NotDeterministic(
                f"seed {seed} {_two_outcomes(error, repeated)}; something that the seed does"
                " not decide makes the difference"
            ) from error

        def fails(allowed: frozenset[int]) -> tuple[int, ...] | None:
            simulation, trouble = self._attempt(seed, traced=False, allowed=allowed)
            return None if trouble is None or _kind_of(trouble) != _kind_of(error) else simulation.departures

        try:
            kept = fewest(again.departures, fails, MOST_SHRINKING_RUNS, MOST_SHRINKING_SECONDS)
        except KeyboardInterrupt as interrupt:
            # pytest shows this line, and would not show the failure.
            raise KeyboardInterrupt(
                f"while the shortest way was sought to what fails by seed {seed}. Again: --pmesh-seed {seed}"
            ) from interrupt
        # Once more with logs, as whoever reads of it would see them.
        shortest, trouble = self._attempt(seed, traced=True, allowed=frozenset(kept), loud=True)
        if trouble is None:
            shortest, trouble, kept = again, repeated, list(again.departures)
        trouble.add_note(_note(seed, among, len(again.departures), len(kept), shortest))
        # From the test on: how it was called says nothing.
        raise trouble.with_traceback(_traceback_from(self._test, trouble.__traceback__))


def _note(seed: int, among: range, departures: int, kept: int, simulation: Simulation) -> str:
    if kept:
        verb = "is" if kept == 1 else "are"
        enough = (
            f"Of the {departures} things that the seed made different from the usual, {kept} {verb} enough (marked !)"
        )
    else:
        enough = "It fails without anything that a seed makes different from the usual"
    happens = f"; what then happens, in virtual seconds:\n\n{trace_text(simulation.trace)}" if simulation.trace else ""
    again = f"Simulation: seed {seed} fails (of {among.start}:{among.stop}). Again: --pmesh-seed {seed}"
    return f"\n{again}\n{enough}{happens}"


def _traceback_from(test: Test, traceback: TracebackType | None) -> TracebackType | None:
    """From the test on, or where it has no part in it, as in what a handler raises, from the first code of a user's."""
    code = inspect.unwrap(test).__code__
    frames: list[TracebackType] = []
    while traceback is not None:
        frames.append(traceback)
        traceback = traceback.tb_next
    for frame in frames:
        if frame.tb_frame.f_code is code:
            return frame
    return next((frame for frame in frames if not frame.tb_frame.f_code.co_filename.startswith(_NO_USERS)), None)


def _two_outcomes(first: BaseException | None, second: BaseException | None) -> str:
    """What two runs of the same seed came to; the first error is shown as the cause."""
    began = "passed" if first is None else f"failed with {type(first).__name__}"
    if second is None:
        return f"{began}, and run again it passed"
    return f"{began}, and run again it failed with {type(second).__name__}: {second}"


def _is_failure(error: BaseException) -> bool:
    """Whether it says that the test fails: not that somebody interrupts it, or that it is skipped."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_failure, error.exceptions))
    return not isinstance(error, (KeyboardInterrupt, *leaving()))


def _comes_of_a_timeout(error: BaseException) -> bool:
    """Whether pytest-timeout raised it, in a signal handler that stands above whatever ran."""
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_globals.get("__name__") == "pytest_timeout":
            return True
        traceback = traceback.tb_next
    return False


def _kind_of(error: BaseException) -> tuple[type[BaseException], str, int]:
    """What two failures have in common that are the same one: the type, and the line of the test that raised it."""
    traceback = error.__traceback__
    where, line = "", 0
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not code.co_filename.startswith(os.path.dirname(__file__)):
            where, line = code.co_filename, traceback.tb_lineno
        traceback = traceback.tb_next
    return type(error), where, line


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without pmesh's logs: thousands of runs tell the same, and that of the failing one is shown."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
