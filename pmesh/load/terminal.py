"""What `pmesh load` shows to people: progress, tables, the steps of a search and the closing line (rich).

Every line fits 80 columns, and nothing but text comes out where the output is no terminal. The words of a report
are made in `wording`.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import statistics
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn, TextIO

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from pmesh.load import wording
from pmesh.load.units import bytes_text, duration_text, observed_text, percent_text
from pmesh.slo import parse_objective

if TYPE_CHECKING:
    from pmesh.load.profiles import Reference
    from pmesh.load.report import Report, Search, Spread, Step
    from pmesh.slo import Objective, Verdict

__all__ = ["Screen"]

COLUMNS = 80

# The bar is drawn on the event loop of the run that it shows. That takes about 20 us, which a run of very
# short rounds should not spend its time on, and which may show in the latency of few messages.
DRAW_SECONDS = 0.25
BAR_CELLS = 24

# How long a run must have gone on before what is left of it can be told.
ESTIMATE_SECONDS = 2.0

# Cells of the longest bar of a search's plot; with the columns beside it, the line is full.
PLOT_CELLS = 24

# Below this share of a CPU a run says that it was not alone; shorter runs than this cannot tell.
BUSY_SHARE = 0.9
SHARE_NS = 100_000_000


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
        self._environment_shown = False
        self._console = _Console(file=file, highlight=False)
        self._show_progress = show_progress and file.isatty() and not self._console.is_dumb_terminal
        self._marks = _Marks(file)

    @contextlib.contextmanager
    def progress(self, description: str, total: float, unit: str) -> Iterator[Callable[[float], None] | None]:
        """A bar for something that takes a while; yields what to call with how much of it is done.

        Where no bar is shown, that is None.

        Args:
            total: How much there is to do, in `unit`, such as 5,000 "messages" or 60 "s".
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
        """One profile: its figures, in a closed loop beside the reference's, and the verdict on each objective.

        What they were measured on stands above the first.
        """
        plan = report.plan
        if not self._environment_shown:
            self._environment_shown = True
            self._print_prose(wording.environment_text(report.environment), style="dim")
        self._print()
        ended = " (aborted)" if report.aborted is not None else " (interrupted)" if report.interrupted else ""
        self._print(Text(f"{plan.profile.name}{ended}", style="bold"))
        for text in (wording.load_text(plan), wording.loop_text(plan), wording.mailbox_text(plan)):
            self._print_prose(text, style="dim")
        self._print_prose(wording.injected_text(report), style="yellow")
        for note in wording.report_notes(report):
            self._print_prose(note, style="bold red" if report.aborted is not None else "yellow")
        self._print()
        self._print(_figures(report))
        if plan.mode == "open":
            self._print()
            self._print(_times(report))
        if report.counts.handled != report.counts.sent:
            self._print()
            for line in wording.account_lines(report.counts):
                self._print_prose(line)
        if report.soak is not None:
            self._print()
            self._print_prose(
                f"soak of {duration_text(report.soak.duration_ns)}, its first 10 % left out as start-up:", style="dim"
            )
            for drift in (report.soak.p99, report.soak.rss):
                style = "red" if drift.verdict == "growth" else ""
                self._print_prose(wording.drift_text(drift), style=style)
        if report.slo:
            self._print()
            self._print(self._verdicts(report.slo))
        if _was_crowded(report):
            self._print_prose(
                f"note: this process had {_cpu_share(report):.0%} of a CPU, and something else on this machine"
                " the rest; the figures are worse than they would be alone",
                style="yellow",
            )

    def show_summary(self, reports: Sequence[Report]) -> None:
        """All profiles in one table, a line each."""
        table = _table()
        table.add_column("profile")
        modes = {report.mode for report in reports}
        compared = any(_reference(report) for report in reports)
        headings = ["messages/s"]
        headings += ["x ref."] if compared else []
        headings += ["loop"] if len(modes) > 1 else []
        for heading in (*headings, "p50", "p99", "max", "success", "objectives"):
            table.add_column(heading, justify="right", no_wrap=True)
        for report in reports:
            latency = report.latency_ns
            reference = _reference(report)
            high = reference.throughput_high_per_second if reference else 0
            held = len(report.slo) - len(report.missed)
            cells = [f"{report.throughput_per_second:,.0f}"]
            cells += [_factor(report.throughput_per_second, high)] if compared else []
            cells += [report.mode] if len(modes) > 1 else []
            table.add_row(
                report.profile.name,
                *cells,
                duration_text(latency.p50),
                duration_text(latency.p99),
                duration_text(latency.max),
                percent_text(report.success_rate),
                Text(
                    f"{held}/{len(report.slo)} {self._marks.of(not report.missed)}",
                    style="red" if report.missed else "green",
                ),
            )
        self._print()
        for mode in sorted(modes):
            self._print_prose(f"{mode} loop: {wording.TIMES_FROM[mode]}", style="dim")
        self._print(table)

    def show_search_begin(self, profile: str, objective: Objective) -> None:
        """What the steps that follow are for."""
        self._print()
        self._print(Text(f"{profile}: the highest rate with {objective.text}", style="bold"))
        self._print_prose(f"open loop: {wording.TIMES_FROM['open']}", style="dim")

    def show_step(self, step: Step, objective: Objective) -> None:
        """One run of a search, as it ends."""
        observed = f"{objective.figure} {observed_text(objective.figure, step.observed)}"
        holds = step.observed is not None and objective.holds(step.observed)
        end = ": not sustained" if holds and not step.held else ""
        self._print(
            Text(
                f"{self._marks.of(step.held):<{self._marks.width}} {wording.rate_text(step.rate_per_second):>12}"
                f"  {observed}, {wording.rate_text(step.throughput_per_second)} handled{end}",
                style="green" if step.held else "red",
            )
        )

    def show_search(self, search: Search) -> None:
        """What a search found: its rates in order, and how p99 grows with them."""
        self._print()
        self._print_prose(wording.search_text(search), style="bold")
        if not search.steps:
            return
        self._print_prose("each rate with the medians of its runs; open loop, p99 on a log scale", style="dim")
        self._print()
        self._print(self._knee(search))

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

    def _print_prose(self, text: str | None, style: str = "") -> None:
        if text is not None:
            self._print(Text(textwrap.fill(text, COLUMNS, break_on_hyphens=False), style=style))

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
        _discard_rest(self._file)

    def _bar(self, description: str, completed: float, total: float, unit: str, seconds: float) -> str:
        share = min(completed / total, 1.0) if total else 1.0
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

    def _verdicts(self, verdicts: Sequence[Verdict]) -> Table:
        table = _table()
        table.add_column("")
        table.add_column("objective", no_wrap=True)
        table.add_column("observed", justify="right", no_wrap=True)
        for verdict in verdicts:
            table.add_row(
                Text(self._marks.of(verdict.passed), style="green" if verdict.passed else "bold red"),
                verdict.objective.text,
                observed_text(verdict.objective.figure, verdict.observed),
            )
        return table

    def _knee(self, search: Search) -> Table:
        figure = parse_objective(search.objective).figure
        told = figure in ("p50", "p99", "max", "success")
        table = _table()
        table.add_column("")
        for heading in ("rate/s", "held", "p50", "p99", "max" if told else figure, "success"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("p99", no_wrap=True)
        runs: dict[float, list[Step]] = {}
        for step in search.steps:
            runs.setdefault(step.rate_per_second, []).append(step)
        typical = {rate: statistics.median_low(step.p99_ns for step in steps) for rate, steps in runs.items()}
        for rate, steps in sorted(runs.items()):
            held = sum(step.held for step in steps)
            good = held * 2 > len(steps)
            worst: float | None = statistics.median_low(step.max_ns for step in steps)
            if not told:
                seen = [step.observed for step in steps if step.observed is not None]
                worst = statistics.median_low(seen) if seen else None
            table.add_row(
                Text(self._marks.of(good), style="green" if good else "bold red"),
                wording.rate_text(rate).removesuffix("/s"),
                f"{held}/{len(steps)}",
                duration_text(statistics.median_low(step.p50_ns for step in steps)),
                duration_text(typical[rate]),
                observed_text("max" if told else figure, worst),
                f"{statistics.median_low(step.success_rate for step in steps):.1%}",
                Text(
                    self._marks.block * _log_cells(typical[rate], list(typical.values())),
                    style="green" if good else "red",
                ),
            )
        return table


class _Marks:
    """The signs that the stream can show: hooks and blocks, or words and ASCII."""

    def __init__(self, file: TextIO) -> None:
        self._tick, self._cross, self.block, self.blank = "\u2713", "\u2717", "\u2588", "\u2591"
        try:
            f"{self._tick}{self._cross}{self.block}{self.blank}".encode(file.encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            self._tick, self._cross, self.block, self.blank = "ok", "MISSED", "#", "."
        self.width = len(self._cross)

    def of(self, good: bool) -> str:
        return self._tick if good else self._cross


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        # rich would end the process here, without a word and with the JSON file unwritten.
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def _discard_rest(file: TextIO) -> None:
    """Let what is buffered go nowhere, or the interpreter complains of it when it exits."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, file.fileno())
        os.close(null)


def _table() -> Table:
    return Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)


def _reference(report: Report) -> Reference | None:
    """The reference's figures, where they are of the same load: a closed loop of the whole profile."""
    plan = report.plan
    changed = plan.messages is not None or plan.duration_seconds is not None or plan.agent is not None
    return None if plan.mode == "open" or changed or plan.injects else plan.profile.reference


def _figures(report: Report) -> Table:
    table = _table()
    reference = _reference(report)
    table.add_column("", no_wrap=True)
    for heading in ("pmesh", "reference", "factor") if reference else ("pmesh",):
        table.add_column(heading, justify="right", no_wrap=True)
    resources = report.resources

    def add(name: str, ours: str, theirs: str = "", factor: str = "") -> None:
        table.add_row(name, ours, *((theirs, factor) if reference else ()))

    add("total", f"{report.counts.sent:,}", f"{report.profile.messages:,}")
    add("success", percent_text(report.success_rate), percent_text(reference.success_rate) if reference else "")
    throughput = report.throughput_per_second
    if reference:
        low, high = reference.throughput_low_per_second, reference.throughput_high_per_second
        add("throughput", f"{throughput:,.0f}/s", f"{low:,.0f}-{high:,.0f}/s", _factor(throughput, high))
    else:
        add("throughput", wording.rate_text(throughput))
    if report.mode == "closed":
        _add_latency(report.latency_ns, reference, add)
    else:
        add("unsent", f"{report.unsent:,}")
        if report.series:
            add("most pending", f"{max(point.pending for point in report.series):,}")
            add("most late", f"{max(point.late for point in report.series):,}")
    add("duration", duration_text(report.duration_ns))
    add("memory per agent", bytes_text(resources.rss_bytes_per_agent))
    add("CPU", f"{report.cpu_seconds:.2f} s, {_cpu_share(report):.0%}")
    return table


def _add_latency(latency: Spread, reference: Reference | None, add: Callable[..., None]) -> None:
    add("mean", duration_text(latency.mean))
    for name in ("p50", "p95", "p99", "max"):
        observed: int = getattr(latency, name)
        if reference:
            told: int = getattr(reference, f"{name}_ns")
            add(name, duration_text(observed), duration_text(told), _factor(told, observed))
        else:
            add(name, duration_text(observed))


def _times(report: Report) -> Table:
    """The latency of an open loop and the parts that it is made of."""
    table = _table()
    table.add_column("", no_wrap=True)
    for heading in ("mean", "p50", "p99", "p99.9", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("from ... to ...", style="dim", no_wrap=True)
    for name, spread, span in (
        ("latency", report.latency_ns, "intended send ... end"),
        ("send delay", report.send_delay_ns, "intended ... actual send"),
        ("response", report.response_ns, "accept ... end"),
        ("queue", report.queue_ns, "accept ... start"),
        ("service", report.service_ns, "start ... end"),
    ):
        if spread is not None:
            times = (spread.mean, spread.p50, spread.p99, spread.p99_9, spread.max)
            table.add_row(name, *map(duration_text, times), span)
    return table


def _cpu_share(report: Report) -> float:
    """Processor time by duration: about 1 in a closed loop, which never waits, on a free CPU."""
    return report.cpu_seconds * 1e9 / report.duration_ns if report.duration_ns else 0.0


def _was_crowded(report: Report) -> bool:
    """Whether something else took the CPU; only known of a load that would use all of one."""
    plan = report.plan
    never_waits = plan.mode == "closed" and plan.agent is None and not plan.slow_agents
    return never_waits and report.duration_ns >= SHARE_NS and _cpu_share(report) < BUSY_SHARE


def _factor(better: float, worse: float) -> str:
    """How many times one figure is the other; for times, the reference's over pmesh's."""
    if not better or not worse:
        return ""
    factor = better / worse
    return f"{factor:,.0f}x" if factor >= 10 else f"{factor:.1f}x"


def _log_cells(value: float, values: Sequence[float]) -> int:
    """The length of a bar for `value` among `values`: one for the lowest, PLOT_CELLS for the highest, 0 for none."""
    above_0 = [other for other in values if other > 0]
    if value <= 0:
        return 0
    span = math.log(max(above_0) / min(above_0))
    if not span:
        return 1
    return 1 + round((PLOT_CELLS - 1) * math.log(value / min(above_0)) / span)


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
