"""What `pmesh load` shows to people: the progress bar, the tables and the closing line (rich).

Every line fits 80 columns, and nothing but text comes out where the output is no terminal.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NoReturn, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pmesh.load.units import bytes_text, duration_text, observed_text, percent_text

if TYPE_CHECKING:
    from pmesh.load.environment import Environment
    from pmesh.load.profiles import Profile
    from pmesh.load.report import Report
    from pmesh.slo import Verdict

__all__ = ["Screen"]

# Drawing takes about 2 ms. It happens between rounds, outside what is measured, but a run of very
# short rounds should not spend its time on it.
DRAW_SECONDS = 0.1

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
        self._tick, self._cross = _marks(file)

    @contextlib.contextmanager
    def progress(self, profile: Profile) -> Iterator[Callable[[int], None] | None]:
        """A bar for the run of `profile`; yields what to call with the messages handled so far."""
        if not self._show_progress:
            yield None
            return
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            auto_refresh=False,
            transient=True,
        )
        task = bar.add_task(profile.name, total=profile.messages)
        drawn = 0.0

        def advance(handled: int) -> None:
            nonlocal drawn
            bar.update(task, completed=handled)
            if time.monotonic() - drawn >= DRAW_SECONDS:
                bar.refresh()
                drawn = time.monotonic()

        with bar:
            bar.refresh()
            yield advance

    def show_report(self, report: Report) -> None:
        """One profile: its figures beside the reference's, and the verdict on each objective.

        What they were measured on stands above the first.
        """
        profile = report.profile
        if not self._environment_shown:
            self._environment_shown = True
            self._print(Text(_environment_text(report.environment), style="dim"))
        self._print()
        self._print(Text(f"{profile.name}{' (interrupted)' if report.interrupted else ''}", style="bold"))
        self._print(
            Text(
                f"{profile.agents} agents x {profile.messages_per_agent:,} messages"
                f" x {profile.rounds} rounds, {profile.payload_bytes:,}-byte payloads;\n"
                f"closed loop, {profile.concurrency} senders,"
                f" at most {report.window:,} messages in flight",
                style="dim",
            )
        )
        self._print(_figures(report))
        self._print()
        self._print(self._verdicts(report.slo))
        if report.duration_ns >= SHARE_NS and _cpu_share(report) < BUSY_SHARE:
            share = f"{_cpu_share(report):.0%}"
            self._print(
                Text(
                    f"note: this process had {share} of a CPU, and something else on this machine\n"
                    "the rest; the figures are worse than they would be alone",
                    style="yellow",
                )
            )

    def show_summary(self, reports: Sequence[Report]) -> None:
        """All profiles in one table, a line each."""
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("profile")
        for heading in ("messages/s", "x ref.", "p50", "p99", "max", "success", "objectives"):
            table.add_column(heading, justify="right", no_wrap=True)
        for report in reports:
            latency = report.latency_ns
            reference = report.profile.reference
            high = reference.throughput_high_per_second if reference else 0
            held = len(report.slo) - len(report.missed)
            table.add_row(
                report.profile.name,
                f"{report.throughput_per_second:,.0f}",
                _factor(report.throughput_per_second, high),
                duration_text(latency.p50),
                duration_text(latency.p99),
                duration_text(latency.max),
                percent_text(report.success_rate),
                Text(
                    f"{held}/{len(report.slo)} {self._cross if report.missed else self._tick}",
                    style="red" if report.missed else "green",
                ),
            )
        self._print()
        self._print(table)

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
            self.failure = error.strerror or type(error).__name__
            _discard_rest(self._file)

    def _verdicts(self, verdicts: Sequence[Verdict]) -> Table:
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column("")
        table.add_column("objective", no_wrap=True)
        table.add_column("observed", justify="right", no_wrap=True)
        for verdict in verdicts:
            mark = self._tick if verdict.passed else self._cross
            table.add_row(
                Text(mark, style="green" if verdict.passed else "bold red"),
                verdict.objective.text,
                observed_text(verdict.objective.figure, verdict.observed),
            )
        return table


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


def _environment_text(environment: Environment) -> str:
    gil = "" if environment.gil else " without GIL"
    return (
        f"pmesh {environment.pmesh}, {environment.implementation} {environment.python}{gil},"
        f" {environment.event_loop} loop, {environment.cpu}, {environment.cpu_count} CPUs"
    )


def _figures(report: Report) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in ("pmesh", "reference", "factor"):
        table.add_column(heading, justify="right", no_wrap=True)
    latency = report.latency_ns
    reference = report.profile.reference
    resources = report.resources
    counts = report.counts
    table.add_row("total", f"{counts.sent:,}", f"{report.profile.messages:,}" if reference else "")
    table.add_row(
        "success",
        percent_text(report.success_rate),
        percent_text(reference.success_rate) if reference else "",
    )
    if reference:
        low, high = reference.throughput_low_per_second, reference.throughput_high_per_second
        table.add_row(
            "throughput",
            f"{report.throughput_per_second:,.0f}/s",
            f"{low:,.0f}-{high:,.0f}/s",
            _factor(report.throughput_per_second, high),
        )
    else:
        table.add_row("throughput", f"{report.throughput_per_second:,.0f}/s")
    table.add_row("mean", duration_text(latency.mean))
    for name in ("p50", "p95", "p99", "max"):
        observed: int = getattr(latency, name)
        told: int = getattr(reference, f"{name}_ns") if reference else 0
        table.add_row(
            name,
            duration_text(observed),
            duration_text(told) if told else "",
            _factor(told, observed) if told else "",
        )
    table.add_row("duration", duration_text(report.duration_ns))
    table.add_row("memory per agent", bytes_text(resources.rss_bytes_per_agent))
    table.add_row("CPU", f"{report.cpu_seconds:.2f} s, {_cpu_share(report):.0%}")
    return table


def _cpu_share(report: Report) -> float:
    """Processor time by duration: about 1 in a closed loop, which never waits, on a free CPU."""
    return report.cpu_seconds * 1e9 / report.duration_ns if report.duration_ns else 0.0


def _marks(file: TextIO) -> tuple[str, str]:
    try:
        "✓✗".encode(file.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "ok", "MISSED"
    return "✓", "✗"


def _factor(better: float, worse: float) -> str:
    """How many times one figure is the other; for times, the reference's over pmesh's."""
    if not better or not worse:
        return ""
    factor = better / worse
    return f"{factor:,.0f}x" if factor >= 10 else f"{factor:.1f}x"
