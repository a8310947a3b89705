"""Load reports as CSV, in base units (nanoseconds, bytes, per second): a row per profile, or one per interval.

Columns are named as in the JSON, with the names of nested parts joined by a dot, and are the same for every report.
Lines end in CR LF (RFC 4180).
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pmesh.load.profiles import Reference
from pmesh.load.report import Drift, Point, Soak, Spread

if TYPE_CHECKING:
    from pmesh.environment import Environment
    from pmesh.load.report import Report, Search

__all__ = ["render", "series_csv"]

# A spreadsheet takes a cell that begins so for a formula and computes it.
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")


def _blank(kind: type[Any]) -> dict[str, Any]:
    return {field.name: None for field in dataclasses.fields(kind)}


# What some reports do not have keeps its columns, so that files of several runs can be joined.
_ABSENT: Mapping[str, Mapping[str, Any]] = {
    "reference": _blank(Reference),
    "send_delay_ns": _blank(Spread),
    "soak": {**_blank(Soak), "p99": _blank(Drift), "rss": _blank(Drift)},
}

_SERIES_COLUMNS = ("profile", "mode", *(field.name for field in dataclasses.fields(Point) if field.name != "recorder"))


def render(environment: Environment, reports: Sequence[Report], searches: Sequence[Search] = ()) -> str:
    """A row for each report: its plan, account, figures and verdict, then the environment. Searches have none.

    Histograms, series and agents' accounts are left out; of the objectives stands how many held, and which did not.
    """
    told = dict(_flat("environment", dataclasses.asdict(environment)))
    rows = [{**_figures(report), **told} for report in reports]
    return _written(list(dict.fromkeys(name for row in rows for name in row)), rows)


def series_csv(reports: Iterable[Report]) -> str:
    """A row for each interval of each report, with the profile and the loop first."""
    rows = [
        {
            "profile": report.profile.name,
            "mode": report.mode,
            **{name: getattr(point, name) for name in _SERIES_COLUMNS[2:]},
        }
        for report in reports
        for point in report.series
    ]
    return _written(_SERIES_COLUMNS, rows)


def _figures(report: Report) -> dict[str, Any]:
    # Without its histograms, which take longest to write and have no column.
    bare = dataclasses.replace(report, recorders={}, series=(), agents=()).as_dict()
    for name in ("histograms", "series", "per_agent_accounts"):
        del bare[name]
    bare["slo"] = {
        "held": len(report.slo) - len(report.missed),
        "missed": "; ".join(verdict.objective.text for verdict in report.missed),
    }
    bare["faults"] = "; ".join(report.faults)
    figures: dict[str, Any] = {}
    for name, value in bare.items():
        figures.update(_flat(name, _ABSENT[name] if value is None and name in _ABSENT else value))
    return figures


def _flat(name: str, value: object) -> Iterator[tuple[str, Any]]:
    """Every plain value in `value`, by its dotted name."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(f"{name}.{key}", part)
    else:
        yield name, value


def _written(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    # Also what makes it quote a cell with either of the two in it.
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """As in the JSON; text that a spreadsheet would compute is led by an apostrophe, which makes it text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(FORMULA_SIGNS):
        return f"'{value}"
    return value
