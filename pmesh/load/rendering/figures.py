"""Which plots a load report has: its histograms, its series and its searches as lines, axes and words.

How a plot is drawn is `plots`; where it stands in the page is `html`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from pmesh.load.rendering.axes import linear_axis, log_axis, percentile_axis, time_axis
from pmesh.load.rendering.findings import is_time, series_names
from pmesh.load.rendering.markup import Markup
from pmesh.load.rendering.plots import Line, Mark, Plot, Rule, condense, figure
from pmesh.slo import parse_objective
from pmesh.units import bytes_text, duration_text

if TYPE_CHECKING:
    from pmesh import LatencyRecorder
    from pmesh.load.report import Drift, Report, Search

__all__ = ["percentile_figure", "percentile_plot", "scaling_figure", "search_figure", "series_figures"]

# Points of a percentile plot for each nine, and the percentiles that are always among them.
POINTS_PER_NINE = 20
NAMED_PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999, 99.9999)

# Fewer intervals than this are dots, which say no more than the tables.
FEWEST_INTERVALS = 3

# What a plot over time shows: values of each interval by the name of their line.
Lines = dict[str, list[float | None]]

# Percentiles that an objective may be about, which stand in the percentile plot.
PERCENTILE_OF_FIGURE = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9, "p99.99": 99.99}


def percentile_figure(place: str, report: Report) -> Markup | None:
    """Every time of a report by percentile, and the objectives about its latency; None without histograms."""
    # In a closed loop the response is the latency, and its line would hide the other.
    shown = [name for name in series_names(report) if report.mode == "open" or name != "response"]
    recorders = {name.replace("_", " "): report.recorders[name] for name in shown if name in report.recorders}
    latency = report.latency_ns
    summary = (
        f"Latency, {report.mode} loop: p50 {duration_text(latency.p50)}, p99 {duration_text(latency.p99)},"
        f" max {duration_text(latency.max)}."
    )
    bounds = {
        PERCENTILE_OF_FIGURE[verdict.objective.figure]: (verdict.objective.text, verdict.objective.bound)
        for verdict in report.slo
        if verdict.objective.figure in PERCENTILE_OF_FIGURE
    }
    return percentile_plot(
        f"{place}-percentiles", f"Times by percentile ({report.mode} loop)", summary, recorders, bounds
    )


def percentile_plot(
    place: str,
    title: str,
    summary: str,
    recorders: Mapping[str, LatencyRecorder],
    bounds: Mapping[float, tuple[str, float]] | None = None,
) -> Markup | None:
    """Times of `recorders` by percentile, both axes logarithmic; None when none of them holds any.

    A line ends where its count does: at the percentile of its greatest value.

    Args:
        bounds: Objectives by percentile: text, and the bound in ns.
    """
    used = {name: recorder.snapshot() for name, recorder in recorders.items() if recorder.count}
    if not used:
        return None
    # Where the greatest value stands: half a message from the end.
    ends = {name: 100 - 50 / recorder.count for name, recorder in used.items()}
    count = max(recorder.count for recorder in used.values())
    x = percentile_axis(2 * count)
    steps = math.floor(x.high * POINTS_PER_NINE)
    inside = {100 - 10.0 ** (2 - number / POINTS_PER_NINE) for number in range(steps + 1)}
    known = [named for named in NAMED_PERCENTILES if named <= 100 - 100 / count]
    xs = sorted({round(percentile, 8) for percentile in inside | {*known, *ends.values()} if percentile < 100})
    lines = []
    for style, (name, recorder) in enumerate(used.items()):
        end = ends[name] + 1e-9
        values = recorder.percentiles(xs)
        lines.append(
            Line(name, [float(value) if at <= end else None for at, value in zip(xs, values, strict=True)], style)
        )
    marks = [
        Mark(percentile, bound, "bound", text)
        for percentile, (text, bound) in (bounds or {}).items()
        if percentile <= 100 - 100 / count
    ]
    drawn = [value for line in lines for value in line.values if value is not None]
    return figure(
        Plot(
            id=place,
            title=title,
            summary=summary,
            x=x,
            y=log_axis([*drawn, *(mark.y for mark in marks)], duration_text),
            x_name="percentile",
            xs=xs,
            x_texts=[_percentile_text(percentile) for percentile in xs],
            lines=lines,
            value_text=duration_text,
            marks=marks,
        )
    )


def _percentile_text(percentile: float) -> str:
    """With as many digits as tell it from its neighbours."""
    digits = max(0, math.ceil(1 - math.log10(100 - percentile)))
    return f"p{round(percentile, digits + 1):.10g}"


def series_figures(place: str, report: Report, most_values: int) -> list[Markup]:
    """The run over time: throughput, latency, queue depth, memory and processor time; none of too short a run.

    Args:
        most_values: How many values each line has at most; a stretch of many keeps its least and greatest.
    """
    series = report.series
    if len(series) < FEWEST_INTERVALS:
        return []
    over_time = _OverTime(place, report, most_values)
    plots = [over_time.throughput()]
    if any(point.latency_count for point in series):
        plots.append(over_time.latency())
    return [*plots, over_time.depth(), over_time.memory(), over_time.processor()]


class _OverTime:
    """Plots over the intervals of one report."""

    def __init__(self, place: str, report: Report, most_values: int) -> None:
        self._place = place
        self._report = report
        self._series = report.series
        self._most_values = most_values
        self._seconds = [point.at_ns / 1e9 for point in report.series]
        self._x = time_axis(self._seconds[-1])

    def throughput(self) -> Markup:
        report, series = self._report, self._series
        lines: Lines = {"handled": [point.throughput_per_second for point in series]}
        if any(point.failed for point in series):
            lines["not handled"] = [point.failed * 1e9 / max(1, point.interval_ns) for point in series]
        asked = report.plan.rate_per_second
        return self._plot(
            "throughput",
            "Throughput over time",
            f"{report.throughput_per_second:,.0f} messages/s on the whole.",
            lines,
            _rate_text,
            rules=[] if asked is None else [Rule("rate asked", asked)],
        )

    def latency(self) -> Markup:
        report = self._report
        lines: Lines = {
            name: [
                float(getattr(point, f"latency_{name}_ns")) if point.latency_count else None for point in self._series
            ]
            for name in ("p50", "p99", "max")
        }
        if report.soak is not None:
            self._add_fit(lines, "p99 fitted", report.soak.p99)
        return self._plot(
            "latency",
            f"Latency over time ({report.mode} loop)",
            f"p99 of the whole {duration_text(report.latency_ns.p99)}, max {duration_text(report.latency_ns.max)}.",
            lines,
            duration_text,
            logarithmic=True,
        )

    def depth(self) -> Markup:
        lines: Lines = {"pending": [float(point.pending) for point in self._series]}
        if self._report.mode == "open":
            lines["late"] = [float(point.late) for point in self._series]
        deepest = max(point.pending for point in self._series)
        told = f"At most {deepest:,} messages pending at the end of an interval."
        return self._plot("depth", "Queue depth over time", told, lines, _count_text)

    def memory(self) -> Markup:
        lines: Lines = {"resident": [float(point.rss_bytes) for point in self._series]}
        if self._report.soak is not None:
            self._add_fit(lines, "fitted", self._report.soak.rss)
        told = f"At most {bytes_text(max(point.rss_bytes for point in self._series))}."
        return self._plot("memory", "Resident memory over time", told, lines, bytes_text, from_zero=False)

    def processor(self) -> Markup:
        shares: Lines = {"CPU": [point.cpu_seconds * 1e9 / max(1, point.interval_ns) for point in self._series]}
        return self._plot("cpu", "Processor time over time, in CPUs", "Of the whole process.", shares, _share_text)

    def _add_fit(self, lines: Lines, name: str, drift: Drift) -> None:
        if drift.verdict != "too few points":
            slope = drift.slope_per_hour / 3600
            lines[name] = [max(0.0, drift.start + slope * second) for second in self._seconds]

    def _plot(
        self,
        name: str,
        title: str,
        summary: str,
        lines: Lines,
        text: Callable[[float], str],
        *,
        logarithmic: bool = False,
        from_zero: bool = True,
        rules: Sequence[Rule] = (),
    ) -> Markup:
        raw = [Line(line, values, style) for style, (line, values) in enumerate(lines.items())]
        xs, shown = condense(self._seconds, raw, self._most_values)
        known = [value for values in lines.values() for value in values if value is not None]
        known += [rule.value for rule in rules]
        whole = text is _count_text
        return figure(
            Plot(
                id=f"{self._place}-{name}",
                title=title,
                summary=summary,
                x=self._x,
                y=log_axis(known, text) if logarithmic else linear_axis(known, text, from_zero=from_zero, whole=whole),
                x_name="at" if len(xs) == len(self._seconds) else "until (median, least to greatest)",
                xs=xs,
                x_texts=[f"{second:,.6g} s" for second in xs],
                lines=shown,
                value_text=text,
                rules=rules,
            )
        )


def search_figure(place: str, search: Search) -> Markup | None:
    """The rates that were tried and what was observed at each, with the knee between held and missed.

    What is observed is the objective's figure where that is a time, else the p99; None when no step timed any.
    """
    objective = parse_objective(search.objective)
    times = is_time(objective.figure)
    shown = objective.figure if times else "p99"
    steps = []
    for step in sorted(search.steps, key=lambda step: step.rate_per_second):
        observed = step.observed if times else step.p99_ns
        if observed:
            steps.append((step.rate_per_second, float(observed), step.held))
    if not steps:
        return None
    rules = [Rule(search.objective, objective.bound)] if times else []
    levels = [value for _, value, _ in steps] + [rule.value for rule in rules]
    knee = ""
    if search.highest_rate_per_second is not None:
        rules.append(
            Rule(f"highest held {_rate_text(search.highest_rate_per_second)}", search.highest_rate_per_second, True)
        )
        knee = f"{_rate_text(search.highest_rate_per_second)} holds {search.objective}"
    if search.lowest_missed_per_second is not None:
        rules.append(
            Rule(f"lowest missed {_rate_text(search.lowest_missed_per_second)}", search.lowest_missed_per_second, True)
        )
        knee += f"{'; ' if knee else ''}{_rate_text(search.lowest_missed_per_second)} misses it"
    return figure(
        Plot(
            id=f"{place}-knee",
            title=f"{shown} by rate (open loop): disc held, square missed",
            summary=f"{knee or 'No rate held it'}.",
            x=log_axis([rate for rate, _, _ in steps], _rate_text, headroom=1.0),
            y=log_axis(levels, duration_text),
            x_name="rate",
            xs=[rate for rate, _, _ in steps],
            x_texts=[_rate_text(rate) for rate, _, _ in steps],
            lines=[Line(shown, [value for _, value, _ in steps], 0)],
            value_text=duration_text,
            rules=rules,
            marks=[Mark(rate, value, "held" if held else "missed") for rate, value, held in steps],
        )
    )


def scaling_figure(reports: Sequence[Report], names: Sequence[str]) -> Markup | None:
    """Throughput by number of agents; None unless at least two numbers of agents ran in one kind of loop."""
    shown = sorted(
        (report.profile.agents, report.throughput_per_second, name)
        for report, name in zip(reports, names, strict=True)
        if report.counts.handled
    )
    if len({agents for agents, _, _ in shown}) < 2 or len({report.mode for report in reports}) > 1:
        return None
    return figure(
        Plot(
            id="scaling",
            title=f"Throughput by number of agents ({reports[0].mode} loop)",
            summary="; ".join(f"{name}: {agents:,} agents, {rate:,.0f} messages/s" for agents, rate, name in shown)
            + ".",
            x=log_axis([agents for agents, _, _ in shown], _count_text, headroom=1.0),
            y=linear_axis([rate for _, rate, _ in shown], _rate_text),
            x_name="agents",
            xs=[float(agents) for agents, _, _ in shown],
            x_texts=[f"{agents:,} ({name})" for agents, _, name in shown],
            lines=[Line("messages/s", [rate for _, rate, _ in shown], 0)],
            value_text=_rate_text,
            marks=[Mark(agents, rate, "held", name) for agents, rate, name in shown],
        )
    )


def _rate_text(per_second: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if per_second >= size:
            return f"{per_second / size:.4g} {unit}/s"
    return f"{per_second:.4g}/s"


def _count_text(count: float) -> str:
    return f"{count:,.6g}"


def _share_text(share: float) -> str:
    return f"{share:.3g}"
