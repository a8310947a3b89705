"""Whether a load report agrees with itself: the account, the histograms, the series, the objectives, the run.

Each check is made on the report's own data when it is asked for, so that one read from a file is checked again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pmesh.environment import slow_variants
from pmesh.load.rendering.findings import counted
from pmesh.load.report import Spread

if TYPE_CHECKING:
    from pmesh.load.report import Report

__all__ = ["Check", "check_report"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a report against itself, with its numbers; `passed` is None when it could not be made."""

    name: str
    passed: bool | None
    numbers: str


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
        yield Check(name, None, f"{counted(injected.stops, 'agent')} stopped, with the account of each")
    else:
        accepted = sum(row.counts.accepted for row in report.agents)
        handled = sum(row.counts.handled for row in report.agents)
        yield Check(
            name,
            (accepted, handled) == (counts.accepted, counts.handled),
            f"{counted(len(report.agents), 'agent')}: {accepted:,} of {counts.accepted:,} accepted,"
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
        + (
            ", ".join(f"{count:,} in {name}" for name, count in differing.items())
            or f"the same in {', '.join(held).replace('_', ' ')}"
        ),
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
    variants = slow_variants(report.environment.build)
    yield Check("measured on a release build", not variants, ", ".join(variants) or "not debug, trace or sanitize")


def _planned_messages(report: Report) -> int | None:
    plan = report.plan
    if plan.duration_seconds is not None:
        return None
    return plan.profile.messages if plan.messages is None else plan.messages
