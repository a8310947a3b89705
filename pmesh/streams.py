"""stdout and stderr as a command may find them: closed, full, or with a reader that has gone."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

__all__ = ["CONTROLS", "discard_rest", "flush", "replace_closed"]

# For `str.translate`: the C0 and C1 control characters but the line feed. In text that others wrote they would be
# commands to the terminal.
CONTROLS = dict.fromkeys(code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) != "\n")


def replace_closed() -> None:
    """Put a stream that refuses whatever is written in the place of each that the process was started without."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # It is open for reading only, so that a write fails as on a closed descriptor. It also takes the number
            # of that descriptor, which no report may get: other code writes to it unasked.
            null = os.open(os.devnull, os.O_RDONLY)
            setattr(sys, name, os.fdopen(null, "w", encoding="utf-8", closefd=False))


def flush() -> bool:
    """Flush both streams; False when one does not take what it holds, which is then discarded."""
    done = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            discard_rest(stream)
            done = False
    return done


def discard_rest(file: TextIO) -> None:
    """Let what is buffered go nowhere, or the interpreter complains of it when it exits."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, file.fileno())
        os.close(null)
