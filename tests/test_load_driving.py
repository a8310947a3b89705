"""What a load run can be asked for: open loops, own agents, changed profiles, failures made on purpose."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import json
import logging
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pmesh import Agent, AgentContext, Coordinator, handler
from pmesh.errors import InvalidArgument, InvalidType
from pmesh.load import (
    DEFAULT_OBJECTIVES,
    Counts,
    Driver,
    ObjectivesMissed,
    Profile,
    Report,
    as_document,
    make_plan,
    parse_objective,
    run,
)
from pmesh.load import driver as driver_module
from pmesh.load import recording as recording_module
from pmesh.load import senders as senders_module
from pmesh.load.senders import CyclingSender, Pacer, arrival_offsets
from pmesh.load.subjects import resolve

TINY = Profile("tiny", agents=3, messages_per_agent=20, rounds=4, concurrency=7, payload_bytes=33)


@pytest.fixture(autouse=True)
def _quick_overhead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "measure_overhead", lambda event_loop: 5_000_000)


def run_tiny(**options: Any) -> Report:
    return asyncio.run(run(TINY, **options))


def ended(counts: Counts) -> int:
    return counts.handled + counts.failed + counts.expired + counts.dropped + counts.dead


# The schedule of an open loop.


def test_regular_arrivals_are_evenly_spaced_and_exactly_as_many_as_the_rate_says() -> None:
    offsets = list(arrival_offsets(3_000.0, "constant", messages=None, duration_ns=2_000_000_000, seed=1))
    assert len(offsets) == 6_000
    assert offsets[0] == 0
    assert {later - earlier for earlier, later in itertools.pairwise(offsets)} == {333_333, 333_334}
    assert offsets[-1] < 2_000_000_000


@pytest.mark.parametrize("seed", range(5))
def test_poisson_arrivals_have_exponential_gaps_of_the_rates_mean(seed: int) -> None:
    offsets = list(arrival_offsets(10_000.0, "poisson", messages=20_000, duration_ns=None, seed=seed))
    gaps = [later - earlier for earlier, later in itertools.pairwise(offsets)]
    assert min(gaps) >= 0
    # Of an exponential distribution mean and deviation are the same, and the median is ln 2 of them.
    assert statistics.fmean(gaps) == pytest.approx(100_000, rel=0.03)
    assert statistics.pstdev(gaps) == pytest.approx(100_000, rel=0.05)
    assert statistics.median(gaps) == pytest.approx(69_315, rel=0.04)


def test_arrivals_follow_the_seed() -> None:
    def offsets(seed: int) -> list[int]:
        return list(arrival_offsets(1_000.0, "poisson", messages=50, duration_ns=None, seed=seed))

    assert offsets(7) == offsets(7) != offsets(8)


@pytest.mark.parametrize("arrival", ["constant", "poisson"])
def test_arrivals_end_with_the_number_or_the_time_whichever_is_first(arrival: str) -> None:
    assert len(list(arrival_offsets(1_000.0, arrival, messages=10, duration_ns=10**12, seed=1))) == 10
    few = list(arrival_offsets(1_000.0, arrival, messages=10**9, duration_ns=20_000_000, seed=1))
    assert 0 < len(few) < 60
    assert max(few) < 20_000_000


@pytest.mark.parametrize("rate", [300.0, 20_000.0])
def test_a_pacer_never_sends_early(rate: float) -> None:
    sent_ns: list[int] = []

    async def main() -> tuple[int, list[int]]:
        async with Coordinator() as mesh:
            ref = await mesh.spawn(lambda payload: None)
            offsets = list(arrival_offsets(rate, "constant", messages=20, duration_ns=None, seed=1))

            def make_payload(number: int) -> int:
                sent_ns.append(time.monotonic_ns())
                return number

            before = time.monotonic_ns()
            await Pacer([ref], make_payload, iter(offsets), rate_per_second=rate, messages=20).send()
            delays = mesh.latency_of(ref).send_delay
            assert delays.count == 20
            assert delays.min >= 0
            return before, offsets

    before, offsets = asyncio.run(main())
    assert all(sent >= before + offset for sent, offset in zip(sent_ns, offsets, strict=True))


def test_a_pacer_that_is_too_far_behind_gives_up_and_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders_module, "LEAST_GRACE_NS", 0)
    report = run_tiny(rate=50_000_000.0, duration=0.005)
    assert report.unsent > 0
    assert report.counts.sent + report.unsent == 250_000
    assert report.faults == ()


# Latency of an open loop.


class Staller(Agent):
    """Blocks the whole loop at one message, as a handler that computes would."""

    def __init__(self, at: int, seconds: float) -> None:
        self.left = at
        self.seconds = seconds

    @handler
    def take(self, payload: int) -> None:
        self.left -= 1
        if self.left == 0:
            time.sleep(self.seconds)


def test_a_stall_shows_in_an_open_loop_and_hides_in_a_closed_one() -> None:
    stall = functools.partial(Staller, 100, 0.05)
    shape = dataclasses.replace(TINY, agents=1, concurrency=1)
    opened = asyncio.run(run(shape, agent=stall, payload=lambda n: n, rate=2_000, messages=500))
    closed = asyncio.run(run(shape, agent=stall, payload=lambda n: n, messages=500))
    # A hundred messages were due while the loop stood still: a fifth of all. The closed loop sent none of them.
    assert opened.latency_ns.p90 > 20_000_000
    assert closed.latency_ns.p99 < 20_000_000
    assert opened.latency_ns.max >= 50_000_000


def test_latency_of_an_open_loop_is_send_delay_and_response() -> None:
    report = run_tiny(rate=5_000, messages=200)
    assert report.mode == "open"
    assert report.send_delay_ns is not None
    assert report.latency_ns.count == report.response_ns.count == report.send_delay_ns.count == 200
    total = report.send_delay_ns.mean + report.response_ns.mean
    assert report.latency_ns.mean == pytest.approx(total, rel=0.01)
    assert report.response_ns.mean == pytest.approx(report.queue_ns.mean + report.service_ns.mean, rel=0.01)


def test_in_a_closed_loop_latency_is_the_response() -> None:
    report = run_tiny()
    assert report.mode == "closed"
    assert report.latency_ns == report.response_ns
    assert report.send_delay_ns is None


def test_an_open_loop_sends_its_whole_schedule() -> None:
    report = run_tiny(rate=20_000, duration=0.1)
    assert report.counts.sent == report.counts.handled == 2_000
    assert report.duration_ns >= 99_000_000
    assert report.unsent == 0
    assert report.faults == ()


# What may be changed.


@pytest.mark.parametrize("messages", [1, 6, 7, 8, 777])
@pytest.mark.parametrize("rate", [None, 1e6])
def test_exactly_as_many_messages_as_asked_for_are_sent(messages: int, rate: float | None) -> None:
    report = run_tiny(messages=messages, rate=rate)
    assert report.counts.sent == report.counts.handled == messages
    assert report.faults == ()


@pytest.mark.parametrize(("agents", "senders"), [(1, 1), (3, 3), (3, 6), (4, 2), (5, 3), (2, 8)])
def test_cycling_senders_share_the_messages_evenly_among_the_agents(agents: int, senders: int) -> None:
    async def main() -> list[int]:
        async with Coordinator(window=4) as mesh:
            refs = [await mesh.spawn(lambda payload: None) for _ in range(agents)]
            cyclers = [
                CyclingSender(refs, lambda number: number, first=first, step=senders, limit=agents * senders * 10)
                for first in range(senders)
            ]
            await asyncio.gather(*(cycler.send() for cycler in cyclers))
            assert [cycler.sent for cycler in cyclers] == [agents * 10] * senders
            return [ref.counters().accepted for ref in refs]

    assert asyncio.run(main()) == [senders * 10] * agents


def test_a_closed_loop_can_run_for_a_time() -> None:
    report = run_tiny(duration=0.1)
    assert 0.09e9 < report.duration_ns < 2e9
    assert report.counts.sent == report.counts.handled > 100
    assert report.faults == ()
    assert not report.interrupted


def test_messages_or_time_end_a_run_whichever_comes_first() -> None:
    assert run_tiny(duration=60.0, messages=100).counts.sent == 100
    assert run_tiny(duration=60.0, messages=100, rate=10_000).counts.sent == 100


def test_agents_senders_and_payloads_can_be_changed() -> None:
    report = run_tiny(agents=5, concurrency=2, payload_bytes=0, per_agent=True)
    assert (report.profile.agents, report.profile.concurrency, report.profile.payload_bytes) == (5, 2, 0)
    assert report.counts.handled == 5 * 20 * 4
    assert [row.name for row in report.agents] == [f"load-{number}" for number in range(1, 6)]


def test_a_changed_profile_is_not_held_against_the_reference() -> None:
    assert make_plan("low").profile.reference is not None
    assert make_plan("low", agents=6).profile.reference is None
    assert make_plan("low", rate=100).profile.reference is None
    assert make_plan("low", fail_rate=0.1).profile.reference is None


@pytest.mark.parametrize("rate", [None, 20_000])
def test_the_warm_up_is_not_counted(rate: float | None) -> None:
    report = run_tiny(warmup=0.05, messages=50, rate=rate)
    assert report.counts.sent == report.counts.handled == 50
    assert report.latency_ns.count == 50
    assert sum(row.counts.handled for row in report.agents) == 50
    assert report.duration_ns < 50_000_000
    assert report.faults == ()


# What is watched.


@pytest.mark.parametrize("options", [{}, {"rate": 20_000, "duration": 0.25}, {"duration": 0.25, "fail_rate": 0.1}])
def test_the_intervals_add_up_to_the_whole(options: dict[str, Any]) -> None:
    report = run_tiny(**options)
    counts = report.counts
    assert sum(point.sent for point in report.series) == counts.sent
    assert sum(point.handled for point in report.series) == counts.handled
    assert sum(point.failed for point in report.series) == counts.failed + counts.rejected
    assert sum(point.latency_count for point in report.series) == report.latency_ns.count
    assert max(point.latency_max_ns for point in report.series) == report.latency_ns.max
    ends = [point.at_ns for point in report.series]
    assert ends == sorted(ends)
    starts = [point.at_ns - point.interval_ns for point in report.series]
    assert starts == [0, *ends[:-1]]
    for point in report.series:
        assert point.recorder.percentile(99) == point.latency_p99_ns


def test_a_run_of_half_a_second_has_more_than_one_interval() -> None:
    assert len(run_tiny(rate=1_000, duration=0.6).series) >= 2


def test_many_intervals_are_joined_and_nothing_of_them_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording_module, "FINE_SECONDS", 0.001)
    monkeypatch.setattr(recording_module, "MOST_POINTS", 9)
    report = run_tiny(rate=5_000, duration=0.1)
    assert 5 <= len(report.series) <= 10
    assert sum(point.handled for point in report.series) == 500
    assert sum(point.recorder.count for point in report.series) == 500
    assert max(point.latency_max_ns for point in report.series) == report.latency_ns.max


def test_each_agents_account_and_latency_can_be_told_apart() -> None:
    report = run_tiny(rate=300, messages=30, slow_agents=1, slow_seconds=0.004, per_agent=True)
    first, *others = report.agents
    assert first.p50_ns is not None
    assert first.p50_ns >= 4_000_000
    assert all(row.p50_ns is not None and row.p50_ns < 4_000_000 for row in others)
    assert [row.counts.handled for row in report.agents] == [10, 10, 10]


def test_without_asking_agents_share_recorders() -> None:
    assert {row.p50_ns for row in run_tiny().agents} == {None}


# Failures on purpose.


@pytest.mark.parametrize("rate", [None, 50_000])
def test_injected_failures_are_counted_failed_each_of_them(
    rate: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    report = run_tiny(fail_rate=0.1, messages=2_000, rate=rate)
    assert report.counts.failed == report.injected.failures > 100
    assert report.counts.handled == 2_000 - report.counts.failed
    assert report.success_rate == report.counts.handled / 2_000
    assert report.faults == ()
    assert _of_pmesh(caplog) == []


def _of_pmesh(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """asyncio's debug mode logs what takes long."""
    return [record for record in caplog.records if record.name.startswith("pmesh")]


def test_injected_failures_follow_the_seed() -> None:
    assert run_tiny(fail_rate=0.1, seed=3).injected == run_tiny(fail_rate=0.1, seed=3).injected


def test_all_or_no_handlers_can_be_made_to_fail() -> None:
    assert run_tiny(fail_rate=1.0).counts.failed == 240
    assert run_tiny(fail_rate=0.0).counts.failed == 0


def test_slow_agents_are_slow_and_no_other() -> None:
    report = run_tiny(slow_agents=1, slow_seconds=0.001, messages=30)
    assert report.injected.delays == 10
    assert report.counts.handled == 30
    assert report.service_ns.max >= 1_000_000


@pytest.mark.parametrize("rate", [None, 20_000])
def test_stopped_agents_are_replaced_and_every_message_is_accounted_for(rate: float | None) -> None:
    report = run_tiny(stop_every=0.02, duration=0.2, rate=rate, fail_rate=0.01)
    counts = report.counts
    assert report.injected.stops >= 5
    assert counts.sent == counts.accepted + counts.rejected
    assert counts.accepted == ended(counts)
    assert counts.failed == report.injected.failures
    assert len(report.agents) == 3
    assert report.faults == ()


@pytest.mark.parametrize(
    ("overflow", "term"), [("reject", "rejected"), ("drop_newest", "dropped"), ("drop_oldest", "dropped")]
)
def test_a_full_mailbox_does_as_it_was_told(overflow: str, term: str) -> None:
    report = run_tiny(overflow=overflow, capacity=1, rate=100_000, messages=300, slow_agents=3, slow_seconds=0.001)
    assert getattr(report.counts, term) > 100
    assert report.counts.sent == 300
    assert report.counts.handled + getattr(report.counts, term) == 300
    assert report.faults == ()


def test_an_agent_whose_mailbox_overflows_under_stop_fails_and_the_account_holds() -> None:
    report = run_tiny(overflow="stop", capacity=1, rate=100_000, messages=300, slow_agents=3, slow_seconds=0.001)
    assert report.counts.rejected > 100
    assert ended(report.counts) + report.counts.rejected == 300
    assert report.faults == ()


# Own agents.


class Order:
    def __init__(self, number: int) -> None:
        self.number = number


class Clerk(Agent):
    seen: list[int] = []  # noqa: RUF012 - shared on purpose: every clerk's

    @handler
    async def take(self, order: Order) -> None:
        Clerk.seen.append(order.number)


def an_order() -> Order:
    return Order(0)


def broken() -> Order:
    raise RuntimeError("no orders today")


def breaks_later(number: int) -> Order:
    if number == 17:
        raise RuntimeError("seventeen")
    return Order(number)


def test_own_agents_get_own_payloads_by_number() -> None:
    Clerk.seen.clear()
    report = run_tiny(agent=Clerk, payload=Order, messages=40)
    assert sorted(Clerk.seen) == list(range(40))
    assert report.plan.agent == f"{__name__}:Clerk"
    assert report.plan.payload == f"{__name__}:Order"
    assert report.faults == ()


def test_own_agents_can_be_functions_partials_and_paths() -> None:
    got: list[object] = []
    assert run_tiny(agent=got.append, payload=an_order, messages=7).counts.handled == 7
    assert len(got) == 7
    assert run_tiny(agent=functools.partial(Staller, 0, 0.0), payload=lambda n: n, messages=7).counts.handled == 7
    assert run_tiny(agent=f"{__name__}:Clerk", payload=f"{__name__}:an_order", messages=7).counts.handled == 7


def test_failures_can_be_injected_into_own_agents_of_each_kind() -> None:
    Clerk.seen.clear()
    report = run_tiny(agent=Clerk, payload=Order, messages=100, fail_rate=0.5)
    assert report.counts.failed == report.injected.failures
    assert len(Clerk.seen) == report.counts.handled == 100 - report.injected.failures
    got: list[object] = []
    report = run_tiny(agent=got.append, payload=an_order, messages=100, fail_rate=0.5)
    assert len(got) == report.counts.handled == 100 - report.injected.failures


def test_own_agents_that_write_to_each_other_are_accounted_for() -> None:
    class Forwarder(Agent):
        context: AgentContext

        @handler
        async def order(self, order: Order) -> None:
            self.context.ref.tell("done")

        @handler
        async def done(self, text: str) -> None:
            pass

    report = run_tiny(agent=Forwarder, payload=Order, messages=50)
    assert report.counts.handled == 100
    assert report.faults == ()


def test_own_agents_fail_for_real_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    def fails(payload: Order) -> None:
        raise ValueError("planted")

    report = run_tiny(agent=fails, payload=an_order, messages=20)
    assert report.counts.failed == 20
    assert len(_of_pmesh(caplog)) == 20


@pytest.mark.parametrize(
    ("agent", "payload", "text"),
    [
        (Clerk, None, r"agent .*:Clerk has no handler for bytes, which is what a load profile sends"),
        (Clerk, lambda: 7, r"agent .*:Clerk has no handler for int, which is what the payload factory .* made"),
        (Clerk, broken, r"payload factory .*:broken raised RuntimeError: no orders today \(for message 0\)"),
        (Clerk, breaks_later, r"payload factory .*:breaks_later raised RuntimeError: seventeen \(for message 17\)"),
        (Staller, an_order, r"agent .*:Staller cannot be made without arguments: missing a required argument: 'at'"),
        ("nowhere", an_order, "agent 'nowhere' must have the form package.module:name"),
        ("no.such:Thing", an_order, "agent 'no.such:Thing': no.such cannot be imported: ModuleNotFoundError"),
        ("json:Nothing", an_order, "agent 'json:Nothing': json has no 'Nothing'"),
    ],
)
def test_an_agent_and_payload_that_do_not_fit_are_named(agent: Any, payload: Any, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        run_tiny(agent=agent, payload=payload, messages=100)


@pytest.mark.parametrize(("agent", "payload"), [(int, an_order), (object(), an_order), (Clerk, 7)])
def test_what_is_no_agent_or_no_factory_is_named(agent: Any, payload: Any) -> None:
    with pytest.raises(InvalidType):
        run_tiny(agent=agent, payload=payload)


def test_nothing_goes_on_after_a_payload_factory_raised() -> None:
    async def main() -> None:
        with pytest.raises(InvalidArgument, match="seventeen"):
            await run(TINY, agent=Clerk, payload=breaks_later, messages=100)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_module_is_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_shop.py").write_text("class Shelf:\n    class Part: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    found = resolve("my_shop:Shelf.Part", "agent")
    assert found.__qualname__ == "Shelf.Part"
    del sys.modules["my_shop"]


# What hangs, is slow or fails to start.


def test_what_takes_longer_than_the_patience_is_still_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "OWN_SETTLE_SECONDS", 0.01)

    class Slow(Agent):
        concurrency = 64

        @handler
        async def take(self, number: int) -> None:
            if number % 10 == 0:
                await asyncio.sleep(0.04)

    report = run_tiny(agent=Slow, payload=lambda number: number, messages=30, rate=2_000, objectives=["max<20ms"])
    assert report.counts.handled == report.latency_ns.count == 30
    assert report.latency_ns.max >= 40_000_000
    assert report.duration_ns >= 40_000_000
    assert sum(point.handled for point in report.series) == 30
    assert [verdict.passed for verdict in report.slo] == [False]
    assert report.faults == ()


@pytest.mark.parametrize("when", ["sending", "waiting"])
def test_a_run_that_is_stopped_does_not_wait_for_handlers_that_hang(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "ENDED_SETTLE_SECONDS", 0.01)

    async def hangs(number: int) -> None:
        if number == 2:
            # The schedule of six is over then, the long one is not.
            asyncio.get_running_loop().call_later(0.01, drivers[0].stop)
        await asyncio.Event().wait()

    async def main() -> Report:
        plan = make_plan(TINY, rate=10_000, messages=6 if when == "waiting" else 100_000)
        drivers.append(Driver(plan, agent=hangs, payload=lambda number: number))
        return await drivers[0].run()

    drivers: list[Driver] = []
    report = asyncio.run(main())
    assert report.interrupted
    assert report.duration_ns < 5e9
    assert report.counts.failed >= 3
    assert report.counts.sent == ended(report.counts)
    assert report.faults == ()


def test_a_schedule_that_nobody_could_send_can_be_stopped() -> None:
    async def main() -> Report:
        driver = Driver(make_plan(TINY, rate=1e8, duration=1e6))
        asyncio.get_running_loop().call_later(0.05, driver.stop)
        return await driver.run()

    report = asyncio.run(main())
    assert report.interrupted
    assert report.faults == ()


def test_a_refusal_is_counted_by_a_sender_that_is_cancelled_right_after_it() -> None:
    async def main() -> tuple[int, int]:
        async with Coordinator() as mesh:
            ref = await mesh.spawn(lambda payload: None)
            await mesh.stop(ref)
            sender = CyclingSender([ref], lambda number: number, first=0, step=1, limit=None)
            sending = asyncio.create_task(sender.send())
            for _ in range(7):
                await asyncio.sleep(0)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            return sender.sent, mesh.stats().rejected

    sent, rejected = asyncio.run(main())
    assert sent == rejected >= 5


@pytest.mark.parametrize("where", ["__init__", "on_start"])
def test_an_agent_that_fails_to_start_is_named(where: str) -> None:
    class Broken(Agent):
        @handler
        def take(self, payload: int) -> None: ...

    def fail(self: object) -> None:
        raise KeyError("no\nkey")

    setattr(Broken, where, fail)
    with pytest.raises(InvalidArgument, match=r"agent .*Broken raised KeyError when it was started: 'no\\nkey'"):
        run_tiny(agent=Broken, payload=lambda number: number)


def test_a_replacement_that_fails_to_start_ends_the_run_at_once() -> None:
    started = 0

    class Fading(Agent):
        def on_start(self) -> None:  # type: ignore[override]
            nonlocal started
            started += 1
            if started > 3:
                raise RuntimeError("no more")

        @handler
        def take(self, payload: int) -> None: ...

    before = time.monotonic()
    with pytest.raises(InvalidArgument, match="raised RuntimeError when it was started: no more"):
        run_tiny(agent=Fading, payload=lambda number: number, duration=60.0, stop_every=0.02)
    assert time.monotonic() - before < 10


def test_rows_of_replaced_agents_hold_all_that_bore_the_name() -> None:
    report = run_tiny(stop_every=0.01, duration=0.2, per_agent=True)
    assert report.injected.stops > 3
    for term in ("accepted", "handled", "dead"):
        assert sum(getattr(row.counts, term) for row in report.agents) == getattr(report.counts, term), term


def test_a_run_that_sent_nothing_holds_no_objective() -> None:
    report = run_tiny(rate=0.001, arrival="poisson", duration=0.02, seed=3)
    assert report.counts.sent == 0
    assert [verdict.objective.figure for verdict in report.missed] == ["p50", "p99", "max", "success"]


def test_the_throughput_of_an_open_loop_is_not_judged_unless_asked_for() -> None:
    report = run_tiny(rate=500, messages=20)
    assert "throughput" not in [verdict.objective.figure for verdict in report.slo]
    assert "throughput" in [verdict.objective.figure for verdict in run_tiny().slo]


@pytest.mark.parametrize("objective", ["queue.p99<1ns", "service.mean<1ns", "memory_per_agent<1B", "success>=99%"])
def test_a_breach_of_any_figure_of_an_interval_ends_the_run(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "BREACH_SECONDS", 0.1)
    grows = itertools.count(0, 1_000_000)
    monkeypatch.setattr(recording_module, "resident_bytes", lambda: next(grows))
    report = run_tiny(duration=20.0, objectives=objective, abort_on_breach=True, fail_rate=0.1)
    assert report.aborted is not None
    assert report.aborted.startswith(objective)


@pytest.mark.parametrize("options", [{"on_progress": 5}, {"agent": Clerk, "payload": asyncio.sleep}])
def test_what_cannot_be_called_as_needed_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidType):
        run_tiny(**options)


# Judging.


def test_require_lists_each_objective_with_what_was_observed() -> None:
    report = run_tiny()
    report.require("p99<10s", "success>=99.5%", *DEFAULT_OBJECTIVES[:0])
    with pytest.raises(ObjectivesMissed) as caught:
        report.require("p99<1ns", "success>=99.5%", "throughput>=1M/s")
    lines = str(caught.value).splitlines()
    assert lines[0] == "profile 'tiny' misses objectives:"
    assert lines[1].startswith("  MISSED p99<1ns: observed ")
    assert lines[2] == "  held   success>=99.5%: observed 100%"
    assert [verdict.passed for verdict in caught.value.verdicts][:2] == [False, True]


def test_an_objective_about_what_was_not_measured_does_not_hold() -> None:
    with pytest.raises(ObjectivesMissed, match="send_delay"):
        run_tiny().require("send_delay.p99<1s")


@pytest.mark.parametrize("rate", [None, 20_000])
def test_a_breach_ends_a_run_that_is_to_end_by_it(rate: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "BREACH_SECONDS", 0.1)
    report = run_tiny(duration=30.0, rate=rate, objectives=["p99<1ns", "max<1h"], abort_on_breach=True)
    assert report.aborted is not None
    assert report.aborted.startswith("p99<1ns: observed ")
    assert report.duration_ns < 10e9
    assert not report.interrupted
    assert report.faults == ()


def test_a_run_without_a_breach_goes_on_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "BREACH_SECONDS", 0.01)
    report = run_tiny(duration=0.1, objectives=["p99<1h", "success>=99%", "throughput>=1/s"], abort_on_breach=True)
    assert report.aborted is None
    assert report.duration_ns >= 90_000_000


def test_too_few_latencies_are_no_breach_of_a_percentile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_module, "BREACH_SECONDS", 0.01)
    report = run_tiny(duration=0.1, rate=500, objectives=["p99<1ns"], abort_on_breach=True)
    assert report.aborted is None


# Bad input.


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rate": 0}, "rate is 0; it must be messages per second from 0.001"),
        ({"rate": -1.0}, "rate is -1; it must be messages per second from 0.001"),
        ({"rate": float("nan")}, "rate is nan; it must be messages per second from 0.001 to 100,000,000"),
        ({"rate": 1e-300}, "rate is 1e-300; it must be messages per second from 0.001 to 100,000,000"),
        ({"rate": float("inf")}, "rate is inf; it must be messages per second from 0.001"),
        ({"rate": 10, "window": 5}, "window is 5 and rate 10; an open loop sends on its schedule"),
        ({"rate": 10, "concurrency": 5}, "concurrency is 5 and rate 10; an open loop sends on its schedule"),
        ({"arrival": "poisson"}, "arrival is 'poisson' without a rate"),
        ({"arrival": "weibull", "rate": 1}, "arrival is 'weibull'; it must be one of constant, poisson"),
        ({"messages": 0}, "messages is 0; it must be from 1"),
        ({"agents": 0}, "agents is 0; it must be from 1"),
        ({"payload_bytes": -1}, "payload_bytes is -1; it must be from 0"),
        ({"duration": 0}, "duration is 0; it must be a positive"),
        ({"warmup": -1}, "warmup is -1; it must be a positive"),
        ({"capacity": 0}, "capacity is 0; it must be from 1"),
        ({"overflow": "explode"}, "overflow is 'explode'; it must be one of reject, drop_newest, drop_oldest, stop"),
        ({"fail_rate": 1.1}, "fail_rate is 1.1; it must be a share from 0.0 to 1.0"),
        ({"slow_agents": 4, "slow_seconds": 1}, "slow_agents is 4; it must be from 0 to 3"),
        ({"slow_agents": 1}, "slow_seconds is 0; it must be a positive"),
        ({"slow_seconds": -5}, "slow_seconds is -5; it must be a positive"),
        ({"rate": 1e300}, r"rate is 1e\+300; it must be messages per second from 0.001 to 100,000,000"),
        ({"rate": 10**400}, "rate is an int of many digits; it must be"),
        ({"duration": 10**400}, "duration is an int of many digits; it must be"),
        ({"agents": 10**20}, "agents is 1.*; it must be from 1 to 1,000,000"),
        ({"payload_bytes": 10**14}, "payload_bytes is 1.*; it must be from 0 to"),
        ({"stop_every": 0}, "stop_every is 0; it must be a positive"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_by_name_and_value(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        make_plan(TINY, **options)


@pytest.mark.parametrize(
    "options",
    [
        *({"agents": 1.5}, {"messages": True}, {"rate": "fast"}, {"fail_rate": "1%"}, {"duration": "1s"}),
        *({"seed": []}, {"slow_agents": []}, {"per_agent": "x"}, {"agent": 5}, {"payload": {}}),
    ],
)
def test_a_plan_of_wrong_types_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidType):
        make_plan(TINY, **options)


# The document.


def test_the_document_of_any_run_is_json_and_has_its_plan() -> None:
    report = run_tiny(rate=5_000, messages=50, fail_rate=0.1, slow_agents=1, slow_seconds=0.001, warmup=0.01)
    document = json.loads(json.dumps(as_document(report.environment, [report]), allow_nan=False))
    [profile] = document["profiles"]
    assert profile["mode"] == "open"
    assert profile["rate_per_second"] == 5_000
    assert profile["fail_rate"] == 0.1
    assert profile["slow_agents"] == 1
    assert profile["warmup_seconds"] == 0.01
    assert profile["injected"]["delays"] == report.injected.delays
    assert set(profile["histograms"]) == {"latency", "response", "queue", "service", "send_delay"}


def test_an_objectives_figures_are_the_reports() -> None:
    report = run_tiny(rate=5_000, messages=50)
    assert report.figure("p99.9") == report.latency_ns.p99_9
    assert report.figure("p99.99") == report.latency_ns.p99_99
    assert report.figure("queue.p99.9") == report.queue_ns.p99_9
    assert report.figure("send_delay.max") == report.send_delay_ns.max  # type: ignore[union-attr]
    assert report.figure("throughput") == report.throughput_per_second
    assert parse_objective("p99<1h").holds(report.figure("p99") or 0)
