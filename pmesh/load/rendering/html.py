"""Load reports as one HTML page that needs nothing else: no network, no fonts, no files beside it.

The page's parts and their order; plots are `figures`, words are `findings`, and how it looks is `page.css`. The page
says all without its script (`page.js`), which reads out values along the plots and sorts the agents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pmesh.load.rendering.checks import check_report
from pmesh.load.rendering.compare_page import compare_page
from pmesh.load.rendering.figures import percentile_figure, scaling_figure, search_figure, series_figures
from pmesh.load.rendering.findings import (
    alerts_of,
    beside_reference,
    cpu_share,
    environment_line,
    environment_rows,
    factor_text,
    latency_meaning,
    load_text,
    name_among,
    notices_of,
    recommend,
    search_text,
    section_names,
    series_names,
    verdict_text,
)
from pmesh.load.rendering.markup import Markup, definition_list, element, table
from pmesh.load.rendering.page import header, page, section, show_notices
from pmesh.load.report import Counts
from pmesh.units import bytes_text, duration_text, percent_text

if TYPE_CHECKING:
    from pmesh.environment import Environment
    from pmesh.load.report import AgentRow, Drift, Report, Search, Spread

__all__ = ["MOST_AGENT_ROWS", "compare_page", "render"]

# Agents that a page lists for a profile; the JSON has all. 500 rows are about 100 kB.
MOST_AGENT_ROWS = 500

# Values of a line over time: what a plot can show, and for all profiles together, since one takes about 1 kB
# in the five plots of a profile.
MOST_VALUES = 160
MOST_VALUES_OF_PAGE = 800

STATISTICS = ("min", "mean", "p50", "p90", "p95", "p99", "p99_9", "p99_99", "max")
ACCOUNT = tuple(field.name for field in dataclasses.fields(Counts))


def render(environment: Environment, reports: Sequence[Report], searches: Sequence[Search] = ()) -> str:
    """The page of these reports and searches.

    Args:
        environment: What all of them were measured on.
    """
    verdict, good = verdict_text(reports)
    if not reports and searches:
        verdict = " ".join(map(search_text, searches))
        good = all(search.highest_rate_per_second is not None for search in searches)
    names = section_names(reports)
    most_values = max(20, min(MOST_VALUES, MOST_VALUES_OF_PAGE // max(1, len(reports))))
    head = header("pmesh load report", [environment_line(environment)], verdict, good)
    parts = [_overview(reports, searches, names)]
    parts += [
        _profile(f"profile-{number}", names[number], report, most_values) for number, report in enumerate(reports)
    ]
    parts += [_search(f"search-{number}", search) for number, search in enumerate(searches)]
    if reports:
        parts += [_conclusions(reports, searches), _checks(reports, names)]
    parts.append(section("environment", "Environment", _facts(environment_rows(environment))))
    return page(f"pmesh load: {verdict}", head, parts)


def _facts(rows: Sequence[tuple[str, str]]) -> Markup:
    return definition_list(rows, class_="facts")


def _mark(passed: bool, good: str = "held", bad: str = "missed") -> Markup:
    return element("span", f"✓ {good}" if passed else f"✗ {bad}", class_="held" if passed else "missed")


def _overview(reports: Sequence[Report], searches: Sequence[Search], names: Sequence[str]) -> Markup:
    rows = []
    for number, report in enumerate(reports):
        latency = report.latency_ns
        held = len(report.slo) - len(report.missed)
        rows.append(
            (
                element("a", names[number], href=f"#profile-{number}"),
                _mark(not report.missed, f"{held}/{len(report.slo)}", f"{held}/{len(report.slo)}")
                if report.slo
                else "none",
                f"{report.throughput_per_second:,.0f}",
                *(duration_text(value) if latency.count else "-" for value in (latency.p50, latency.p99, latency.max)),
                percent_text(report.success_rate),
                f"{report.profile.agents:,}",
                report.mode,
                "see its notices" if notices_of(report) else "",
            )
        )
    headings = ("profile", "objectives", "messages/s", "p50", "p99", "max", "success", "agents", "loop", "")
    targets = [(f"search-{number}", f"Highest rate of {search.profile}") for number, search in enumerate(searches)]
    if reports:
        targets += [("conclusions", "What follows"), ("checks", "Checks")]
    targets.append(("environment", "Environment"))
    links = " · ".join(element("a", text, href=f"#{target}") for target, text in targets)
    return element(
        "section",
        element("h2", "Overview", class_="unseen"),
        table("Overview of the profiles", headings, rows) if rows else "",
        element("nav", element("p", Markup(links)), aria_label="Sections"),
        scaling_figure(reports, names) or "",
        id="overview",
    )


def _profile(place: str, name: str, report: Report, most_values: int) -> Markup:
    plots = [plot for plot in (percentile_figure(place, report),) if plot is not None]
    over_time = series_figures(place, report, most_values)
    return section(
        place,
        name,
        element("p", load_text(report)),
        show_notices(notices_of(report)),
        _tiles(report),
        element("p", latency_meaning(report.mode), class_="dim"),
        element("h3", "Objectives"),
        _objectives(report),
        element("h3", "Times"),
        _times(report),
        *(plots or [element("p", "No times, so nothing to plot.", class_="dim")]),
        element("h3", "Over time"),
        element("div", *over_time, class_="plots")
        if over_time
        else element("p", f"Too few intervals to plot: {len(report.series)}.", class_="dim"),
        _drift(report),
        element("h3", "Account"),
        _account(report),
        element("h3", "Beside the reference"),
        _reference(report),
        element("h3", "Resources"),
        _resources(report),
        element("h3", "Agents"),
        _agents(report),
    )


def _tiles(report: Report) -> Markup:
    latency = report.latency_ns
    pairs = [("messages/s", f"{report.throughput_per_second:,.0f}"), ("success", percent_text(report.success_rate))]
    if latency.count:
        pairs += [(f"{name} latency", duration_text(getattr(latency, name))) for name in ("p50", "p99", "p99_9", "max")]
    return element(
        "dl",
        *(element("div", element("dt", name.replace("_", ".")), element("dd", text)) for name, text in pairs),
        class_="tiles",
    )


def _objectives(report: Report) -> Markup:
    if not report.slo:
        return element("p", "No objective was judged.", class_="dim")
    rows = [(verdict.objective.text, verdict.observed_text, _mark(verdict.passed)) for verdict in report.slo]
    return table("Objectives", ("objective", "observed", "verdict"), rows)


def _times(report: Report) -> Markup:
    rows = []
    for name in series_names(report):
        spread: Spread = getattr(report, f"{name}_ns")
        texts = [duration_text(getattr(spread, statistic)) if spread.count else "-" for statistic in STATISTICS]
        rows.append((name.replace("_", " "), *texts, f"{spread.count:,}"))
    headings = ("", *(statistic.replace("_", ".") for statistic in STATISTICS), "count")
    return table(f"Times ({report.mode} loop)", headings, rows)


def _drift(report: Report) -> Markup | str:
    if report.soak is None:
        return ""
    rows = [_drift_row(report.soak.p99, duration_text), _drift_row(report.soak.rss, bytes_text)]
    return element(
        "div",
        element("h3", "Drift"),
        element(
            "p", f"Slopes fitted over {duration_text(report.soak.duration_ns)}, with their 95 % confidence interval."
        ),
        table("Drift", ("", "at start", "per hour", "from", "to", "points", "verdict"), rows),
    )


def _drift_row(drift: Drift, text: Callable[[float], str]) -> tuple[str, ...]:
    def signed(value: float) -> str:
        return f"{'-' if value < 0 else '+'}{text(abs(value))}"

    verdict = element("span", drift.verdict, class_="missed" if drift.verdict == "growth" else "plain")
    slopes = map(signed, (drift.slope_per_hour, drift.low_per_hour, drift.high_per_hour))
    told = ("-", "-", "-") if drift.verdict == "too few points" else slopes
    return (drift.figure, text(drift.start), *told, f"{drift.points:,}", verdict)


def _account(report: Report) -> Markup:
    counts = report.counts
    rows = [tuple(f"{getattr(counts, name):,}" for name in ACCOUNT)]
    return table("Account, in messages", ACCOUNT, rows)


def _reference(report: Report) -> Markup:
    if report.profile.reference is None:
        return element("p", "The reference has no such profile.", class_="dim")
    rows = []
    for name, observed, told, factor in beside_reference(report):
        if name == "throughput":
            text: Callable[[float], str] = "{:,.0f}/s".format
        else:
            text = percent_text if name == "success" else duration_text
        rows.append(
            (
                name,
                "-" if observed is None else text(observed),
                "" if told is None else text(told),
                factor_text(factor),
            )
        )
    return table("Beside the reference", ("", "pmesh", "reference", "times better"), rows)


def _resources(report: Report) -> Markup:
    resources_used = report.resources
    return _facts(
        [
            ("duration", duration_text(report.duration_ns)),
            ("memory before", bytes_text(resources_used.rss_bytes_before)),
            ("memory at most", bytes_text(resources_used.rss_bytes_peak)),
            ("growth per agent", bytes_text(resources_used.rss_bytes_per_agent)),
            ("pmesh itself", f"{bytes_text(report.overhead_bytes)} with a coordinator and no agents"),
            (
                "processor time",
                f"{report.cpu_seconds:.2f} s ({resources_used.cpu_user_seconds:.2f} s user,"
                f" {resources_used.cpu_system_seconds:.2f} s system), {cpu_share(report):.0%} of a CPU",
            ),
        ]
    )


def _agents(report: Report) -> Markup:
    if not report.agents:
        return element("p", "No agent lived at the end.", class_="dim")
    timed = any(row.p99_ns is not None for row in report.agents)
    shown = sorted(report.agents, key=_telling, reverse=True) if len(report.agents) > MOST_AGENT_ROWS else report.agents
    left_out = len(report.agents) - MOST_AGENT_ROWS
    headings = ["agent", *ACCOUNT, *(("p50", "p99", "max") if timed else ())]
    rows = []
    for row in shown[:MOST_AGENT_ROWS]:
        times = (row.p50_ns, row.p99_ns, row.max_ns) if timed else ()
        rows.append(
            (
                row.name,
                *(f"{getattr(row.counts, name):,}" for name in ACCOUNT),
                *("-" if value is None else duration_text(value) for value in times),
            )
        )
    remark = ""
    if left_out > 0:
        remark = element(
            "p",
            f"The {MOST_AGENT_ROWS:,} with most unhandled messages and highest p99; {left_out:,} more are in the JSON.",
            class_="dim",
        )
    return element(
        "details",
        element("summary", f"Account of each of {len(report.agents):,} agents"),
        remark,
        table("Account of each agent", headings, rows, class_="sortable"),
    )


def _telling(row: AgentRow) -> tuple[int, int]:
    """What makes an agent worth listing before others."""
    return row.counts.sent - row.counts.handled, row.p99_ns or 0


def _search(place: str, search: Search) -> Markup:
    rows = [
        (
            f"{step.rate_per_second:,.0f}/s",
            _mark(step.held),
            f"{step.throughput_per_second:,.0f}/s",
            percent_text(step.success_rate),
            *(duration_text(value) if value else "-" for value in (step.p50_ns, step.p99_ns, step.max_ns)),
        )
        for step in sorted(search.steps, key=lambda step: step.rate_per_second)
    ]
    return section(
        place,
        f"Highest rate of {search.profile} that holds {search.objective}",
        element("p", search_text(search)),
        search_figure(place, search) or "",
        table("Rates tried", ("rate", "objective", "handled", "success", "p50", "p99", "max"), rows)
        if rows
        else element("p", "No rate was tried.", class_="dim"),
    )


def _conclusions(reports: Sequence[Report], searches: Sequence[Search]) -> Markup:
    basis, alerts = alerts_of(reports)
    source = (
        "no run holds every objective" if basis is None else f"from {name_among(reports, basis)} ({basis.mode} loop)"
    )
    return section(
        "conclusions",
        "What follows",
        element("ul", *(element("li", text) for text in recommend(reports, searches))),
        element("h3", f"Alert thresholds: {source}"),
        table(
            "Alert thresholds",
            ("figure", "alert at", "why"),
            [(alert.figure, alert.threshold, alert.derivation) for alert in alerts],
            class_="words",
        ),
    )


def _checks(reports: Sequence[Report], names: Sequence[str]) -> Markup:
    parts = []
    for name, report in zip(names, reports, strict=True):
        rows = [
            (
                check.name,
                element("span", "- not checked", class_="dim")
                if check.passed is None
                else _mark(check.passed, "right", "wrong"),
                check.numbers,
            )
            for check in check_report(report)
        ]
        parts += [element("h3", name), table(f"Checks of {name}", ("check", "", "numbers"), rows, class_="words")]
    return section("checks", "Checks of these reports against themselves", *parts)
