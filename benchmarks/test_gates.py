"""The gates can fail: each is shown something that it must refuse."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pytest

from pmesh import BUILD_INFO, Agent, Coordinator, LatencyRecorder, MailboxPolicy, handler

if TYPE_CHECKING:
    from conftest import Slo, Verdict

    Judge = Callable[..., Verdict]

IN_FLIGHT = 256
MESSAGES = 40 * IN_FLIGHT


class Sluggish(Agent):
    """Sleeps in one message of ten mailboxes full, for longer than the p99 that is allowed."""

    mailbox = MailboxPolicy(capacity=IN_FLIGHT)

    @handler
    def take(self, message: int) -> None:
        if message % (10 * IN_FLIGHT) == 0:
            time.sleep(0.006)


class Swift(Agent):
    mailbox = MailboxPolicy(capacity=IN_FLIGHT)

    @handler
    def take(self, message: int) -> None:
        pass


def handle_all(runner: asyncio.Runner, mesh: Coordinator, factory: type[Agent]) -> Callable[[], LatencyRecorder]:
    """What times `MESSAGES` messages of an agent, from accepted to handled."""

    async def main() -> LatencyRecorder:
        mesh.reset_latency()
        ref = await mesh.spawn(factory)
        item = 0
        while item < MESSAGES or ref.depth:
            if item == MESSAGES or not ref.tell(item):
                await asyncio.sleep(0)
            else:
                item += 1
        return mesh.latency

    return lambda: runner.run(main())


def no_pause(seconds: float) -> None:
    pass


def recorder_of(*values_ns: int, count: int = 10_000) -> LatencyRecorder:
    """`values_ns`, and 1 us up to `count` calls."""
    recorder = LatencyRecorder()
    for value_ns in (*values_ns, *[1_000] * (count - len(values_ns))):
        recorder.record(value_ns)
    return recorder


def test_a_planted_slow_handler_trips_the_p99_gate(
    runner: asyncio.Runner, mesh: Coordinator, judge: Judge, slo: Slo
) -> None:
    """Four messages of 10,240 are slow; the p99 is that of the mail that waited behind them."""
    work = handle_all(runner, mesh, Sluggish)
    verdict = judge("planted", "accepted to handled", slo, work, pause=no_pause)
    assert not verdict.passed
    with pytest.raises(AssertionError) as failure:
        verdict.require()
    text = str(failure.value)
    assert text.startswith("planted, accepted to handled: run 1, which had the processor ")
    p99_ms = re.findall(r"p99 (\S+) ms \(allowed: below 5\.000 ms\)", text)
    assert len(p99_ms) == len(verdict.runs) == 5
    assert min(map(float, p99_ms)) > 5


def test_the_same_mail_without_the_slow_handler_passes(
    runner: asyncio.Runner, mesh: Coordinator, judge: Judge, slo: Slo
) -> None:
    judge("unplanted", "accepted to handled", slo, handle_all(runner, mesh, Swift)).require()


@pytest.mark.parametrize("count", [0, 1, 9_999])
def test_too_few_calls_are_refused(judge: Judge, slo: Slo, count: int) -> None:
    verdict = judge("few", "a call", slo, lambda: recorder_of(count=count))
    assert not verdict.passed
    with pytest.raises(AssertionError, match=f"{count:,} calls timed; a p99 needs 10,000 or more"):
        verdict.require()


def test_ten_thousand_calls_are_enough(judge: Judge, slo: Slo) -> None:
    judge("enough", "a call", slo, recorder_of).require()


@pytest.mark.parametrize(
    ("slow", "value_ns", "expected"),
    [
        (5_001, 600_000, r"p50 0\.60\d ms \(allowed: below 0\.500 ms\)"),
        (101, 6_000_000, r"p99 6\.\d+ ms \(allowed: below 5\.000 ms\)"),
        (1, 60_000_000, r"max 60\.000 ms \(allowed: below 50\.000 ms\)"),
    ],
)
def test_a_miss_names_what_was_observed_and_what_is_allowed(
    judge: Judge, slo: Slo, slow: int, value_ns: int, expected: str
) -> None:
    verdict = judge("slow", "a call", slo, lambda: recorder_of(*[value_ns] * slow), pause=no_pause)
    assert len(verdict.runs) == 5
    with pytest.raises(AssertionError, match=expected):
        verdict.require()


def test_a_miss_is_measured_again_and_shown(judge: Judge, slo: Slo) -> None:
    runs = [recorder_of(60_000_000), recorder_of(*[6_000_000] * 101), recorder_of()]
    verdict = judge("disturbed", "a call", slo, lambda: runs.pop(0), pause=no_pause)
    verdict.require()
    assert [run["max_ns"] for run in verdict.as_dict()["runs"]] == [60_000_000, 6_000_000, 1_000]
    assert verdict.as_dict()["max_ns"] == 1_000
    assert [line[:6] for line in verdict.missed_runs()] == ["run 1,", "run 2,"]


def test_a_run_that_keeps_the_p99_makes_up_for_no_other_run_s_max(judge: Judge, slo: Slo) -> None:
    """All objectives must hold in one and the same run."""
    runs = [recorder_of(60_000_000), recorder_of(*[6_000_000] * 101)] * 3
    verdict = judge("both", "a call", slo, lambda: runs.pop(0), pause=no_pause)
    assert not verdict.passed


@pytest.mark.parametrize("variant", ["debug", "trace"])
def test_a_debug_or_traced_build_is_refused(check_build: Callable[[Mapping[str, object]], None], variant: str) -> None:
    check_build(BUILD_INFO)
    expected = f"do not run on a {variant} build of pmesh .*PMESH_{variant.upper()}"
    with pytest.raises(pytest.UsageError, match=expected):
        check_build({**BUILD_INFO, variant: True})
