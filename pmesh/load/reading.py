"""What `pmesh report` and `pmesh compare` do: reports that were saved, shown again or side by side."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import click

from pmesh.errors import InvalidArgument
from pmesh.load import compare as comparing
from pmesh.load.command import ExitCode
from pmesh.load.document import read_document
from pmesh.load.outputs import ReportOutputs
from pmesh.load.rendering.terminal import Screen
from pmesh.load.report import Report, Search
from pmesh.outputs import OutputFailed, Outputs
from pmesh.streams import CONTROLS

__all__ = ["compare", "report"]


def report(files: Sequence[str], paths: Mapping[str, str | None]) -> ExitCode:
    """Show the reports in `files`, or write them where `paths` says, by format.

    Raises:
        InvalidArgument: A file cannot be read or is no load report, or an output cannot be opened.
        OutputFailed: An output could not be written, or the report not be shown.
    """
    documents = [read_document(file) for file in files]
    reports: list[Report] = [found for document in documents for found in document.reports]
    searches: list[Search] = [found for document in documents for found in document.searches]
    environment = documents[0].environment
    for file, document in zip(files[1:], documents[1:], strict=True):
        differences = comparing.environment_differences(environment, document.environment)
        if differences:
            warning = f"pmesh: WARNING: {files[0]} and {file} differ: {'; '.join(differences)}"
            click.echo(warning.translate(CONTROLS), err=True)
    if not reports and not searches:
        raise InvalidArgument(f"nothing was measured in {', '.join(files)}")
    with ReportOutputs(paths) as outputs:
        screen = Screen(sys.stdout, show_progress=False, silent=bool(outputs))
        for found in reports:
            screen.show_report(found)
        for search in searches:
            screen.show_search(search)
        if len(reports) > 1:
            screen.show_summary(reports)
        outputs.write(environment, reports, searches)
    if screen.failure is not None:
        raise OutputFailed(f"the report could not be shown: {screen.failure}")
    return ExitCode.HELD


def compare(before: str, after: str, limits: Sequence[str], html_path: str | None) -> ExitCode:
    """Show how the reports in the file `after` differ from those in `before`, and check `limits`.

    Raises:
        InvalidArgument: A file cannot be read, a limit is none, the two have no profile in common, or the page
            cannot be opened.
        OutputFailed: The page could not be written, or the comparison not be shown.
    """
    wanted = [comparing.parse_limit(limit) for limit in limits]
    comparison = comparing.compare(read_document(before), read_document(after))
    if not comparison.profiles and not comparison.searches:
        raise InvalidArgument(
            f"{before} and {after} have no profile in common:"
            f" {', '.join(comparison.only_before) or 'none'} and {', '.join(comparison.only_after) or 'none'}"
        )
    breaches = comparison.breaches(wanted)
    with Outputs({"html": html_path}) as outputs:
        screen = Screen(sys.stderr if outputs.on_stdout else sys.stdout, show_progress=False, silent=outputs.on_stdout)
        screen.show_comparison(comparison, breaches)
        if outputs:
            from pmesh.load.rendering.compare_page import compare_page

            outputs.write_each({"html": lambda: compare_page(comparison, breaches)})
    if screen.failure is not None:
        raise OutputFailed(f"the comparison could not be shown: {screen.failure}")
    return ExitCode.MISSED if breaches else ExitCode.HELD
