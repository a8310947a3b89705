"""What `pmesh load` shows to people: progress, tables, the steps of a search, comparisons and the closing line (rich).

Every line fits 80 columns, and nothing but text comes out where the output is no terminal. The tables are made in
`terminal_tables`, the sentences that other formats have as well in `findings`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from pmesh.load.rendering.findings import load_text, notices_of, search_text
from pmesh.load.rendering.terminal_tables import (
    Marks,
    account_lines,
    comparison_table,
    drift_text,
    figures_table,
    knee_table,
    rate_text,
    summary_table,
    times_table,
    verdicts_table,
)
from pmesh.streams import CONTROLS, discard_rest
from pmesh.units import duration_text, observed_text

if TYPE_CHECKING:
    from pmesh.environment import Environment
    from pmesh.load.compare import Breach, Comparison
    from pmesh.load.report import Report, Search, Step
    from pmesh.slo import Objective

__all__ = ["Screen"]

COLUMNS = 80

# The bar is drawn on the event loop of the run that it shows. That takes about 60 us, which a run of very
# short rounds should not spend its time on, and which may show in the latency of few messages.
DRAW_SECONDS = 0.25
BAR_CELLS = 24

# How long a run must have gone on before what is left of it can be told.
ESTIMATE_SECONDS = 2.0

# What a latency is, by the loop that it comes from.
TIMES_FROM = {
    "closed": "In a closed loop, latency runs from accept to the end of handling.",
    "open": "In an open loop, latency runs from the intended send time to the end of handling.",
}


class Screen:
    """Where the report is shown.

    Args:
        file: The stream to write to.
        show_progress: Draw a bar while a profile runs; only ever done on a terminal.
        silent: Show nothing at all.

    Attributes:
        failure: Why the stream takes no more, as when its reader has gone; None as long as it does.
    """

    def __init__(self, file: TextIO, *, show_progress: bool, silent: bool = False) -> None:
        self.failure: str | None = None
        self._file = file
        self._silent = silent
        self._environment_shown = ""
        self._console = _Console(file=file, highlight=False, markup=False, emoji=False)
        self._show_progress = show_progress and not silent and file.isatty() and not self._console.is_dumb_terminal
        if isinstance(file, io.TextIOWrapper) and file.errors == "strict":
            # A name that the stream has no letters for must not cost the report.
            file.reconfigure(errors="replace")
        self._marks = Marks(file)

    @contextlib.contextmanager
    def progress(self, description: str, total: float, unit: str) -> Iterator[Callable[[float], None] | None]:
        """A bar for something that takes a while; yields what to call with how much of it is done.

        Where no bar is shown, that is None.

        Args:
            total: How much there is to do, in `unit`, such as 5,000 "messages" or 60 "seconds".
        """
        if not self._show_progress:
            yield None
            return
        began = time.monotonic()
        drawn = 0.0

        def advance(completed: float) -> None:
            nonlocal drawn
            now = time.monotonic()
            if now - drawn >= DRAW_SECONDS:
                drawn = now
                self._write_over(self._bar(description, completed, total, unit, now - began))

        advance(0.0)
        try:
            yield advance
        finally:
            self._write_over("")

    def show_report(self, report: Report) -> None:
        """One profile: its load, what speaks against the figures, the figures, and the verdict on each objective.

        What they were measured on stands above the first, and above each that was measured on something else.
        """
        environment = _environment_text(report.environment)
        if environment != self._environment_shown:
            self._environment_shown = environment
            self._print_prose(environment, style="dim")
        self._print()
        ended = " (aborted)" if report.aborted is not None else " (interrupted)" if report.interrupted else ""
        self._print(Text(f"{report.profile.name}{ended}", style="bold"))
        self._print_prose(load_text(report), style="dim")
        self._print_prose(TIMES_FROM[report.mode], style="dim")
        for notice in notices_of(report):
            self._print_prose(f"note: {notice.text}", style="bold red" if notice.grave else "yellow")
        self._print()
        self._print(figures_table(report))
        if report.mode == "open":
            self._print()
            self._print(times_table(report))
        if report.counts.handled != report.counts.sent:
            self._print()
            for line in account_lines(report.counts):
                self._print_prose(line)
        if report.soak is not None:
            self._print()
            self._print_prose(
                f"soak of {duration_text(report.soak.duration_ns)}, its first 10 % left out as start-up:", style="dim"
            )
            for drift in (report.soak.p99, report.soak.rss):
                self._print_prose(drift_text(drift), style="red" if drift.verdict == "growth" else "")
        if report.slo:
            self._print()
            self._print(verdicts_table(report.slo, self._marks))

    def show_summary(self, reports: Sequence[Report]) -> None:
        """All profiles in one table, a line each."""
        self._print()
        for mode in sorted({report.mode for report in reports}):
            self._print_prose(TIMES_FROM[mode], style="dim")
        self._print(summary_table(reports, self._marks))

    def show_search_begin(self, profile: str, objective: Objective) -> None:
        """What the steps that follow are for."""
        self._print()
        self._print(Text(f"{profile}: the highest rate with {objective.text}", style="bold"))
        self._print_prose(TIMES_FROM["open"], style="dim")

    def show_step(self, step: Step, objective: Objective) -> None:
        """One run of a search, as it ends."""
        holds = step.observed is not None and objective.holds(step.observed)
        end = ": not sustained" if holds and not step.held else ""
        self._print(
            Text(
                f"{self._marks.of(step.held):<{self._marks.width}} {rate_text(step.rate_per_second):>12}"
                f"  {objective.figure} {observed_text(objective.figure, step.observed)},"
                f" {rate_text(step.throughput_per_second)} handled{end}",
                style="green" if step.held else "red",
            )
        )

    def show_search(self, search: Search) -> None:
        """What a search found: its rates in order, and how p99 grows with them."""
        self._print()
        self._print_prose(search_text(search), style="bold")
        if not search.steps:
            return
        self._print_prose("Medians of the runs of each rate; open loop, p99 on a log scale:", style="dim")
        self._print(knee_table(search, self._marks))

    def show_comparison(self, comparison: Comparison, breaches: Sequence[Breach]) -> None:
        """Two documents side by side, what warns of comparing them, and the limits that are not kept."""
        for side, document in (("before", comparison.before), ("after", comparison.after)):
            environment = document.environment
            self._print_prose(f"{side}: {_environment_text(environment)}, {environment.started_at}", style="dim")
        for warning in comparison.warnings:
            self._print_prose(f"WARNING: {warning}", style="bold red")
        for note in comparison.notes:
            self._print_prose(f"note: {note}", style="yellow")
        for profile in comparison.profiles:
            self._print()
            self._print(Text(profile.name, style="bold"))
            for mode in sorted({profile.before.mode, profile.after.mode}):
                self._print_prose(TIMES_FROM[mode], style="dim")
            for warning in profile.warnings:
                self._print_prose(f"WARNING: {warning}", style="bold red")
            self._print(comparison_table(profile))
        self._print()
        for side, names in (("before", comparison.only_before), ("after", comparison.only_after)):
            if names:
                self._print_prose(f"only {side}: {', '.join(names)}", style="yellow")
        for breach in breaches:
            self._print_prose(f"{self._marks.of(False)} {breach}", style="bold red")

    def show_outcome(self, text: str, *, good: bool) -> None:
        """The last line: what the exit code says."""
        self._print()
        self._print(Text(text, style="green" if good else "bold red"))

    def _print(self, *shown: RenderableType) -> None:
        if self._silent or self.failure is not None:
            return
        try:
            self._console.print(*shown)
        except OSError as error:
            self._give_up(error)

    def _print_prose(self, text: str, style: str = "") -> None:
        # A number and its unit stay in one line.
        bound = re.sub(r"(?<=\d) (?=[A-Za-z])", "\0", text)
        lines = textwrap.fill(bound, COLUMNS, break_on_hyphens=False).replace("\0", " ")
        self._print(Text(lines, style=style))

    def _write_over(self, line: str) -> None:
        """Put `line` in the place of the one that the cursor is in, which stays there."""
        if self.failure is not None:
            return
        try:
            self._file.write(f"\r\x1b[2K{line}")
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.failure = error.strerror or type(error).__name__
        discard_rest(self._file)

    def _bar(self, description: str, completed: float, total: float, unit: str, seconds: float) -> str:
        share = min(max(completed / total, 0.0), 1.0) if total else 1.0
        cells = int(share * BAR_CELLS)
        left = ""
        if seconds >= ESTIMATE_SECONDS and 0 < share < 1:
            left = f", {_clock_text(seconds / share - seconds)} left"
        line = (
            f"{description} {self._marks.block * cells}{self._marks.blank * (BAR_CELLS - cells)}"
            f" {completed:.0f}/{total:.0f} {unit}{left}"
        )
        # A line that wraps could not be written over.
        return line[: min(self._console.width, COLUMNS) - 1]


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        # rich would end the process here, without a word and with the JSON file unwritten.
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        # Names in a report that was read may hold anything. What rich itself says to a terminal is added after this.
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(segment.text.translate(CONTROLS), segment.style)


def _environment_text(environment: Environment) -> str:
    gil = "" if environment.gil else " without GIL"
    return (
        f"pmesh {environment.pmesh}, {environment.implementation} {environment.python}{gil},"
        f" {environment.event_loop} loop, {environment.cpu}, {environment.cpu_count} CPUs"
    )


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
