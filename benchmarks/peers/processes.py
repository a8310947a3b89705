"""Families of processes: finds them, and ends them to the last one."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def prctl(option: int, value: int) -> None:
    """Linux only; elsewhere nothing is asked for, and daemons of a peer outlive their measurement."""
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def adopt_orphans() -> None:
    """Makes this process the parent of descendants whose own parent ends, daemons too."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """Has this process sent SIGTERM when its parent ends, however that ends."""
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def descendants(pid: int) -> list[int]:
    """Children of `pid`, their children and so on; parents before children. Linux only, elsewhere none."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The command's name, in parentheses, may hold anything; the state and the parent follow it.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found[1:]


def end_descendants(deadline_seconds: float = 10.0) -> None:
    """Kills all descendants of this process, also what they start meanwhile, and waits for their end.

    Raises:
        TimeoutError: Some are left after `deadline_seconds`.
    """
    deadline = time.monotonic() + deadline_seconds
    while left := descendants(os.getpid()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {left} are left, {deadline_seconds:g} s after they were killed")
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it ended meanwhile
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass  # none is left
        time.sleep(0.002)
