"""Reads `thresholds.toml`, and refuses one that does not fit the workloads: every one is judged, by what exists.

Where the numbers come from stands in that file; how they are applied, in `conftest.py`.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from workloads import Workload

from pmesh import slo
from pmesh.errors import InvalidArgument, InvalidType

__all__ = ["LatencyLimit", "RateLimit", "Thresholds", "ThresholdsError", "Tolerance", "parse"]

LATENCY_FIGURES = frozenset(slo.STATISTICS)
PROFILE_FIGURES = frozenset(slo.FIGURES)


class ThresholdsError(ValueError):
    """The thresholds do not fit what they are for; the text names every place, and what would be right."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Calls per second of a workload, divided by those of the reference workload in the same run."""

    at_least: float


@dataclass(frozen=True, slots=True)
class LatencyLimit:
    """Objectives of the latency of single calls, such as `p99<5ms`."""

    objectives: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much worse than the committed baseline is still no regression.

    Attributes:
        rate: The least share of its rate.
        p50, p99: The largest multiples of these percentiles.
        items: What may be added to both, in items of the reference: a percentile of calls that take a few cache
            misses' time is a matter of who else uses the cache.
    """

    rate: float
    p50: float
    p99: float
    items: float


@dataclass(frozen=True, slots=True)
class Thresholds:
    rates: Mapping[str, RateLimit]
    latencies: Mapping[str, LatencyLimit]
    profiles: Mapping[str, tuple[str, ...]]
    tolerance: Tolerance


def parse(text: str, workloads: Mapping[str, Workload], profiles: Iterable[str]) -> Thresholds:
    """The thresholds that `text` says, checked against what there is.

    Args:
        text: Of `thresholds.toml`.
        workloads: By name; each needs a rate, and those with `timed_calls` a latency.
        profiles: Names; each needs objectives.

    Raises:
        ThresholdsError: A threshold of what does not exist, an unknown key, a number or a unit that is none, or
            something without a threshold; all that is wrong at once, each by name.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ThresholdsError(f"thresholds.toml is no TOML: {error}") from None
    reader = Reader()
    reader.keys("", document, {"machines", "rates", "latencies", "profiles", "tolerance"})
    machines = reader.table("machines", document)
    for name, machine in machines.items():
        if not isinstance(machine, str):
            reader.wrong(f"machines.{name}", machine, "a text that says which class of machine, and when")
    rates = {
        name: reader.rate(f"rates.{name!r}", table, machines) for name, table in reader.table("rates", document).items()
    }
    latencies = {
        name: LatencyLimit(objectives)
        for name, objectives in reader.groups("latencies", document, LATENCY_FIGURES).items()
    }
    of_profiles = {
        name: reader.objectives(f"profiles.{name}", texts, PROFILE_FIGURES)
        for name, texts in reader.table("profiles", document).items()
    }
    tolerance = reader.tolerance(document)
    reader.fit("rates", rates, workloads, "workload")
    reader.fit("latencies", latencies, [n for n, w in workloads.items() if w.timed_calls], "workload with timed calls")
    reader.fit("profiles", of_profiles, profiles, "profile")
    if reader.problems:
        raise ThresholdsError("thresholds.toml: " + "; ".join(reader.problems))
    return Thresholds(rates, latencies, of_profiles, tolerance)


class Reader:
    """Collects what is wrong instead of stopping at the first of it; what it returns then is not used."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def wrong(self, where: str, value: object, right: str) -> None:
        self.problems.append(f"{where} is {value!r}; it must be {right}")

    def keys(self, where: str, table: Mapping[str, Any], allowed: set[str]) -> None:
        self.problems += [
            f"{where}{'.' if where else ''}{key} is an unknown key; there are {', '.join(sorted(allowed))}"
            for key in table
            if key not in allowed
        ]

    def table(self, name: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
        table = document.get(name)
        if isinstance(table, dict):
            return table
        self.wrong(name, table, "a table")
        return {}

    def number(self, where: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            self.wrong(where, value, "a number above 0, and of no unit")
            return 1.0
        return float(value)

    def rate(self, where: str, table: object, machines: Mapping[str, object]) -> RateLimit:
        if not isinstance(table, dict):
            self.wrong(where, table, "a table with at_least and seen")
            return RateLimit(1.0)
        self.keys(where, table, {"at_least", "seen"})
        at_least = self.number(f"{where}.at_least", table.get("at_least"))
        seen = table.get("seen")
        if not (isinstance(seen, dict) and seen):
            self.wrong(f"{where}.seen", seen, "a table of what was seen on which of the machines")
            return RateLimit(at_least)
        for machine, value in seen.items():
            if machine not in machines:
                self.wrong(f"{where}.seen", machine, f"on one of the machines {', '.join(machines)}")
            elif self.number(f"{where}.seen.{machine}", value) <= at_least:
                self.wrong(f"{where}.at_least", at_least, f"below {value}, which was seen on {machine}")
        return RateLimit(at_least)

    def groups(self, name: str, document: Mapping[str, Any], figures: frozenset[str]) -> dict[str, tuple[str, ...]]:
        """The objectives of every workload that a group names."""
        found: dict[str, tuple[str, ...]] = {}
        for group, table in self.table(name, document).items():
            where = f"{name}.{group}"
            if not isinstance(table, dict):
                self.wrong(where, table, "a table with objectives and workloads")
                continue
            self.keys(where, table, {"objectives", "workloads"})
            objectives = self.objectives(f"{where}.objectives", table.get("objectives"), figures)
            members = table.get("workloads")
            if not (isinstance(members, list) and members):
                self.wrong(f"{where}.workloads", members, "a list of names")
                continue
            for member in members:
                if member in found:
                    self.wrong(f"{where}.workloads", member, "in one group only")
                found[member] = objectives
        return found

    def objectives(self, where: str, texts: object, figures: frozenset[str]) -> tuple[str, ...]:
        if not (isinstance(texts, list) and texts):
            self.wrong(where, texts, 'a list of objectives, such as ["p99<5ms"]')
            return ()
        for text in texts:
            try:
                objective = slo.parse_objective(text)
            except (InvalidArgument, InvalidType) as error:
                self.problems.append(f"{where}: {error}")
                continue
            side = ">" if objective.figure in slo.HIGHER_IS_BETTER else "<"
            if objective.figure not in figures:
                self.wrong(where, text, f"about one of {', '.join(sorted(figures))}")
            elif not objective.comparison.startswith(side):
                self.wrong(where, text, f"{side} or {side}=: what is good of {objective.figure} would miss it")
        return tuple(texts)

    def tolerance(self, document: Mapping[str, Any]) -> Tolerance:
        table = self.table("tolerance", document)
        self.keys("tolerance", table, {"rate", "p50", "p99", "items"})
        found = Tolerance(*(self.number(f"tolerance.{key}", table.get(key)) for key in ("rate", "p50", "p99", "items")))
        if found.rate >= 1.0:
            self.wrong("tolerance.rate", found.rate, "below 1: the least share of the baseline's rate")
        for key, value in (("p50", found.p50), ("p99", found.p99)):
            if value <= 1.0 and isinstance(table.get(key), float):
                self.wrong(f"tolerance.{key}", value, "above 1: the largest multiple of the baseline's")
        return found

    def fit(self, where: str, given: Iterable[object], wanted: Iterable[str], what: str) -> None:
        wanted = list(wanted)
        self.problems += [f"{where}: there is no {what} called {name!r}" for name in given if name not in wanted]
        self.problems += [f"{where}: the {what} {name!r} has no threshold" for name in wanted if name not in given]
