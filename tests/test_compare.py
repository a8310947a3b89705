"""Two load reports compared: what changed, what makes them not comparable, and limits on getting worse."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import re
from collections.abc import Sequence
from typing import Any

import fuzz_checks
import pytest
from hypothesis import given
from hypothesis import strategies as st
from load_samples import ENVIRONMENT, report
from rich.console import Console

from pmesh.environment import Environment
from pmesh.errors import InvalidArgument, InvalidType
from pmesh.load.compare import Change, Comparison, Limit, compare, parse_limit, samples_needed
from pmesh.load.document import Document, read_document
from pmesh.load.profiles import Profile
from pmesh.load.rendering.compare_page import compare_page
from pmesh.load.rendering.terminal_tables import comparison_table
from pmesh.load.report import Counts, Plan, Report, Search, Spread, Step, as_document
from pmesh.slo import FIGURES


def spread(count: int = 1_000_000, **changes: Any) -> Spread:
    made = Spread(count, 1_000, 60_000.0, 9.0, 50_000, 60_000, 70_000, 80_000, 90_000, 100_000, 110_000)
    return dataclasses.replace(made, **changes)


def document(*reports: Report, **environment: Any) -> Document:
    return Document(dataclasses.replace(ENVIRONMENT, **environment), reports)


def compared(before: Report, after: Report) -> Comparison:
    return compare(document(before), document(after))


def with_plan(made: Report, **changes: Any) -> Report:
    return dataclasses.replace(made, plan=dataclasses.replace(made.plan, **changes))


def with_profile(made: Report, **changes: Any) -> Report:
    return with_plan(made, profile=dataclasses.replace(made.plan.profile, **changes))


# What changed.


def test_every_figure_stands_beside_its_former_value() -> None:
    before = report("low", latency_ns=spread())
    after = report("low", latency_ns=spread(p99=100_000), duration_ns=20_000_000_000)
    [profile] = compared(before, after).profiles
    assert profile.name == "low"
    shown = {change.figure: change for change in profile.changes}
    assert list(shown) == [
        *("throughput", "success", "mean", "p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"),
        *("queue.p99", "service.p99", "response.p99"),
        *("memory_per_agent", "cpu_per_message", "overhead"),
    ]
    assert (shown["p99"].before, shown["p99"].after, shown["p99"].ratio) == (80_000, 100_000, 0.25)
    assert (shown["throughput"].before, shown["throughput"].after, shown["throughput"].ratio) == (500.0, 250.0, -0.5)
    assert shown["p50"].ratio == 0.0
    assert shown["cpu_per_message"].before == pytest.approx(9.0e9 / 5_000)
    assert [figure for figure, change in shown.items() if change.is_worse] == ["throughput", "p99"]


def test_a_document_compared_with_itself_changes_nothing_and_warns_of_nothing() -> None:
    same = document(report("low"), report("medium", open_loop=True))
    comparison = compare(same, same)
    assert comparison.is_comparable
    assert comparison.warnings == comparison.notes == ()
    assert [profile.name for profile in comparison.profiles] == ["low", "medium"]
    assert {change.ratio for profile in comparison.profiles for change in profile.changes} == {0.0}
    assert "send_delay.p99" in [change.figure for change in comparison.profiles[1].changes]


def test_documents_read_from_json_compare_like_those_in_memory() -> None:
    content = as_document(ENVIRONMENT, [report("low"), report("high", open_loop=True)])
    comparison = compare(read_document(json.loads(json.dumps(content))), read_document(content))
    assert comparison.is_comparable
    assert comparison.breaches([parse_limit("p99:0%")]) == ()


def test_profiles_that_only_one_has_are_named() -> None:
    comparison = compare(document(report("low"), report("high")), document(report("high"), report("medium")))
    assert [profile.name for profile in comparison.profiles] == ["high"]
    assert (comparison.only_before, comparison.only_after) == (("low",), ("medium",))


@pytest.mark.parametrize(
    ("figure", "before", "after", "worse"),
    [
        ("p99", 10, 11, True),
        ("p99", 11, 10, False),
        ("queue.max", 10, 11, True),
        ("throughput", 11, 10, True),
        ("throughput", 10, 11, False),
        ("success", 1.0, 0.9, True),
        ("memory_per_agent", 10, 11, True),
        ("cpu_per_message", 10, 11, True),
        ("highest_rate", 11, 10, True),
        ("highest_rate", 10, 11, False),
        ("overhead", 10, 10, False),
        ("p99", None, 10, False),
    ],
)
def test_worse_is_higher_but_for_rates_and_success(
    figure: str, before: float | None, after: float | None, worse: bool
) -> None:
    change = Change(figure, before, after)
    assert change.is_worse is worse
    assert change.higher_is_better is (figure in ("throughput", "success", "highest_rate"))


@pytest.mark.parametrize(("before", "after"), [(None, 1), (1, None), (0, 1), (-5, 5)])
def test_no_change_is_told_where_there_is_nothing_to_divide_by(before: float | None, after: float | None) -> None:
    assert Change("overhead", before, after).ratio is None


def test_nothing_to_nothing_is_no_change() -> None:
    assert Change("overhead", 0, 0).ratio == 0.0


# How many samples stand behind it.


@pytest.mark.parametrize(
    ("figure", "needed"),
    [
        *(("p50", 20), ("p90", 100), ("p95", 200), ("p99", 1_000), ("p99.9", 10_000), ("p99.99", 100_000)),
        *(("queue.p99.9", 10_000), ("mean", 1), ("max", 1), ("throughput", 1), ("memory_per_agent", 1)),
    ],
)
def test_a_percentile_is_judged_with_ten_samples_beyond_it(figure: str, needed: int) -> None:
    assert samples_needed(figure) == needed


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_percentile_of_too_few_samples_is_marked(side: str) -> None:
    few, many = report(latency_ns=spread(9_999)), report(latency_ns=spread(10_000))
    [profile] = compared(few, many).profiles if side == "before" else compared(many, few).profiles
    remarks = {change.figure: change.remark for change in profile.changes}
    assert remarks["p99.9"] == remarks["p99.99"] == "too few samples"
    assert remarks["p99"] == remarks["max"] == remarks["throughput"] == ""
    samples = profile.change("p99.9")
    assert sorted([samples.samples_before, samples.samples_after]) == [9_999, 10_000]


def test_enough_samples_are_not_remarked_on() -> None:
    enough = report(latency_ns=spread(10_000))
    assert compared(enough, enough).profiles[0].change("p99.9").remark == ""


def test_figures_that_are_no_times_have_no_samples() -> None:
    change = compared(report(), report()).profiles[0].change("throughput")
    assert (change.samples_before, change.samples_after) == (None, None)


# What makes two reports not comparable.

OTHER_ENVIRONMENT = {
    "python": "3.15.0",
    "implementation": "PyPy",
    "gil": False,
    "platform": "Darwin",
    "cpu": "Other CPU",
    "cpu_count": 64,
    "event_loop": "uvloop",
}


@pytest.mark.parametrize("field", OTHER_ENVIRONMENT)
def test_another_environment_is_a_warning_that_names_both(field: str) -> None:
    comparison = compare(document(report()), document(report(), **{field: OTHER_ENVIRONMENT[field]}))
    assert not comparison.is_comparable
    [warning] = comparison.warnings
    before, after = ("on", "off") if field == "gil" else (str(getattr(ENVIRONMENT, field)), OTHER_ENVIRONMENT[field])
    assert warning.endswith(f": {before} and {after}")


def test_no_field_of_the_environment_is_forgotten() -> None:
    told = {*OTHER_ENVIRONMENT, "pmesh", "build"}
    assert {field.name for field in dataclasses.fields(Environment)} == told | {"started_at"}


def test_another_build_is_a_warning_for_each_flag() -> None:
    other = {**ENVIRONMENT.build, "cython": "3.4.0", "pgo": True}
    comparison = compare(document(report()), document(report(), build=other))
    assert comparison.warnings == (
        "different build flag cython: 3.3.1 and 3.4.0",
        "different build flag pgo: none and on",
    )


def test_debug_builds_are_warned_of_even_when_both_are() -> None:
    debug = document(report(), build={**ENVIRONMENT.build, "debug": True})
    assert compare(debug, debug).warnings == (
        "the first is of a debug build, whose figures mean nothing",
        "the second is of a debug build, whose figures mean nothing",
    )


def test_another_pmesh_is_a_note() -> None:
    comparison = compare(document(report()), document(report(), pmesh="0.2.0"))
    assert comparison.is_comparable
    assert comparison.notes == ("different pmesh version: 0.1.0 and 0.2.0",)


OTHER_PLAN = {
    "window": 11,
    "arrival": "poisson",
    "messages": 77,
    "duration_seconds": 3.0,
    "warmup_seconds": 1.0,
    "capacity": 5,
    "overflow": "stop",
    "agent": "shop:Till",
    "payload": "shop:order",
    "fail_rate": 0.1,
    "slow_agents": 1,
    "slow_ns": 50,
    "stop_every_seconds": 2.0,
    "per_agent": True,
    "seed": 2,
}


@pytest.mark.parametrize("field", OTHER_PLAN)
def test_another_plan_is_a_warning_of_its_profile(field: str) -> None:
    before = report()
    comparison = compared(before, with_plan(before, **{field: OTHER_PLAN[field]}))
    assert not comparison.is_comparable
    [warning] = comparison.profiles[0].warnings
    assert warning.startswith("different ")
    value = OTHER_PLAN[field]
    assert warning.endswith(f" and {'on' if value is True else value}")


def test_another_rate_is_a_warning() -> None:
    before = report(open_loop=True)
    [profile] = compared(before, with_plan(before, rate_per_second=5_000.0)).profiles
    assert profile.warnings == ("different rate per second: 500.0 and 5,000.0",)


def test_another_loop_is_a_warning_that_says_what_latency_means_in_each() -> None:
    [profile] = compared(report(), report(open_loop=True)).profiles
    assert profile.warnings[0] == (
        "different mode: closed loop, whose latency runs from accept;"
        " and open loop, whose latency runs from the intended send time"
    )


@pytest.mark.parametrize("field", ["agents", "messages_per_agent", "rounds", "concurrency", "payload_bytes"])
def test_another_load_is_a_warning(field: str) -> None:
    before = report()
    [profile] = compared(before, with_profile(before, **{field: 7})).profiles
    assert len(profile.warnings) == 1
    assert profile.warnings[0].endswith(f": {getattr(before.profile, field)} and 7")


def test_no_field_of_the_plan_or_the_profile_is_forgotten() -> None:
    plan = {field.name for field in dataclasses.fields(Plan)}
    assert plan == {*OTHER_PLAN, "rate_per_second", "profile"}
    profile = {field.name for field in dataclasses.fields(Profile)}
    load = {"agents", "messages_per_agent", "rounds", "concurrency", "payload_bytes"}
    assert profile == load | {"name", "reference"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"interrupted": True}, "was interrupted"),
        ({"aborted": "p99<5ms: observed 9 ms"}, "was aborted: p99<5ms: observed 9 ms"),
        ({"unsent": 1_200}, "gave up 1,200 messages of its schedule"),
        ({"faults": ("one is lost",)}, "does not balance: one is lost"),
    ],
)
def test_a_run_that_is_not_whole_is_warned_of_on_its_side(changes: dict[str, Any], told: str) -> None:
    broken = report(**changes)
    for side, comparison in (("first", compared(broken, report())), ("second", compared(report(), broken))):
        [warning] = comparison.profiles[0].warnings
        assert told in warning
        assert side in warning


def test_what_is_not_compared_is_noted() -> None:
    searching = Document(ENVIRONMENT, (report(), report()), (search(1_000.0), search(2_000.0)))
    assert compare(searching, document(report())).notes == (
        "the first has profile 'low' 2 times: the last is compared",
        "the first has 2 searches for the highest rate of low with p99<5ms: the last is compared",
        "only the first has a search for the highest rate of low with p99<5ms",
    )


# Searches.


def search(highest: float | None, *, profile: str = "low", objective: str = "p99<5ms", **changes: Any) -> Search:
    steps = (Step(4_000.0, 4_000.0, 1.0, 60_000, 900_000, 1_000_000, 900_000.0, highest is not None),)
    return dataclasses.replace(Search(profile, objective, steps, highest, None), **changes)


def searched(before: Sequence[Search], after: Sequence[Search]) -> Comparison:
    """Two documents with searches, and with a report of low."""
    return compare(Document(ENVIRONMENT, (report(),), tuple(before)), Document(ENVIRONMENT, (report(),), tuple(after)))


def search_breaches(comparison: Comparison, limit: str = "highest_rate:10%") -> list[str]:
    return [str(breach) for breach in comparison.breaches([parse_limit(limit)])]


def test_searches_are_matched_by_profile_and_objective() -> None:
    comparison = searched(
        [search(1_000.0), search(2_000.0, objective="p50<1ms"), search(3_000.0, profile="high")],
        [search(30_000.0, profile="high"), search(500.0), search(7.0, objective="max<1s")],
    )
    found = {(pair.profile, pair.change.objective): pair.change for pair in comparison.searches}
    assert list(found) == [("low", "p99<5ms"), ("high", "p99<5ms")]
    change = found["low", "p99<5ms"]
    assert (change.name, change.before, change.after, change.ratio) == ("highest_rate p99<5ms", 1_000.0, 500.0, -0.5)
    assert change.is_worse
    assert not found["high", "p99<5ms"].is_worse
    assert [alone.objective for alone in comparison.searches_only_before] == ["p50<1ms"]
    assert [alone.objective for alone in comparison.searches_only_after] == ["max<1s"]


def test_a_highest_rate_stands_among_the_figures_of_its_profile() -> None:
    comparison = searched([search(1_000.0)], [search(500.0)])
    assert comparison.profiles[0].changes[-1] == comparison.searches[0].change
    assert comparison.notes == ()


def test_a_highest_rate_of_a_profile_without_a_report_is_told_in_a_note() -> None:
    comparison = compare(
        Document(ENVIRONMENT, (), (search(1_000.0),)), Document(ENVIRONMENT, (), (search(None, interrupted=True),))
    )
    assert comparison.notes == ("low: highest_rate p99<5ms: 1,000/s became no rate (not finished)",)


def test_searches_read_from_json_compare_like_those_in_memory() -> None:
    content = as_document(ENVIRONMENT, [report()], [search(1_000.0), search(None, objective="max<1ms")])
    comparison = compare(read_document(json.loads(json.dumps(content))), read_document(content))
    assert [pair.change.ratio for pair in comparison.searches] == [0.0, 0.0]
    assert search_breaches(comparison, "highest_rate:0%") == []


def test_a_limit_on_the_highest_rate_is_kept_up_to_its_share_and_breached_beyond() -> None:
    assert search_breaches(searched([search(1_000.0)], [search(900.0)])) == []
    assert search_breaches(searched([search(1_000.0)], [search(5_000.0)])) == []
    assert search_breaches(searched([search(1_000.0)], [search(890.0)])) == [
        "low: highest_rate:10%: p99<5ms: 1,000/s became 890/s, 11.00% worse"
    ]
    assert search_breaches(searched([search(2.0)], [search(1.5)])) == [
        "low: highest_rate:10%: p99<5ms: 2/s became 1.5/s, 25.00% worse"
    ]


def test_a_search_that_no_longer_holds_at_any_rate_breaches_every_limit() -> None:
    assert search_breaches(searched([search(1_000.0)], [search(None)]), "highest_rate:99%") == [
        "low: highest_rate:99%: p99<5ms: 1,000/s became no rate, 100.00% worse"
    ]


def test_a_search_that_never_held_cannot_get_worse() -> None:
    for after in (None, 1_000.0):
        comparison = searched([search(None)], [search(after)])
        assert search_breaches(comparison, "highest_rate:0%") == []
        assert comparison.searches[0].change.before == 0.0


@pytest.mark.parametrize("changes", [{"interrupted": True}, {"steps": ()}])
def test_a_search_that_did_not_finish_is_no_ground_for_a_limit_to_be_kept(changes: dict[str, Any]) -> None:
    broken = search(1_000.0, **changes)
    for comparison in (searched([broken], [search(1_000.0)]), searched([search(1_000.0)], [broken])):
        assert comparison.searches[0].change.remark == "not finished"
        assert search_breaches(comparison) == ["low: highest_rate:10%: p99<5ms: cannot be judged: not finished"]


def test_a_search_that_only_one_has_is_a_breach_that_says_so() -> None:
    comparison = searched([search(1_000.0)], [search(1_000.0, objective="p50<1ms")])
    assert search_breaches(comparison) == [
        "low: highest_rate:10%: p99<5ms: cannot be checked: only the first has a search for it",
        "low: highest_rate:10%: p50<1ms: cannot be checked: only the second has a search for it",
    ]


def test_a_limit_on_the_highest_rate_where_nothing_was_searched_is_a_breach_that_says_so() -> None:
    comparison = compare(document(report("low"), report("high")), document(report("low"), report("medium")))
    assert search_breaches(comparison) == [
        f"{name}: highest_rate:10%: cannot be checked: there is no search for the highest rate"
        for name in ("low", "high", "medium")
    ]


def test_a_highest_rate_is_shown_in_the_table_and_in_the_page() -> None:
    long = "send_delay.p99.99<500us"
    comparison = searched(
        [search(1_234_567.0), search(8_000_000.0, objective=long), search(None, objective="max<1ms")],
        [search(617_283.5), search(9_000_000.0, objective=long), search(2.5, objective="max<1ms", interrupted=True)],
    )
    stream = io.StringIO()
    Console(file=stream, width=80).print(comparison_table(comparison.profiles[0]))
    text = stream.getvalue()
    assert re.search(r"^highest_rate p99<5ms +1,234,567/s +617,284/s +-50\.0%  worse *$", text, re.MULTILINE)
    assert re.search(r"^highest_rate +8,000,000/s +9,000,000/s +\+12\.5%  better *\n" + long, text, re.MULTILINE)
    assert re.search(r"^highest_rate max<1ms +no rate +2\.5/s +not finished *$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 80
    page = compare_page(comparison)
    for cells in (
        ["highest_rate p99&lt;5ms", "-50.0%", "worse", "1,234,567/s", "617,284/s"],
        ["highest_rate max&lt;1ms", "not finished", "no rate", "2.5/s"],
    ):
        assert re.search("(?:<[^>]+>|\\s)+".join(map(re.escape, cells)), page), cells


def test_a_page_of_searches_alone_tells_of_them() -> None:
    comparison = compare(Document(ENVIRONMENT, (), (search(1_000.0),)), Document(ENVIRONMENT, (), (search(500.0),)))
    page = compare_page(comparison)
    assert "low: highest_rate p99&lt;5ms: 1,000/s became 500/s" in page
    assert "no profile in common" not in page


# Limits.


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("p99:10%", Limit("p99:10%", "p99", 0.1)),
        (" P99.9 : 2.50 % ", Limit("p99.9:2.5%", "p99.9", 0.025)),
        ("throughput:5%", Limit("throughput:5%", "throughput", 0.05)),
        ("queue.p50:0%", Limit("queue.p50:0%", "queue.p50", 0.0)),
        ("memory_per_agent:200%", Limit("memory_per_agent:200%", "memory_per_agent", 2.0)),
        ("cpu_per_message:3%", Limit("cpu_per_message:3%", "cpu_per_message", 0.03)),
        ("highest_rate:10%", Limit("highest_rate:10%", "highest_rate", 0.1)),
    ],
)
def test_a_limit_says_figure_and_share(text: str, limit: Limit) -> None:
    assert parse_limit(text) == limit
    assert parse_limit(limit.text) == limit


@pytest.mark.parametrize(
    ("text", "column", "told"),
    [
        ("", 1, "the text ends here; a figure is one of p50"),
        ("p98:10%", 1, "did you mean 'p99'?"),
        ("cpu:10%", 1, "found 'cpu'"),
        ("p99", 4, "behind the figure comes a colon, as in p99:10%"),
        ("p99<10%", 4, "found '<10%'; behind the figure comes a colon"),
        ("p99:", 5, "a share is a number that is not negative, and its unit, as in 10%"),
        ("p99:-10%", 5, "found '-10%'"),
        ("p99:10", 7, "the unit of a share is %, as in 10%"),
        ("p99:10ms", 7, "found 'ms'; the unit of a share is %"),
        ("p99:10%,p50:5%", 8, "every limit is a text of its own"),
        ("throughput:100%", 12, "found '100%'; throughput cannot fall by more than 100%"),
        ("highest_rate:100%", 14, "found '100%'; highest_rate cannot fall by more than 100%"),
        ("highest:10%", 1, "did you mean 'highest_rate'?"),
    ],
)
def test_a_bad_limit_names_the_column(text: str, column: int, told: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_limit(text)
    message = str(caught.value)
    assert message.startswith(f"limit {text!r}, column {column}: ")
    assert told in message
    assert len(message.splitlines()) == 1


def test_a_limit_that_is_no_text_is_named() -> None:
    with pytest.raises(InvalidType, match=r"limit is the float 0\.1; it must be a str such as 'p99:10%'"):
        parse_limit(0.1)  # type: ignore[arg-type]


@given(st.one_of(st.text(), st.lists(st.sampled_from(["p99", ":", "10", "%", " ", ".", "success", "x"])).map("".join)))
def test_any_text_is_a_limit_or_refused_at_a_column_of_its_own(text: str) -> None:
    fuzz_checks.check_limit(text)


def breaches(before: Report, after: Report, *limits: str) -> list[str]:
    return [str(breach) for breach in compared(before, after).breaches(map(parse_limit, limits))]


def test_a_limit_is_kept_up_to_its_share_and_breached_beyond() -> None:
    before, after = report(latency_ns=spread(p99=100_000)), report(latency_ns=spread(p99=110_000))
    assert breaches(before, after, "p99:10%") == []
    assert breaches(before, after, "p99:9.99%", "p50:0%") == ["low: p99:9.99%: 100 us became 110 us, 10.00% worse"]


def test_a_limit_is_on_the_bad_direction_only() -> None:
    slow, fast = report(latency_ns=spread(p99=200_000), duration_ns=2 * 10**10), report(latency_ns=spread())
    assert breaches(slow, fast, "p99:0%", "throughput:0%") == []
    assert breaches(fast, slow, "p99:149%", "throughput:49%") == [
        "low: p99:149%: 80 us became 200 us, 150.00% worse",
        "low: throughput:49%: 500/s became 250/s, 50.00% worse",
    ]


def test_every_profile_is_held_to_a_limit() -> None:
    before = document(report("low", latency_ns=spread()), report("high", latency_ns=spread()))
    after = document(report("low", latency_ns=spread()), report("high", latency_ns=spread(p50=60_000)))
    assert [breach.profile for breach in compare(before, after).breaches([parse_limit("p50:10%")])] == ["high"]


def test_growth_from_nothing_breaches_any_limit() -> None:
    before, after = report(latency_ns=spread(p50=0)), report(latency_ns=spread(p50=1))
    assert breaches(before, after, "p50:1000%") == ["low: p50:1000%: 0 ns became 1 ns"]
    assert breaches(after, before, "p50:0%") == []


def test_a_figure_that_is_missing_is_a_breach_that_says_so() -> None:
    closed, open_loop = report(), report(open_loop=True)
    assert breaches(open_loop, closed, "send_delay.p99:10%") == [
        "low: send_delay.p99:10%: cannot be checked: the second of the two has no send_delay.p99"
    ]
    assert breaches(closed, open_loop, "send_delay.p99:10%") == [
        "low: send_delay.p99:10%: cannot be checked: the first of the two has no send_delay.p99"
    ]
    assert breaches(closed, closed, "send_delay.p99:10%") == [
        "low: send_delay.p99:10%: cannot be checked: both of the two have no send_delay.p99"
    ]


def test_processor_time_of_no_messages_is_missing() -> None:
    nothing = report(counts=Counts(5, 5, 0, 0, 5, 0, 0, 0, 0))
    assert "has no cpu_per_message" in breaches(report(), nothing, "cpu_per_message:5%")[0]


def test_a_profile_that_is_missing_is_a_breach_that_says_so() -> None:
    comparison = compare(document(report("low")), document(report("high")))
    assert [str(breach) for breach in comparison.breaches([parse_limit("p50:10%")])] == [
        "low: p50:10%: cannot be checked: only the first has it",
        "high: p50:10%: cannot be checked: only the second has it",
    ]


def test_a_limit_on_a_percentile_of_too_few_samples_is_a_breach_that_says_so() -> None:
    few = report(latency_ns=spread(5_000))
    assert breaches(few, copy.copy(few), "p99.9:10%", "p99:10%") == [
        "low: p99.9:10%: cannot be judged: too few samples (5,000 and 5,000; it takes 10,000)"
    ]


def test_every_figure_of_an_objective_can_have_a_limit() -> None:
    made = report(open_loop=True, **{f"{name}_ns": spread() for name in ("latency", "queue", "service", "response")})
    made = dataclasses.replace(made, send_delay_ns=spread())
    for figure in FIGURES:
        assert breaches(made, made, f"{figure}:5%") == []
