"""The load tester from Python: what it sends and measures, how it judges, what it notices."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import importlib.util
import itertools
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

import pmesh
from pmesh import Coordinator, Stats, handler
from pmesh.environment import choose_loop
from pmesh.errors import InvalidArgument, InvalidType
from pmesh.load import DEFAULT_OBJECTIVES, PROFILES, Counts, Driver, Objective, Profile, Report, make_plan, run
from pmesh.load import driver as driver_module
from pmesh.load import subjects as subjects_module
from pmesh.load.driver import find_faults
from pmesh.load.resources import measure_overhead, resident_bytes
from pmesh.load.subjects import LoadAgent
from pmesh.units import bytes_text, duration_text, percent_text

TINY = Profile("tiny", agents=3, messages_per_agent=20, rounds=4, concurrency=7, payload_bytes=33)

TERMS = [field.name for field in dataclasses.fields(Counts)]


@pytest.fixture(params=["asyncio", "uvloop"])
def event_loop_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "uvloop" and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop IS NOT INSTALLED: nothing was tested on it")
    return name


@pytest.fixture(autouse=True)
def _quick_overhead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "measure_overhead", lambda event_loop: 5_000_000)


def run_on(name: str, main: Any) -> Any:
    with asyncio.Runner(loop_factory=choose_loop(name)) as runner:
        return runner.run(main)


def run_tiny(**options: Any) -> Report:
    return asyncio.run(run(TINY, **options))


# What is sent.


def test_every_message_of_every_round_is_handled(event_loop_name: str) -> None:
    report: Report = run_on(event_loop_name, run(TINY))
    assert dataclasses.asdict(report.counts) == {
        "sent": 240,
        "accepted": 240,
        "rejected": 0,
        "handled": 240,
        "failed": 0,
        "expired": 0,
        "dropped": 0,
        "dead": 0,
        "pending": 0,
    }
    assert report.success_rate == 1.0
    assert report.faults == ()
    assert not report.interrupted
    assert report.environment.event_loop == event_loop_name


@pytest.mark.parametrize("concurrency", [1, 2, 7, 59, 60, 61, 200])
def test_each_agent_gets_exactly_its_messages_in_each_round(concurrency: int) -> None:
    profile = dataclasses.replace(TINY, concurrency=concurrency)
    refs: Any = [SimpleNamespace(send=f"agent {number}") for number in range(profile.agents)]
    driver = Driver(make_plan(profile))
    driver._targets = refs
    senders = driver._round_senders()
    shares = [sender._sends for sender in senders]
    assert len(senders) == concurrency
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    received = collections.Counter(send for share in shares for send in share)
    assert received == {ref.send: profile.messages_per_agent for ref in refs}


def test_senders_start_at_different_agents() -> None:
    profile = PROFILES["extreme"]
    refs: Any = [SimpleNamespace(send=number) for number in range(profile.agents)]
    driver = Driver(make_plan(profile))
    driver._targets = refs
    senders = driver._round_senders()
    assert len({sender._sends[0] for sender in senders}) == profile.agents


def test_payloads_are_made_anew_for_each_message_and_have_their_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[bytes] = []

    class Keeper(LoadAgent):
        @handler
        async def receive_payload(self, payload: bytes) -> None:
            self.received += 1
            kept.append(payload)

    monkeypatch.setattr(subjects_module, "LoadAgent", Keeper)
    assert run_tiny().counts.handled == 240
    assert {len(payload) for payload in kept} == {33}
    assert len({id(payload) for payload in kept}) == 240


@pytest.mark.parametrize("window", [1, 2, 5])
def test_no_more_than_the_window_is_in_flight(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    meshes: list[Coordinator] = []
    most = 0

    class Watched(Coordinator):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            meshes.append(self)

    class Watcher(LoadAgent):
        @handler
        async def receive_payload(self, payload: bytes) -> None:
            nonlocal most
            self.received += 1
            most = max(most, meshes[-1].stats().pending)

    monkeypatch.setattr(driver_module, "Coordinator", Watched)
    monkeypatch.setattr(subjects_module, "LoadAgent", Watcher)
    report = run_tiny(window=window)
    assert report.window == window
    assert report.counts.handled == 240
    assert most == window


def test_the_window_is_the_profiles_concurrency_by_default() -> None:
    assert run_tiny().window == TINY.concurrency


# What is measured.


def test_figures_agree_with_each_other() -> None:
    report = run_tiny()
    for spread in (report.latency_ns, report.queue_ns, report.service_ns):
        assert spread.count == report.counts.handled
        ascending = (spread.min, spread.p50, spread.p90, spread.p95, spread.p99, spread.p99_9)
        assert list(ascending) == sorted(ascending)
        assert spread.p99_9 <= spread.max
        assert spread.min <= spread.mean <= spread.max
    assert report.latency_ns.mean == pytest.approx(report.queue_ns.mean + report.service_ns.mean, rel=0.01)
    assert report.throughput_per_second == pytest.approx(240e9 / report.duration_ns)
    assert report.latency_ns.max <= report.duration_ns


def test_each_run_starts_with_fresh_recorders() -> None:
    assert run_tiny().latency_ns.count == 240
    assert run_tiny().latency_ns.count == 240


def test_resources_are_those_of_the_run() -> None:
    report = run_tiny()
    resources = report.resources
    assert 0 < resources.rss_bytes_before <= resources.rss_bytes_peak
    growth = resources.rss_bytes_peak - resources.rss_bytes_before
    assert resources.rss_bytes_per_agent == growth // TINY.agents
    assert report.cpu_seconds > 0


def test_memory_that_agents_keep_is_seen(python: Callable[..., str]) -> None:
    # In a process of its own: where tests before it left free memory, that is used again first.
    printed = python("""
        import asyncio
        from pmesh import handler
        from pmesh.load import driver, subjects
        from pmesh.load.profiles import Profile

        class Hoarder(subjects.LoadAgent):
            @handler
            async def receive_payload(self, payload: bytes) -> None:
                self.received += 1
                self.hoard = [*getattr(self, "hoard", ()), b"x" * 200_000]

        subjects.LoadAgent = Hoarder
        tiny = Profile("tiny", agents=3, messages_per_agent=20, rounds=4, concurrency=7, payload_bytes=33)
        print(asyncio.run(driver.run(tiny)).resources.rss_bytes_per_agent)
    """)
    assert 10_000_000 < int(printed) < 30_000_000  # 80 messages of 200 kB each


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_resident_bytes_are_those_the_kernel_shows() -> None:
    with open("/proc/self/status", encoding="ascii") as status:
        [line] = [line for line in status if line.startswith("VmRSS:")]
    assert resident_bytes() == pytest.approx(int(line.split()[1]) * 1024, rel=0.05)


def test_progress_is_told_at_the_end_of_each_round() -> None:
    told: list[float] = []
    run_tiny(on_progress=told.append)
    assert [messages for messages, _ in itertools.groupby(told)] == [60, 120, 180, 240]


def test_overhead_is_measured_in_processes_of_its_own_and_once() -> None:
    measure_overhead.cache_clear()
    overhead = measure_overhead("asyncio")
    assert 100_000 < overhead < 50_000_000
    assert measure_overhead("asyncio") == overhead
    assert measure_overhead.cache_info().hits == 1


def test_importing_pmesh_loads_neither_click_nor_rich_nor_the_load_tester() -> None:
    code = "from pmesh import *; import sys; print([m for m in ('click','rich','pmesh.load') if m in sys.modules])"
    assert _python(code) == "[]"


def test_finding_pmesh_loads_neither_its_core_nor_asyncio() -> None:
    heavy = "[m for m in ('pmesh._core', 'asyncio') if m in sys.modules]"
    look = "import pmesh, sys; dir(pmesh), hasattr(pmesh, '__wrapped__')"
    assert _python(f"{look}; before = {heavy}; pmesh.Agent; print(before, {heavy})") == "[] ['pmesh._core', 'asyncio']"


def test_every_public_name_is_there_when_it_is_asked_for() -> None:
    code = "import pmesh; print([name for name in pmesh.__all__ if not hasattr(pmesh, name) or name not in dir(pmesh)])"
    assert _python(code) == "[]"
    assert _python("import pmesh; print(pmesh.errors.MailboxFull is pmesh.MailboxFull)") == "True"


def test_the_load_tester_is_there_when_it_is_asked_for() -> None:
    code = "import pmesh, sys; before = 'pmesh.load' in sys.modules; print(before, pmesh.load.run.__name__)"
    assert _python(code) == "False run"
    with pytest.raises(AttributeError, match="has no attribute 'laod'"):
        _ = pmesh.laod  # type: ignore[attr-defined]


def test_importing_the_load_tester_loads_neither_click_nor_rich() -> None:
    code = "import pmesh.load, sys; print([m for m in ('click', 'rich') if m in sys.modules])"
    assert _python(code) == "[]"


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


# How it ends early.


def at_message(number: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `act` from the handler of the first agent's message `number`."""

    class Trigger(LoadAgent):
        @handler
        async def receive_payload(self, payload: bytes) -> None:
            self.received += 1
            if self.received == number and self.context.name == "load-1":
                act()

    monkeypatch.setattr(subjects_module, "LoadAgent", Trigger)


@pytest.mark.parametrize("message", [1, 10, 20, 30, 80])
def test_stop_keeps_what_was_measured_and_the_account_balances(
    message: int, event_loop_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_message(message, lambda: driver.stop(), monkeypatch)
    driver = Driver(make_plan(TINY))
    report: Report = run_on(event_loop_name, driver.run())
    assert report.interrupted
    assert report.faults == ()
    assert message <= report.counts.sent <= 240
    assert report.counts.handled == report.counts.sent
    assert report.counts.pending == 0
    assert report.latency_ns.count == report.counts.handled


def test_stop_before_the_first_round_sends_nothing() -> None:
    async def main() -> Report:
        driver = Driver(make_plan(TINY))
        driver.stop()
        return await driver.run()

    report = asyncio.run(main())
    assert report.counts.sent == 0
    assert report.success_rate == 0.0
    assert report.throughput_per_second == 0.0
    assert report.faults == ()


def test_a_cancelled_run_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        running = asyncio.create_task(run(TINY))
        at_message(30, running.cancel, monkeypatch)
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


# What does not go well.


def test_failing_handlers_are_counted_and_the_agents_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(LoadAgent):
        @handler
        async def receive_payload(self, payload: bytes) -> None:
            self.received += 1
            if self.received % 10 == 0:
                raise ValueError("planted")

    monkeypatch.setattr(subjects_module, "LoadAgent", Failing)
    report = run_tiny()
    assert (report.counts.sent, report.counts.handled, report.counts.failed) == (240, 216, 24)
    assert report.success_rate == 0.9
    assert "success>99.5%" in [verdict.objective.text for verdict in report.missed]
    assert report.faults == ()


@pytest.mark.parametrize(
    ("change", "side"),
    [
        ({"sent": 11}, "sent 11 is not accepted 10 + rejected 0"),
        ({"handled": 9}, "accepted 10 is not handled 9"),
        ({"handled": 9, "pending": 1}, "pending is 1 after the run"),
        ({"imbalance": "planted"}, "planted"),
        ({"sent": 9, "accepted": 9, "handled": 9}, "counted 9 sent, the senders 10"),
        ({"handled": 9, "dead": 1}, "counted 9 handled + 0 failed, the agents 10"),
    ],
)
def test_a_lost_message_is_noticed_on_the_side_that_lost_it(change: dict[str, Any], side: str) -> None:
    good: dict[str, Any] = {**dict.fromkeys(TERMS, 0), "imbalance": None}
    good |= {"sent": 10, "accepted": 10, "handled": 10}
    assert _faults(good) == []
    assert side in " / ".join(_faults(good | change))


def _faults(account: dict[str, Any]) -> list[str]:
    stats = cast("Stats", SimpleNamespace(**account))
    return find_faults(stats, Counts.of(stats), timed=10, sent=10, received=10)


def test_rejected_sends_are_counted_and_are_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Quitter(LoadAgent):
        @handler
        async def receive_payload(self, payload: bytes) -> None:
            self.received += 1
            if self.received == 5 and self.context.name == "load-1":
                self.context.stop()

    monkeypatch.setattr(subjects_module, "LoadAgent", Quitter)
    report = run_tiny()
    counts = report.counts
    assert counts.sent == 240
    assert counts.rejected > 0
    assert counts.handled + counts.dead + counts.rejected == 240
    assert report.faults == ()


@pytest.mark.parametrize("window", [0, -1, 1_000_001])
def test_a_window_out_of_range_is_named(window: int) -> None:
    with pytest.raises(InvalidArgument, match=f"window is {window}; it must be from 1"):
        make_plan("low", window=window)


def test_a_window_that_is_no_int_is_named() -> None:
    with pytest.raises(InvalidType, match=r"window is 1\.5"):
        make_plan("low", window=1.5)  # type: ignore[arg-type]


def test_an_unknown_profile_is_named_with_those_there_are() -> None:
    with pytest.raises(InvalidArgument, match="'huge'; there are low, medium, high, extreme"):
        make_plan("huge")


def test_a_profile_without_agents_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="agents is 0; it must be at least 1"):
        dataclasses.replace(TINY, agents=0)


# How it judges.


def test_the_default_objectives_are_the_references() -> None:
    assert [(o.text, o.comparison, o.bound) for o in DEFAULT_OBJECTIVES] == [
        ("throughput>=5000/s", ">=", 5_000),
        ("p50<500us", "<", 500_000),
        ("p99<5ms", "<", 5_000_000),
        ("max<50ms", "<", 50_000_000),
        ("success>99.5%", ">", 0.995),
        ("memory_per_agent<3MB", "<", 3_000_000),
        ("overhead<50MB", "<", 50_000_000),
    ]


def test_totals_of_the_profiles_are_the_references() -> None:
    assert {name: profile.messages for name, profile in PROFILES.items()} == {
        "low": 5_000,
        "medium": 50_000,
        "high": 250_000,
        "extreme": 1_000_000,
    }


@pytest.mark.parametrize(
    ("comparison", "observed", "holds"),
    [("<", 9, True), ("<", 10, False), ("<=", 10, True), (">", 10, False), (">=", 10, True)],
)
def test_an_objective_holds_up_to_its_bound(comparison: str, observed: int, holds: bool) -> None:
    assert Objective("planted", "p99", comparison, 10).holds(observed) is holds


def test_verdicts_observe_the_reports_own_figures() -> None:
    report = run_tiny()
    observed = {verdict.objective.figure: verdict.observed for verdict in report.slo}
    assert set(observed) == {objective.figure for objective in DEFAULT_OBJECTIVES}
    assert observed["p99"] == report.latency_ns.p99
    assert observed["max"] == report.latency_ns.max
    assert observed["throughput"] == report.throughput_per_second
    assert observed["memory_per_agent"] == report.resources.rss_bytes_per_agent
    assert observed["overhead"] == report.overhead_bytes


def test_a_missed_objective_is_among_the_missed() -> None:
    impossible = Objective("p99<1ns", "p99", "<", 1)
    certain = Objective("p99>=0ns", "p99", ">=", 0)
    report = run_tiny(objectives=[impossible, certain])
    assert [verdict.objective for verdict in report.missed] == [impossible]


# How figures read.


@pytest.mark.parametrize(
    ("value_ns", "text"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1_000, "1 us"),
        (21_327, "21.3 us"),
        (1_500_000, "1.5 ms"),
        (6_580_000_000, "6.58 s"),
        (1_234_000_000_000, "1,234 s"),
    ],
)
def test_durations_read_in_the_unit_that_fits(value_ns: int, text: str) -> None:
    assert duration_text(value_ns) == text


def test_a_success_rate_below_one_never_reads_as_all() -> None:
    assert percent_text(1.0) == "100%"
    assert percent_text(0.9955) == "99.55%"
    assert percent_text(1 - 1e-9) == "99.9999%"


def test_bytes_read_in_decimal_units() -> None:
    assert [bytes_text(n) for n in (0, 999, 100_800, 3_379_200)] == [
        "0 B",
        "999 B",
        "100.8 kB",
        "3.4 MB",
    ]
