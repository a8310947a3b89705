"""Where reports go: files that are opened before a run and written after it, and stdout."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO, Self

from pmesh.errors import InvalidArgument
from pmesh.load.environment import Environment
from pmesh.load.report import Report, Search, as_document

__all__ = ["FORMATS", "OutputFailed", "Outputs"]


class OutputFailed(Exception):
    """The report was measured and could not be written; the text says where and why."""


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
            tag=report.profile.name,
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


# How each format is made, by the name of its option.
FORMATS: Mapping[str, Callable[[Environment, Sequence[Report], Sequence[Search]], str]] = {
    "json": _json,
    "markdown": _markdown,
    "html": _html,
    "csv": _csv,
    "series": _series,
    "hlog": _hlog,
}


class Outputs:
    """The files of one command, from entering to leaving.

    Each is opened on entering, so that a path that cannot be written is known before anything runs. What it held
    is replaced only once there is something to write; a file made here and not written is removed again.

    Args:
        paths: By format, each a path, "-" for stdout (one of them at most) or None.

    Raises:
        InvalidArgument: A path cannot be opened for writing, or two outputs have the same one.
    """

    def __init__(self, paths: Mapping[str, str | None]) -> None:
        self._paths = {kind: path for kind, path in paths.items() if path is not None}
        given = [os.path.abspath(path) if path != "-" else "-" for path in self._paths.values()]
        for path in given:
            if given.count(path) > 1:
                options = " and ".join(f"--{kind}" for kind, other in self._paths.items() if _same(other, path))
                raise InvalidArgument(f"{options} would both write {'stdout' if path == '-' else repr(path)}")
        self._files: dict[str, BinaryIO] = {}
        self._made: list[str] = []
        self._written: list[str] = []

    @property
    def on_stdout(self) -> bool:
        """Whether one of them is stdout."""
        return "-" in self._paths.values()

    @property
    def in_files(self) -> bool:
        """Whether one of them is a file."""
        return any(path != "-" for path in self._paths.values())

    def __bool__(self) -> bool:
        return bool(self._paths)

    def __enter__(self) -> Self:
        try:
            for kind, path in self._paths.items():
                if path == "-":
                    continue
                is_new = not os.path.lexists(path)
                try:
                    self._files[kind] = open(path, "ab", buffering=0)
                except OSError as error:
                    raise InvalidArgument(f"cannot write {path!r}: {error.strerror}") from None
                if is_new:
                    self._made.append(path)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files.values():
            file.close()
        for path in self._made:
            if path not in self._written:
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def write(self, environment: Environment, reports: Sequence[Report], searches: Sequence[Search] = ()) -> None:
        """Write each output.

        Raises:
            OutputFailed: One could not be written; the others were.
        """
        texts = {kind: FORMATS[kind](environment, reports, searches) for kind in self._paths}
        self.write_texts(texts)

    def write_texts(self, texts: Mapping[str, str]) -> None:
        """Write the text of each format.

        Raises:
            OutputFailed: One could not be written; the others were.
        """
        failures = []
        for kind, text in texts.items():
            path = self._paths[kind]
            try:
                if path == "-":
                    _write_stdout(text, kind)
                else:
                    _replace(self._files[kind], text.encode())
                    self._written.append(path)
            except OSError as error:
                failures.append(
                    f"the {kind.upper()} could not be written to stdout: {error.strerror}"
                    if path == "-"
                    else f"cannot write {path!r}: {error.strerror}"
                )
        if failures:
            raise OutputFailed("; ".join(failures))


def _same(path: str, absolute: str) -> bool:
    return path == absolute if "-" in (path, absolute) else os.path.abspath(path) == absolute


def _write_stdout(text: str, kind: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:
        # What is still buffered must not fail once more when the interpreter ends.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _replace(file: BinaryIO, content: bytes) -> None:
    # A pipe or a device has nothing to replace.
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.truncate(0)
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
