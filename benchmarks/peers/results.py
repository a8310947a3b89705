"""What a comparison found: rates of each round, failures, ratios to pmesh, and all of it as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from entries import ENTRIES, NotApplicable
from subjects import SUBJECTS

OURS = frozenset(key for key, entry in ENTRIES.items() if entry.distribution == "pmesh")

Pair = tuple[str, str]  # keys of an entry and a subject


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as good pmesh was: the median of the rounds, the least and the greatest."""

    median: float
    least: float
    greatest: float
    rounds: int


@dataclass(slots=True)
class Comparison:
    """All rounds of one run.

    Attributes:
        machine: What it ran on, in words.
        values: For each round that was done, keyed by its number, what was measured of each pair.
        failures: Why a pair has no figure, or no more after some rounds.
    """

    command: str
    machine: dict[str, str]
    versions: dict[str, str]
    values: dict[Pair, dict[int, float]] = field(default_factory=dict)
    failures: dict[Pair, str] = field(default_factory=dict)

    def pairs(self) -> set[Pair]:
        return {*self.values, *self.failures}

    def median(self, entry: str, subject: str) -> float | None:
        """None where there is no figure: also where it failed after some rounds, which were not the whole story."""
        pair = (entry, subject)
        if pair in self.failures or not self.values.get(pair):
            return None
        return statistics.median(self.values[pair].values())

    def ratio(self, entry: str, subject: str) -> Ratio | None:
        """Over the rounds that both were measured in; above 1 where pmesh is the better one."""
        beside = (ENTRIES[entry].beside, subject)
        if {(entry, subject), beside} & self.failures.keys():
            return None
        theirs, ours = self.values.get((entry, subject), {}), self.values.get(beside, {})
        if SUBJECTS[subject].less_is_better:
            ours, theirs = theirs, ours
        found = [ours[number] / theirs[number] for number in ours if number in theirs]
        return Ratio(statistics.median(found), min(found), max(found), len(found)) if found else None

    def as_document(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "machine": self.machine,
            "versions": self.versions,
            "results": [
                {
                    "entry": entry,
                    "subject": subject,
                    "unit": SUBJECTS[subject].unit,
                    "rounds": {str(number): value for number, value in self.values.get((entry, subject), {}).items()},
                    "failure": self.failures.get((entry, subject)),
                    "ratio": asdict(ratio) if (ratio := self.ratio(entry, subject)) else None,
                }
                for entry, subject in sorted(self.pairs(), key=place)
            ],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Comparison:
        comparison = cls(document["command"], document["machine"], document["versions"])
        for result in document["results"]:
            pair = (result["entry"], result["subject"])
            if result["rounds"]:
                comparison.values[pair] = {int(number): value for number, value in result["rounds"].items()}
            if result["failure"] is not None:
                comparison.failures[pair] = result["failure"]
        return comparison


def place(pair: Pair) -> tuple[int, int]:
    return list(ENTRIES).index(pair[0]), list(SUBJECTS).index(pair[1])


def applicable(entry: str, subject: str) -> bool:
    return not isinstance(ENTRIES[entry].how[subject], NotApplicable)
