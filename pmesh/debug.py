"""What every agent of a mesh does at this instant: `dump`, `dump_text`, and the same on a signal.

    pmesh.debug.dump(mesh)
    pmesh.debug.dump_on_signal(mesh)        # and then: kill -USR1 <pid>

It may be called from any thread, also while the event loop is blocked, and takes no lock that what it interrupts may
hold. It shows types and names, never what is in a message.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import TextIO

from pmesh._core import InHand
from pmesh.coordinator import Coordinator
from pmesh.errors import InvalidArgument, InvalidType
from pmesh.lifecycle import State
from pmesh.lives import Life
from pmesh.stacks import HIDDEN, blocked_frames, may_look, place_text, suspended_frames, wait_text
from pmesh.units import duration_text

__all__ = ["dump", "dump_on_signal", "dump_text"]

logger = logging.getLogger("pmesh")

# Busy agents that are shown where not all are asked for.
MOST_SHOWN = 200


def dump(mesh: Coordinator, file: TextIO | None = None, *, all_agents: bool = False) -> None:
    """Write `dump_text(mesh)` to `file`, by default stderr."""
    (sys.stderr if file is None else file).write(dump_text(mesh, all_agents=all_agents))


def dump_text(mesh: Coordinator, *, all_agents: bool = False) -> str:
    """All that is under way in `mesh`: each agent with its state, its mail, and what it waits for since when.

    Agents stand below their parents, those first that have been at it for longest. Of agents that have nothing to do,
    and of busy ones beyond the first 200, only the number is told, unless `all_agents`.
    """
    if not isinstance(mesh, Coordinator):
        raise InvalidType(f"mesh is {mesh!r}; it must be a pmesh.Coordinator")
    return "".join(f"{line}\n" for line in _lines(mesh, all_agents))


def dump_on_signal(
    mesh: Coordinator,
    signum: int = signal.SIGUSR1,
    *,
    file: TextIO | None = None,
    all_agents: bool = False,
) -> contextlib.ExitStack:
    """Dump whenever the process gets `signum`, also while a handler blocks the loop; to be called in the main thread.

    The dump is made in the main thread, between two steps of the Python code there: at once when that runs the loop
    or sleeps, after the call when it is inside of an extension that does not let signals in.

    Args:
        file: Where to, by default stderr.

    Returns:
        What gives the signal back to whom it had before, with `close()` or at the end of a `with` block.

    Raises:
        InvalidArgument: The signal cannot be caught, or this is not the main thread.
    """
    if not isinstance(mesh, Coordinator):
        raise InvalidType(f"mesh is {mesh!r}; it must be a pmesh.Coordinator")

    def on_signal(number: int, frame: object) -> None:
        try:
            _write_now(dump_text(mesh, all_agents=all_agents), file)
        except Exception:
            # It would surface in whatever code the signal found running.
            logger.exception("a dump on signal %d failed", number)

    try:
        before = signal.signal(signum, on_signal)
    except (ValueError, OSError, TypeError) as error:
        raise InvalidArgument(
            f"signum is {signum!r}: {error}; it must be a signal that can be caught, such as signal.SIGUSR1,"
            " and be set in the main thread"
        ) from None
    undo = contextlib.ExitStack()
    undo.callback(signal.signal, signum, signal.SIG_DFL if before is None else before)
    return undo


def _write_now(text: str, file: TextIO | None) -> None:
    """Past the buffer where there is a descriptor: the signal may have come in the middle of a write to it."""
    target = sys.stderr if file is None else file
    try:
        descriptor = target.fileno()
    except (AttributeError, OSError, ValueError):
        target.write(text)
        return
    data = text.encode("utf-8", "backslashreplace")
    while data:
        data = data[os.write(descriptor, data) :]


def _lines(mesh: Coordinator, all_agents: bool) -> Iterator[str]:
    # One step in C, and so of one instant; the lock of the registry may be held by what this interrupted.
    lives = list(mesh._lives.by_name.values())
    now_ns = mesh._clock.now_ns()
    yield _summary(mesh, lives, now_ns)
    known = set(lives)
    ranks: dict[Life, int] = {}
    busy = sorted((life for life in lives if _is_busy(life)), key=lambda life: _oldest(life, now_ns))
    for rank, life in enumerate(busy if all_agents else busy[:MOST_SHOWN]):
        # Whoever is above one that is shown is shown too.
        above: Life | None = life
        while above is not None and above not in ranks:
            ranks[above] = rank
            above = above.parent if above.parent in known else None
    shown = lives if all_agents else [life for life in lives if life in ranks]
    below: dict[Life | None, list[Life]] = {}
    for life in shown:
        below.setdefault(life.parent if life.parent in known else None, []).append(life)
    todo = [(life, 1) for life in _by_rank(below.get(None, []), ranks)]
    while todo:
        life, depth = todo.pop()
        yield from _agent_lines(mesh, life, "  " * depth, now_ns)
        todo.extend((child, depth + 1) for child in _by_rank(below.get(life, []), ranks))
    hidden_busy = sum(life not in ranks for life in busy)
    hidden_idle = len(lives) - len(shown) - hidden_busy
    if hidden_busy:
        yield f"  and {hidden_busy} more busy agents"
    if hidden_idle:
        yield f"  and {hidden_idle} agents that have nothing to do"


def _by_rank(lives: list[Life], ranks: dict[Life, int]) -> list[Life]:
    """Last to be shown first, as a stack wants it; those without a rank in order of start."""
    return sorted(lives, key=lambda life: ranks.get(life, len(ranks)))[::-1]


def _summary(mesh: Coordinator, lives: list[Life], now_ns: int) -> str:
    if mesh._keeper is None:
        return f"coordinator {mesh.name!r}: not entered"
    dispatcher = mesh._dispatcher
    if mesh._forked:
        status = "a copy in a forked child"
    elif mesh._closed:
        status = "closed"
    else:
        status = "closing" if dispatcher.closing else "open"
    window = f"{dispatcher.in_window} of {dispatcher.window} places in the window taken"
    return (
        f"coordinator {mesh.name!r}: {status}, {len(lives)} agents,"
        f" {sum(life.cell.pending for life in lives)} messages pending,"
        f" {window if dispatcher.window else 'no window'}{_senders_text(dispatcher.window_waits(), now_ns)},"
        f" {dispatcher.timeouts} timeouts set, {mesh.stalls.count} stalls reported"
    )


def _is_busy(life: Life) -> bool:
    return bool(life.cell.pending) or life.state is not State.RUNNING or life.cell.room_waits() is not None


def _oldest(life: Life, now_ns: int) -> tuple[int, int]:
    """Sorts those first that have had something in hand for longest, and then those with most mail."""
    starts = [in_hand.started_ns for in_hand in life.cell.in_hand_now()]
    return min(starts, default=now_ns), -life.cell.pending


def _agent_lines(mesh: Coordinator, life: Life, indent: str, now_ns: int) -> Iterator[str]:
    try:
        cell = life.cell
        capacity, concurrency = cell.policy
        in_hand = cell.in_hand_now()
        lanes = ", ".join(f"{lane} {count}" for lane, count in cell.lanes().items())
        account = ", ".join(f"{name} {count}" for name, count in cell.counters().as_dict().items() if count)
        yield (
            f"{indent}{life.name}: {life.state.value}, {len(in_hand)} of {concurrency} in hand,"
            f" waiting: {lanes} (capacity {capacity}){_senders_text(cell.room_waits(), now_ns)};"
            f" {account or 'nothing sent'}"
        )
        for each in in_hand:
            yield from _in_hand_lines(mesh, each, f"{indent}    ", now_ns)
    except Exception as error:  # noqa: BLE001 - it changes while it is looked at, and the others are to be shown
        yield f"{indent}{life.name}: cannot be shown: {type(error).__name__}: {error}"


def _in_hand_lines(mesh: Coordinator, in_hand: InHand, indent: str, now_ns: int) -> Iterator[str]:
    message = "" if in_hand.payload_type is None else f" of {in_hand.payload_type}"
    sender = "" if in_hand.sender is None else f" from {in_hand.sender!r}"
    shows_places = may_look(mesh._dispatcher.thread_id)
    awaited = None if in_hand.is_running else wait_text(in_hand.waits_on, now_ns, shows_places=shows_places)
    doing = "runs right now" if awaited is None else f"waits for {awaited}"
    time_text = duration_text(max(now_ns - in_hand.started_ns, 0))
    yield f"{indent}{in_hand.handler}{message}{sender}, for {time_text}: {doing}"
    if not shows_places:
        yield f"{indent}  {HIDDEN}"
        return
    if in_hand.is_running:
        frames = blocked_frames(mesh._dispatcher.thread_id, in_hand)
    else:
        frames = suspended_frames(in_hand.coroutine)
    for frame in frames:
        yield f"{indent}  at {place_text(frame)}"


def _senders_text(waits: tuple[int, int] | None, now_ns: int) -> str:
    if waits is None:
        return ""
    count, since_ns = waits
    senders = "1 sender waits" if count == 1 else f"{count} senders wait, the longest"
    return f" and {senders} for {duration_text(max(now_ns - since_ns, 0))}"
