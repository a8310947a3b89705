"""What a report finds wrong with itself, and what it concludes: each check fails when its numbers are changed."""

from __future__ import annotations

import dataclasses

import load_samples
import pytest

from pmesh import LatencyRecorder
from pmesh.load.profiles import PROFILES
from pmesh.load.rendering.checks import check_report
from pmesh.load.rendering.findings import alerts_of, highest_holding, load_text, notices_of, recommend, verdict_text
from pmesh.load.report import Counts, Injected, Report, Search, Step
from pmesh.slo import judge, parse_objective


def results(report: Report) -> dict[str, bool | None]:
    return {check.name: check.passed for check in check_report(report)}


def failed(report: Report) -> set[str]:
    return {name for name, passed in results(report).items() if passed is False}


def judged(report: Report, *objectives: str) -> Report:
    return dataclasses.replace(report, slo=judge(report.figure, map(parse_objective, objectives)))


def planned(report: Report, **changes: object) -> Report:
    return dataclasses.replace(report, plan=dataclasses.replace(report.plan, **changes))


@pytest.mark.parametrize("open_loop", [False, True])
def test_a_sound_report_passes_every_check(open_loop):
    found = results(load_samples.report(open_loop=open_loop))
    assert len(found) >= 12
    assert set(found.values()) == {True}


def changed_counts(**changes: int) -> Counts:
    return dataclasses.replace(load_samples.report().counts, **changes)


def extra_recorder() -> dict[str, LatencyRecorder]:
    recorders = dict(load_samples.report().recorders)
    recorders["queue"] = load_samples.recorder(3, 4_999, 40_000.0)
    return recorders


SPOILT = {
    "every send was accepted or rejected": {"counts": changed_counts(sent=5_001)},
    "nothing was lost": {"counts": changed_counts(handled=4_999)},
    "nothing is left pending": {"counts": changed_counts(pending=1)},
    "senders, coordinator and agents counted the same": {"faults": ("sent 1, counted 2",)},
    "the agents' accounts add up to the whole": {"agents": load_samples.report().agents[1:]},
    "histograms hold every message that was handled or failed": {"recorders": extra_recorder()},
    "percentiles are those of the histograms": {"service_ns": load_samples.report().queue_ns},
    "the series adds up to the counts": {"series": load_samples.report().series[1:]},
    "the run went to its end": {"interrupted": True},
    "all that was planned was sent": {"counts": changed_counts(sent=4_000, accepted=4_000, handled=4_000)},
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_check_fails_when_its_numbers_are_wrong(name):
    spoilt = dataclasses.replace(load_samples.report(), **SPOILT[name])
    assert name in failed(spoilt)
    numbers = next(check.numbers for check in check_report(spoilt) if check.name == name)
    assert numbers


def test_a_verdict_that_does_not_follow_from_its_figure_is_found():
    report = load_samples.report()
    lying = tuple(dataclasses.replace(verdict, passed=True) for verdict in report.slo)
    assert failed(dataclasses.replace(report, slo=lying)) == {"every verdict follows from its figure"}


def test_an_objective_without_a_figure_is_found():
    report = judged(load_samples.report(), "send_delay.p99<1ms")
    assert failed(report) == {"every objective had a figure to be judged by"}


def test_times_out_of_range_are_found():
    report = load_samples.report()
    recorder = load_samples.recorder(3, 4_999, 40_000.0)
    recorder.record(120_000_000_000)
    assert "every time was in the range of the histogram" in failed(
        dataclasses.replace(report, recorders={**report.recorders, "queue": recorder})
    )


def test_a_debug_build_is_found():
    environment = dataclasses.replace(load_samples.ENVIRONMENT, build={"debug": True, "trace": False})
    report = dataclasses.replace(load_samples.report(), environment=environment)
    assert failed(report) == {"measured on a release build"}
    assert [notice.grave for notice in notices_of(report)] == [True]


def test_injected_failures_must_stand_in_the_account():
    report = planned(load_samples.report(), fail_rate=0.005)
    name = "injected failures stand in the account"
    assert name in failed(dataclasses.replace(report, injected=Injected(failures=25)))
    counts = changed_counts(handled=4_975, failed=25)
    assert results(dataclasses.replace(report, counts=counts, injected=Injected(failures=25)))[name] is True


def test_what_has_no_data_is_not_checked_rather_than_right():
    bare = dataclasses.replace(load_samples.report(), series=(), agents=(), recorders={}, slo=())
    unchecked = {name for name, passed in results(bare).items() if passed is None}
    assert len(unchecked) == 4


def test_a_good_report_has_nothing_to_notice():
    assert notices_of(load_samples.report()) == []


def test_everything_that_went_wrong_is_noticed():
    report = planned(
        load_samples.report(open_loop=True), fail_rate=0.005, slow_agents=1, slow_ns=50_000_000, stop_every_seconds=1.0
    )
    report = dataclasses.replace(
        report, faults=("a fault",), interrupted=True, aborted="p99<5ms", unsent=7, injected=Injected(25, 200, 3)
    )
    text = " ".join(notice.text for notice in notices_of(report))
    for told in ("a fault", "Interrupted", "Aborted on a breach: p99<5ms", "7 messages", "0.5%", "50 ms", "3 were"):
        assert told in text


def test_an_open_loop_that_did_not_keep_its_rate_says_so():
    report = planned(load_samples.report(open_loop=True), rate_per_second=1_000.0)
    assert not any("did not keep up" in notice.text for notice in notices_of(report))
    # Half of them more than 2.5 s late: 5,000 messages in ten seconds instead of five.
    late = dataclasses.replace(report, send_delay_ns=dataclasses.replace(report.send_delay_ns, p50=2_500_000_000))
    assert any("about 500 messages/s were sent of the 1,000" in notice.text for notice in notices_of(late))


def test_the_load_says_which_loop_it_was():
    assert load_text(load_samples.report()).startswith("Closed loop: 10 senders, at most 10 messages in flight")
    assert load_text(load_samples.report(open_loop=True)).startswith("Open loop: 500 messages/s on a schedule")


def test_the_verdict_is_good_only_when_every_objective_holds():
    report = load_samples.report()
    assert verdict_text([report]) == ("1 of 7 objectives missed: low throughput>=5000/s.", False)
    good = judged(report, "p99<5ms", "success>=99.5%")
    assert verdict_text([good]) == ("All 2 objectives hold.", True)
    assert verdict_text([good, report])[1] is False
    assert verdict_text([dataclasses.replace(good, faults=("x",))])[1] is False
    assert verdict_text([dataclasses.replace(good, interrupted=True)])[1] is False
    assert verdict_text([dataclasses.replace(good, slo=())]) == ("No objective was judged.", None)


def test_profiles_that_ran_twice_are_told_apart():
    report = load_samples.report()
    other = dataclasses.replace(report, interrupted=True)
    assert verdict_text([report, other])[0] == (
        "2 of 14 objectives missed: low (1) throughput>=5000/s; low (2) throughput>=5000/s."
    )


def test_the_highest_profile_that_holds_is_the_one_of_most_agents():
    reports = [judged(load_samples.report(name), "p99<5ms") for name in ("low", "high", "medium")]
    assert highest_holding(reports) is reports[1]
    cut_short = dataclasses.replace(reports[1], interrupted=True)
    assert highest_holding([reports[0], cut_short, reports[2]]) is reports[2]
    missed = judged(reports[1], "p99<1us")
    assert highest_holding([missed]) is None
    assert "high is the highest profile that holds every objective" in recommend(reports)[0]
    assert recommend([missed])[0] == "No profile that ran to its end holds every objective."


def test_a_missed_time_is_blamed_on_the_largest_part():
    report = judged(load_samples.report(), "p99<1us")
    assert "low misses p99<1us: at p99 queue 131 us, service 32.4 us; messages wait" in " ".join(recommend([report]))


def test_alerts_are_derived_from_the_highest_run_that_holds():
    report = judged(load_samples.report(), "p99<5ms")
    basis, alerts = alerts_of([report])
    assert basis is report
    told = {alert.figure: alert.threshold for alert in alerts}
    assert told == {
        "p99 latency, early": "> 376 us",
        "p99 latency": "> 5 ms",
        "error rate": "> 0.5%",
        "messages pending": "> 4",
    }


def test_a_slow_run_raises_the_threshold_of_its_alert():
    latency = load_samples.recorder(1, median_ns=5_000_000.0)
    report = load_samples.report()
    report = dataclasses.replace(report, latency_ns=type(report.latency_ns).of(latency))
    _, alerts = alerts_of([judged(report, "p99<1s")])
    assert [alert.threshold for alert in alerts if alert.figure == "p99 latency"] == ["> 31.3 ms"]


def test_runs_with_injected_failures_are_no_basis_for_alerts():
    report = planned(judged(load_samples.report(), "p99<5ms"), fail_rate=0.1)
    basis, alerts = alerts_of([report])
    assert basis is None
    assert [(alert.figure, alert.threshold) for alert in alerts] == [
        ("p99 latency", "> 5 ms"),
        ("error rate", "> 0.5%"),
    ]


def test_a_search_says_what_it_found():
    step = Step(1_000.0, 1_000.0, 1.0, 1, 2, 3, 2.0, True)
    found = Search("low", "p99<5ms", (step,), 1_000.0, 1_100.0)
    assert "1,000 messages/s is the highest rate found to hold p99<5ms; 1,100/s misses it" in recommend([], [found])[1]
    none = Search("low", "p99<5ms", (step,), None, 1_000.0, interrupted=True)
    assert "no rate that was tried holds p99<5ms, down to 1,000/s before it was interrupted" in recommend([], [none])[1]


def test_every_shipped_profile_has_a_load_text_of_its_own():
    assert len({load_text(load_samples.report(name)) for name in PROFILES}) == len(PROFILES)
