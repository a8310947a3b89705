"""Reports as GitHub markdown: the reference report's parts in its order, tables that hold whatever data say."""

from __future__ import annotations

import dataclasses
import re

import load_samples
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmesh.load.rendering import markdown
from pmesh.load.report import Drift, Report, Search, Soak, Step
from pmesh.slo import judge, parse_objective

SEARCH = Search(
    "low",
    "p99<5ms",
    (Step(1e3, 1e3, 1.0, 1, 2, 3, 2.0, True), Step(2e3, 1.5e3, 0.9, 1, 9_000_000, 10_000_000, 9e6, False)),
    1e3,
    2e3,
)


def render(*reports: Report, searches: tuple[Search, ...] = ()) -> str:
    return markdown.render(load_samples.ENVIRONMENT, reports, searches)


def rows_of(text: str) -> list[list[str]]:
    """Cells of each table row, as GitHub splits them: at pipes that no backslash precedes."""
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def named(report: Report, name: str) -> Report:
    profile = dataclasses.replace(report.profile, name=name)
    return dataclasses.replace(report, plan=dataclasses.replace(report.plan, profile=profile))


def test_the_parts_stand_in_the_reference_reports_order():
    text = render(load_samples.report("low"), load_samples.report("medium"), searches=(SEARCH,))
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == [
        "Summary",
        "Method",
        "Profile low",
        "Profile medium",
        "Throughput scaling",
        "Latency distribution",
        "Resources",
        "Highest rate of low that holds p99\\<5ms",
        "Validation",
        "Objectives",
        "Recommendations",
    ]


def test_the_summary_says_the_verdict_the_figures_and_the_machine():
    summary = render(load_samples.report()).split("## Summary\n\n")[1].splitlines()[0]
    assert summary.startswith("1 of 7 objectives missed: low throughput\\>=5000/s. low (5 agents, closed loop): 500")
    assert "p99 188 us" in summary
    assert "Example CPU, 2 CPUs" in summary


def test_every_figure_says_its_loop():
    closed, opened = render(load_samples.report()), render(load_samples.report(open_loop=True))
    assert "intended send time" in opened
    assert "intended send time" not in closed
    assert "| figure (closed loop) |" in closed
    assert "| figure (open loop) |" in opened
    assert "send delay" in opened


def test_figures_stand_beside_the_references():
    assert ["p99", "188 us", "250 us", "1.3x"] in rows_of(render(load_samples.report()))
    assert ["throughput", "500/s", "3,000/s", "0.17x"] in rows_of(render(load_samples.report()))


def test_the_distribution_is_read_from_the_histograms():
    report = load_samples.report(open_loop=True)
    row = next(row for row in rows_of(render(report)) if row[0] == "p99.9" and len(row) == 6)
    assert row[1:] == ["310 us", "225 us", "205 us", "46.9 us", "23.5 us"]


def test_checks_are_computed_from_the_report():
    right = render(load_samples.report())
    assert ["nothing was lost", "✓ right", "5,000 accepted, 5,000 ended + 0 pending"] in rows_of(right)
    assert "✗ wrong" not in right
    counts = dataclasses.replace(load_samples.report().counts, handled=4_999)
    assert [
        "nothing was lost",
        "✗ wrong",
        "5,000 accepted, 4,999 ended + 0 pending",
    ] in rows_of(render(load_samples.report(counts=counts)))


def test_objectives_show_their_verdicts():
    rows = rows_of(render(load_samples.report()))
    assert ["low", "p99\\<5ms", "188 us", "✓ held"] in rows
    assert ["low", "throughput\\>=5000/s", "500/s", "✗ missed"] in rows


def test_recommendations_name_the_highest_profile_and_the_alerts():
    reports = [load_samples.report(name) for name in ("low", "medium")]
    objective = parse_objective("p99<5ms")
    text = render(*(dataclasses.replace(r, slo=judge(r.figure, [objective])) for r in reports))
    assert "- medium is the highest profile that holds every objective: 25 agents" in text
    assert ["p99 latency, early", "\\> 376 us", "twice the 188 us observed"] in rows_of(text)


def test_notices_are_alerts():
    text = render(load_samples.report(interrupted=True, faults=("1 is not 2",)))
    assert "> [!CAUTION]\n> The account does not balance: 1 is not 2. This is a bug in pmesh." in text
    assert "> [!NOTE]\n> Interrupted: the figures are of what was handled until then." in text


def test_drift_of_a_soak_has_its_interval():
    soak = Soak(
        3_600_000_000_000,
        Drift("p99", 240_000.0, -1_000.0, -5_000.0, 3_000.0, 3_600, "no growth"),
        Drift("rss", 5e7, 3.2e6, 3.1e6, 3.3e6, 3_600, "growth"),
    )
    rows = rows_of(render(load_samples.report(soak=soak)))
    assert ["p99", "240 us", "-1 us", "-5 us", "+3 us", "3,600", "no growth"] in rows
    assert ["rss", "50.0 MB", "+3.2 MB", "+3.1 MB", "+3.3 MB", "3,600", "growth"] in rows


@pytest.mark.parametrize(
    "reports", [(load_samples.nothing_handled(),), (), (load_samples.report(), load_samples.nothing_handled())]
)
def test_odd_reports_have_whole_tables(reports):
    text = render(*reports, searches=(SEARCH, Search("low", "p99<1ms", (), None, None)))
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({len(row) for row in rows_of(block)}) == 1, block


LOW, MEDIUM = load_samples.report("low"), load_samples.report("medium")


@given(st.text(min_size=1, max_size=30))
def test_no_name_breaks_a_table_or_becomes_markup(name):
    text = render(named(LOW, name), named(MEDIUM, name + "x"))
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({len(row) for row in rows_of(block)}) == 1, block
    assert not re.search(r"(?<!\\)(\\\\)*<", text), "an unescaped < starts a tag"
