"""The gates can fail: each is shown something that it must refuse."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import time
import tomllib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import baselines
import pytest
import thresholds
import workloads
from bounds import ATTEMPTS, Bound, GateFailed, judge, missed
from conftest import baseline_of, require_release_build, require_tests
from race import MOST_STRETCHES, STRETCHES, Race
from thresholds import ThresholdsError, Tolerance
from workloads import IN_FLIGHT, WORKLOADS, Sink, Work, Workload, handled, running_mesh, until_taken

from pmesh import BUILD_INFO, Agent, LatencyRecorder, MailboxPolicy, handler
from pmesh.load import PROFILES

TOLERANCE = Tolerance(rate=0.75, p50=1.5, p99=3.0, items=0.5)


def no_pause(seconds: float) -> None:
    pass


def series(values: list[float]) -> Callable[[], Mapping[str, float]]:
    """What measures one value of `values` after the other."""
    left = iter(values)
    return lambda: {"speed": next(left)}


def judged(values: list[float], *bounds: Bound) -> Any:
    return judge("planted", series(values), lambda figures: missed(bounds, figures), pause=no_pause)


AT_LEAST_TWO = Bound("speed", 2.0, True, "thresholds.toml")

# Bounds of figures.


def test_a_miss_in_every_attempt_fails_and_shows_them_all() -> None:
    outcome = judged([1.0, 1.1, 1.2, 1.3, 1.4], AT_LEAST_TWO)
    assert not outcome.passed
    with pytest.raises(GateFailed) as failure:
        outcome.require()
    text = str(failure.value)
    assert text.startswith("planted: attempt 1, which had a processor ")
    assert text.endswith("speed 1.4 (allowed: at least 2, thresholds.toml)")
    assert text.count("attempt") == ATTEMPTS


def test_what_keeps_its_bound_is_measured_once() -> None:
    outcome = judged([2.0], AT_LEAST_TWO, Bound("speed", 2.0, False, "the baseline"))
    outcome.require()
    assert len(outcome.attempts) == 1


def test_a_miss_is_measured_again_and_still_shown() -> None:
    outcome = judged([1.0, 3.0], AT_LEAST_TWO)
    outcome.require()
    assert [line[:10] for line in outcome.missed()] == ["attempt 1,"]


def test_bounds_must_be_kept_in_one_and_the_same_attempt() -> None:
    outcome = judged([1.0, 4.0, 1.0, 4.0, 1.0], AT_LEAST_TWO, Bound("speed", 3.0, False, "the baseline"))
    assert not outcome.passed


def test_a_figure_that_was_not_observed_misses_its_bound() -> None:
    bound = Bound("p99_items", 1.0, False, "the baseline")
    assert bound.miss({}) == "p99_items was not observed (allowed: at most 1, the baseline)"


# Races: what is slow shows in the ratio to the reference.


async def told(ref: Any, calls: int) -> float:
    loop = asyncio.get_running_loop()
    start = loop.time()
    for _ in range(calls // IN_FLIGHT):
        ref.tell_many(range(IN_FLIGHT))
        await until_taken(ref)
    return loop.time() - start


def planted(name: str, times: int) -> Workload:
    """Does everything `times` times."""

    @contextlib.asynccontextmanager
    async def prepare() -> AsyncIterator[Work]:
        async with running_mesh() as mesh:
            sink = await mesh.spawn(Sink)

            async def seconds(calls: int) -> float:
                return await told(sink, calls * times)

            yield Work(seconds)

    return Workload(name, 40 * IN_FLIGHT, prepare)


def ratio(workload: Workload) -> float:
    async def main() -> float:
        race = Race(workload)
        await race.open()
        rate = await race.rounds()
        await race.close()
        return rate.against_reference

    return asyncio.run(main())


def test_a_workload_of_a_third_of_its_speed_fails_and_one_of_its_own_passes() -> None:
    seen = ratio(planted("whole", 1))
    bounds = baselines.rate_bounds({"rates": {"planted": {"against_reference": seen}}}, "planted", TOLERANCE)

    def outcome(times: int) -> Any:
        def measure() -> Mapping[str, float]:
            return {"against_reference": ratio(planted("planted", times))}

        return judge("planted", measure, lambda figures: missed(bounds, figures), pause=no_pause)

    outcome(1).require()
    with pytest.raises(GateFailed, match=r"against_reference .* of the baseline's"):
        outcome(3).require()


def test_a_race_runs_each_entrant_once_a_round_and_turns_their_order() -> None:
    order: list[str] = []

    def entrant(name: str, beside: str | None = None) -> Workload:
        @contextlib.asynccontextmanager
        async def prepare() -> AsyncIterator[Work]:
            async def seconds(calls: int) -> float:
                order.append(name)
                return float(calls)

            yield Work(seconds)

        return Workload(name, 10, prepare, beside)

    others = {name: entrant(name) for name in (workloads.REFERENCE, "other")}

    async def main() -> Any:
        race = Race(entrant("one", beside="other"), others)
        await race.open()
        rate = await race.rounds(3)
        await race.close()
        return rate

    rate = asyncio.run(main())
    reference = workloads.REFERENCE
    assert order == ["one", reference, "other", reference, "other", "one", "other", "one", reference]
    assert (rate.per_second, rate.against_reference, rate.against_baseline) == (1.0, 1.0, 1.0)


def test_what_stands_beside_nothing_that_is_installed_has_no_ratio_to_it() -> None:
    workload = planted("alone", 1)
    alone = Workload(workload.name, workload.calls, workload.prepare, beside="hdrh: not installed")

    async def main() -> float | None:
        race = Race(alone)
        await race.open()
        rate = await race.rounds(1)
        await race.close()
        return rate.against_baseline

    assert asyncio.run(main()) is None


# Single calls: what the kernel does is measured again, what pmesh does is not.


class Sluggish(Agent):
    """Sleeps in the first message of a mailbox full, for longer than the p99 that is allowed."""

    mailbox = MailboxPolicy(capacity=IN_FLIGHT)

    @handler
    def take(self, message: int) -> None:
        if not message:
            time.sleep(0.006)


def timed(agent: type[Agent]) -> Workload:
    @contextlib.asynccontextmanager
    async def prepare() -> AsyncIterator[Work]:
        async with running_mesh() as mesh:
            ref = await mesh.spawn(agent)
            yield handled(mesh, ref, lambda calls: told(ref, calls))

    return Workload("planted", IN_FLIGHT, prepare, timed_calls=100 * IN_FLIGHT)


def single_calls(workload: Workload) -> tuple[LatencyRecorder, Race]:
    async def main() -> tuple[LatencyRecorder, Race]:
        race = Race(workload)
        await race.open()
        recorder = await race.single_calls(workload.timed_calls)
        await race.close()
        return recorder, race

    return asyncio.run(main())


def test_a_planted_slow_handler_misses_the_p99_and_is_not_taken_for_the_kernel_s_doing() -> None:
    """One message of 256 is slow; the p99 is that of the mail that waited behind it."""
    recorder, _ = single_calls(timed(Sluggish))
    assert recorder.count == 100 * IN_FLIGHT
    assert recorder.percentile(99) > 5_000_000


@pytest.mark.parametrize(
    ("lost", "disturbed"),
    [([False] * STRETCHES, 0), ([True, False] * STRETCHES, 10), ([True] * MOST_STRETCHES, 50)],
)
def test_stretches_in_which_the_processor_was_lost_are_made_again_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, lost: list[bool], disturbed: int
) -> None:
    readings = iter([reading for each in lost for reading in (0, int(each))])
    monkeypatch.setattr("race.processor_losses", lambda: next(readings))
    recorder, after = single_calls(timed(Sink))
    assert recorder.count == 100 * IN_FLIGHT
    assert after.disturbed == disturbed
    assert after.item_ns > 0


def test_calls_that_make_no_whole_stretches_are_refused() -> None:
    workload = Workload("planted", IN_FLIGHT, timed(Sink).prepare, timed_calls=10 * IN_FLIGHT + 1)
    with pytest.raises(ValueError, match="'planted' must have a latency, and timed_calls in multiples of 10"):
        single_calls(workload)


# thresholds.toml.


@pytest.fixture
def document() -> dict[str, Any]:
    text = Path(__file__).with_name("thresholds.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def toml(value: object) -> str:
    """`value` as an inline value; what the tests need of TOML is JSON but for its tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value).replace("Infinity", "inf")


def parse(document: Mapping[str, Any]) -> thresholds.Thresholds:
    text = "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in document.items())
    return thresholds.parse(text, WORKLOADS, PROFILES)


def test_the_thresholds_as_committed_fit(document: dict[str, Any]) -> None:
    assert parse(document).rates.keys() == WORKLOADS.keys()


def change(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy with `value` at `path`, or nothing there if it is None."""
    changed = copy.deepcopy(document)
    *parents, last = path.split("/")
    table = changed
    for parent in parents:
        table = table[parent]
    if value is None:
        del table[last]
    else:
        table[last] = value
    return changed


RATE = {"at_least": 1.0, "seen": {"3.11": 2.0}}


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("rates/tell: backwards", RATE, "rates: there is no workload called 'tell: backwards'"),
        ("rates/tell: accepted", None, "rates: the workload 'tell: accepted' has no threshold"),
        ("rates/tell: accepted", 1.0, "rates.'tell: accepted' is 1.0; it must be a table with at_least and seen"),
        ("rates/tell: accepted/at_most", 1.0, "rates.'tell: accepted'.at_most is an unknown key"),
        ("rates/tell: accepted/at_least", None, "at_least is None; it must be a number above 0"),
        ("rates/tell: accepted/at_least", "500us", "at_least is '500us'; it must be a number above 0, and of no unit"),
        ("rates/tell: accepted/at_least", True, "at_least is True; it must be a number above 0"),
        ("rates/tell: accepted/at_least", 0, "at_least is 0; it must be a number above 0"),
        ("rates/tell: accepted/at_least", float("inf"), "at_least is inf; it must be a number above 0"),
        ("rates/tell: accepted/at_least", 1e6, "at_least is 1000000.0; it must be below"),
        ("rates/tell: accepted/seen", {}, "seen is {}; it must be a table of what was seen"),
        ("rates/tell: accepted/seen", {"2.7": 9.0}, "seen is '2.7'; it must be on one of the machines"),
        (
            "latencies/messages/workloads",
            ["tell: backwards"],
            "there is no workload with timed calls called 'tell: bac",
        ),
        ("latencies/messages/workloads", ["tell: accepted"] * 2, "is 'tell: accepted'; it must be in one group only"),
        ("latencies/messages/workloads", [], "latencies.messages.workloads is []; it must be a list of names"),
        ("latencies/messages", None, "the workload with timed calls 'tell: accepted' has no threshold"),
        ("latencies/messages/objective", [], "latencies.messages.objective is an unknown key"),
        ("latencies/messages/objectives", ["p99<5kg"], "objective 'p99<5kg'"),
        ("latencies/messages/objectives", ["p99<5/s"], "objective 'p99<5/s'"),
        ("latencies/messages/objectives", ["p98<5ms"], "objective 'p98<5ms'"),
        ("latencies/messages/objectives", [5], "objective is the int 5"),
        ("latencies/messages/objectives", ["success>99%"], "is 'success>99%'; it must be about one of"),
        ("latencies/messages/objectives", ["p99>5ms"], "is 'p99>5ms'; it must be < or <="),
        ("profiles/low", ["throughput<=5000/s"], "is 'throughput<=5000/s'; it must be > or >="),
        ("latencies/messages/objectives", "p99<5ms", "it must be a list of objectives"),
        ("latencies/many", 1, "latencies.many is 1; it must be a table with objectives and workloads"),
        ("profiles/huge", ["p99<5ms"], "profiles: there is no profile called 'huge'"),
        ("profiles/low", None, "profiles: the profile 'low' has no threshold"),
        ("profiles/low", ["throughput>5ms"], "objective 'throughput>5ms'"),
        ("tolerance/rate", 1.5, "tolerance.rate is 1.5; it must be below 1"),
        ("tolerance/p99", 0.5, "tolerance.p99 is 0.5; it must be above 1"),
        ("tolerance/p99", float("inf"), "tolerance.p99 is inf; it must be a number above 0"),
        ("tolerance/p99", "10%", "tolerance.p99 is '10%'; it must be a number"),
        ("tolerance/max", 2.0, "tolerance.max is an unknown key; there are items, p50, p99, rate"),
        ("machines/3.11", 3.11, "machines.3.11 is 3.11; it must be a text"),
        ("gates", {}, "gates is an unknown key"),
        ("rates", None, "rates is None; it must be a table"),
    ],
)
def test_thresholds_that_do_not_fit_are_refused_by_name(
    document: dict[str, Any], path: str, value: object, expected: str
) -> None:
    with pytest.raises(ThresholdsError) as error:
        parse(change(document, path, value))
    assert expected in str(error.value)


def test_all_that_is_wrong_with_the_thresholds_is_said_at_once(document: dict[str, Any]) -> None:
    wrong = change(change(document, "profiles/low", None), "tolerance/max", 2.0)
    with pytest.raises(ThresholdsError, match=r"tolerance\.max is an unknown key.*profile 'low' has no threshold"):
        parse(wrong)


def test_thresholds_that_are_no_toml_are_refused() -> None:
    with pytest.raises(ThresholdsError, match="is no TOML: "):
        thresholds.parse("[rates", WORKLOADS, PROFILES)


def test_a_workload_that_no_test_judges_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    require_tests(WORKLOADS)
    import bench_tell

    monkeypatch.delattr(bench_tell, "test_latency")
    with pytest.raises(pytest.UsageError, match=r"nothing judges 'tell: accepted': bench_tell.py must import test_lat"):
        require_tests(WORKLOADS)


def test_two_workloads_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two workloads are called 'tell: accepted'"):
        workloads.workload("tell: accepted", calls=1)


# Committed baselines.

SEEN = {
    "rates": {"tell: accepted": {"against_reference": 4.0, "per_second": 1e6}},
    "latencies": {"tell: accepted": {"p50_items": 2.0, "p99_items": 10.0, "max_ns": 1.0}},
}


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"against_reference": 3.0}, ()),
        ({"against_reference": 2.99}, ("against_reference 2.99 (allowed: at least 3, 0.75 of the baseline's 4)",)),
    ],
)
def test_a_rate_may_be_a_quarter_below_the_baseline_s(figures: dict[str, float], expected: tuple[str, ...]) -> None:
    assert missed(baselines.rate_bounds(SEEN, "tell: accepted", TOLERANCE), figures) == expected


@pytest.mark.parametrize(
    ("p50", "p99", "expected"),
    [
        (3.5, 30.5, ()),
        (3.6, 30.5, ("p50_items 3.6 (allowed: at most 3.5, 1.5 times the baseline's 2 and 0.5 more)",)),
        (3.5, 30.6, ("p99_items 30.6 (allowed: at most 30.5, 3 times the baseline's 10 and 0.5 more)",)),
    ],
)
def test_a_latency_may_be_so_many_times_the_baseline_s(p50: float, p99: float, expected: tuple[str, ...]) -> None:
    bounds = baselines.time_bounds(SEEN, "tell: accepted", TOLERANCE)
    assert missed(bounds, {"p50_items": p50, "p99_items": p99}) == expected


@pytest.mark.parametrize("baseline", [None, SEEN])
def test_what_the_baseline_does_not_have_is_not_judged_by_it(baseline: dict[str, Any] | None) -> None:
    assert not baselines.rate_bounds(baseline, "tell: backwards", TOLERANCE)
    assert not baselines.time_bounds(baseline, "tell: backwards", TOLERANCE)


def test_a_baseline_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "made" / "class.json"
    assert baselines.load(path) is None
    baselines.save(path, SEEN)
    assert baselines.load(path) == SEEN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "is no JSON"),
        pytest.param("[" * 100_000, "is no JSON", id="brackets without an end"),
        ("[]", "no table 'rates'"),
        ("{}", "no table"),
        ('{"rates": {"a": []}, "latencies": {}}', "against_reference of 'a' in rates is None"),
        ('{"rates": {"a": {"against_reference": 0}}, "latencies": {}}', "is 0; it must be a number above 0"),
        ('{"rates": {"a": {"against_reference": "9"}}, "latencies": {}}', "is '9'; it must be"),
        ('{"rates": {}, "latencies": {"a": {"p50_items": 1}}}', "p99_items of 'a' in latencies is None"),
        ('{"rates": {}, "latencies": {"a": {"p50_items": Infinity, "p99_items": 1}}}', "is inf; .*--update-baseline"),
    ],
)
def test_a_baseline_that_is_none_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "class.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=expected):
        baselines.load(path)


def test_a_baseline_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "class.json"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"class\.json is no JSON: .*utf-8.*--update-baseline"):
        baselines.load(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match=r"class\.json cannot be read: Is a directory"):
        baselines.load(path)


def test_a_baseline_that_is_asked_for_must_be_there_unless_it_is_to_be_written(tmp_path: Path) -> None:
    path = tmp_path / "class.json"
    with pytest.raises(pytest.UsageError, match="there is no such file"):
        baseline_of(path, update=False)
    assert baseline_of(path, update=True) is None
    baselines.save(path, SEEN)
    assert baseline_of(path, update=False) == SEEN
    assert baseline_of(path, update=True) is None
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="is no JSON"):
        baseline_of(path, update=True)


def test_an_update_keeps_what_was_not_measured_and_drops_what_is_gone() -> None:
    old = {"rates": {"gone": {"a": 1.0}, "kept": {"a": 1.0}, "new": {"a": 1.0}}, "latencies": {}}
    new = {"date": "today", "rates": {"new": {"a": 2.0}}, "latencies": {}}
    document = baselines.merged(old, new, {"kept": None, "new": None})
    assert document == {"date": "today", "rates": {"kept": {"a": 1.0}, "new": {"a": 2.0}}, "latencies": {}}


def test_the_class_of_a_machine_is_a_file_name() -> None:
    name = baselines.machine_class()
    assert Path(name).name == name
    assert not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789-_.")


def test_committed_baselines_name_no_machine_and_only_workloads() -> None:
    paths = sorted(baselines.FOLDER.glob("*.json"))
    assert paths
    for path in paths:
        document = baselines.load(path)
        assert document is not None
        assert document.keys() == {"machine_class", "date", "pmesh", "python", "rates", "latencies"}
        assert document["machine_class"] == path.stem
        assert document["rates"].keys() | document["latencies"].keys() <= WORKLOADS.keys()


# What is not a measurement.


@pytest.mark.parametrize("variant", ["debug", "trace", "sanitize"])
def test_a_build_that_is_slow_on_purpose_is_refused(variant: str) -> None:
    require_release_build(BUILD_INFO)
    expected = f"do not run on a {variant} build of pmesh .*PMESH_{variant.upper()}"
    with pytest.raises(pytest.UsageError, match=expected):
        require_release_build({**BUILD_INFO, variant: True})


def test_mail_that_was_not_handled_is_no_measurement() -> None:
    async def main() -> None:
        async with running_mesh() as mesh:
            ref = await mesh.spawn(Sink)
            ref.tell(1)
            await mesh.kill(ref)

    with pytest.raises(RuntimeError, match="the account must balance, with all mail handled"):
        asyncio.run(main())
