"""What load reports say in words, for every format that shows them: the verdict, how it was measured, what
speaks against the figures, which checks hold, and what follows. How it looks is `markdown` and `html`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pmesh.load.report import Spread
from pmesh.units import duration_text, percent_text

if TYPE_CHECKING:
    from pmesh.load.environment import Environment
    from pmesh.load.profiles import Reference
    from pmesh.load.report import Report, Search

__all__ = [
    "ALERT_ERROR_RATE",
    "ALERT_P99_NS",
    "Alert",
    "Check",
    "Notice",
    "alerts_of",
    "beside_reference",
    "check_report",
    "cpu_share",
    "environment_rows",
    "factor_text",
    "highest_holding",
    "is_time",
    "latency_meaning",
    "load_text",
    "notices_of",
    "recommend",
    "search_text",
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
class Check:
    """One check of a report against itself, with its numbers; `passed` is None when it could not be made."""

    name: str
    passed: bool | None
    numbers: str


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
    judged = sum(len(report.slo) for report in reports)
    missed = sum(len(report.missed) for report in reports)
    if missed:
        told = "; ".join(
            f"{report.profile.name} {', '.join(verdict.objective.text for verdict in report.missed)}"
            for report in reports
            if report.missed
        )
        return f"{missed} of {judged} objectives missed: {told}.", False
    unfinished = [report.profile.name for report in reports if report.interrupted or report.aborted]
    if unfinished:
        return f"Ended early ({', '.join(unfinished)}): the figures are of what was handled until then.", False
    if not judged:
        return "No objective was judged.", None
    return ("The objective holds." if judged == 1 else f"All {judged} objectives hold."), True


def load_text(report: Report) -> str:
    """The load of a run: which loop, how much, to whom; and the warm-up before it."""
    plan, profile = report.plan, report.profile
    payload = f"payloads from {plan.payload}" if plan.payload else f"{profile.payload_bytes:,}-byte payloads"
    agents = _count(profile.agents, "agent") + (f" of {plan.agent}" if plan.agent else "")
    if plan.rate_per_second is None:
        loop = (
            f"Closed loop: {_count(profile.concurrency, 'sender')}, at most {_count(plan.window, 'message')} in flight,"
            f" to {agents}, {payload}"
        )
    else:
        loop = (
            f"Open loop: {plan.rate_per_second:,.6g} messages/s over {_count(profile.concurrency, 'sender')},"
            f" {plan.arrival} arrivals, to {agents}, {payload}"
        )
    if plan.duration_seconds is not None:
        length = f", for {plan.duration_seconds:,.6g} s"
    elif plan.messages is not None:
        length = f", {_count(plan.messages, 'message')}"
    elif plan.rate_per_second is None:
        length = f", {_count(profile.rounds, 'round')} of {_count(profile.messages_per_agent, 'message')} to each agent"
    else:
        length = f", {_count(profile.messages, 'message')}"
    warmup = f"; warm-up of {plan.warmup_seconds:,.6g} s not counted" if plan.warmup_seconds else "; no warm-up"
    return f"{loop}{length}{warmup}; mailboxes {plan.overflow} when full."


def _count(number: int, noun: str) -> str:
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
    build = [name for name in ("debug", "trace") if report.environment.build.get(name)]
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
                f"{_count(plan.slow_agents, 'agent')} made to wait {duration_text(plan.slow_ns)} before each message"
                f" ({_count(report.injected.delays, 'time')})"
            )
        if plan.stop_every_seconds:
            asked.append(f"an agent is stopped every {plan.stop_every_seconds:,.6g} s ({report.injected.stops:,} were)")
        found.append(Notice(f"Failures on purpose: {'; '.join(asked)}."))
    if report.unsent:
        found.append(
            Notice(f"{_count(report.unsent, 'message')} of the schedule given up: the sender fell too far behind.")
        )
    if plan.rate_per_second is not None and report.duration_ns and not report.interrupted and not report.aborted:
        sent = counts.sent * 1e9 / report.duration_ns
        if sent < RATE_KEPT * plan.rate_per_second:
            found.append(
                Notice(
                    f"{sent:,.0f} messages/s were sent of the {plan.rate_per_second:,.6g} asked for; see send delay."
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


def check_report(report: Report) -> list[Check]:
    """Every check of a report against itself that its data allow."""
    return [*_check_account(report), *_check_times(report), *_check_series(report), *_check_run(report)]


def _check_account(report: Report) -> Iterator[Check]:
    counts, injected = report.counts, report.injected
    ended = counts.handled + counts.failed + counts.expired + counts.dropped + counts.dead
    yield Check(
        "every send was accepted or rejected",
        counts.sent == counts.accepted + counts.rejected,
        f"{counts.sent:,} sent, {counts.accepted:,} accepted + {counts.rejected:,} rejected",
    )
    yield Check(
        "nothing was lost",
        counts.accepted == ended + counts.pending,
        f"{counts.accepted:,} accepted, {ended:,} ended + {counts.pending:,} pending",
    )
    yield Check("nothing is left pending", counts.pending == 0, f"{counts.pending:,} pending")
    yield Check(
        "senders, coordinator and agents counted the same",
        not report.faults,
        "; ".join(report.faults) or "no difference",
    )
    name = "the agents' accounts add up to the whole"
    if not report.agents:
        yield Check(name, None, "no account per agent")
    elif injected.stops:
        yield Check(name, None, f"{_count(injected.stops, 'agent')} stopped, with the account of each")
    else:
        accepted = sum(row.counts.accepted for row in report.agents)
        handled = sum(row.counts.handled for row in report.agents)
        yield Check(
            name,
            (accepted, handled) == (counts.accepted, counts.handled),
            f"{_count(len(report.agents), 'agent')}: {accepted:,} of {counts.accepted:,} accepted,"
            f" {handled:,} of {counts.handled:,} handled",
        )
    if report.plan.fail_rate:
        # Agents of the user's own may fail by themselves, and a stopped one fails what it handles.
        exact = report.plan.agent is None and not injected.stops
        yield Check(
            "injected failures stand in the account",
            counts.failed == injected.failures if exact else counts.failed >= injected.failures,
            f"{injected.failures:,} injected, {counts.failed:,} failed",
        )


def _check_times(report: Report) -> Iterator[Check]:
    recorders = report.recorders
    if not recorders:
        yield Check("histograms hold every handled message", None, "no histograms")
        return
    timed = report.counts.handled + report.counts.failed
    held = {name: recorder.count for name, recorder in recorders.items()}
    # A message is sent late or in time whatever becomes of it.
    differing = {name: count for name, count in held.items() if name != "send_delay" and count != timed}
    yield Check(
        "histograms hold every message that was handled or failed",
        not differing,
        f"{timed:,} handled or failed, "
        + (", ".join(f"{count:,} in {name}" for name, count in differing.items()) or f"the same in {_list(held)}"),
    )
    wrong = [name for name, recorder in recorders.items() if getattr(report, f"{name}_ns") != Spread.of(recorder)]
    yield Check(
        "percentiles are those of the histograms",
        not wrong,
        f"different in {', '.join(wrong)}" if wrong else f"{len(recorders)} read again",
    )
    outside = sum(recorder.above_range + recorder.below_range for recorder in recorders.values())
    yield Check("every time was in the range of the histogram", outside == 0, f"{outside:,} outside")


def _check_series(report: Report) -> Iterator[Check]:
    name = "the series adds up to the counts"
    if not report.series:
        yield Check(name, None, "no series")
        return
    counts = report.counts
    sums = {
        "sent": (sum(point.sent for point in report.series), counts.sent),
        "handled": (sum(point.handled for point in report.series), counts.handled),
        "failed": (
            sum(point.failed for point in report.series),
            counts.failed + counts.expired + counts.dropped + counts.dead + counts.rejected,
        ),
        "timed": (sum(point.latency_count for point in report.series), report.latency_ns.count),
    }
    yield Check(
        name,
        all(summed == whole for summed, whole in sums.values()),
        ", ".join(f"{what} {summed:,} of {whole:,}" for what, (summed, whole) in sums.items()),
    )


def _check_run(report: Report) -> Iterator[Check]:
    if report.slo:
        observed = sum(verdict.observed is not None for verdict in report.slo)
        yield Check(
            "every objective had a figure to be judged by",
            observed == len(report.slo),
            f"{observed} of {len(report.slo)}",
        )
        right = sum(
            verdict.observed == report.figure(verdict.objective.figure)
            and verdict.passed == (verdict.observed is not None and verdict.objective.holds(verdict.observed))
            for verdict in report.slo
        )
        yield Check("every verdict follows from its figure", right == len(report.slo), f"{right} of {len(report.slo)}")
    else:
        yield Check("every objective was judged", None, "no objectives")
    yield Check(
        "the run went to its end",
        not report.interrupted and report.aborted is None,
        "interrupted" if report.interrupted else f"aborted: {report.aborted}" if report.aborted else "not cut short",
    )
    planned = _planned_messages(report)
    if planned is not None:
        yield Check(
            "all that was planned was sent",
            report.counts.sent == planned,
            f"{report.counts.sent:,} of {planned:,}" + (f", {report.unsent:,} given up" if report.unsent else ""),
        )
    elif report.mode == "open":
        yield Check("no message of the schedule was given up", report.unsent == 0, f"{report.unsent:,} given up")
    variants = [name for name in ("debug", "trace") if report.environment.build.get(name)]
    yield Check("measured on a release build", not variants, ", ".join(variants) or "neither debug nor trace")


def _planned_messages(report: Report) -> int | None:
    plan = report.plan
    if plan.messages is not None:
        return plan.messages
    return None if plan.duration_seconds is not None else plan.profile.messages


def _list(names: object) -> str:
    return ", ".join(str(name).replace("_", " ") for name in names)  # type: ignore[attr-defined]


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
            f"{best.profile.name} is the highest profile that holds every objective{injected}:"
            f" {_count(best.profile.agents, 'agent')}, {best.throughput_per_second:,.0f} messages/s ({best.mode} loop)."
        )
    elif judged:
        found.append("No profile that ran to its end holds every objective.")
    else:
        found.append("No objective was judged, so no profile can be recommended.")
    for report in judged:
        if report.missed:
            missed = ", ".join(verdict.objective.text for verdict in report.missed)
            slow = any(is_time(verdict.objective.figure) for verdict in report.missed)
            found.append(f"{report.profile.name} misses {missed}{_blame(report) if slow else '.'}")
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
