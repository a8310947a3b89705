"""Where the output of a command goes: files that are opened before it runs and written after it, and stdout."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any, BinaryIO, Self

from pmesh.errors import InvalidArgument, PmeshError
from pmesh.streams import discard_rest

__all__ = ["OutputFailed", "Outputs"]


class OutputFailed(PmeshError):
    """A report is there and could not be written or shown; the text says where and why."""


class Outputs:
    """The files of one command, from entering to leaving.

    Each is opened on entering, so that a path that cannot be written is known before anything runs. What it held
    is replaced only once there is something to write, and room for it; a file made here and not written is removed
    again.

    Args:
        paths: By format, each a path, "-" for stdout (one of them at most) or None. A path such as /dev/stdout,
            which names what stdout writes to, is taken for "-".

    Raises:
        InvalidArgument: On entering: a path cannot be opened for writing, or two outputs would write one file, be
            it by different names.
    """

    def __init__(self, paths: Mapping[str, str | None]) -> None:
        self._paths = {kind: path for kind, path in paths.items() if path is not None}
        self._files: dict[str, BinaryIO] = {}
        self._made: list[str] = []
        self._written: list[str] = []

    @property
    def on_stdout(self) -> bool:
        """Whether one of them is stdout."""
        return "-" in self._paths.values()

    def __bool__(self) -> bool:
        return bool(self._paths)

    def __enter__(self) -> Self:
        try:
            for kind, path in self._paths.items():
                if path == "-":
                    continue
                is_new = not os.path.lexists(path)
                try:
                    self._files[kind] = open(path, "wb", buffering=0, opener=_open_untouched)
                except OSError as error:
                    raise InvalidArgument(f"cannot write {path!r}: {error.strerror}") from None
                if is_new:
                    self._made.append(path)
            self._tell_apart()
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

    def _tell_apart(self) -> None:
        """Refuse two outputs to one file, and find those that are stdout by another name."""
        stdout = _identity(sys.stdout)
        writers: dict[object, str] = {}
        for kind in list(self._paths):
            file = self._files.get(kind)
            identity = stdout if file is None else _identity(file)
            if file is not None and identity is not None and identity == stdout:
                self._paths[kind] = "-"
            if self._paths[kind] == "-":
                identity = "-"
            if identity in writers:
                target = "stdout" if identity == "-" else repr(self._paths[kind])
                raise InvalidArgument(f"--{writers[identity]} and --{kind} would both write {target}")
            if identity is not None:
                writers[identity] = kind

    def write_each(self, makers: Mapping[str, Callable[[], str]]) -> None:
        """Write what each format's maker returns.

        Raises:
            OutputFailed: One could not be made or written; the others were.
        """
        failures: dict[str, Exception] = {}
        for kind, make in makers.items():
            path = self._paths[kind]
            try:
                # Of a name that was read, half a surrogate pair is left out rather than the report.
                content = make().encode(errors="replace")
            except Exception as error:  # noqa: BLE001 - raised again below, once the others are written
                failures[f"the {kind.upper()} could not be made: {type(error).__name__}: {error}"] = error
                continue
            try:
                if path == "-":
                    _write_stdout(content)
                else:
                    _replace(self._files[kind], content)
                    self._written.append(path)
            except OSError as error:
                target = (
                    f"the {kind.upper()} could not be written to stdout" if path == "-" else f"cannot write {path!r}"
                )
                failures[f"{target}: {error.strerror}"] = error
        if failures:
            raise OutputFailed("; ".join(failures)) from next(iter(failures.values()))


def _identity(file: IO[Any]) -> object:
    """What tells `file` from others by whatever name it was opened; None where several may write without harm."""
    try:
        status = os.fstat(file.fileno())
    except OSError:
        return None  # a stream in memory
    # A device other than a terminal is such as /dev/null.
    return None if stat.S_ISCHR(status.st_mode) and not file.isatty() else (status.st_dev, status.st_ino)


def _write_stdout(content: bytes) -> None:
    try:
        sys.stdout.flush()
        # UTF-8 as in a file, whatever the locale says.
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except OSError:
        discard_rest(sys.stdout)
        raise


def _open_untouched(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_TRUNC, 0o666)


def _replace(file: BinaryIO, content: bytes) -> None:
    """Write `content` in place of what the file holds, which stays where there is no room for it."""
    status = os.fstat(file.fileno())
    # A pipe or a device has nothing to replace.
    if stat.S_ISREG(status.st_mode):
        if not _reserve(file, len(content), status.st_size):
            file.truncate(0)
        elif len(content) < status.st_size:
            file.truncate(len(content))
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _reserve(file: BinaryIO, size: int, held: int) -> bool:
    """Make sure that there is room for `size` bytes, and leave the `held` ones alone.

    Returns:
        False where the file system promises nothing.

    Raises:
        OSError: There is no room, by the disk, a quota or a limit of the process.
    """
    if not size or not hasattr(os, "posix_fallocate"):
        return False
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        # The C library imitates it only for files that can be read as well.
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF):
            return False
        # It may have grown the file up to where the room ended.
        file.truncate(held)
        raise
    return True
