"""What `pmesh load` writes: the formats of reports."""

from __future__ import annotations

import datetime
import functools
import io
import json
from collections.abc import Callable, Mapping, Sequence

from pmesh.environment import Environment
from pmesh.load.report import Report, Search, as_document
from pmesh.outputs import Outputs

__all__ = ["FORMATS", "ReportOutputs"]


def _json(environment: Environment, reports: Sequence[Report], searches: Sequence[Search]) -> str:
    return json.dumps(as_document(environment, reports, searches), indent=2, allow_nan=False) + "\n"


def _markdown(environment: Environment, reports: Sequence[Report], searches: Sequence[Search]) -> str:
    from pmesh.load.rendering import markdown

    return markdown.render(environment, reports, searches)


def _html(environment: Environment, reports: Sequence[Report], searches: Sequence[Search]) -> str:
    from pmesh.load.rendering import html

    return html.render(environment, reports, searches)


def _csv(environment: Environment, reports: Sequence[Report], searches: Sequence[Search]) -> str:
    from pmesh.load.rendering import tables

    return tables.render(environment, reports)


def _series(environment: Environment, reports: Sequence[Report], searches: Sequence[Search]) -> str:
    from pmesh.load.rendering import tables

    return tables.series_csv(reports)


def _hlog(environment: Environment, reports: Sequence[Report], searches: Sequence[Search]) -> str:
    """Each interval of each profile, tagged with the profile's name."""
    from pmesh.hdr import Interval, write_hlog

    intervals = [
        Interval(
            tag=_tag(report.profile.name),
            start_seconds=(point.at_ns - point.interval_ns) / 1e9,
            length_seconds=point.interval_ns / 1e9,
            recorder=point.recorder,
        )
        for report in reports
        for point in report.series
    ]
    text = io.StringIO()
    write_hlog(
        text,
        intervals,
        started_at=datetime.datetime.fromisoformat(environment.started_at),
        comment=f"pmesh {environment.pmesh}",
    )
    return text.getvalue()


def _tag(name: str) -> str:
    """`name` with an underscore for each character that the tag of an .hlog may not have."""
    return "".join(char if char.isprintable() and char not in ", " else "_" for char in name) or "_"


# How each format is made, by the name of its option.
FORMATS: Mapping[str, Callable[[Environment, Sequence[Report], Sequence[Search]], str]] = {
    "json": _json,
    "markdown": _markdown,
    "html": _html,
    "csv": _csv,
    "series": _series,
    "hlog": _hlog,
}


class ReportOutputs(Outputs):
    """The files of a command that writes reports; each kind is one of `FORMATS`."""

    def write(self, environment: Environment, reports: Sequence[Report], searches: Sequence[Search] = ()) -> None:
        """Make and write each output.

        Raises:
            OutputFailed: One could not be made or written; the others were.
        """
        self.write_each(
            {kind: functools.partial(FORMATS[kind], environment, reports, searches) for kind in self._paths}
        )
