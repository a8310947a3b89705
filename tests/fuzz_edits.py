"""Load reports that are nearly right: a good document with a few parts changed by what is likely to matter.

Hypothesis and atheris both make them, each with its own `Choices`.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from collections.abc import Iterator
from typing import Any, Protocol

import load_samples

from pmesh import LatencyRecorder
from pmesh.errors import InvalidArgument
from pmesh.load.report import Search, Spread, Step, as_document
from pmesh.slo import parse_objective

INTEGERS = (0, 1, -1, 2, 5_000, 10**9, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 10**30 + 1, 10**400)
NUMBERS = (0.0, -0.0, 1e-300, 0.5, 0.999999999, 1.0, 1.5, 1e9, 1e30, 1.1e30, 1e308, float("nan"), float("inf"))
TEXTS = (
    *("", " ", "low", "a,b", "a|b", "\n", "\0", "\x1b[31m", "\u2028", "\u202e", "\ud800", "\U0001f600", "[bold]x[/]"),
    *("=1+1", "</script>", "]]>", "`", "x" * 500, "open", "poisson", "drop_oldest", "growth", "p99<5ms", "p99>0ns"),
    *("2026-11-23T12:00:00+00:00", "2026-11-23", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "now"),
    *("HISTFAAA", LatencyRecorder().encode(), load_samples.recorder(7, 20).encode()),
)


class Choices(Protocol):
    """Where the changes come from."""

    def index(self, count: int) -> int:
        """A number from 0 to `count` - 1."""

    def text(self) -> str: ...

    def integer(self) -> int: ...

    def number(self) -> float: ...


def _documents() -> tuple[dict[str, Any], ...]:
    """Small ones, so that there is time for many. One row of each kind will do: most changes would be of those."""
    reports = [load_samples.report(), load_samples.report("medium", open_loop=True), load_samples.nothing_handled()]
    small = [dataclasses.replace(report, series=report.series[:2], agents=report.agents[:1]) for report in reports]
    step = Step(1_000.0, 999.5, 1.0, 60_000, 900_000, 1_000_000, 900_000.0, True)
    search = Search("low", "p99<5ms", (step,), 1_000.0, 2_000.0)
    documents = (
        as_document(load_samples.ENVIRONMENT, small[:1]),
        as_document(load_samples.ENVIRONMENT, small[1:]),
        as_document(load_samples.ENVIRONMENT, small[:2], [search]),
        as_document(load_samples.ENVIRONMENT, [], [search]),
    )
    seeds = itertools.count()
    for document in documents:
        for part in document["profiles"]:
            for name in part["histograms"]:
                part["histograms"][name] = load_samples.recorder(next(seeds), 20).encode()
            for point in part["series"]:
                point["histogram"] = load_samples.recorder(next(seeds), 20).encode()
        mend(document)
    return documents


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to everything within `value`, and to itself."""
    yield way
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*way, key))


def edited(choices: Choices) -> dict[str, Any]:
    """A document with up to four parts changed; mostly also put right where something else follows from them."""
    chosen = choices.index(len(DOCUMENTS))
    document = copy.deepcopy(DOCUMENTS[chosen])
    for _ in range(choices.index(4) + 1):
        way = PLACES[chosen][choices.index(len(PLACES[chosen]))]
        holder: Any = document
        try:
            for key in way[:-1]:
                holder = holder[key]
            _change(holder, way[-1], choices)
        except (LookupError, TypeError):
            continue  # an earlier change took the place away
    if choices.index(4):
        mend(document)
    return document


def _change(holder: Any, key: Any, choices: Choices) -> None:
    kind = choices.index(8)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        holder[key] = (None, True, False, [], {}, choices.text(), choices.integer(), choices.number())[choices.index(8)]
    elif kind == 2 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif kind == 2:
        holder[choices.text()] = holder[key]
    else:
        holder[key] = _another(holder[key], choices)


def _another(value: Any, choices: Choices) -> Any:
    """Something else of the type of `value`."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return INTEGERS[choices.index(len(INTEGERS))] if choices.index(2) else choices.integer()
    if isinstance(value, float):
        return NUMBERS[choices.index(len(NUMBERS))] if choices.index(2) else choices.number()
    if isinstance(value, str):
        return TEXTS[choices.index(len(TEXTS))] if choices.index(2) else choices.text()
    if isinstance(value, list):
        return value[: choices.index(len(value) + 1)]
    if isinstance(value, dict):
        return dict(reversed(value.items()))
    return (INTEGERS, NUMBERS, TEXTS)[choices.index(3)][choices.index(10)]  # for null


def mend(document: Any) -> None:
    """Put right what follows from other parts, as far as those are what they should be."""
    parts = document.get("profiles")
    for part in parts if isinstance(parts, list) else ():
        for step in (_mend_account, _mend_spreads, _mend_series, _mend_verdicts):
            try:
                step(part)
            except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, InvalidArgument):
                continue  # that is for the reader to find


def _mend_account(part: Any) -> None:
    part["mode"] = "closed" if part["rate_per_second"] is None else "open"
    counts = part["counts"]
    part["success_rate"] = counts["handled"] / counts["sent"] if counts["sent"] else 0.0
    duration_ns = part["duration_ns"]
    part["throughput_per_second"] = counts["handled"] * 1e9 / duration_ns if duration_ns else 0.0
    ended = sum(counts[name] for name in ("handled", "failed", "expired", "dropped", "dead", "pending"))
    if counts["sent"] != counts["accepted"] + counts["rejected"] or counts["accepted"] != ended:
        part["faults"] = ["the account does not balance"]


def _mend_spreads(part: Any) -> None:
    for name, text in part["histograms"].items():
        part[f"{name}_ns"] = dataclasses.asdict(Spread.of(LatencyRecorder.decode(text)))


def _mend_series(part: Any) -> None:
    for point in part["series"]:
        spread = Spread.of(LatencyRecorder.decode(point["histogram"]))
        point["latency_count"] = spread.count
        for name in ("p50", "p99", "max"):
            point[f"latency_{name}_ns"] = getattr(spread, name)


def _mend_verdicts(part: Any) -> None:
    for verdict in part["slo"]:
        observed = verdict["observed"]
        verdict["passed"] = observed is not None and parse_objective(verdict["objective"]).holds(observed)


def as_json(document: Any) -> bytes:
    """A document as a file would hold it, also one that JSON has no words for."""
    return json.dumps(document).encode(errors="surrogatepass")


DOCUMENTS = _documents()
PLACES = tuple(tuple(way for way in places(document) if way) for document in DOCUMENTS)
