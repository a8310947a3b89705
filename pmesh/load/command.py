"""What `pmesh load` does: profiles one after another or a search, Ctrl-C, the outputs and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Self

import click

import pmesh
from pmesh.environment import LoopFactory, choose_loop, slow_variants
from pmesh.errors import PmeshError
from pmesh.load.driver import Driver
from pmesh.load.outputs import ReportOutputs
from pmesh.load.plan import Plan, make_plan
from pmesh.load.rendering.terminal import Screen
from pmesh.load.report import Report, Search
from pmesh.load.search import check_searchable, check_start, find_max
from pmesh.load.subjects import name_of, resolve
from pmesh.outputs import OutputFailed
from pmesh.slo import Objective, default_objectives

__all__ = ["ExitCode", "LoadOptions", "load"]

# Each step of a search: long enough for the 99th percentile of a thousand messages a second.
STEP_SECONDS = 2.0
STEP_WARMUP_SECONDS = 0.5

# How long a search first runs a closed loop, to know where to begin.
CALIBRATION_SECONDS = 0.5

# How many of the same log record are shown before the rest is only counted.
MOST_LOGGED = 10


class ExitCode(enum.IntEnum):
    """What a caller of `pmesh load` can tell from its exit."""

    HELD = 0  # every objective holds
    USAGE = 2  # wrong arguments; nothing ran
    UNBALANCED = 70  # pmesh lost count of messages (EX_SOFTWARE of sysexits.h)
    OUTPUT = 74  # the report could not be written (EX_IOERR)
    MISSED = 99  # an objective is missed (as in k6)
    INTERRUPTED = 130  # Ctrl-C (128 + SIGINT, as shells have it)


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What `pmesh load` was asked for.

    Attributes:
        names: Profiles to run, in order.
        changes: What `make_plan` takes, in place of what the profiles say.
        agent, payload: "module:name" of the user's own.
        objectives: What each report is judged by, besides the default ones.
        defaults: Whether the default ones are checked.
        abort_on_breach: End a run at the first second in which an objective does not hold.
        soak: Fit the drift over each run.
        find_max: Search the highest rate that holds this instead of running the profiles as they are.
        event_loop: "asyncio", "uvloop" or "auto".
        paths: Where to write, by format.
        quiet: No progress bar; and no tables where stdout carries an output.
    """

    names: Sequence[str]
    changes: Mapping[str, Any] = field(default_factory=dict)
    agent: str | None = None
    payload: str | None = None
    objectives: Sequence[Objective] = ()
    defaults: bool = True
    abort_on_breach: bool = False
    soak: bool = False
    find_max: Objective | None = None
    event_loop: str = "asyncio"
    paths: Mapping[str, str | None] = field(default_factory=dict)
    quiet: bool = False


def load(options: LoadOptions) -> ExitCode:
    """Run what `options` says, show and write the reports, and say how it went.

    Raises:
        InvalidArgument: The loop cannot be had, a file not be written, or an option is wrong. Nothing ran.
        PmeshError: pmesh's own memory could not be measured.
        OutputFailed: A report was measured and could not be written or shown.
        KeyboardInterrupt: A second Ctrl-C, while the first was being obeyed.
    """
    return _Command(options).run()


class _Command:
    def __init__(self, options: LoadOptions) -> None:
        self._options = options
        self._new_loop: LoopFactory = choose_loop(options.event_loop)
        self._agent = None if options.agent is None else resolve(options.agent, "agent")
        self._payload = None if options.payload is None else resolve(options.payload, "payload")
        # All before the first one runs: a mistake must not come to light after minutes of load.
        if options.find_max is not None:
            check_searchable(options.find_max)
            if options.changes.get("rate") is not None:
                check_start(options.changes["rate"])
        self._drivers = [self._driver(self._plan(name, options.changes)) for name in options.names]
        self._outputs = ReportOutputs(options.paths)
        self._reports: list[Report] = []
        self._searches: list[Search] = []

    def _plan(self, name: str, changes: Mapping[str, Any]) -> Plan:
        return make_plan(
            name,
            agent=None if self._agent is None else name_of(self._agent),
            payload=None if self._payload is None else name_of(self._payload),
            **changes,
        )

    def _driver(self, plan: Plan, on_progress: Callable[[float], None] | None = None) -> Driver:
        return Driver(
            plan,
            agent=self._agent,
            payload=self._payload,
            objectives=(
                *(default_objectives(plan.mode) if self._options.defaults else ()),
                *self._options.objectives,
            ),
            abort_on_breach=self._options.abort_on_breach,
            soak=self._options.soak,
            on_progress=on_progress,
        )

    def run(self) -> ExitCode:
        options = self._options
        with self._outputs as outputs, _Interrupts() as interrupts, _few_log_lines():
            self._screen = screen = Screen(
                sys.stderr if outputs.on_stdout else sys.stdout,
                show_progress=not options.quiet and not outputs.on_stdout,
                silent=options.quiet and outputs.on_stdout,
            )
            self._interrupts = interrupts
            _warn_of_build()
            for driver in self._drivers:
                try:
                    if options.find_max is None:
                        self._run_plan(driver.plan)
                    else:
                        self._search(driver.plan, options.find_max)
                except PmeshError:
                    # What the profiles before it measured is not lost for that.
                    if self._reports:
                        outputs.write(self._reports[0].environment, self._reports, self._searches)
                    raise
                # Without a reader there is nobody to run the rest for.
                unread = screen.failure is not None and not outputs
                if interrupts.seen or unread or any(report.faults for report in self._reports):
                    break
            code = _exit_code(self._reports, self._searches, interrupted=interrupts.seen)
            if len(self._reports) > 1:
                screen.show_summary(self._reports)
            screen.show_outcome(_outcome(code, self._reports, self._searches), good=code is ExitCode.HELD)
            if self._reports:
                outputs.write(self._reports[0].environment, self._reports, self._searches)
        if screen.failure is not None and code in (ExitCode.HELD, ExitCode.MISSED):
            raise OutputFailed(f"the report could not be shown: {screen.failure}")
        return code

    def _run_plan(self, plan: Plan) -> None:
        seconds = plan.duration_seconds
        messages = plan.profile.messages if plan.messages is None else plan.messages
        with (
            self._screen.progress(
                plan.profile.name,
                total=messages if seconds is None else seconds,
                unit="messages" if seconds is None else "s",
            ) as on_progress,
            asyncio.Runner(loop_factory=self._new_loop) as runner,
        ):
            driver = self._driver(plan, on_progress)
            self._interrupts.watch(driver.stop, runner.get_loop())
            try:
                report = runner.run(driver.run())
            finally:
                self._interrupts.watch(None, None)
        if report.counts.sent or not report.interrupted:
            self._reports.append(report)
            self._screen.show_report(report)

    def _search(self, plan: Plan, objective: Objective) -> None:
        """Run an open loop at one rate after another; the report of the highest that holds is kept."""
        changes: dict[str, Any] = dict(self._options.changes)
        start_per_second = changes.pop("rate", None)
        for name, default in (("duration", STEP_SECONDS), ("warmup", STEP_WARMUP_SECONDS)):
            changes[name] = changes.get(name) or default
        # Those of a closed loop have no meaning here but for the first look.
        closed: dict[str, Any] = {name: changes.pop(name) for name in ("window", "concurrency") if name in changes}
        arrival = changes.pop("arrival", "constant")
        stopped = False
        running: Driver | None = None
        held: dict[float, Report] = {}

        def stop() -> None:
            nonlocal stopped
            stopped = True
            if running is not None:
                running.stop()

        async def run_driver(plan: Plan) -> Report:
            nonlocal running
            running = self._driver(plan)
            try:
                return await running.run()
            finally:
                running = None

        async def measure(rate: float) -> Report:
            report = await run_driver(self._plan(plan.profile.name, {**changes, "rate": rate, "arrival": arrival}))
            judged = report.judged([objective])
            # Of a rate that was tried more than once, a run that held.
            if rate not in held or held[rate].missed:
                held[rate] = judged
            return judged

        async def search() -> Search:
            start = start_per_second
            if start is None:
                first = {**changes, **closed, "duration": CALIBRATION_SECONDS, "warmup": 0.1}
                calibration = await run_driver(self._plan(plan.profile.name, first))
                start = max(1.0, calibration.throughput_per_second / 8)
            return await find_max(
                measure,
                objective,
                profile=plan.profile.name,
                start_per_second=start,
                on_step=lambda step: self._screen.show_step(step, objective),
                stopped=lambda: stopped,
            )

        self._screen.show_search_begin(plan.profile.name, objective)
        with asyncio.Runner(loop_factory=self._new_loop) as runner:
            self._interrupts.watch(stop, runner.get_loop())
            try:
                found = runner.run(search())
            finally:
                self._interrupts.watch(None, None)
        self._searches.append(found)
        best = found.highest_rate_per_second
        kept = held.get(best) if best is not None else next(iter(held.values()), None)
        if kept is not None:
            self._reports.append(kept)
            self._screen.show_report(kept)
        self._screen.show_search(found)


def _exit_code(reports: Sequence[Report], searches: Sequence[Search], *, interrupted: bool) -> ExitCode:
    if any(report.faults for report in reports):
        return ExitCode.UNBALANCED
    if interrupted:
        return ExitCode.INTERRUPTED
    if any(search.highest_rate_per_second is None for search in searches):
        return ExitCode.MISSED
    if any(report.missed or report.aborted for report in reports):
        return ExitCode.MISSED
    return ExitCode.HELD


def _outcome(code: ExitCode, reports: Sequence[Report], searches: Sequence[Search]) -> str:
    if code is ExitCode.UNBALANCED:
        faults = [f"{r.profile.name}: {fault}" for r in reports for fault in r.faults]
        return f"The account does not balance. {'; '.join(faults)}. This is a bug in pmesh."
    if code is ExitCode.INTERRUPTED:
        if not reports:
            return "Interrupted before anything was measured."
        return "Interrupted; the figures are of what was handled until then."
    if searches:
        return " ".join(
            f"{search.profile}: no rate held {search.objective}."
            if search.highest_rate_per_second is None
            else f"{search.profile}: {search.objective} holds up to {search.highest_rate_per_second:,.0f}/s."
            for search in searches
        )
    aborted = [f"{r.profile.name} {r.aborted}" for r in reports if r.aborted]
    if code is ExitCode.MISSED and aborted:
        return f"Ended by a breach: {', '.join(aborted)}."
    if code is ExitCode.MISSED:
        missed = [f"{r.profile.name} {v.objective.text}" for r in reports for v in r.missed]
        return f"Missed: {', '.join(missed)}."
    if not any(report.slo for report in reports):
        return "Nothing was judged: there are no objectives."
    return f"All objectives hold ({', '.join(report.profile.name for report in reports)})."


def _warn_of_build() -> None:
    variants = slow_variants(pmesh.BUILD_INFO)
    if variants:
        click.echo(
            f"pmesh: WARNING: this is a {' and '.join(variants)} build of pmesh; its figures mean"
            " nothing. Measure a release build",
            err=True,
        )


class _Interrupts:
    """Ctrl-C from entering to leaving: the first ends the run in good order, the second at once."""

    def __init__(self) -> None:
        self.seen = False
        self._stop_run: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._previous: Any = None

    def __enter__(self) -> Self:
        # Started with SIGINT ignored (a shell's background job), a command goes on ignoring it.
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        ):
            self._previous = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def watch(self, stop_run: Callable[[], None] | None, loop: asyncio.AbstractEventLoop | None) -> None:
        """Say how to stop what runs, in its loop; None while nothing does."""
        self._stop_run, self._loop = stop_run, loop
        if self.seen:
            self._stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.seen:
            raise KeyboardInterrupt
        self.seen = True
        self._stop()

    def _stop(self) -> None:
        if self._stop_run is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop_run)


@contextlib.contextmanager
def _few_log_lines() -> Iterator[None]:
    """The same record is logged only so often: an agent under load may fail at each of a million messages."""
    seen: Counter[str] = Counter()

    def show(record: logging.LogRecord) -> bool:
        seen[str(record.msg)] += 1
        if seen[str(record.msg)] == MOST_LOGGED:
            record.msg = f"{record.msg} (more records like this are not shown)"
        return seen[str(record.msg)] <= MOST_LOGGED

    loggers = [logging.getLogger(name) for name in ("pmesh", "pmesh.dead_letters")]
    for logger in loggers:
        logger.addFilter(show)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(show)
