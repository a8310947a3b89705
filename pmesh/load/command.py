"""What `pmesh load` does: profiles one after another, Ctrl-C, the JSON file and the exit code."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import os
import signal
import stat
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any, BinaryIO, Protocol, Self

import click

import pmesh
from pmesh.errors import InvalidArgument
from pmesh.load.driver import Driver
from pmesh.load.environment import LoopFactory, choose_loop
from pmesh.load.profiles import PROFILES
from pmesh.load.report import Report, as_document
from pmesh.load.terminal import Screen

__all__ = ["ExitCode", "load"]


class ExitCode(enum.IntEnum):
    """What a caller of `pmesh load` can tell from its exit."""

    HELD = 0  # every objective holds
    USAGE = 2  # wrong arguments; nothing ran
    UNBALANCED = 70  # pmesh lost count of messages (EX_SOFTWARE of sysexits.h)
    OUTPUT = 74  # the report could not be written (EX_IOERR)
    MISSED = 99  # an objective is missed (as in k6)
    INTERRUPTED = 130  # Ctrl-C (128 + SIGINT, as shells have it)


class OutputFailed(Exception):
    """The report was measured and could not be written; the text says where and why."""


def load(
    names: Sequence[str],
    *,
    window: int | None = None,
    event_loop: str = "asyncio",
    json_path: str | None = None,
    quiet: bool = False,
) -> ExitCode:
    """Run the profiles called `names`, show and write their reports, and say how it went.

    Args:
        window: Most messages in flight; each profile's concurrency by default.
        event_loop: "asyncio", "uvloop" or "auto".
        json_path: File for the JSON document, or "-" for stdout; tables go to stderr then.
        quiet: No progress bar; and no tables where stdout carries the JSON.

    Raises:
        InvalidArgument: The loop cannot be had, or the file not be written. Nothing ran.
        PmeshError: pmesh's own memory could not be measured.
        KeyboardInterrupt: A second Ctrl-C, while the first was being obeyed.
    """
    try:
        return _load(names, window, choose_loop(event_loop), json_path, quiet)
    except OutputFailed as failure:
        click.echo(f"pmesh: {failure}", err=True)
        return ExitCode.OUTPUT


def _load(
    names: Sequence[str],
    window: int | None,
    new_loop: LoopFactory,
    json_path: str | None,
    quiet: bool,
) -> ExitCode:
    on_stdout = json_path == "-"
    with contextlib.ExitStack() as stack:
        target: _JsonOutput = _JsonStdout() if on_stdout else _NoJson()
        if json_path is not None and not on_stdout:
            target = stack.enter_context(_JsonFile(json_path))
        interrupts = stack.enter_context(_Interrupts())
        screen = Screen(
            sys.stderr if on_stdout else sys.stdout,
            show_progress=not quiet and not on_stdout,
            silent=quiet and on_stdout,
        )
        _warn_of_build()
        reports: list[Report] = []
        for name in names:
            report = _run_profile(name, window, new_loop, interrupts, screen)
            if report.counts.sent:
                reports.append(report)
                screen.show_report(report)
            # Without a reader there is nobody to run the rest for.
            unread = screen.failure is not None and json_path is None
            if report.faults or interrupts.seen or unread:
                break
        code = _exit_code(reports, interrupted=interrupts.seen)
        if len(reports) > 1:
            screen.show_summary(reports)
        screen.show_outcome(_outcome(code, reports), good=code is ExitCode.HELD)
        if reports:
            target.write(as_document(reports[0].environment, reports))
    if screen.failure is not None and code in (ExitCode.HELD, ExitCode.MISSED):
        raise OutputFailed(f"the report could not be shown: {screen.failure}")
    return code


def _run_profile(
    name: str,
    window: int | None,
    new_loop: LoopFactory,
    interrupts: _Interrupts,
    screen: Screen,
) -> Report:
    with (
        screen.progress(PROFILES[name]) as on_progress,
        asyncio.Runner(loop_factory=new_loop) as runner,
    ):
        driver = Driver(name, window=window, on_progress=on_progress)
        interrupts.watch(driver, runner.get_loop())
        try:
            return runner.run(driver.run())
        finally:
            interrupts.watch(None, None)


def _exit_code(reports: Sequence[Report], *, interrupted: bool) -> ExitCode:
    if any(report.faults for report in reports):
        return ExitCode.UNBALANCED
    if interrupted:
        return ExitCode.INTERRUPTED
    if any(report.missed for report in reports):
        return ExitCode.MISSED
    return ExitCode.HELD


def _outcome(code: ExitCode, reports: Sequence[Report]) -> str:
    if code is ExitCode.UNBALANCED:
        faults = [f"{r.profile.name}: {fault}" for r in reports for fault in r.faults]
        return f"The account does not balance. {'; '.join(faults)}. This is a bug in pmesh."
    if code is ExitCode.INTERRUPTED:
        if not reports:
            return "Interrupted before anything was measured."
        return "Interrupted; the figures are of what was handled until then."
    if code is ExitCode.MISSED:
        missed = [f"{r.profile.name} {v.objective.text}" for r in reports for v in r.missed]
        return f"Missed: {', '.join(missed)}."
    return f"All objectives hold ({', '.join(report.profile.name for report in reports)})."


def _warn_of_build() -> None:
    variants = [name for name in ("debug", "trace") if pmesh.BUILD_INFO[name]]
    if variants:
        click.echo(
            f"pmesh: WARNING: this is a {' and '.join(variants)} build of pmesh; its figures mean"
            " nothing. Measure a release build",
            err=True,
        )


class _Interrupts:
    """Ctrl-C from entering to leaving: the first ends the run in good order, the second at once."""

    def __init__(self) -> None:
        self.seen = False
        self._driver: Driver | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._previous: Any = None

    def __enter__(self) -> Self:
        # Started with SIGINT ignored (a shell's background job), a command goes on ignoring it.
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
        ):
            self._previous = signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def watch(self, driver: Driver | None, loop: asyncio.AbstractEventLoop | None) -> None:
        """Say whom to stop; None while nothing runs."""
        self._driver, self._loop = driver, loop
        if self.seen:
            self._stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.seen:
            raise KeyboardInterrupt
        self.seen = True
        self._stop()

    def _stop(self) -> None:
        if self._driver is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._driver.stop)


class _JsonOutput(Protocol):
    def write(self, document: dict[str, Any]) -> None: ...


class _NoJson:
    def write(self, document: dict[str, Any]) -> None:
        """Nobody asked for it."""


class _JsonStdout:
    def write(self, document: dict[str, Any]) -> None:
        try:
            sys.stdout.write(_dump(document))
            sys.stdout.flush()
        except OSError as error:
            # What is still buffered must not fail once more when the interpreter ends.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise OutputFailed(f"the JSON could not be written to stdout: {error.strerror}") from None


class _JsonFile:
    """A file opened before the run, so that a path that cannot be written is known then.

    What it held is replaced only once there is something to write; a file made here and not written
    is removed again.

    Raises:
        InvalidArgument: The path cannot be opened for writing.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._written = False

    def __enter__(self) -> Self:
        self._is_new = not os.path.lexists(self._path)
        try:
            self._file: BinaryIO = open(self._path, "ab", buffering=0)
        except OSError as error:
            raise InvalidArgument(f"cannot write {self._path!r}: {error.strerror}") from None
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        if self._is_new and not self._written:
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def write(self, document: dict[str, Any]) -> None:
        try:
            # A pipe or a device has nothing to replace.
            if stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                self._file.truncate(0)
            rest = memoryview(_dump(document).encode())
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise OutputFailed(f"cannot write {self._path!r}: {error.strerror}") from None
        self._written = True


def _dump(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, allow_nan=False) + "\n"
