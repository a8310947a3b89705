"""The search for the highest rate that holds an objective: which rates to try, and which runs to believe.

How a rate is run is the caller's; how the search looks is `terminal`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from pmesh.errors import InvalidArgument
from pmesh.load.report import Report, Search, Step
from pmesh.slo import Objective

__all__ = ["MOST_PER_SECOND", "check_searchable", "check_start", "find_max", "kept_up"]

# Beyond what any process can send; a search that gets here has a `measure` that does not send.
MOST_PER_SECOND = 100_000_000.0

# Below this a run of seconds has too few messages to judge.
FEWEST_PER_SECOND = 1.0

# How much of the rate, and of what was sent, must have been handled.
KEPT_UP_SHARE = 0.98

# Runs that must agree on a rate before the bracket is halved beside it, and before the search ends beside it.
AGREE_TO_HALVE = 2
AGREE_TO_END = 3


@dataclass(slots=True)
class _Tally:
    """How the runs of one rate went."""

    held: int = 0
    missed: int = 0


async def find_max(
    measure: Callable[[float], Awaitable[Report]],
    objective: Objective,
    *,
    profile: str,
    start_per_second: float,
    precision: float = 0.05,
    max_steps: int = 60,
    limit_per_second: float = MOST_PER_SECOND,
    on_step: Callable[[Step], None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Search:
    """Find the highest rate at which an open loop holds `objective`.

    The rate is doubled from `start_per_second` until it misses, or halved until it holds; then the bracket between
    the highest rate held and the lowest missed is halved (geometrically) until the two are within `precision`.

    No single run decides, since any machine has a bad second. While the rate doubles or is halved for the first
    time, one run of each is enough. Before the bracket is halved, each end needs the same result from two runs, so
    the majority of at most three; and before the search ends, from three, so the majority of at most five: a
    wrongly judged rate draws the bracket to itself and becomes an end of it, and is found out there. An end that
    is judged otherwise after all gives its place to the next rate tried beyond it, and the search goes on. Where the
    p99 of an M/M/1 queue scatters by 10 % and one run in twenty is bad, 98 % of searches (of 1,000, simulated as in
    `tests/test_search.py`) end within 10 % of the true knee, after 20 runs; with one run each it is 84 %, after 9.

    A run also counts as missed when the mesh did not keep up with the rate (`kept_up`). Else the search would
    end at a rate that never was: an overloaded sender sends later and less, and what it does send may well hold
    the objective; `success>=99%` would hold at any rate whatsoever.

    Args:
        measure: Runs an open loop at a rate (per second), and returns its report. It is best run for two seconds
            or more, and with a warm-up.
        profile: The name of what is run, for the result.
        start_per_second: The first rate to try.
        precision: How far apart the ends of the bracket may be at last, as a share of the lower one.
        max_steps: Most runs; then the search ends with what it has.
        limit_per_second: The highest rate to try; one that holds there ends the search.
        on_step: Called with each run as it ends.
        stopped: Asked after each run; once it says True, the search ends with what it has, and the run that it ended
            early is not counted. A run whose report is interrupted ends the search as well.

    Returns:
        Each run in order, and the ends of the bracket; `interrupted` if it was stopped. A search that ended before
        its bracket was narrow shows so by its ends, which then may have been decided by one run.

    Raises:
        InvalidArgument: The objective does not tell rates apart, or a number is out of its range; nothing was run.
            `check_searchable` and `check_start` tell that beforehand. Or `measure` ran a closed loop.
        Exception: What `measure` or `on_step` raises.

    Cancel safety: a cancelled call has cancelled the run in hand, and what it found is lost save for what `on_step`
    was told; `stopped` keeps it.
    """
    check_searchable(objective)
    _check_numbers(start_per_second, precision, max_steps, limit_per_second)
    tallies: dict[float, _Tally] = {}
    steps: list[Step] = []
    interrupted = stopped()
    while not interrupted and len(steps) < max_steps:
        rate = next_rate(tallies, start_per_second, precision, limit_per_second)
        if rate is None:
            break
        report = await measure(rate)
        interrupted = stopped() or report.interrupted
        if report.interrupted:
            break
        step = _judge(report, rate, objective)
        steps.append(step)
        tally = tallies.setdefault(rate, _Tally())
        if step.held:
            tally.held += 1
        else:
            tally.missed += 1
        if on_step is not None:
            on_step(step)
    low, high = _bracket(tallies)
    return Search(
        profile=profile,
        objective=objective.text,
        steps=tuple(steps),
        highest_rate_per_second=low,
        lowest_missed_per_second=high,
        interrupted=interrupted,
    )


def check_searchable(objective: Objective) -> None:
    """Raise unless `objective` holds at low rates and misses at high ones; to be asked before anything runs.

    Raises:
        InvalidArgument: It does not: what grows with the rate, or has nothing to do with it.
    """
    figure, upper = objective.figure, objective.comparison in ("<", "<=")
    if figure == "throughput":
        why = "throughput is the rate itself, as long as the mesh keeps up"
    elif figure in ("memory_per_agent", "overhead"):
        why = f"{figure} does not depend on the rate"
    elif figure == "success":
        if not upper:
            return
        why = "success falls as the rate grows, so it needs a lower bound"
    elif upper:
        return
    else:
        why = f"{figure} grows with the rate, so it needs an upper bound"
    raise InvalidArgument(
        f"no highest rate can be found for {objective.text!r}: {why};"
        " an objective such as 'p99<5ms' or 'success>=99.5%' has one"
    )


def check_start(start_per_second: float) -> None:
    """Raise unless a search can start at this rate (messages per second); to be asked before anything runs.

    Raises:
        InvalidArgument: It is out of range; the text calls it `rate`, as people do who ask for a search.
    """
    _check_rate("rate", start_per_second, MOST_PER_SECOND, " messages per second, which the search starts at")


def kept_up(report: Report, rate_per_second: float) -> bool:
    """Whether the run of an open loop handled at least 98 % of `rate_per_second` and of what it sent, and sent all
    that its schedule wanted.

    Only what was sent on the schedule counts (`send_delay_ns`), and of that what a handler ended (`latency_ns`);
    messages that agents send each other do not. Failures are taken off, save for those on purpose: an agent that
    refuses when it is overloaded is quick. Whose messages failed is not known, so those among agents are taken off
    as well. The duration is taken without the median latency, which the last message takes on any mesh; and
    Poisson arrivals may be fewer by chance, by three standard deviations.

    Raises:
        InvalidArgument: The report is of a closed loop, which has no schedule to keep up with.
    """
    if report.send_delay_ns is None:
        raise InvalidArgument("the report is of a closed loop; a rate is kept up with, or not, by an open loop")
    if report.unsent:
        return False
    seconds = (report.duration_ns - report.latency_ns.p50) / 1e9
    wanted = rate_per_second * seconds
    least = KEPT_UP_SHARE * wanted
    if report.plan.arrival == "poisson":
        least -= 3 * math.sqrt(max(wanted, 0.0))
    failed = max(0, report.counts.failed - report.injected.failures)
    return report.latency_ns.count - failed >= max(least, KEPT_UP_SHARE * report.send_delay_ns.count)


def next_rate(
    tallies: Mapping[float, _Tally], start_per_second: float, precision: float, limit_per_second: float
) -> float | None:
    """The rate to run next; None when there is nothing left to find out."""
    for rate, tally in tallies.items():
        if tally.held == tally.missed:
            return rate
    low, high = _bracket(tallies)
    if high is None:
        if low is None:
            return start_per_second
        if low < limit_per_second:
            return min(low * 2, limit_per_second)
        return _unsettled(tallies, AGREE_TO_END, low)
    if low is None:
        if high > FEWEST_PER_SECOND:
            return max(high / 2, FEWEST_PER_SECOND)
        return _unsettled(tallies, AGREE_TO_END, high)
    unsettled = _unsettled(tallies, AGREE_TO_HALVE, high, low)
    if unsettled is not None:
        return unsettled
    if high > low * (1 + precision):
        return math.sqrt(low * high)
    return _unsettled(tallies, AGREE_TO_END, high, low)


def _unsettled(tallies: Mapping[float, _Tally], agree: int, *rates: float) -> float | None:
    """The first of `rates` on which fewer than `agree` runs agree."""
    for rate in rates:
        if max(tallies[rate].held, tallies[rate].missed) < agree:
            return rate
    return None


def _bracket(tallies: Mapping[float, _Tally]) -> tuple[float | None, float | None]:
    """The highest rate that holds below every one that misses, and the lowest that misses, by majority."""
    high = min((rate for rate, tally in tallies.items() if tally.missed > tally.held), default=None)
    held = (rate for rate, tally in tallies.items() if tally.held > tally.missed and (high is None or rate < high))
    return max(held, default=None), high


def _judge(report: Report, rate_per_second: float, objective: Objective) -> Step:
    observed = report.figure(objective.figure)
    holds = observed is not None and objective.holds(observed)
    return Step(
        rate_per_second=rate_per_second,
        throughput_per_second=report.throughput_per_second,
        success_rate=report.success_rate,
        p50_ns=report.latency_ns.p50,
        p99_ns=report.latency_ns.p99,
        max_ns=report.latency_ns.max,
        observed=observed,
        held=holds and report.aborted is None and kept_up(report, rate_per_second),
    )


def _check_numbers(start_per_second: float, precision: float, max_steps: int, limit_per_second: float) -> None:
    _check_rate("limit_per_second", limit_per_second, MOST_PER_SECOND)
    _check_rate("start_per_second", start_per_second, limit_per_second, ", the limit")
    if not 0.001 <= precision <= 1.0:
        raise InvalidArgument(f"precision is {precision}; it must be a share from 0.001 to 1.0")
    if max_steps < 1:
        raise InvalidArgument(f"max_steps is {max_steps}; it must be at least 1")


def _check_rate(name: str, value: float, most: float, unit: str = "") -> None:
    # Written so that NaN is out of range.
    if not FEWEST_PER_SECOND <= value <= most:
        raise InvalidArgument(f"{name} is {value}; it must be from {FEWEST_PER_SECOND:.0f} to {most:,.0f}{unit}")
