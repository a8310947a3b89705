"""The parts of `terminal`: tables of figures, times, objectives, summaries, of a search and its knee; short texts.

Every table fits 80 columns.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from rich.table import Table
from rich.text import Text

from pmesh.load.rendering.findings import cpu_share
from pmesh.slo import parse_objective
from pmesh.units import bytes_text, duration_text, observed_text, percent_text

if TYPE_CHECKING:
    from pmesh.load.compare import Change, ProfileComparison
    from pmesh.load.profiles import Reference
    from pmesh.load.report import Counts, Drift, Report, Search, Spread, Step
    from pmesh.slo import Verdict

__all__ = [
    "Marks",
    "account_lines",
    "comparison_table",
    "drift_text",
    "figures_table",
    "knee_table",
    "rate_text",
    "summary_table",
    "times_table",
    "verdicts_table",
]

# Cells of the longest bar of a search's plot; with the columns beside it, the line is full.
PLOT_CELLS = 18


class Marks:
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


def rate_text(per_second: float) -> str:
    """A rate of messages; with decimals only where they matter."""
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.3g}/s"


def account_lines(counts: Counts) -> tuple[str, str]:
    """Both sides of the account: what became of what was sent, and of what was accepted."""
    return (
        f"{counts.sent:,} sent = {counts.accepted:,} accepted + {counts.rejected:,} rejected",
        f"{counts.accepted:,} accepted = {counts.handled:,} handled + {counts.failed:,} failed"
        f" + {counts.expired:,} expired + {counts.dropped:,} dropped + {counts.dead:,} dead"
        f" + {counts.pending:,} pending",
    )


def drift_text(drift: Drift) -> str:
    """A drift, such as `p99 +0.31 us/h (95 %: -2.10 to +2.72 us/h) from 152 us: no growth`."""
    is_size = drift.figure == "rss"
    name = "RSS" if is_size else drift.figure
    if drift.verdict == "too few points":
        return f"{name}: too few points ({drift.points}) to tell"
    units = ("GB", "MB", "kB", "B") if is_size else ("s", "ms", "us", "ns")
    largest = max(map(abs, (drift.slope_per_hour, drift.low_per_hour, drift.high_per_hour)))
    unit, size = next(
        ((unit, size) for unit, size in zip(units, (1e9, 1e6, 1e3), strict=False) if largest >= size), (units[-1], 1.0)
    )
    decimals = 0 if largest / size >= 100 else 1 if largest / size >= 10 else 2
    slope, low, high = (
        f"{value / size:+.{decimals}f}" for value in (drift.slope_per_hour, drift.low_per_hour, drift.high_per_hour)
    )
    start = bytes_text(drift.start) if is_size else duration_text(drift.start)
    return f"{name} {slope} {unit}/h (95 %: {low} to {high} {unit}/h) from {start}: {drift.verdict}"


def _new_table() -> Table:
    return Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)


def _reference(report: Report) -> Reference | None:
    """The reference's figures, where they are of the same load: a closed loop of the whole profile."""
    plan = report.plan
    changed = plan.messages is not None or plan.duration_seconds is not None or plan.agent is not None
    return None if plan.mode == "open" or changed or plan.injects else plan.profile.reference


def figures_table(report: Report) -> Table:
    table = _new_table()
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
        add("throughput", rate_text(throughput))
    if report.mode == "closed":
        _add_latency(report.latency_ns, reference, add)
    else:
        add("unsent", f"{report.unsent:,}")
        if report.series:
            add("most pending", f"{max(point.pending for point in report.series):,}")
            add("most late", f"{max(point.late for point in report.series):,}")
    add("duration", duration_text(report.duration_ns))
    add("memory per agent", bytes_text(resources.rss_bytes_per_agent))
    add("CPU", f"{report.cpu_seconds:.2f} s, {cpu_share(report):.0%}")
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


def times_table(report: Report) -> Table:
    """The latency of an open loop and the parts that it is made of."""
    table = _new_table()
    table.add_column("", no_wrap=True)
    for heading in ("mean", "p50", "p99", "p99.9", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("from ... to ...", style="dim", no_wrap=True)
    for name, spread, span in (
        ("latency", report.latency_ns, "intended send ... end"),
        ("send delay", report.send_delay_ns, "intended send ... send"),
        ("response", report.response_ns, "accept ... end"),
        ("queue", report.queue_ns, "accept ... start"),
        ("service", report.service_ns, "start ... end"),
    ):
        if spread is not None:
            times = (spread.mean, spread.p50, spread.p99, spread.p99_9, spread.max)
            table.add_row(name, *map(duration_text, times), span)
    return table


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


def summary_table(reports: Sequence[Report], marks: Marks) -> Table:
    """All reports, a line each; beside the reference where all are closed loops."""
    table = _new_table()
    table.add_column("profile")
    modes = {report.mode for report in reports}
    compared = len(modes) == 1 and any(_reference(report) for report in reports)
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
                f"{held}/{len(report.slo)} {marks.of(not report.missed)}",
                style="red" if report.missed else "green",
            ),
        )
    return table


def verdicts_table(verdicts: Sequence[Verdict], marks: Marks) -> Table:
    """Each objective, whether it holds, and what was observed."""
    table = _new_table()
    table.add_column("")
    table.add_column("objective", no_wrap=True)
    table.add_column("observed", justify="right", no_wrap=True)
    for verdict in verdicts:
        table.add_row(
            Text(marks.of(verdict.passed), style="green" if verdict.passed else "bold red"),
            verdict.objective.text,
            observed_text(verdict.objective.figure, verdict.observed),
        )
    return table


def knee_table(search: Search, marks: Marks) -> Table:
    """The rates of a search in order, each with the medians of its runs and a bar of its p99 on a log scale."""
    figure = parse_objective(search.objective).figure
    told = figure in ("p50", "p99", "max", "success")
    table = _new_table()
    table.add_column("")
    for heading in ("rate/s", "held", "p50", "p99", "max" if told else "observed", "success"):
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
            Text(marks.of(good), style="green" if good else "bold red"),
            rate_text(rate).removesuffix("/s"),
            f"{held}/{len(steps)}",
            duration_text(statistics.median_low(step.p50_ns for step in steps)),
            duration_text(typical[rate]),
            observed_text("max" if told else figure, worst),
            f"{statistics.median_low(step.success_rate for step in steps):.1%}",
            Text(
                marks.block * _log_cells(typical[rate], list(typical.values())),
                style="green" if good else "red",
            ),
        )
    return table


def comparison_table(profile: ProfileComparison) -> Table:
    """Each figure of a profile before and after, highest rates among them, and its change."""
    table = _new_table()
    # The name of a highest rate has its objective in it: too long for one line with long figures beside it.
    table.add_column("")
    for heading in ("before", "after", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for change in profile.changes:
        ratio = change.ratio
        verdict, style = _change_verdict(change)
        table.add_row(
            change.name,
            change.text_of(change.before),
            change.text_of(change.after),
            "" if ratio is None else f"{ratio:+,.1%}",
            Text(verdict, style=style),
        )
    return table


def _change_verdict(change: Change) -> tuple[str, str]:
    """What a change is, in words, and the style to show that in."""
    if change.remark:
        return change.remark, "yellow"
    if change.before is None or change.after is None or change.before == change.after:
        return "", ""
    return ("worse", "red") if change.is_worse else ("better", "green")
