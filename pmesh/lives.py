"""How agents live: what is kept of each, how one starts, and how it ends, alone or with all others.

What users call is in `coordinator.py`, which asks this module; which state may follow which is in
`lifecycle.py`. Everything here happens in the coordinator's event loop.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import threading
from collections.abc import Coroutine
from typing import Any

from pmesh._core import Cell, Counters, Dispatcher, HandlerTable, Meter
from pmesh.agent import Agent, is_overridden
from pmesh.errors import StartFailed
from pmesh.lifecycle import Lifecycle, State, StopReason

__all__ = ["Kind", "Life", "Lives"]

logger = logging.getLogger("pmesh")

# A handler that does not end within this time of being cancelled is written off, so that kill is bounded.
KILL_GRACE_SECONDS = 5.0


class Life(Lifecycle):
    """The coordinator's record of one agent."""

    __slots__ = ("cell", "children", "ended", "kind", "parent", "quiet", "reason", "starting", "stopper")

    def __init__(self, name: str, parent: Life | None) -> None:
        self.name = name
        self.state = State.NEW
        self.cell: Cell
        self.kind: Kind
        self.parent = parent
        self.children: dict[str, Life] | None = None  # in order of start
        self.starting: asyncio.Future[None] | None = None  # done once a suspended on_start is over
        self.quiet: asyncio.Future[None] | None = None  # done once nothing is pending
        self.stopper: asyncio.Task[None] | None = None  # ends the agent; there is only ever one
        self.ended: asyncio.Future[None] | None = None  # for those who wait for the end
        self.reason: StopReason | None = None

    def on_quiet(self) -> None:
        """The core calls this when nothing is pending and somebody asked to know."""
        if self.quiet is not None and not self.quiet.done():
            self.quiet.set_result(None)

    def on_stash_left(self, count: int) -> None:
        """The core calls this when somebody waits for quiet, and what is left is what the agent has stashed."""
        logger.warning(
            "agent %r: nothing is left to handle but %d stashed messages; unless it un-stashes them"
            " they become dead letters when the time for draining is over",
            self.name,
            count,
        )


class Kind:
    """What the agents of one factory have in common in one coordinator."""

    __slots__ = ("agent_class", "base_name", "has_on_start", "meter", "table")

    def __init__(self, agent_class: type[Agent] | None, table: HandlerTable, meter: Meter, factory: Any) -> None:
        self.agent_class = agent_class
        self.table = table
        self.meter = meter
        named = agent_class or factory
        self.base_name = str(getattr(named, "__name__", type(named).__name__)).lower()
        self.has_on_start = agent_class is not None and is_overridden(agent_class, "on_start")


class Lives:
    """The agents of one coordinator that are alive, and the account of those that were.

    Args:
        drain_timeout: Seconds that `on_stop`, and a handler in the way of the coordinator's end, may take.
    """

    def __init__(self, drain_timeout: float) -> None:
        self.by_name: dict[str, Life] = {}  # in order of start
        self.stopped_total = Counters()  # what stopped agents leave to the account
        self.lock = threading.Lock()  # whoever sums up, in any thread, sees a stopping agent once
        self.drain_timeout = drain_timeout
        self._end_by: float | None = None  # when all must have ended, on the loop's clock
        self._loop: asyncio.AbstractEventLoop
        self._dispatcher: Dispatcher

    def open(self, loop: asyncio.AbstractEventLoop, dispatcher: Dispatcher) -> None:
        """Agents may start from now on, in `loop`."""
        self._loop = loop
        self._dispatcher = dispatcher

    def add(self, life: Life) -> None:
        self.by_name[life.name] = life
        if life.parent is not None:
            if life.parent.children is None:
                life.parent.children = {}
            life.parent.children[life.name] = life
        life.move(State.STARTING)

    async def all_quiet(self, seconds: float) -> bool:
        """Wait until no agent has anything pending, since handlers may still send to each other."""
        give_up = self._loop.time() + seconds
        while True:
            busy = [life for life in self.by_name.values() if life.cell.pending]
            if not busy:
                return True
            for life in busy:
                if not await self._quiet(life, give_up - self._loop.time()):
                    return False

    def what_is_pending(self) -> str:
        busy = {name: life.cell.pending for name, life in self.by_name.items() if life.cell.pending}
        shown = ", ".join(f"{name} has {count}" for name, count in itertools.islice(busy.items(), 5))
        return (
            f"{sum(busy.values())} messages pending in {len(busy)} agents ({shown}{', ...' if len(busy) > 5 else ''})"
        )

    async def stop_all(self, reason: StopReason) -> None:
        """End every agent, newest first, all within the drain timeout and the grace of those that are cancelled."""
        if self._end_by is None:
            self._end_by = self._loop.time() + self.drain_timeout
        if reason is not StopReason.SHUTDOWN:
            # There is no time left to wait for one after the other.
            self.begin_kill_all(reason)
        for life in reversed(list(self.by_name.values())):
            await self.stop(life, reason)

    def begin_kill_all(self, reason: StopReason = StopReason.KILLED) -> None:
        for life in reversed(list(self.by_name.values())):
            self.begin_stop(life, reason)

    def _seconds_left(self) -> float:
        if self._end_by is None:
            return self.drain_timeout
        return max(0.0, min(self.drain_timeout, self._end_by - self._loop.time()))

    async def run_on_start(self, life: Life, agent: Agent) -> None:
        """Run `on_start` in the agent's own Task; leaves the agent STARTING or DRAINING, or raises once it ended."""
        error: BaseException | None = None
        try:
            hook = life.cell.run_hook(agent.on_start)
            if hook is not None:
                life.starting = self._loop.create_future()
                try:
                    await hook
                except asyncio.CancelledError:
                    life.cell.cancel_handlers()
                    raise
                finally:
                    life.starting.set_result(None)
        except BaseException as raised:  # noqa: BLE001 - raised again below, once the agent has ended
            error = raised
        if error is None and life.state in (State.STARTING, State.DRAINING):
            return
        if error is not None and life.state in (State.STARTING, State.DRAINING):
            if life.stopper is not None:
                life.stopper.cancel()
                life.stopper = None
            life.cell.close()
            life.move(State.FAILED)
            self.begin_stop(life, StopReason.FAILED, run_on_stop=False)
            await self.until_ended(life)
            raise error
        await self.until_ended(life)
        raise self.start_failed(life) from error

    def start_failed(self, life: Life) -> StartFailed:
        return StartFailed(f"agent {life.name!r} was stopped while it started")

    async def stop(self, life: Life, reason: StopReason) -> None:
        self.begin_stop(life, reason)
        if not self.called_from(life):
            await self.until_ended(life)

    def called_from(self, life: Life) -> bool:
        """Whether a handler of this agent, or of one below it, is what calls: its end cannot be awaited there."""
        cell = self._dispatcher.current_cell()
        caller = None if cell is None else cell.life
        while caller is not None:
            if caller is life:
                return True
            caller = caller.parent
        return False

    async def until_ended(self, life: Life) -> None:
        """Wait for the end of an agent that is being stopped."""
        if life.state is State.STOPPED:
            return
        if life.ended is None:
            life.ended = self._loop.create_future()
        # Many may wait for the one end, and none of them may cancel it for the others.
        await asyncio.shield(life.ended)

    def begin_drain(self, life: Life, seconds: float) -> None:
        if life.stopper is not None or life.state in (State.STOPPING, State.STOPPED):
            return
        life.cell.close()
        life.cell.refuse_waiters()
        if life.state is not State.DRAINING:
            life.move(State.DRAINING)
        self._set_stopper(life, self._drain(life, seconds), "drain")

    async def _drain(self, life: Life, seconds: float) -> None:
        give_up = self._loop.time() + seconds
        if life.starting is not None:
            await asyncio.wait([life.starting], timeout=seconds)
        done = await self._quiet(life, give_up - self._loop.time())
        if life.state is State.DRAINING:
            life.move(State.STOPPING)
            await self._end(life, StopReason.DRAINED if done else StopReason.DRAIN_TIMEOUT, True)

    def begin_stop(self, life: Life, reason: StopReason, *, run_on_stop: bool = True) -> None:
        """Close the mailbox and start the end; a kill hastens an end that has begun."""
        if life.state is State.STOPPED:
            return
        life.cell.close()
        if life.state is State.STOPPING:
            if reason in (StopReason.KILLED, StopReason.DRAIN_TIMEOUT):
                self._force(life)
            return
        if life.stopper is not None:
            life.stopper.cancel()  # a drain that is hastened
        starting = life.state is State.STARTING
        life.cell.discard()
        life.move(State.STOPPING)
        if starting:
            run_on_stop = False
            life.cell.cancel_handlers()
        agent = life.cell.agent
        run_on_stop = run_on_stop and agent is not None and is_overridden(type(agent), "on_stop")
        if not (life.children or life.cell.pending or run_on_stop or starting):
            # Nothing to wait for: most agents of a large mesh end here, without a task of their own.
            self._finish(life, reason)
            return
        self._set_stopper(life, self._end(life, reason, run_on_stop), "stop")

    def _set_stopper(self, life: Life, ending: Coroutine[Any, Any, None], verb: str) -> None:
        life.stopper = self._loop.create_task(ending, name=f"pmesh-{verb}-{life.name}")
        life.stopper.add_done_callback(functools.partial(self._stopper_done, life))

    def _stopper_done(self, life: Life, stopper: asyncio.Task[None]) -> None:
        """A stopper that was cancelled, perhaps before its first step, must not leave its agent half ended."""
        if life.stopper is not stopper or life.state is State.STOPPED:
            return
        if life.state is not State.STOPPING:
            life.move(State.STOPPING)
        self._finish(life, StopReason.KILLED)

    async def _end(self, life: Life, reason: StopReason, run_on_stop: bool) -> None:
        """Children, the message in hand, `on_stop`, and the last entries in the account; state is STOPPING."""
        cell = life.cell
        forced = reason in (StopReason.KILLED, StopReason.DRAIN_TIMEOUT)
        try:
            if life.starting is not None:
                if not life.starting.done():
                    self._loop.call_later(KILL_GRACE_SECONDS, self._write_off, life)
                await asyncio.shield(life.starting)
            for child in reversed(list((life.children or {}).values())):
                self.begin_stop(child, reason)
                await self.until_ended(child)
            cell.discard()
            if forced:
                self._force(life)
            if not await self._quiet(life, self._seconds_left() if reason is StopReason.SHUTDOWN else None):
                self._force(life)
                await self._quiet(life, None)
            if run_on_stop:
                await self._run_on_stop(life, reason)
        finally:
            self._finish(life, reason)

    async def _run_on_stop(self, life: Life, reason: StopReason) -> None:
        """Run `on_stop`, bounded in time; whatever it raises is logged, so that the agent ends."""
        cell = life.cell
        if cell.agent is None or not is_overridden(type(cell.agent), "on_stop"):
            return
        seconds = self._seconds_left()
        try:
            hook = cell.run_hook(cell.agent.on_stop, reason)
            if hook is not None:
                async with asyncio.timeout(seconds):
                    await hook
        except TimeoutError:
            cell.cancel_handlers()
            logger.error("agent %r: on_stop did not end within %g s", life.name, seconds)
        except asyncio.CancelledError:
            cell.cancel_handlers()
            logger.error("agent %r: on_stop failed: it was cancelled", life.name)
        except Exception:
            logger.exception("agent %r: on_stop failed", life.name)

    def _force(self, life: Life) -> None:
        """Dead-letter what waits and cancel what runs; what outlives that is written off, so that it ends."""
        life.cell.discard()
        if life.cell.cancel_handlers():
            self._loop.call_later(KILL_GRACE_SECONDS, self._write_off, life)

    def _write_off(self, life: Life) -> None:
        written_off = life.cell.abandon_handlers() if life.state is not State.STOPPED else 0
        if written_off:
            logger.error(
                "agent %r: %d handlers went on %g s after they were cancelled; their messages count failed",
                life.name,
                written_off,
                KILL_GRACE_SECONDS,
            )

    def _finish(self, life: Life, reason: StopReason) -> None:
        """The last step of every end: out of the registry, and into the total of stopped agents."""
        cell = life.cell
        if cell.pending:
            # Only when the one who ends it was cancelled: nobody waits for these any more.
            cell.discard()
            cell.cancel_handlers()
            cell.abandon_handlers()
        life.reason = reason
        cell.end_slots()
        with self.lock:
            self.by_name.pop(life.name, None)
            cell.bequeath(self.stopped_total)
            if cell.recorders is not life.kind.meter:
                _add_times(life.kind.meter, cell.recorders)
        if life.parent is not None and life.parent.children is not None:
            life.parent.children.pop(life.name, None)
        life.move(State.STOPPED)
        if life.ended is not None and not life.ended.done():
            life.ended.set_result(None)

    async def _quiet(self, life: Life, seconds: float | None) -> bool:
        """Wait until nothing is pending for an agent; False when that took too long."""
        if not life.cell.pending:
            return True
        if life.quiet is None or life.quiet.done():
            life.quiet = self._loop.create_future()
            life.cell.watch_quiet()
        if seconds is None:
            await asyncio.shield(life.quiet)
            return True
        done, _ = await asyncio.wait([life.quiet], timeout=max(seconds, 0.0))
        return bool(done)

    def fail_overflowed(self, cell: Cell, payload_type: str) -> None:
        life = cell.life
        if life.state in (State.RUNNING, State.DRAINING, State.STARTING):
            logger.error(
                "agent %r failed: its mailbox overflowed with %s, and its policy is STOP",
                cell.name,
                payload_type,
            )
            cell.close()
            life.move(State.FAILED)
            self.begin_stop(life, StopReason.FAILED)

    def kill_cancelled(self, cell: Cell) -> None:
        if cell.life.state not in (State.STOPPING, State.STOPPED):
            if not self._dispatcher.closing:
                logger.warning("agent %r: its task was cancelled from outside, which kills the agent", cell.name)
            self.begin_stop(cell.life, StopReason.KILLED)


def _add_times(total: Meter, part: Meter) -> None:
    parts = part.by_name()
    for name, recorder in total.by_name().items():
        recorder.merge(parts[name])
