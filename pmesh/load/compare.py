"""Two load reports side by side: what changed, whether that can be told at all, and limits on getting worse.

How a comparison looks is the business of who shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pmesh.load.document import Document
from pmesh.load.environment import Environment
from pmesh.load.report import Report, Spread
from pmesh.scanner import Quantity, Scanner, Unit
from pmesh.slo import FIGURES, FIGURES_TEXT, HIGHER_IS_BETTER, SERIES_OF_TIMES, STATISTICS
from pmesh.units import observed_text

__all__ = [
    "TOO_FEW_SAMPLES",
    "Breach",
    "Change",
    "Comparison",
    "Limit",
    "ProfileComparison",
    "compare",
    "environment_differences",
    "parse_limit",
    "samples_needed",
]

# What is shown of each profile, in this order; a limit can be on any of `FIGURES` and on this one.
CPU_PER_MESSAGE = "cpu_per_message"
SHOWN = (
    *("throughput", "success", "mean", "p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"),
    *(f"{series}.p99" for series in SERIES_OF_TIMES),
    *("memory_per_agent", CPU_PER_MESSAGE, "overhead"),
)

# Samples that must lie beyond a percentile for it to be judged: its value moves from run to run by about
# one part in the square root of them, in rank.
SAMPLES_BEYOND = 10
TOO_FEW_SAMPLES = "too few samples"

# In hundredths of a percent, so that nothing is rounded.
_PERCENTILES = {"p50": 5_000, "p90": 9_000, "p95": 9_500, "p99": 9_900, "p99.9": 9_990, "p99.99": 9_999}

_SHARE = Quantity("a share", "10%", {"%": Unit("%", -2)})


@dataclass(frozen=True, slots=True)
class Limit:
    """How much worse a figure may get, such as `p99:10%`: by `share` of what it was, at most."""

    text: str
    figure: str
    share: float


@dataclass(frozen=True, slots=True)
class Breach:
    """A limit that a profile does not keep, or that cannot be checked there, and why."""

    profile: str
    limit: Limit
    reason: str

    def __str__(self) -> str:
        return f"{self.profile}: {self.limit.text}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Change:
    """One figure before and after.

    Attributes:
        figure: One of `pmesh.slo.FIGURES`, or "cpu_per_message" (processor time of the process by messages handled).
        before, after: In the unit of the figure (ns, bytes, messages per second, a ratio); None where there is none.
        samples_before, samples_after: How many times stand behind a latency figure; None for others.
        remark: "too few samples" when fewer than ten times lie beyond the percentile in one of the two, so that
            it cannot be judged; else "".
    """

    figure: str
    before: float | None
    after: float | None
    samples_before: int | None = None
    samples_after: int | None = None
    remark: str = ""

    @property
    def higher_is_better(self) -> bool:
        return self.figure in HIGHER_IS_BETTER

    @property
    def ratio(self) -> float | None:
        """Change as a share of `before`: 0.1 for a tenth more; None when there is nothing to divide by."""
        if self.before is None or self.after is None:
            return None
        if self.before == self.after:
            return 0.0
        return (self.after - self.before) / self.before if self.before > 0 else None

    @property
    def is_worse(self) -> bool:
        """Whether it changed in the bad direction at all."""
        if self.before is None or self.after is None:
            return False
        return self.after < self.before if self.higher_is_better else self.after > self.before

    def breach(self, limit: Limit) -> str | None:
        """Why `limit` is not kept or cannot be checked; None when it is kept."""
        if self.before is None or self.after is None:
            missing = "both" if self.before is self.after else "the first" if self.before is None else "the second"
            return f"cannot be checked: {missing} of the two {'have' if missing == 'both' else 'has'} no {self.figure}"
        if self.remark:
            return (
                f"cannot be judged: {self.remark} ({self.samples_before:,} and {self.samples_after:,};"
                f" it takes {samples_needed(self.figure):,})"
            )
        ratio = self.ratio
        if not self.is_worse or (ratio is not None and abs(ratio) <= limit.share):
            return None
        told = f"{observed_text(self.figure, self.before)} became {observed_text(self.figure, self.after)}"
        return told if ratio is None else f"{told}, {abs(ratio):.2%} worse"


@dataclass(frozen=True, slots=True)
class ProfileComparison:
    """One profile in both documents.

    Attributes:
        changes: The figures that either has, in the order they are shown in.
        warnings: Why the two may not be comparable, each in words.
    """

    before: Report
    after: Report
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.before.profile.name

    def change(self, figure: str) -> Change:
        """The change of `figure`, also of one that is not among `changes`."""
        return _change(figure, self.before, self.after)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two documents side by side.

    Attributes:
        profiles: Those that both have, matched by name, in the order of `before`.
        only_before, only_after: Names of the profiles that just one has.
        warnings: What the two were measured on differs, in words: changes may come from that.
        notes: What else a reader should know.
    """

    before: Document
    after: Document
    profiles: tuple[ProfileComparison, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_comparable(self) -> bool:
        """Whether nothing warns."""
        return not self.warnings and not any(profile.warnings for profile in self.profiles)

    def breaches(self, limits: Iterable[Limit]) -> tuple[Breach, ...]:
        """Where a profile got worse by more than a limit allows, or where that cannot be told.

        What is missing on one side (the figure or the whole profile) and what cannot be judged for lack of
        samples is a breach: a gate does not open because nothing was measured.
        """
        found = []
        for limit in limits:
            for profile in self.profiles:
                reason = profile.change(limit.figure).breach(limit)
                if reason is not None:
                    found.append(Breach(profile.name, limit, reason))
            for names, side in ((self.only_before, "first"), (self.only_after, "second")):
                found += [Breach(name, limit, f"cannot be checked: only the {side} has it") for name in names]
        return tuple(found)


def parse_limit(text: str) -> Limit:
    """The limit that `text` says: a figure, a colon, and how much worse it may get, as in `p99:10%`.

    Worse is higher, but for throughput and success. The figures are those of objectives, and `cpu_per_message`.

    Raises:
        InvalidArgument: It is no limit; the text names the column, what stands there and what would be right.
        InvalidType: `text` is no str.
    """
    scanner = Scanner("limit", text, "p99:10%")
    figure = scanner.name((*FIGURES, CPU_PER_MESSAGE), "a figure", f"{FIGURES_TEXT}, {CPU_PER_MESSAGE}")
    scanner.symbol(":", "behind the figure comes a colon, as in p99:10%")
    column = scanner.column
    share, written = scanner.amount(_SHARE)
    scanner.end("every limit is a text of its own")
    if figure in HIGHER_IS_BETTER and share >= 1.0:
        scanner.fail(
            f"found {written!r}; {figure} cannot fall by more than 100%, so the limit would do nothing", column
        )
    return Limit(f"{figure}:{written}", figure, share)


def compare(before: Document, after: Document) -> Comparison:
    """`after` as a change from `before`, profile by profile and figure by figure."""
    old, new = _by_name(before), _by_name(after)
    return Comparison(
        before=before,
        after=after,
        profiles=tuple(
            ProfileComparison(old[name], new[name], _changes(old[name], new[name]), _differences(old[name], new[name]))
            for name in old
            if name in new
        ),
        only_before=tuple(name for name in old if name not in new),
        only_after=tuple(name for name in new if name not in old),
        warnings=environment_differences(before.environment, after.environment),
        notes=_notes(before, after),
    )


def samples_needed(figure: str) -> int:
    """How many times it takes until ten lie beyond the percentile that `figure` is; 1 for what is none."""
    parts = _PERCENTILES.get(_split(figure)[1])
    return 1 if parts is None else -(-SAMPLES_BEYOND * 10_000 // (10_000 - parts))


def _split(figure: str) -> tuple[str, str]:
    """The series of times that `figure` is of, and what of it."""
    prefix, _, rest = figure.partition(".")
    return (prefix, rest) if prefix in SERIES_OF_TIMES else ("latency", figure)


def _by_name(document: Document) -> dict[str, Report]:
    """The reports by profile; of a profile that ran more than once (see `_notes`) the last one."""
    return {report.profile.name: report for report in document.reports}


def _changes(before: Report, after: Report) -> tuple[Change, ...]:
    changes = (_change(figure, before, after) for figure in SHOWN)
    return tuple(change for change in changes if change.before is not None or change.after is not None)


def _change(figure: str, before: Report, after: Report) -> Change:
    old, new = _value(figure, before), _value(figure, after)
    old_samples, new_samples = _samples(figure, before), _samples(figure, after)
    needed = samples_needed(figure)
    too_few = any(samples is not None and samples < needed for samples in (old_samples, new_samples))
    return Change(figure, old, new, old_samples, new_samples, TOO_FEW_SAMPLES if too_few else "")


def _value(figure: str, report: Report) -> float | None:
    if figure != CPU_PER_MESSAGE:
        return report.figure(figure)
    return report.cpu_seconds * 1e9 / report.counts.handled if report.counts.handled else None


def _samples(figure: str, report: Report) -> int | None:
    series, statistic = _split(figure)
    if statistic not in STATISTICS:
        return None
    spread: Spread | None = getattr(report, f"{series}_ns")
    return None if spread is None else spread.count


_ENVIRONMENT_WORDS = {
    "python": "Python version",
    "implementation": "Python implementation",
    "gil": "GIL",
    "platform": "platform",
    "cpu": "processor",
    "cpu_count": "number of CPUs",
    "event_loop": "event loop",
}

_PLAN_WORDS = {
    "window": "messages in flight",
    "rate_per_second": "rate per second",
    "arrival": "arrival",
    "messages": "messages to send",
    "duration_seconds": "seconds to send for",
    "warmup_seconds": "seconds of warm-up",
    "capacity": "capacity of a mailbox",
    "overflow": "overflow policy",
    "agent": "agent class",
    "payload": "payload factory",
    "fail_rate": "injected failures (share of messages)",
    "slow_agents": "agents made slow",
    "slow_ns": "delay of slow agents (ns)",
    "stop_every_seconds": "seconds between agents stopped on purpose",
    "per_agent": "recorders of each agent",
    "seed": "seed",
}

_PROFILE_WORDS = {
    "agents": "agents",
    "messages_per_agent": "messages per agent",
    "rounds": "rounds",
    "concurrency": "senders",
    "payload_bytes": "payload (bytes)",
}

_LOOPS = {
    "closed": "closed loop, whose latency runs from accept",
    "open": "open loop, whose latency runs from the intended send time",
}


def environment_differences(before: Environment, after: Environment) -> tuple[str, ...]:
    """What differs of where two documents come from, and what of it makes figures mean nothing; each in words."""
    warnings = list(_in_words(_ENVIRONMENT_WORDS, before, after))
    for flag in sorted({*before.build, *after.build}):
        old, new = before.build.get(flag), after.build.get(flag)
        if old != new:
            warnings.append(_difference(f"build flag {flag}", old, new))
    for side, environment in (("first", before), ("second", after)):
        variants = [flag for flag in ("debug", "trace") if environment.build.get(flag)]
        if variants:
            warnings.append(f"the {side} is of a {' and '.join(variants)} build, whose figures mean nothing")
    return tuple(warnings)


def _differences(before: Report, after: Report) -> tuple[str, ...]:
    """What the two runs were asked to do differently, and what makes either of them no whole run."""
    warnings = []
    if before.mode != after.mode:
        warnings.append(f"different mode: {_LOOPS[before.mode]}; and {_LOOPS[after.mode]}")
    warnings += _in_words(_PROFILE_WORDS, before.profile, after.profile)
    warnings += _in_words(_PLAN_WORDS, before.plan, after.plan)
    for side, report in (("first", before), ("second", after)):
        if report.interrupted:
            warnings.append(f"the {side} was interrupted")
        if report.aborted is not None:
            warnings.append(f"the {side} was aborted: {report.aborted}")
        if report.unsent:
            warnings.append(f"the {side} gave up {report.unsent:,} messages of its schedule: it was behind")
        warnings += [f"the account of the {side} does not balance: {fault}" for fault in report.faults]
    return tuple(warnings)


def _notes(before: Document, after: Document) -> tuple[str, ...]:
    notes = []
    if before.environment.pmesh != after.environment.pmesh:
        notes.append(_difference("pmesh version", before.environment.pmesh, after.environment.pmesh))
    for side, document in (("first", before), ("second", after)):
        names = [report.profile.name for report in document.reports]
        notes += [
            f"the {side} has profile {name!r} {names.count(name)} times: the last is compared"
            for name in dict.fromkeys(names)
            if names.count(name) > 1
        ]
        if document.searches:
            notes.append(f"the {side} has searches for the highest rate, which are not compared")
    return tuple(notes)


def _in_words(words: Mapping[str, str], before: object, after: object) -> Iterator[str]:
    """What differs of the attributes that `words` names."""
    for name, word in words.items():
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            yield _difference(word, old, new)


def _difference(word: str, before: object, after: object) -> str:
    return f"different {word}: {_told(before)} and {_told(after)}"


def _told(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
