"""Two load reports side by side: what changed, whether that can be told at all, and limits on getting worse.

What makes the two not comparable is said by `differences`. How a comparison looks is the business of who shows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pmesh.load.differences import difference_text, environment_differences, run_differences
from pmesh.load.document import Document
from pmesh.load.report import Report, Search, Spread
from pmesh.scanner import Quantity, Scanner, Unit
from pmesh.slo import FIGURES, FIGURES_TEXT, HIGHER_IS_BETTER, SERIES_OF_TIMES, STATISTICS
from pmesh.units import observed_text

__all__ = [
    "HIGHEST_RATE",
    "TOO_FEW_SAMPLES",
    "UNFINISHED",
    "Breach",
    "Change",
    "Comparison",
    "Limit",
    "ProfileComparison",
    "SearchComparison",
    "compare",
    "environment_differences",
    "parse_limit",
    "samples_needed",
]

# What a limit can be on beside `FIGURES`: processor time of the process by messages handled, and what a search found.
CPU_PER_MESSAGE = "cpu_per_message"
HIGHEST_RATE = "highest_rate"

# What is shown of each profile, in this order, and below it the highest rates.
SHOWN = (
    *("throughput", "success", "mean", "p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"),
    *(f"{series}.p99" for series in SERIES_OF_TIMES),
    *("memory_per_agent", CPU_PER_MESSAGE, "overhead"),
)

# Samples that must lie beyond a percentile for it to be judged: its value moves from run to run by about
# one part in the square root of them, in rank.
SAMPLES_BEYOND = 10
TOO_FEW_SAMPLES = "too few samples"

# Of a search that was ended before its end, or has tried no rate at all.
UNFINISHED = "not finished"

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
        figure: One of `pmesh.slo.FIGURES`, "cpu_per_message" (processor time of the process by messages handled), or
            "highest_rate" (of a search).
        before, after: In the unit of the figure (ns, bytes, messages per second, a ratio); None where there is none.
            A highest rate is 0.0 where no rate held.
        samples_before, samples_after: How many times stand behind a latency figure; None for others.
        remark: "too few samples" when fewer than ten times lie beyond the percentile in one of the two, so that
            it cannot be judged; "not finished" when one of two searches is not; else "".
        objective: What the highest rate holds; "" for other figures.
    """

    figure: str
    before: float | None
    after: float | None
    samples_before: int | None = None
    samples_after: int | None = None
    remark: str = ""
    objective: str = ""

    @property
    def name(self) -> str:
        """The figure, and of a highest rate its objective: `highest_rate p99<5ms`."""
        return f"{self.figure} {self.objective}".rstrip()

    @property
    def higher_is_better(self) -> bool:
        return _is_better_higher(self.figure)

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

    def text_of(self, value: float | None) -> str:
        """`value`, which is `before` or `after`, in a unit of the figure; "no rate" where none held."""
        if self.figure != HIGHEST_RATE or value is None:
            return observed_text(self.figure, value)
        if not value:
            return "no rate"
        return f"{value:,.0f}/s" if value >= 10 else f"{value:.3g}/s"

    def breach(self, limit: Limit) -> str | None:
        """Why `limit` is not kept or cannot be checked; None when it is kept."""
        if self.before is None or self.after is None:
            missing = "both" if self.before is self.after else "the first" if self.before is None else "the second"
            return f"cannot be checked: {missing} of the two {'have' if missing == 'both' else 'has'} no {self.figure}"
        if self.remark == TOO_FEW_SAMPLES:
            return (
                f"cannot be judged: {self.remark} ({self.samples_before:,} and {self.samples_after:,};"
                f" it takes {samples_needed(self.figure):,})"
            )
        if self.remark:
            return f"cannot be judged: {self.remark}"
        ratio = self.ratio
        if not self.is_worse or (ratio is not None and abs(ratio) <= limit.share):
            return None
        told = f"{self.text_of(self.before)} became {self.text_of(self.after)}"
        return told if ratio is None else f"{told}, {abs(ratio):.2%} worse"


@dataclass(frozen=True, slots=True)
class ProfileComparison:
    """One profile in both documents.

    Attributes:
        changes: The figures that either has, in the order they are shown in; and the highest rates found for the
            profile in both documents.
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
        """The change of a report's `figure`, also of one that is not among `changes`."""
        return _change(figure, self.before, self.after)


@dataclass(frozen=True, slots=True)
class SearchComparison:
    """One search for the highest rate, by its profile and objective, in both documents."""

    before: Search
    after: Search

    @property
    def profile(self) -> str:
        return self.before.profile

    @property
    def change(self) -> Change:
        """The change of the highest rate that holds."""
        unfinished = any(search.interrupted or not search.steps for search in (self.before, self.after))
        return Change(
            HIGHEST_RATE,
            self.before.highest_rate_per_second or 0.0,
            self.after.highest_rate_per_second or 0.0,
            remark=UNFINISHED if unfinished else "",
            objective=self.before.objective,
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two documents side by side.

    Attributes:
        profiles: Those that both have, matched by name, in the order of `before`.
        only_before, only_after: Names of the profiles that just one has.
        searches: Those that both have, in the order of `before`.
        searches_only_before, searches_only_after: Those that just one has; `notes` name them too.
        warnings: What the two were measured on differs, in words: changes may come from that.
        notes: What else a reader should know.
    """

    before: Document
    after: Document
    profiles: tuple[ProfileComparison, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    searches: tuple[SearchComparison, ...]
    searches_only_before: tuple[Search, ...]
    searches_only_after: tuple[Search, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_comparable(self) -> bool:
        """Whether nothing warns."""
        return not self.warnings and not any(profile.warnings for profile in self.profiles)

    def breaches(self, limits: Iterable[Limit]) -> tuple[Breach, ...]:
        """Where a profile got worse by more than a limit allows, or where that cannot be told.

        What is missing on one side (the figure, the search or the whole profile) and what cannot be judged for lack
        of samples is a breach: a gate does not open because nothing was measured.
        """
        found: list[Breach] = []
        for limit in limits:
            if limit.figure == HIGHEST_RATE:
                found += self._search_breaches(limit)
                continue
            for profile in self.profiles:
                reason = profile.change(limit.figure).breach(limit)
                if reason is not None:
                    found.append(Breach(profile.name, limit, reason))
            for names, side in ((self.only_before, "first"), (self.only_after, "second")):
                found += [Breach(name, limit, f"cannot be checked: only the {side} has it") for name in names]
        return tuple(found)

    def _search_breaches(self, limit: Limit) -> Iterator[Breach]:
        for search in self.searches:
            reason = search.change.breach(limit)
            if reason is not None:
                yield Breach(search.profile, limit, f"{search.change.objective}: {reason}")
        searched = {search.profile for search in self.searches}
        for searches, side in ((self.searches_only_before, "first"), (self.searches_only_after, "second")):
            for alone in searches:
                reason = f"cannot be checked: only the {side} has a search for it"
                yield Breach(alone.profile, limit, f"{alone.objective}: {reason}")
                searched.add(alone.profile)
        for name in (*(profile.name for profile in self.profiles), *self.only_before, *self.only_after):
            if name not in searched:
                yield Breach(name, limit, "cannot be checked: there is no search for the highest rate")


def parse_limit(text: str) -> Limit:
    """The limit that `text` says: a figure, a colon, and how much worse it may get, as in `p99:10%`.

    Worse is higher, but for throughput, success and `highest_rate`, which is that of each search. The figures are
    those of objectives, `cpu_per_message` and `highest_rate`.

    Raises:
        InvalidArgument: It is no limit; the text names the column, what stands there and what would be right.
        InvalidType: `text` is no str.
    """
    scanner = Scanner("limit", text, "p99:10%")
    others = (CPU_PER_MESSAGE, HIGHEST_RATE)
    figure = scanner.name((*FIGURES, *others), "a figure", f"{FIGURES_TEXT}, {', '.join(others)}")
    scanner.symbol(":", "behind the figure comes a colon, as in p99:10%")
    column = scanner.column
    share, written = scanner.amount(_SHARE)
    scanner.end("every limit is a text of its own")
    if _is_better_higher(figure) and share >= 1.0:
        scanner.fail(
            f"found {written!r}; {figure} cannot fall by more than 100%, so the limit would do nothing", column
        )
    return Limit(f"{figure}:{written}", figure, share)


def compare(before: Document, after: Document) -> Comparison:
    """`after` as a change from `before`, profile by profile and figure by figure, and search by search."""
    old, new = _by_name(before), _by_name(after)
    old_searches, new_searches = _by_aim(before), _by_aim(after)
    searches = tuple(
        SearchComparison(search, new_searches[aim]) for aim, search in old_searches.items() if aim in new_searches
    )
    return Comparison(
        before=before,
        after=after,
        profiles=tuple(
            ProfileComparison(
                old[name], new[name], _changes(old[name], new[name], searches), run_differences(old[name], new[name])
            )
            for name in old
            if name in new
        ),
        only_before=tuple(name for name in old if name not in new),
        only_after=tuple(name for name in new if name not in old),
        searches=searches,
        searches_only_before=tuple(search for aim, search in old_searches.items() if aim not in new_searches),
        searches_only_after=tuple(search for aim, search in new_searches.items() if aim not in old_searches),
        warnings=environment_differences(before.environment, after.environment),
        notes=(*_notes(before, after), *_search_notes(before, after, searches)),
    )


def samples_needed(figure: str) -> int:
    """How many times it takes until ten lie beyond the percentile that `figure` is; 1 for what is none."""
    parts = _PERCENTILES.get(_split(figure)[1])
    return 1 if parts is None else -(-SAMPLES_BEYOND * 10_000 // (10_000 - parts))


def _is_better_higher(figure: str) -> bool:
    return figure in HIGHER_IS_BETTER or figure == HIGHEST_RATE


def _split(figure: str) -> tuple[str, str]:
    """The series of times that `figure` is of, and what of it."""
    prefix, _, rest = figure.partition(".")
    return (prefix, rest) if prefix in SERIES_OF_TIMES else ("latency", figure)


def _by_name(document: Document) -> dict[str, Report]:
    """The reports by profile; of a profile that ran more than once (see `_notes`) the last one."""
    return {report.profile.name: report for report in document.reports}


def _by_aim(document: Document) -> dict[tuple[str, str], Search]:
    """The searches by profile and objective; of one that was made more than once (see `_notes`) the last one."""
    return {(search.profile, search.objective): search for search in document.searches}


def _changes(before: Report, after: Report, searches: Iterable[SearchComparison]) -> tuple[Change, ...]:
    changes = (_change(figure, before, after) for figure in SHOWN)
    had = (change for change in changes if change.before is not None or change.after is not None)
    return (*had, *(search.change for search in searches if search.profile == before.profile.name))


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


def _notes(before: Document, after: Document) -> tuple[str, ...]:
    notes = []
    if before.environment.pmesh != after.environment.pmesh:
        notes.append(difference_text("pmesh version", before.environment.pmesh, after.environment.pmesh))
    for side, document in (("first", before), ("second", after)):
        names = Counter(report.profile.name for report in document.reports)
        notes += [
            f"the {side} has profile {name!r} {times} times: the last is compared"
            for name, times in names.items()
            if times > 1
        ]
    return tuple(notes)


def _search_notes(before: Document, after: Document, searches: Iterable[SearchComparison]) -> Iterator[str]:
    with_figures = _by_name(before).keys() & _by_name(after).keys()
    for search in searches:
        # Else it is among the changes of the profile.
        if search.profile not in with_figures:
            change = search.change
            told = f"{change.text_of(change.before)} became {change.text_of(change.after)}"
            yield f"{search.profile}: {change.name}: {told}{change.remark and f' ({change.remark})'}"
    for side, document, other in (("first", before, after), ("second", after, before)):
        others = _by_aim(other)
        aims = Counter((search.profile, search.objective) for search in document.searches)
        for (profile, objective), times in aims.items():
            aim = f"for the highest rate of {profile} with {objective}"
            if times > 1:
                yield f"the {side} has {times} searches {aim}: the last is compared"
            if (profile, objective) not in others:
                yield f"only the {side} has a search {aim}"
