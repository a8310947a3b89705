"""Load reports as GitHub markdown, in the reference report's order: summary, method, profiles, scaling, latency,
resources, checks, objectives, recommendations.

Words are `findings` and `checks`; here is where they stand.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pmesh.load.rendering.checks import check_report
from pmesh.load.rendering.findings import (
    alerts_of,
    beside_reference,
    cpu_share,
    environment_line,
    environment_rows,
    factor_text,
    highest_holding,
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
from pmesh.load.report import Counts
from pmesh.units import bytes_text, duration_text, observed_text, percent_text

if TYPE_CHECKING:
    from pmesh.environment import Environment
    from pmesh.load.report import Report, Search

__all__ = ["render"]

ACCOUNT = tuple(field.name for field in dataclasses.fields(Counts))

PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99, 99.999, 100.0)

_SPECIAL = re.compile(r"[\\`*_{}\[\]<>|~#$&]")


def render(environment: Environment, reports: Sequence[Report], searches: Sequence[Search] = ()) -> str:
    """The markdown of these reports and searches.

    Args:
        environment: What all of them were measured on.
    """
    names = section_names(reports)
    blocks = [*_summary(environment, reports, searches), *_method(environment, reports, names)]
    for name, report in zip(names, reports, strict=True):
        blocks += _profile(name, report)
    if reports:
        blocks += [*_scaling(reports, names), *_latency(reports, names), *_resources(reports, names)]
    for search in searches:
        blocks += _search(search)
    if reports:
        blocks += [*_checks(reports, names), *_objectives(reports, names), *_recommendations(reports, searches)]
    return "\n\n".join(blocks) + "\n"


def plain(text: str) -> str:
    """`text` on one line, shown as it is: nothing in it is taken for markdown or HTML."""
    return _SPECIAL.sub(lambda found: "\\" + found[0], " ".join(text.split()))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False) -> str:
    """A table; all columns but the first are to the right, unless they are `words`."""
    rule = ["---", *("---" if words else "---:" for _ in headings[1:])]
    lines = [rule, *([plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in ([plain(heading) for heading in headings], *lines))


def _bullets(texts: Sequence[str]) -> str:
    return "\n".join(f"- {plain(text)}" for text in texts)


def _summary(environment: Environment, reports: Sequence[Report], searches: Sequence[Search]) -> Iterator[str]:
    yield "# pmesh load report"
    yield "## Summary"
    verdict, _ = verdict_text(reports)
    told = [verdict] if reports else [search_text(search) for search in searches]
    shown = highest_holding(reports) or max(
        (report for report in reports if report.counts.handled), key=lambda r: r.profile.agents, default=None
    )
    if shown is not None:
        latency = shown.latency_ns
        told.append(
            f"{name_among(reports, shown)} ({shown.profile.agents:,} agents, {shown.mode} loop):"
            f" {shown.throughput_per_second:,.0f} messages/s,"
            f" p50 {duration_text(latency.p50)}, p99 {duration_text(latency.p99)}, max {duration_text(latency.max)},"
            f" {percent_text(shown.success_rate)} of {shown.counts.sent:,} messages handled."
        )
    told.append(f"Measured on {environment_line(environment)}.")
    yield plain(" ".join(told))


def _method(environment: Environment, reports: Sequence[Report], names: Sequence[str]) -> Iterator[str]:
    yield "## Method"
    if reports:
        yield table(
            (
                *("profile", "loop", "rate", "agents", "messages per agent", "rounds", "senders", "payload"),
                *("warm-up", "in flight"),
            ),
            [
                (
                    name,
                    report.mode,
                    "-" if report.plan.rate_per_second is None else f"{report.plan.rate_per_second:,.12g}/s",
                    f"{report.profile.agents:,}",
                    f"{report.profile.messages_per_agent:,}",
                    f"{report.profile.rounds:,}",
                    f"{report.profile.concurrency:,}",
                    report.plan.payload or f"{report.profile.payload_bytes:,} B",
                    f"{report.plan.warmup_seconds:,.6g} s" if report.plan.warmup_seconds else "none",
                    f"{report.window:,}" if report.mode == "closed" else "-",
                )
                for name, report in zip(names, reports, strict=True)
            ],
        )
        for mode in dict.fromkeys(report.mode for report in reports):
            yield plain(latency_meaning(mode))
        yield (
            "Response runs from accept to the end of handling and is queue + service; queue from accept to the start"
            " of the handler; service is the handler. Each is counted in a histogram of its own with three"
            " significant digits, and minimum and maximum are exact."
        )
        injecting = [name for name, report in zip(names, reports, strict=True) if report.plan.injects]
        yield plain(
            f"Failures were injected in {', '.join(injecting)}; see there."
            if injecting
            else "No failures were injected."
        )
    yield table(("environment", ""), environment_rows(environment), words=True)


def _profile(name: str, report: Report) -> Iterator[str]:
    yield f"## Profile {plain(name)}"
    yield plain(load_text(report))
    for notice in notices_of(report):
        yield f"> [!{'CAUTION' if notice.grave else 'NOTE'}]\n> {plain(notice.text)}"
    rows = []
    for figure, observed, told, factor in beside_reference(report):
        texts = ["" if value is None else observed_text(figure, value) for value in (observed, told)]
        rows.append((figure, *texts, factor_text(factor)))
    yield table((f"figure ({report.mode} loop)", "pmesh", "reference", "times better"), rows)
    yield table(ACCOUNT, [[f"{getattr(report.counts, name):,}" for name in ACCOUNT]])
    if report.soak is not None:
        yield f"Drift over {duration_text(report.soak.duration_ns)}, by fitted slope and its 95 % confidence interval:"
        yield table(
            ("", "at the start", "per hour", "from", "to", "points", "verdict"),
            [
                (
                    drift.figure,
                    text(drift.start),
                    *(
                        "-" if drift.verdict == "too few points" else f"{'-' if slope < 0 else '+'}{text(abs(slope))}"
                        for slope in (drift.slope_per_hour, drift.low_per_hour, drift.high_per_hour)
                    ),
                    f"{drift.points:,}",
                    drift.verdict,
                )
                for drift, text in ((report.soak.p99, duration_text), (report.soak.rss, bytes_text))
            ],
        )


def _scaling(reports: Sequence[Report], names: Sequence[str]) -> Iterator[str]:
    yield "## Throughput scaling"
    if len(reports) < 2:
        yield "One profile ran; scaling takes two."
        return
    rows = []
    ordered = sorted(zip(reports, names, strict=True), key=lambda pair: pair[0].profile.agents)
    first = ordered[0][0].throughput_per_second
    for report, name in ordered:
        rate = report.throughput_per_second
        rows.append(
            (
                f"{report.profile.agents:,}",
                name,
                report.mode,
                f"{rate:,.0f}",
                f"{rate / report.profile.agents:,.0f}",
                f"{rate / first:.2f}x" if first else "",
            )
        )
    yield table(("agents", "profile", "loop", "messages/s", "per agent", "of the first"), rows)


def _latency(reports: Sequence[Report], names: Sequence[str]) -> Iterator[str]:
    yield "## Latency distribution"
    for report, name in zip(reports, names, strict=True):
        yield f"### {plain(name)} ({report.mode} loop)"
        shown = [series for series in series_names(report) if series in report.recorders]
        if not any(report.recorders[series].count for series in shown):
            yield "No times."
            continue
        columns = [report.recorders[series].percentiles(PERCENTILES) for series in shown]
        yield table(
            ("percentile", *(series.replace("_", " ") for series in shown)),
            [
                (
                    f"p{percentile:g}" if percentile < 100 else "max",
                    *(duration_text(value) if value else "-" for value in values),
                )
                for percentile, *values in zip(PERCENTILES, *columns, strict=True)
            ],
        )


def _resources(reports: Sequence[Report], names: Sequence[str]) -> Iterator[str]:
    yield "## Resources"
    yield table(
        ("profile", "duration", "memory before", "at most", "growth per agent", "processor time", "of a CPU"),
        [
            (
                name,
                duration_text(report.duration_ns),
                bytes_text(report.resources.rss_bytes_before),
                bytes_text(report.resources.rss_bytes_peak),
                bytes_text(report.resources.rss_bytes_per_agent),
                f"{report.cpu_seconds:.2f} s",
                f"{cpu_share(report):.0%}",
            )
            for report, name in zip(reports, names, strict=True)
        ],
    )
    yield f"pmesh itself, with a coordinator and no agents, takes {bytes_text(reports[0].overhead_bytes)}."


def _search(search: Search) -> Iterator[str]:
    yield f"## Highest rate of {plain(search.profile)} that holds {plain(search.objective)}"
    yield plain(search_text(search))
    if search.steps:
        yield table(
            ("rate", "handled", "success", "p50", "p99", "max", "objective"),
            [
                (
                    f"{step.rate_per_second:,.0f}/s",
                    f"{step.throughput_per_second:,.0f}/s",
                    percent_text(step.success_rate),
                    *(duration_text(value) if value else "-" for value in (step.p50_ns, step.p99_ns, step.max_ns)),
                    _mark(step.held, "held", "missed"),
                )
                for step in sorted(search.steps, key=lambda step: step.rate_per_second)
            ],
        )


def _mark(passed: bool | None, good: str, bad: str) -> str:
    if passed is None:
        return "not checked"
    return f"✓ {good}" if passed else f"✗ {bad}"


def _checks(reports: Sequence[Report], names: Sequence[str]) -> Iterator[str]:
    yield "## Validation"
    for report, name in zip(reports, names, strict=True):
        yield f"### {plain(name)}"
        yield table(
            ("check", "", "numbers"),
            [(check.name, _mark(check.passed, "right", "wrong"), check.numbers) for check in check_report(report)],
            words=True,
        )


def _objectives(reports: Sequence[Report], names: Sequence[str]) -> Iterator[str]:
    yield "## Objectives"
    rows = [
        (
            name,
            verdict.objective.text,
            verdict.observed_text,
            _mark(verdict.passed, "held", "missed"),
        )
        for report, name in zip(reports, names, strict=True)
        for verdict in report.slo
    ]
    yield table(("profile", "objective", "observed", "verdict"), rows) if rows else "No objective was judged."


def _recommendations(reports: Sequence[Report], searches: Sequence[Search]) -> Iterator[str]:
    yield "## Recommendations"
    yield _bullets(recommend(reports, searches))
    basis, alerts = alerts_of(reports)
    source = (
        "no run without injected failures holds every objective"
        if basis is None
        else f"from {name_among(reports, basis)} ({basis.mode} loop)"
    )
    yield plain(f"Alert thresholds, {source}:")
    yield table(
        ("figure", "alert at", "why"),
        [(alert.figure, alert.threshold, alert.derivation) for alert in alerts],
        words=True,
    )
