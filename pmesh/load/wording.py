"""The sentences of a load report: what was run, what went wrong on purpose, what became of it, how it drifted,
what a search found.

Plain text without line breaks; who shows it wraps it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pmesh.load.units import bytes_text, duration_text, percent_text

if TYPE_CHECKING:
    from pmesh.load.environment import Environment
    from pmesh.load.report import Counts, Drift, Plan, Report, Search

__all__ = [
    "TIMES_FROM",
    "account_lines",
    "drift_text",
    "environment_text",
    "injected_text",
    "load_text",
    "loop_text",
    "mailbox_text",
    "rate_text",
    "report_notes",
    "search_text",
]

# What a latency is, by the loop that it comes from.
TIMES_FROM = {
    "closed": "latency runs from accept to the end of handling",
    "open": "latency runs from the intended send time to the end of handling",
}


def environment_text(environment: Environment) -> str:
    """What the figures were read on."""
    gil = "" if environment.gil else " without GIL"
    return (
        f"pmesh {environment.pmesh}, {environment.implementation} {environment.python}{gil},"
        f" {environment.event_loop} loop, {environment.cpu}, {environment.cpu_count} CPUs"
    )


def load_text(plan: Plan) -> str:
    """How many agents got how many messages of which size."""
    profile = plan.profile
    payloads = f"{profile.payload_bytes:,}-byte payloads" if plan.payload is None else f"payloads of {plan.payload}"
    if plan.duration_seconds is not None:
        much = f", for {_seconds_text(plan.duration_seconds)}"
    elif plan.messages is not None:
        much = f", {_count(plan.messages, 'message')} in all"
    else:
        much = f" x {_count(profile.messages_per_agent, 'message')} x {_count(profile.rounds, 'round')}"
    agents = _count(profile.agents, "agent") + (f" {plan.agent}" if plan.agent is not None else "")
    warm_up = f", after {_seconds_text(plan.warmup_seconds)} of warm-up" if plan.warmup_seconds else ""
    return f"{agents}{much}{warm_up}, {payloads}"


def loop_text(plan: Plan) -> str:
    """Which loop it was, and what its latency is."""
    senders = _count(plan.profile.concurrency, "sender")
    if plan.rate_per_second is None:
        how = f"{senders}, at most {_count(plan.window, 'message')} in flight"
    else:
        how = f"{rate_text(plan.rate_per_second)} by {senders}, {plan.arrival} arrivals"
    return f"{plan.mode} loop: {how}; {TIMES_FROM[plan.mode]}"


def mailbox_text(plan: Plan) -> str | None:
    """What the mailboxes hold and what a full one does; None where both are as ever."""
    if plan.capacity is None and plan.overflow == "reject":
        return None
    if plan.capacity is not None:
        size = _count(plan.capacity, "message")
    else:
        size = _count(plan.window, "message") if plan.mode == "closed" else "the default number of messages"
    return f"mailboxes of {size}; a full one: {plan.overflow}"


def injected_text(report: Report) -> str | None:
    """What was asked to go wrong on purpose, and what did; None when nothing was and nothing did."""
    plan, injected = report.plan, report.injected
    parts = []
    if plan.fail_rate or injected.failures:
        parts.append(f"{percent_text(plan.fail_rate)} of handlers fail ({_count(injected.failures, 'failure')} raised)")
    if plan.slow_agents or injected.delays:
        parts.append(
            f"{_count(plan.slow_agents, 'agent')} slowed by {duration_text(plan.slow_ns)}"
            f" ({_count(injected.delays, 'handler')} delayed)"
        )
    if plan.stop_every_seconds or injected.stops:
        every = f" every {_seconds_text(plan.stop_every_seconds)}" if plan.stop_every_seconds else ""
        parts.append(f"an agent stopped{every} ({injected.stops:,} stopped)")
    return f"on purpose: {'; '.join(parts)}" if parts else None


def account_lines(counts: Counts) -> tuple[str, str]:
    """Both sides of the account: what became of what was sent, and of what was accepted."""
    return (
        f"{counts.sent:,} sent = {counts.accepted:,} accepted + {counts.rejected:,} rejected",
        f"{counts.accepted:,} accepted = {counts.handled:,} handled + {counts.failed:,} failed"
        f" + {counts.expired:,} expired + {counts.dropped:,} dropped + {counts.dead:,} dead"
        f" + {counts.pending:,} pending",
    )


def drift_text(drift: Drift) -> str:
    """A drift, such as `p99 +0.3 us/h (95 %: -2.1 to +2.7 us/h) from 152 us: no growth`."""
    size_text = bytes_text if drift.figure == "rss" else duration_text
    name = "RSS" if drift.figure == "rss" else drift.figure
    if drift.verdict == "too few points":
        return f"{name}: too few points ({drift.points}) to tell"
    slope, low, high, unit = _in_one_unit(drift)
    return f"{name} {slope} {unit}/h (95 %: {low} to {high} {unit}/h) from {size_text(drift.start)}: {drift.verdict}"


def report_notes(report: Report) -> Iterator[str]:
    """What a reader must know about the figures, as far as it is so: cut short, given up."""
    if report.aborted is not None:
        yield f"aborted, since an objective was missed: {report.aborted}"
    if report.interrupted:
        yield "interrupted: the figures are of what was handled until then"
    if report.unsent:
        due = report.counts.sent + report.unsent
        yield (
            f"{_count(report.unsent, 'message')} of {due:,} due ({report.unsent / due:.2%}) never sent: the sender"
            " was too far behind its schedule, and success and throughput are of the others"
        )


def search_text(search: Search) -> str:
    """What a search found, in one sentence."""
    low, high = search.highest_rate_per_second, search.lowest_missed_per_second
    end = " (interrupted)" if search.interrupted else ""
    what = f"{search.profile}: {search.objective}"
    if low is None:
        if high is None:
            return f"{what}: nothing was run{end}"
        return f"{what} holds at no rate that was tried, down to {rate_text(high)}{end}"
    if high is None:
        return f"{what} holds up to {rate_text(low)}, the highest rate that was tried{end}"
    return f"{what} holds up to {rate_text(low)}, and no longer at {rate_text(high)}{end}"


def rate_text(per_second: float) -> str:
    """A rate of messages; with decimals only where they matter."""
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.3g}/s"


def _in_one_unit(drift: Drift) -> tuple[str, str, str, str]:
    """Slope and interval with three digits in the unit that suits the largest, and the unit."""
    values = (drift.slope_per_hour, drift.low_per_hour, drift.high_per_hour)
    units = (
        (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
        if drift.figure == "rss"
        else (("s", 1e9), ("ms", 1e6), ("us", 1e3), ("ns", 1.0))
    )
    largest = max(map(abs, values))
    unit, size = next((pair for pair in units if largest >= pair[1]), units[-1])
    decimals = 0 if largest / size >= 100 else 1 if largest / size >= 10 else 2
    slope, low, high = (f"{value / size:+.{decimals}f}" for value in values)
    return slope, low, high, unit


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _seconds_text(seconds: float) -> str:
    return duration_text(seconds * 1e9)
