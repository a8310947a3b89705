"""Objectives: what their texts mean, how a bad one is refused, and how a verdict reads."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import fuzz_checks
import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_samples import report

from pmesh.errors import InvalidArgument, InvalidType
from pmesh.load.report import ObjectivesMissed, Spread
from pmesh.slo import (
    DEFAULT_OBJECTIVES,
    FIGURES,
    HIGHER_IS_BETTER,
    Objective,
    Verdict,
    as_objective,
    judge,
    parse_objective,
)
from pmesh.units import observed_text

SPELLINGS = [
    ("p50<500us", "p50<500us", "p50", "<", 500_000),
    ("p90<=5ms", "p90<=5ms", "p90", "<=", 5_000_000),
    ("p99.9>200ns", "p99.9>200ns", "p99.9", ">", 200),
    ("p99.99>=1.5s", "p99.99>=1.5s", "p99.99", ">=", 1_500_000_000),
    ("mean<1m", "mean<1m", "mean", "<", 60_000_000_000),
    ("max<2min", "max<2m", "max", "<", 120_000_000_000),
    ("p95<5\u00b5s", "p95<5us", "p95", "<", 5_000),
    ("p95<5\u03bcs", "p95<5us", "p95", "<", 5_000),
    ("P99<5MS", "p99<5ms", "p99", "<", 5_000_000),
    (" queue.p99 < 0.50 ms ", "queue.p99<0.5ms", "queue.p99", "<", 500_000),
    ("service.mean<.5us", "service.mean<0.5us", "service.mean", "<", 500),
    ("response.max<007s", "response.max<7s", "response.max", "<", 7_000_000_000),
    ("send_delay.p99.9<1.ms", "send_delay.p99.9<1ms", "send_delay.p99.9", "<", 1_000_000),
    ("success>=99.5%", "success>=99.5%", "success", ">=", 0.995),
    ("success >= 99.9 %", "success>=99.9%", "success", ">=", 0.999),
    ("success>=100%", "success>=100%", "success", ">=", 1.0),
    ("throughput>=5000/s", "throughput>=5000/s", "throughput", ">=", 5_000),
    ("throughput>=50 k / s", "throughput>=50k/s", "throughput", ">=", 50_000),
    ("throughput>=50K/s", "throughput>=50k/s", "throughput", ">=", 50_000),
    ("throughput>1.2M/s", "throughput>1.2M/s", "throughput", ">", 1_200_000),
    ("memory_per_agent<3MB", "memory_per_agent<3MB", "memory_per_agent", "<", 3_000_000),
    ("memory_per_agent<3mib", "memory_per_agent<3MiB", "memory_per_agent", "<", 3 * 2**20),
    ("overhead<512KiB", "overhead<512KiB", "overhead", "<", 2**19),
    ("overhead<1.5gb", "overhead<1.5GB", "overhead", "<", 1_500_000_000),
    ("overhead<=800B", "overhead<=800B", "overhead", "<=", 800),
]
NORMALISED = {spelling[1] for spelling in SPELLINGS}


@pytest.mark.parametrize(("text", "normalised", "figure", "comparison", "bound"), SPELLINGS)
def test_an_objective_says_figure_comparison_and_bound(
    text: str, normalised: str, figure: str, comparison: str, bound: float
) -> None:
    assert parse_objective(text) == Objective(normalised, figure, comparison, bound)
    assert parse_objective(normalised) == parse_objective(text)


@pytest.mark.parametrize(
    ("text", "column", "found", "right"),
    [
        ("", 1, "the text ends here", "a figure is one of p50, p90"),
        ("   ", 4, "the text ends here", "a figure is one of p50"),
        ("p98<5ms", 1, "'p98'", "did you mean 'p99'?"),
        ("troughput>1/s", 1, "'troughput'", "did you mean 'throughput'?"),
        ("queue.p98<5ms", 1, "'queue.p98'", "did you mean 'queue.p99'?"),
        ("queue.success>1%", 1, "'queue.success'", "queue., service., response., send_delay."),
        ("zzz<5ms", 1, "'zzz'", "memory_per_agent, overhead"),
        ("<5ms", 1, "'<5ms'", "a figure is one of"),
        ("p99", 4, "the text ends here", "a comparison is one of < <= > >="),
        ("p99==5ms", 4, "'==5ms'", "a comparison is one of"),
        ("p99=<5ms", 4, "'=<5ms'", "a comparison is one of"),
        ("p99 5ms", 5, "'5ms'", "a comparison is one of"),
        ("p99<", 5, "the text ends here", "as in 5ms"),
        ("p99<-5ms", 5, "'-5ms'", "not negative"),
        ("p99<nan ms", 5, "'nan'", "a number"),
        ("p99<infs", 5, "'infs'", "a number"),
        ("p99<\u0665ms", 5, "'\u0665ms'", "a number"),
        ("p99<1e3ms", 6, "'e'", "ns, us, ms, s, m"),
        ("p99<5", 6, "the text ends here", "the unit of a duration is one of ns, us, ms, s, m"),
        ("p99<5 mss", 7, "'mss'", "did you mean 'ms'?"),
        ("p99<5M", 6, "'M'", "did you mean 'm'?"),
        ("p99<5%", 6, "'%'", "ns, us, ms, s, m"),
        ("p99<5 m s", 9, "'s'", "every objective is a text of its own"),
        ("p99<5ms,p50<1ms", 8, "',p50<1ms'", "every objective is a text of its own"),
        ("p99<" + "9" * 310 + "s", 5, "", "too large"),
        ("p99<0ms", 5, "'0ms'", "could never hold"),
        ("success>=0.995", 15, "the text ends here", "the unit of a share is %"),
        ("success>=100.1%", 10, "'100.1%'", "at most 100%"),
        ("success>100%", 9, "'100%'", "could never hold"),
        ("throughput>=5,000/s", 14, "',000/s'", "/s, k/s, M/s"),
        ("throughput>=5000", 17, "the text ends here", "/s, k/s, M/s"),
        ("throughput>=5/sec", 14, "'/sec'", "did you mean '/s'?"),
        ("throughput>=5m/s", 14, "'m/s'", "did you mean 'M/s'?"),
        ("overhead<3Mb", 11, "'Mb'", "did you mean 'MB'?"),
        ("p99<5ms\np50<1ms", 9, "'p50<1ms'", "every objective"),
    ],
)
def test_a_bad_objective_names_column_what_was_found_and_what_would_be_right(
    text: str, column: int, found: str, right: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_objective(text)
    message = str(caught.value)
    assert message.startswith(f"objective {text!r}, column {column}: ")
    assert found in message
    assert right in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("value", [None, 5, b"p99<5ms"])
def test_an_objective_that_is_no_text_is_named(value: Any) -> None:
    with pytest.raises(InvalidType, match=f"objective is the {type(value).__name__} {value!r}"):
        parse_objective(value)


def test_the_wrong_way_round_means_what_it_says() -> None:
    upside_down = parse_objective("p99>5ms")
    assert upside_down.holds(6_000_000)
    assert not upside_down.holds(5_000_000)


def test_an_objective_passes_through_as_it_is() -> None:
    objective = Objective("planted", "p99", "<", 1)
    assert as_objective(objective) is objective
    assert as_objective("p99 < 1ns") == Objective("p99<1ns", "p99", "<", 1)


TOKENS = st.sampled_from(
    [
        *FIGURES,
        *("<", "<=", ">", ">=", "=", ":", " ", "\n", "-", ".", ",", "/", "%", "e"),
        *("0", "5", "99.5", "100", "1.", ".5", "\u0665", "nan", "inf"),
        *("ns", "us", "\u00b5s", "ms", "s", "m", "M", "/s", "k/s", "MB", "KiB", "kb", "\ud800", "\u2028"),
    ]
)


LINES = st.one_of(st.text(), st.lists(TOKENS, max_size=8).map("".join))


@given(LINES)
def test_any_text_is_an_objective_or_refused_at_a_column_of_its_own(text: str) -> None:
    fuzz_checks.check_objective(text)


@given(LINES)
def test_any_text_is_a_duration_and_a_share_or_refused_at_a_column_of_its_own(text: str) -> None:
    fuzz_checks.check_duration(text)
    fuzz_checks.check_share(text)


@given(st.sampled_from(sorted(NORMALISED)), st.data())
def test_an_objective_with_a_letter_changed_is_one_or_refused_at_a_column_of_its_own(
    text: str, data: st.DataObject
) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(st.text(max_size=2)) + text[at + data.draw(st.integers(0, 2)) :]
    fuzz_checks.check_line(text)


@given(
    figure=st.sampled_from(FIGURES),
    comparison=st.sampled_from(["<", "<=", ">", ">="]),
    number=st.decimals(min_value="0.0001", max_value="99", places=4).map(str),
    spaces=st.lists(st.sampled_from(["", " ", "  "]), min_size=5, max_size=5),
)
def test_every_figure_parses_with_its_unit_whatever_the_spaces(
    figure: str, comparison: str, number: str, spaces: list[str]
) -> None:
    units = {"success": "%", "throughput": "k/s", "memory_per_agent": "MB", "overhead": "KiB"}
    factors = {"success": 0.01, "throughput": 1_000, "memory_per_agent": 1_000_000, "overhead": 1_024}
    a, b, c, d, e = spaces
    objective = parse_objective(f"{a}{figure}{b}{comparison}{c}{number}{d}{units.get(figure, 'ms')}{e}")
    assert (objective.figure, objective.comparison) == (figure, comparison)
    assert objective.bound == pytest.approx(float(number) * factors.get(figure, 1_000_000), rel=1e-12)
    assert parse_objective(objective.text) == objective


def test_figures_of_which_more_is_better_are_success_and_throughput() -> None:
    assert set(FIGURES) >= HIGHER_IS_BETTER == {"success", "throughput"}


def test_a_report_has_every_figure_that_an_objective_can_be_about() -> None:
    made = report(open_loop=True)
    assert [name for name in FIGURES if made.figure(name) is None] == []
    # All differ, so that none is mistaken for another.
    assert made.figure("queue.p99.9") == made.queue_ns.p99_9
    assert made.figure("send_delay.mean") == getattr(made.send_delay_ns, "mean", None)


def test_importing_objectives_loads_neither_the_load_tester_nor_click_nor_rich() -> None:
    code = "import pmesh.slo, sys; print([m for m in ('click', 'rich', 'pmesh.load', 'difflib') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


# How it judges.


@pytest.mark.parametrize(
    ("text", "observed", "shown"),
    [
        ("p99<5ms", 6_210_000, "p99<5ms: observed 6.21 ms"),
        ("queue.p99<5ms", 999, "queue.p99<5ms: observed 999 ns"),
        ("success>=99.5%", 0.9912, "success>=99.5%: observed 99.12%"),
        ("throughput>=5000/s", 4_321.4, "throughput>=5000/s: observed 4,321/s"),
        ("overhead<50MB", 61_200_000, "overhead<50MB: observed 61.2 MB"),
        ("p99<5ms", None, "p99<5ms: observed nothing"),
        ("p99<5ms", 4_999_900, "p99<5ms: observed just below 5 ms"),
        ("p99<=5ms", 5_000_100, "p99<=5ms: observed just above 5 ms"),
        ("p99<5ms", 5_000_000, "p99<5ms: observed 5 ms"),
        ("throughput>=5000/s", 4_999.6, "throughput>=5000/s: observed just below 5,000/s"),
    ],
)
def test_a_verdict_reads_with_what_was_observed_in_the_figures_unit(
    text: str, observed: float | None, shown: str
) -> None:
    assert str(Verdict(parse_objective(text), observed, False)) == shown


def test_a_success_above_all_reads_as_such() -> None:
    assert observed_text("success", 1.25) == "125%"


def test_what_was_not_observed_does_not_hold_either_way() -> None:
    verdicts = judge(lambda name: None, [parse_objective("p99<5ms"), parse_objective("p99>=5ms")])
    assert [verdict.passed for verdict in verdicts] == [False, False]


def test_require_lists_each_objective_with_what_was_observed() -> None:
    made = report()
    made.require("p99<5ms", *DEFAULT_OBJECTIVES[1:2])
    with pytest.raises(ObjectivesMissed) as caught:
        made.require("p99 < 5 ms", "throughput>=50k/s")
    assert str(caught.value).splitlines() == [
        "profile 'low' misses objectives:",
        f"  held   p99<5ms: observed {observed_text('p99', made.latency_ns.p99)}",
        "  MISSED throughput>=50k/s: observed 500/s",
    ]
    assert [verdict.passed for verdict in caught.value.verdicts] == [True, False]


def test_require_refuses_a_bad_objective_before_it_judges() -> None:
    with pytest.raises(InvalidArgument, match="objective 'p99<5', column 6"):
        report().require("p50<1ns", "p99<5")


def test_latency_of_no_messages_holds_no_objective() -> None:
    nothing = Spread(0, 0, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0)
    with pytest.raises(ObjectivesMissed, match="MISSED p99<5ms: observed nothing"):
        report(latency_ns=nothing).require("p99<5ms")
