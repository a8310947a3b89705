"""What load reports say in words, for every format that shows them: the verdict, how it was measured, what
speaks against the figures, and what follows. Whether a report agrees with itself is `checks`; how it looks is
`markdown` and `html`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pmesh.environment import Environment, slow_variants
from pmesh.units import duration_text, percent_text

if TYPE_CHECKING:
    from pmesh.load.profiles import Reference
    from pmesh.load.report import Report, Search

__all__ = [
    "ALERT_ERROR_RATE",
    "ALERT_P99_NS",
    "Alert",
    "Notice",
    "alerts_of",
    "beside_reference",
    "counted",
    "cpu_share",
    "environment_line",
    "environment_rows",
    "factor_text",
    "highest_holding",
    "is_time",
    "latency_meaning",
    "load_text",
    "name_among",
    "notices_of",
    "recommend",
    "search_text",
    "section_names",
    "series_names",
    "verdict_text",
]

# What the reference system alerts at (design, section 7).
ALERT_P99_NS = 5_000_000
ALERT_ERROR_RATE = 0.005

# Below this share of a CPU a closed loop, which never waits, was not alone; shorter runs cannot tell.
BUSY_SHARE = 0.9
SHARE_NS = 100_000_000

# An open loop that sent less than this share of its rate did not measure that rate.
RATE_KEPT = 0.99


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to know before believing the figures; `grave` when they must not be used as they are."""

    text: str
    grave: bool = False


@dataclass(frozen=True, slots=True)
class Alert:
    """A threshold to watch in production, and where it comes from."""

    figure: str
    threshold: str
    derivation: str


def verdict_text(reports: Sequence[Report]) -> tuple[str, bool | None]:
    """The verdict on all reports in one sentence, and whether it is a good one; None when nothing was judged."""
    if any(report.faults for report in reports):
        return "The account does not balance: these figures cannot be trusted.", False
    if reports and not any(report.counts.handled for report in reports):
        return "No message was handled.", False
    names = section_names(reports)
    judged = sum(len(report.slo) for report in reports)
    missed = sum(len(report.missed) for report in reports)
    if missed:
        told = "; ".join(
            f"{name} {', '.join(verdict.objective.text for verdict in report.missed)}"
            for name, report in zip(names, reports, strict=True)
            if report.missed
        )
        return f"{missed} of {judged} objectives missed: {told}.", False
    unfinished = [
        name for name, report in zip(names, reports, strict=True) if report.interrupted or report.aborted is not None
    ]
    if unfinished:
        return f"Ended early ({', '.join(unfinished)}): the figures are of what was handled until then.", False
    if not judged:
        return "No objective was judged.", None
    return ("The objective holds." if judged == 1 else f"All {judged} objectives hold."), True


def section_names(reports: Sequence[Report]) -> list[str]:
    """The names of the profiles, numbered where one ran more than once."""
    names = [report.profile.name for report in reports]
    return [
        f"{name} ({names[: number + 1].count(name)})" if names.count(name) > 1 else name
        for number, name in enumerate(names)
    ]


def name_among(reports: Sequence[Report], report: Report) -> str:
    """What `section_names` calls one of `reports`."""
    return next(name for name, other in zip(section_names(reports), reports, strict=True) if other is report)


def environment_line(environment: Environment) -> str:
    """The environment in one line."""
    gil = "" if environment.gil else " without GIL"
    return (
        f"pmesh {environment.pmesh}, {environment.implementation} {environment.python}{gil},"
        f" {environment.event_loop} loop, {environment.cpu}, {environment.cpu_count} CPUs; {environment.started_at}"
    )


def load_text(report: Report) -> str:
    """The load of a run: which loop, how much, to whom; and the warm-up before it."""
    plan, profile = report.plan, report.profile
    payload = f"payloads from {plan.payload}" if plan.payload else f"{profile.payload_bytes:,}-byte payloads"
    agents = counted(profile.agents, "agent") + (f" of {plan.agent}" if plan.agent else "")
    if plan.rate_per_second is None:
        loop = (
            f"Closed loop: {counted(profile.concurrency, 'sender')}, at most {counted(plan.window, 'message')}"
            f" in flight, to {agents}, {payload}"
        )
    else:
        loop = (
            f"Open loop: {plan.rate_per_second:,.12g} messages/s on a schedule, {plan.arrival} arrivals,"
            f" to {agents}, {payload}"
        )
    if plan.duration_seconds is not None:
        length = f", for {plan.duration_seconds:,.6g} s"
    elif plan.messages is not None:
        length = f", {counted(plan.messages, 'message')}"
    elif plan.rate_per_second is None:
        length = (
            f", {counted(profile.rounds, 'round')} of {counted(profile.messages_per_agent, 'message')} to each agent"
        )
    else:
        length = f", {counted(profile.messages, 'message')}"
    warmup = f"; warm-up of {plan.warmup_seconds:,.6g} s not counted" if plan.warmup_seconds else "; no warm-up"
    return f"{loop}{length}{warmup}; a full mailbox: {plan.overflow.replace('_', ' ')}."


def counted(number: int, noun: str) -> str:
    """Such as "1 agent" and "2 agents"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def latency_meaning(mode: str) -> str:
    """What a latency of that loop is, from where to where."""
    if mode == "open":
        return (
            "Latency in an open loop runs from the intended send time to the end of handling"
            " (send delay + response), so a stall counts for every message it kept waiting."
        )
    return (
        "Latency in a closed loop runs from the accepted send to the end of handling; a sender waits while"
        " the mesh is slow, so a stall is counted once for each message in flight and not for those never sent."
    )


def series_names(report: Report) -> tuple[str, ...]:
    """Names of the times that a report has figures of, latency first."""
    names = ("latency", "response", "queue", "service")
    return names if report.send_delay_ns is None else (*names, "send_delay")


def cpu_share(report: Report) -> float:
    """Processor time by duration."""
    return report.cpu_seconds * 1e9 / report.duration_ns if report.duration_ns else 0.0


def notices_of(report: Report) -> list[Notice]:
    """What speaks against taking the figures as they are, gravest first."""
    plan, counts = report.plan, report.counts
    found = [Notice(f"The account does not balance: {fault}. This is a bug in pmesh.", True) for fault in report.faults]
    build = slow_variants(report.environment.build)
    if build:
        found.append(Notice(f"Measured on a {' and '.join(build)} build of pmesh: the figures mean nothing.", True))
    if not counts.handled:
        found.append(Notice("No message was handled: there is nothing to judge.", True))
    if report.aborted:
        found.append(Notice(f"Aborted on a breach: {report.aborted}. The figures are of what came before.", True))
    if report.interrupted:
        found.append(Notice("Interrupted: the figures are of what was handled until then."))
    if plan.injects:
        asked = []
        if plan.fail_rate:
            asked.append(f"{percent_text(plan.fail_rate)} of handlers raise ({report.injected.failures:,} did)")
        if plan.slow_agents:
            asked.append(
                f"{counted(plan.slow_agents, 'agent')} made to wait {duration_text(plan.slow_ns)} before each message"
                f" ({counted(report.injected.delays, 'time')})"
            )
        if plan.stop_every_seconds:
            asked.append(f"an agent is stopped every {plan.stop_every_seconds:,.6g} s ({report.injected.stops:,} were)")
        found.append(Notice(f"Failures on purpose: {'; '.join(asked)}."))
    if report.unsent:
        found.append(
            Notice(f"{counted(report.unsent, 'message')} of the schedule given up: the sender fell too far behind.")
        )
    if plan.rate_per_second is not None and report.duration_ns and not report.interrupted and not report.aborted:
        # A sender that cannot keep up is later with each message, and half as late as at the end in the middle.
        late_ns = 2 * report.send_delay_ns.p50 if report.send_delay_ns is not None else 0
        sent = counts.sent / (counts.sent / plan.rate_per_second + late_ns / 1e9) if counts.sent else 0.0
        if sent < RATE_KEPT * plan.rate_per_second:
            found.append(
                Notice(
                    f"The sender did not keep up: about {sent:,.0f} messages/s were sent of the"
                    f" {plan.rate_per_second:,.12g} asked for."
                )
            )
    if plan.mode == "closed" and not plan.slow_agents and report.duration_ns >= SHARE_NS:
        share = cpu_share(report)
        if share < BUSY_SHARE and plan.agent is None:
            found.append(
                Notice(f"This process had {share:.0%} of a CPU, and something else the rest; alone it would do better.")
            )
    return found


def beside_reference(report: Report) -> list[tuple[str, float | None, float | None, float | None]]:
    """Figures beside the reference's: name as in `Report.figure`, observed, reference, factor (above 1 is better).

    The reference's throughput is a range; the factor is over its upper end.
    """
    reference: Reference | None = report.profile.reference
    rows: list[tuple[str, float | None, float | None, float | None]] = []
    high = reference.throughput_high_per_second if reference else None
    rate = report.throughput_per_second
    rows.append(("throughput", rate, high, rate / high if high and rate else None))
    rows.append(("success", report.figure("success"), reference.success_rate if reference else None, None))
    for name in ("p50", "p95", "p99", "max"):
        observed = report.figure(name)
        told = getattr(reference, f"{name}_ns") if reference else None
        rows.append((name, observed, told, told / observed if told and observed else None))
    return rows


def factor_text(factor: float | None) -> str:
    """How many times better one figure is than another."""
    if factor is None:
        return ""
    return f"{factor:,.0f}x" if factor >= 10 else f"{factor:.2g}x"


def is_time(figure: str) -> bool:
    """Whether an objective's figure is a time."""
    return figure not in ("throughput", "success", "memory_per_agent", "overhead")


def environment_rows(environment: Environment) -> list[tuple[str, str]]:
    """The environment, as pairs of what and which."""
    gil = "" if environment.gil else ", without GIL"
    build = ", ".join(f"{name} {value}" for name, value in environment.build.items())
    return [
        ("pmesh", environment.pmesh),
        ("build", build),
        ("interpreter", f"{environment.implementation} {environment.python}{gil}"),
        ("event loop", environment.event_loop),
        ("CPU", f"{environment.cpu}, {environment.cpu_count} usable"),
        ("platform", environment.platform),
        ("started", environment.started_at),
    ]


def highest_holding(reports: Sequence[Report]) -> Report | None:
    """The report of most agents (then most throughput) that holds every objective; None when none does.

    A run that was cut short, whose account does not balance, or that judged nothing, does not count.
    """
    holding = [
        report
        for report in reports
        if report.slo and not report.missed and not report.faults and not report.interrupted and not report.aborted
    ]
    return max(holding, key=lambda r: (r.profile.agents, r.throughput_per_second), default=None)


def recommend(reports: Sequence[Report], searches: Sequence[Search] = ()) -> list[str]:
    """What follows from the figures, one sentence or two a piece."""
    found = []
    best = highest_holding(reports)
    judged = [report for report in reports if report.slo]
    if best is not None:
        injected = " with the failures injected" if best.plan.injects else ""
        found.append(
            f"{name_among(reports, best)} is the highest profile that holds every objective{injected}:"
            f" {counted(best.profile.agents, 'agent')}, {best.throughput_per_second:,.0f} messages/s"
            f" ({best.mode} loop)."
        )
    elif judged:
        found.append("No profile that ran to its end holds every objective.")
    else:
        found.append("No objective was judged, so no profile can be recommended.")
    for report in judged:
        if report.missed:
            missed = ", ".join(verdict.objective.text for verdict in report.missed)
            slow = any(is_time(verdict.objective.figure) for verdict in report.missed)
            found.append(f"{name_among(reports, report)} misses {missed}{_blame(report) if slow else '.'}")
    found += [search_text(search) for search in searches]
    return found


def _blame(report: Report) -> str:
    """Which part of the latency is the largest at p99, as the place to look first."""
    if not report.latency_ns.count:
        return "; nothing was timed."
    names = [name for name in series_names(report) if name not in ("latency", "response")]
    parts = {name: getattr(report, f"{name}_ns").p99 for name in names}
    told = ", ".join(f"{name.replace('_', ' ')} {duration_text(value)}" for name, value in parts.items())
    where = {
        "queue": "messages wait in mailboxes; more agents or a lower rate shorten that",
        "service": "handlers themselves take the time",
        "send_delay": "the sender could not keep its schedule on this machine",
    }[max(parts, key=lambda name: parts[name])]
    return f": at p99 {told}; {where}."


def search_text(search: Search) -> str:
    """What a search found, and how much of it to plan with."""
    name, objective = search.profile, search.objective
    ended = " before it was interrupted" if search.interrupted else ""
    if not search.steps:
        return f"{name}: no rate was tried for {objective}{ended}."
    if search.highest_rate_per_second is None:
        least = min(step.rate_per_second for step in search.steps)
        return f"{name}: no rate that was tried holds {objective}, down to {least:,.0f}/s{ended}."
    above = (
        "no higher rate missed it"
        if search.lowest_missed_per_second is None
        else f"{search.lowest_missed_per_second:,.0f}/s misses it"
    )
    return (
        f"{name}: {search.highest_rate_per_second:,.0f} messages/s is the highest rate found to hold"
        f" {objective}{ended}; {above}. Half of it, {search.highest_rate_per_second / 2:,.0f}/s, leaves as much"
        " again for bursts."
    )


def alerts_of(reports: Sequence[Report]) -> tuple[Report | None, list[Alert]]:
    """Thresholds to alert at, and the report they come from: the highest that holds every objective.

    None, and the reference's thresholds alone, when no report holds or failures were injected in all that do.
    """
    best = highest_holding([report for report in reports if not report.plan.injects])
    if best is None:
        return None, [
            Alert("p99 latency", f"> {duration_text(ALERT_P99_NS)}", "the reference's"),
            Alert("error rate", f"> {percent_text(ALERT_ERROR_RATE)}", "the reference's"),
        ]
    twice = 2 * best.latency_ns.p99
    error_rate = 1 - best.success_rate
    alerts = []
    if twice < ALERT_P99_NS:
        observed = duration_text(best.latency_ns.p99)
        alerts.append(Alert("p99 latency, early", f"> {duration_text(twice)}", f"twice the {observed} observed"))
    alerts += [
        Alert(
            "p99 latency",
            f"> {duration_text(max(twice, ALERT_P99_NS))}",
            f"the larger of twice what was observed and the reference's {duration_text(ALERT_P99_NS)}",
        ),
        Alert(
            "error rate",
            f"> {percent_text(max(2 * error_rate, ALERT_ERROR_RATE))}",
            f"the larger of twice the {percent_text(error_rate)} observed and the reference's"
            f" {percent_text(ALERT_ERROR_RATE)}",
        ),
    ]
    deepest = max((point.pending for point in best.series), default=0)
    if deepest:
        alerts.append(
            Alert("messages pending", f"> {2 * deepest:,}", f"twice the {deepest:,} seen at the end of an interval")
        )
    return best, alerts
