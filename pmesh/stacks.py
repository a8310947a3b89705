"""Where code stands: the frames of a suspended coroutine, of a blocked handler, and what is waited for, in words.

Nothing here shows the value of a variable or of a payload.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import gc
import sys
import threading
import traceback
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType

from pmesh._core import InHand, Waiter
from pmesh.units import duration_text

__all__ = ["HIDDEN", "Frames", "blocked_frames", "frames_text", "may_look", "suspended_frames", "wait_text"]

# The innermost frame last, as in a traceback.
Frames = list[FrameType]

# Deeper awaits are not followed; coroutines may await each other in a circle of their own making.
DEEPEST = 1_000

_WITH_FRAMES = (CoroutineType, GeneratorType, AsyncGeneratorType)
_LOOKERS = (__name__, "pmesh.debug")
_HANDLE_RUN = asyncio.events.Handle._run.__code__


# What stands in the place of frames that may not be looked at.
HIDDEN = "(frames of another thread are not shown without a GIL)"


def may_look(thread_id: int) -> bool:
    """Whether the frames and coroutines of a thread can be looked at from here.

    Without a GIL those of another thread may be running, and looking at them may crash the interpreter: a known
    limitation of it (docs.python.org/3.13/howto/free-threading-python.html, "Frame objects").
    """
    gil_enabled = getattr(sys, "_is_gil_enabled", None)
    return thread_id == threading.get_ident() or gil_enabled is None or bool(gil_enabled())


def suspended_frames(coroutine: object) -> Frames:
    """The frames of a suspended coroutine and of those that it awaits, in turn."""
    frames: Frames = []
    here = coroutine
    while here is not None and len(frames) < DEEPEST:
        if not isinstance(here, _WITH_FRAMES):
            # What `async for` and `__await__` put around a generator or coroutine does not show it.
            here = next((inner for inner in gc.get_referents(here) if isinstance(inner, _WITH_FRAMES)), None)
        frame, here = _frame_and_awaited(here)
        if frame is None:
            break
        frames.append(frame)
    return frames


def _frame_and_awaited(awaitable: object) -> tuple[FrameType | None, object]:
    if isinstance(awaitable, CoroutineType):
        return awaitable.cr_frame, awaitable.cr_await
    if isinstance(awaitable, GeneratorType):
        return awaitable.gi_frame, awaitable.gi_yieldfrom
    if isinstance(awaitable, AsyncGeneratorType):
        return awaitable.ag_frame, awaitable.ag_await
    return None, None


def blocked_frames(thread_id: int, in_hand: InHand) -> Frames:
    """The frames of the thread that runs a handler right now, from the handler's own to the innermost.

    Those of whoever looks are left out, where that is the handler itself or a signal that interrupted it.
    """
    frames: Frames = []
    frame = sys._current_frames().get(thread_id)
    while frame is not None and frame.f_code is not _HANDLE_RUN:
        if frame.f_globals.get("__name__") not in _LOOKERS:
            frames.append(frame)
        frame = frame.f_back
    frames.reverse()
    code = getattr(in_hand.function, "__code__", None)
    for place, each in enumerate(frames):
        if each.f_code is code:
            return frames[place:]
    return frames


def frames_text(frames: Frames) -> str:
    """As in a traceback, with the lines of source; empty for no frames."""
    summary = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames)
    return "".join(summary.format())


def wait_text(waits_on: object, now_ns: int, *, shows_places: bool = True) -> str:
    """What a suspended handler waits for: "the answer of agent 'bank' (for 1.25 s)".

    Args:
        shows_places: Where in its code a task is that is waited for, too; see `may_look`.
    """
    if isinstance(waits_on, Waiter):
        what, agent, since_ns = waits_on.awaited
        waited = f"(for {duration_text(max(now_ns - since_ns, 0))})"
        if what == "answer":
            return f"the answer of agent {agent!r} {waited}"
        if what == "room":
            return f"room in the mailbox of agent {agent!r} {waited}"
        if what == "place":
            return f"a place in the window, to send to agent {agent!r} {waited}"
        return f"a lifecycle hook of agent {agent!r} {waited}"
    if waits_on is None:
        return "its next turn of the event loop"
    if isinstance(waits_on, asyncio.Task):
        frames = suspended_frames(waits_on.get_coro()) if shows_places else []
        place = f" at {place_text(frames[-1])}" if frames else ""
        return f"task {waits_on.get_name()!r}{place}"
    children: list[object] = []
    if isinstance(waits_on, asyncio.Future):
        # What `gather` waits with has them.
        children = [child for child in getattr(waits_on, "_children", ()) if not child.done()]
    if children:
        more = f" and {len(children) - 1} more" if len(children) > 1 else ""
        return f"{wait_text(children[0], now_ns, shows_places=shows_places)}{more}"
    return f"a {type(waits_on).__name__}"


def place_text(frame: FrameType) -> str:
    """Where a frame stands, on one line."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}"
