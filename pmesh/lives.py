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
from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pmesh._core import AgentRef, Cell, Counters, Dispatcher, HandlerTable, Meter, Waiter
from pmesh.agent import Agent, MailboxPolicy, is_overridden
from pmesh.errors import CoordinatorClosed, IllegalTransition, StartFailed
from pmesh.lifecycle import Lifecycle, State, StopReason
from pmesh.supervision import ChildSupervision, SupervisionPolicy
from pmesh.values import Value

if TYPE_CHECKING:
    from pmesh.recovery import Record, Recovery

__all__ = ["NO_ARGUMENTS", "Arguments", "Kind", "Life", "Lives", "Terminated"]

logger = logging.getLogger("pmesh")

# A handler that does not end within this time of being cancelled is written off, so that kill is bounded.
KILL_GRACE_SECONDS = 5.0

# To ask an enum for a member is a call of Python, and most agents of a large mesh start and stop at once.
_STOPPING, _STOPPED = _ENDING = (State.STOPPING, State.STOPPED)

# Ends for which handlers are cancelled.
_AT_ONCE = (StopReason.KILLED, StopReason.DRAIN_TIMEOUT)


class Terminated(Value):
    """An agent that was watched has stopped; for its watchers, on the control lane.

    Args:
        reason: Why.
        incarnation: Which agent of its name it was: every spawn has a higher number than those before it.
    """

    ref: AgentRef
    reason: StopReason
    incarnation: int


class Arguments(NamedTuple):
    """What an agent was spawned with, to make its next instance and its next incarnation."""

    args: tuple[object, ...] = ()
    kwargs: Mapping[str, Any] = MappingProxyType({})
    mailbox: MailboxPolicy | None = None
    concurrency: int | None = None
    own_recorders: bool = False


NO_ARGUMENTS = Arguments()


class Life(Lifecycle):
    """The coordinator's record of one agent."""

    __slots__ = (
        "arguments",
        "cell",
        "children",
        "ended",
        "idle",
        "incarnation",
        "kind",
        "parent",
        "policy",
        "quiet",
        "reason",
        "record",
        "rules",
        "starting",
        "stopper",
        "watchers",
        "watching",
    )

    def __init__(self, name: str, parent: Life | None, policy: SupervisionPolicy, incarnation: int) -> None:
        self.name = name
        self.state = State.NEW
        self.cell: Cell
        self.kind: Kind
        self.parent = parent
        self.policy = policy
        self.incarnation = incarnation  # each spawn has a number of its own, in order
        self.arguments: Arguments | None = None  # of its spawn; None when there were none
        self.rules: ChildSupervision | None = None  # how it supervises its children; None until one fails
        self.record: Record | None = None  # of its failures; None until there is one
        self.watchers: dict[Life, None] | None = None  # those that are told of its end
        self.watching: dict[Life, None] | None = None
        self.children: dict[str, Life] | None = None  # in order of start
        self.starting: asyncio.Future[None] | None = None  # done once a suspended hook is over
        self.quiet: asyncio.Future[None] | None = None  # done once nothing is pending
        self.idle: asyncio.Future[None] | None = None  # done once no handler runs
        self.stopper: asyncio.Task[None] | None = None  # ends the agent; there is only ever one
        self.ended: asyncio.Future[None] | None = None  # for those who wait for the end
        self.reason: StopReason | None = None

    def on_quiet(self) -> None:
        """The core calls this when nothing is pending and somebody asked to know."""
        if self.quiet is not None and not self.quiet.done():
            self.quiet.set_result(None)

    def on_idle(self) -> None:
        """The core calls this when no handler runs and somebody asked to know."""
        if self.idle is not None and not self.idle.done():
            self.idle.set_result(None)

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

    __slots__ = ("agent_class", "base_name", "factory", "has_on_start", "meter", "table")

    def __init__(self, agent_class: type[Agent] | None, table: HandlerTable, meter: Meter, factory: Any) -> None:
        self.agent_class = agent_class
        self.factory = factory
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
        # Whoever sums up, in any thread, sees a stopping agent once. Reentrant: a signal handler, or a finaliser that a
        # collection of garbage calls, may sum up while this thread does.
        self.lock = threading.RLock()
        self.drain_timeout = drain_timeout
        self.recovery: Recovery
        self.on_end: Callable[[Life], None] | None = None  # told of each agent that has stopped
        self._forced: set[Life] = set()  # those that end, and whose handlers have been cancelled for that
        self._end_by: float | None = None  # when all must have ended, on the loop's clock
        self._loop: asyncio.AbstractEventLoop
        self._dispatcher: Dispatcher

    def open(self, loop: asyncio.AbstractEventLoop, dispatcher: Dispatcher) -> None:
        """Agents may start from now on, in `loop`."""
        self._loop = loop
        self._dispatcher = dispatcher

    def add(self, life: Life) -> None:
        life.move(State.STARTING)
        self.by_name[life.name] = life
        if life.parent is not None:
            if life.parent.children is None:
                life.parent.children = {}
            life.parent.children[life.name] = life

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
            if life not in self._forced:
                self.begin_stop(life, reason)
            await self.until_ended(life)

    def hurry(self) -> None:
        """Hooks, too, have only so long from now on as a cancelled handler has."""
        end_by = self._loop.time() + min(self.drain_timeout, KILL_GRACE_SECONDS)
        self._end_by = end_by if self._end_by is None else min(self._end_by, end_by)

    def begin_kill_all(self, reason: StopReason = StopReason.KILLED) -> None:
        for life in reversed(list(self.by_name.values())):
            if life not in self._forced:
                self.begin_stop(life, reason, is_alone=True)

    @property
    def is_closing(self) -> bool:
        return self._dispatcher.closing

    def restarter_of(self, life: Life) -> asyncio.Task[None] | None:
        """The task that restarts an agent, if one does."""
        return None if life.record is None else life.record.restarter

    def _seconds_left(self) -> float:
        if self._end_by is None:
            return self.drain_timeout
        return max(0.0, min(self.drain_timeout, self._end_by - self._loop.time()))

    def _grace_left(self) -> float:
        """How long what is cancelled is waited for; when all must have ended, there is one grace for all."""
        if self._end_by is None:
            return KILL_GRACE_SECONDS
        return max(0.0, min(KILL_GRACE_SECONDS, self._end_by + KILL_GRACE_SECONDS - self._loop.time()))

    async def run_on_start(self, life: Life, agent: Agent) -> None:
        """Run `on_start` in the agent's own Task; leaves the agent STARTING or DRAINING, or raises once it ended."""
        error: BaseException | None = None
        try:
            waiter = life.cell.run_hook(agent.on_start)
            if waiter is not None:
                await self._hook_over(life, waiter)
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

    async def run_hook(self, life: Life, hook: Callable[..., object], *args: object) -> None:
        """Call a hook in a slot of the agent, and wait for its end. Raises what it raises.

        Cancel safety: a cancelled call cancels the hook.
        """
        waiter = life.cell.run_hook(hook, *args)
        if waiter is not None:
            await self._hook_over(life, waiter)

    async def _hook_over(self, life: Life, waiter: Waiter) -> None:
        life.starting = self._loop.create_future()
        try:
            await waiter
        except asyncio.CancelledError:
            life.cell.cancel_handlers()
            raise
        finally:
            life.starting.set_result(None)

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
        if self.restarter_of(life) is not None:
            self.recovery.hasten(life)
        elif life.state is State.FAILED:
            self.begin_stop(life, StopReason.FAILED)  # what it is about to be
            return
        elif life.state is not State.DRAINING:
            self._start_draining(life)
        self._set_stopper(life, self._drain(life, seconds), "drain")

    def _start_draining(self, life: Life) -> None:
        suspended = life.state is State.SUSPENDED
        life.move(State.DRAINING)
        if suspended:
            life.cell.resume()

    async def _drain(self, life: Life, seconds: float) -> None:
        give_up = self._loop.time() + seconds
        restarter = self.restarter_of(life)
        if restarter is not None:
            await asyncio.wait([restarter], timeout=seconds)
            if life.state in (State.RUNNING, State.SUSPENDED):
                self._start_draining(life)
        elif life.starting is not None:
            await asyncio.wait([life.starting], timeout=seconds)
        done = await self._quiet(life, give_up - self._loop.time())
        if life.state not in (State.STOPPING, State.STOPPED):
            between = self._is_between(life)
            life.move(State.STOPPING)
            self.recovery.hasten(life)
            if between:
                done = False
                life.cell.cancel_handlers()
            reason = StopReason.DRAINED if done else StopReason.DRAIN_TIMEOUT
            await self._end(life, reason, not between, give_up)

    async def _drain_child(self, child: Life, give_up: float) -> bool:
        """Drain a child of a drained agent, or wait for the end that it has begun; False when that took too long."""
        self.begin_drain(child, max(give_up - self._loop.time(), 0.0))
        limit = self._loop.call_at(give_up, self.begin_stop, child, StopReason.DRAIN_TIMEOUT)
        try:
            await self.until_ended(child)
        finally:
            limit.cancel()
        return child.reason is not StopReason.DRAIN_TIMEOUT

    def _is_between(self, life: Life) -> bool:
        """Whether there is no instance that could be ended: it starts, or has been torn down for the next one."""
        return (
            life.state is State.STARTING
            or (life.record is not None and life.record.torn_down)
            or (life.starting is not None and not life.starting.done())
        )

    def begin_stop(self, life: Life, reason: StopReason, *, run_on_stop: bool = True, is_alone: bool = False) -> None:
        """Close the mailbox and start the end; a kill hastens one that has begun, and unless `is_alone` all below."""
        if life.state is _STOPPED:
            return
        life.cell.close()
        if life.state is _STOPPING:
            if reason in _AT_ONCE:
                if not is_alone:
                    for below in _all_below(life):
                        self.begin_stop(below, reason, is_alone=True)
                self._force(life)
            return
        if life.stopper is not None:
            life.stopper.cancel()  # a drain that is hastened
        life.cell.discard()
        if life.state in _ENDING:
            # What let go of its mail, a payload's finaliser or a subscriber of dead letters, has stopped it.
            self.begin_stop(life, reason, run_on_stop=run_on_stop, is_alone=is_alone)
            return
        between = self._is_between(life)
        life.move(_STOPPING)
        try:
            if life.record is not None:
                self.recovery.hasten(life)
            if between:
                run_on_stop = False
                life.cell.cancel_handlers()
            agent = life.cell.agent
            run_on_stop = run_on_stop and agent is not None and is_overridden(type(agent), "on_stop")
            if not (life.children or life.cell.pending or run_on_stop or between):
                # Nothing to wait for: most agents of a large mesh end here, without a task of their own.
                self._finish(life, reason)
                return
            self._set_stopper(life, self._end(life, reason, run_on_stop), "stop")
        except BaseException:
            # A signal, or no memory: nobody else would end it now.
            self._finish(life, reason)
            raise

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

    async def _end(self, life: Life, reason: StopReason, run_on_stop: bool, give_up: float = 0.0) -> None:
        """Children, the message in hand, `on_stop`, and the last entries in the account; state is STOPPING.

        Args:
            give_up: Until when children of a drained agent are drained, on the loop's clock.
        """
        cell = life.cell
        try:
            if reason in _AT_ONCE and life not in self._forced:
                # Those below end one after the other, and none of their handlers goes on until it is their turn.
                for each in (*_all_below(life), life):
                    if each not in self._forced:
                        each.cell.close()
                        self._force(each)
            if life.starting is not None:
                if not life.starting.done():
                    self._loop.call_later(KILL_GRACE_SECONDS, self._write_off, life)
                await asyncio.shield(life.starting)
            for child in reversed(list((life.children or {}).values())):
                if reason is not StopReason.DRAINED:
                    if child.state is not State.STOPPING or child not in self._forced:
                        self.begin_stop(child, reason)
                    await self.until_ended(child)
                elif not await self._drain_child(child, give_up):
                    reason = StopReason.DRAIN_TIMEOUT
            cell.discard()
            if reason in _AT_ONCE and life not in self._forced:
                self._force(life)
            if not await self._quiet(life, self._seconds_left() if reason is StopReason.SHUTDOWN else None):
                self._force(life)
                await self._quiet(life, None)
            if run_on_stop and cell.agent is not None and is_overridden(type(cell.agent), "on_stop"):
                await self.run_bounded(life, "on_stop", cell.agent.on_stop, reason)
        finally:
            self._finish(life, reason)

    async def run_bounded(self, life: Life, name: str, hook: Callable[..., object], *args: object) -> None:
        """Run a hook of an instance that ends, bounded in time; whatever it raises is logged.

        One that takes too long is cancelled, and waited for until it has heeded that or is written off.

        Cancel safety: a cancelled call cancels the hook, and lets the cancellation through.
        """
        seconds = self._seconds_left()
        is_late = False
        limit: asyncio.TimerHandle

        def cut_short() -> None:
            nonlocal is_late, limit
            is_late = True
            life.cell.cancel_handlers()
            limit = self._loop.call_later(self._grace_left(), self._write_off, life)

        limit = self._loop.call_later(seconds, cut_short)
        try:
            await self.run_hook(life, hook, *args)
        except asyncio.CancelledError:
            if not is_late:
                logger.error("agent %r: %s failed: it was cancelled", life.name, name)
            if self.is_cancelled():
                raise
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            if not is_late:
                logger.exception("agent %r: %s failed", life.name, name)
        finally:
            limit.cancel()
            if is_late:
                logger.error("agent %r: %s did not end within %g s", life.name, name, seconds)

    def is_cancelled(self) -> bool:
        """Whether the task that asks is being cancelled, and not only something that it waited for."""
        task = asyncio.current_task(self._loop)
        return task is not None and task.cancelling() > 0

    async def idle(self, life: Life, seconds: float) -> bool:
        """Wait until no handler of an agent runs; False when that took too long.

        Cancel safety: a cancelled call only stops waiting.
        """
        if life.idle is None or life.idle.done():
            life.idle = self._loop.create_future()
            life.cell.watch_idle()
        done, _ = await asyncio.wait([life.idle], timeout=seconds)
        return bool(done)

    async def cut_short(self, life: Life) -> None:
        """Cancel the handlers that still run, and write off those that outlive it.

        Cancel safety: a cancelled call has cancelled them, and does not wait for them.
        """
        if life.cell.cancel_handlers() and not await self.idle(life, KILL_GRACE_SECONDS):
            self._write_off(life)

    def _force(self, life: Life) -> None:
        """Dead-letter what waits and cancel what runs; what outlives that is written off, so that it ends."""
        self._forced.add(life)
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
        """The last step of every end: out of the registry, and into the total of stopped agents.

        Once more where a signal or a lack of memory came in between.
        """
        cell = life.cell
        if cell.pending:
            # Only when the one who ends it was cancelled: nobody waits for these any more.
            cell.discard()
            cell.cancel_handlers()
            cell.abandon_handlers()
        life.reason = reason
        self._forced.discard(life)
        cell.end_slots()
        with self.lock:
            self.by_name.pop(life.name, None)
            cell.bequeath(self.stopped_total)
            if cell.recorders is not life.kind.meter:
                cell.recorders.bequeath(life.kind.meter)
        if life.parent is not None and life.parent.children is not None:
            life.parent.children.pop(life.name, None)
        if life.state is not _STOPPED:
            life.move(_STOPPED)
        if self.on_end is not None:
            self.on_end(life)
        if life.watchers is not None or life.watching is not None:
            self._end_watches(life)
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

    # Suspending from outside.

    def suspend(self, life: Life) -> None:
        """Let mail wait; the handlers that run finish."""
        if self.is_closing:
            raise CoordinatorClosed(
                f"agent {life.name!r} cannot be suspended: the coordinator is being left, which waits for its mail"
            )
        life.move(State.SUSPENDED)
        life.cell.pause()

    def resume(self, life: Life) -> None:
        """Handle mail again, or once a restart is over."""
        if not self._end_suspension(life):
            # The table lets a start and a failure end in RUNNING too, and those are not over yet.
            raise IllegalTransition(
                f"agent {life.name!r} is {life.state.name} and cannot be resumed; only one that is SUSPENDED can"
            )

    def _end_suspension(self, life: Life) -> bool:
        """Whether there was one, be it of an agent that is being restarted."""
        if life.state is not State.SUSPENDED:
            return self.recovery.take_back_suspension(life)
        life.move(State.RUNNING)
        life.cell.resume()
        return True

    def hasten_all(self) -> None:
        """Nothing waits any more that could handle its mail instead: for the end of the coordinator."""
        for life in list(self.by_name.values()):
            self._end_suspension(life)
            self.recovery.hasten(life)

    # Watching.

    def watch(self, watcher: Life, target: Life) -> None:
        """Tell `watcher` of the end of `target`, once; at once if it has ended."""
        if target.state is State.STOPPED:
            self._tell_end(watcher, target)
            return
        for one, other, whom in ((target, "watchers", watcher), (watcher, "watching", target)):
            if getattr(one, other) is None:
                setattr(one, other, {})
            getattr(one, other)[whom] = None

    def unwatch(self, watcher: Life, target: Life) -> None:
        """Do not, also when the notice waits already."""
        if target.watchers is not None:
            target.watchers.pop(watcher, None)
        if watcher.watching is not None:
            watcher.watching.pop(target, None)
        if target.state is not State.STOPPED:
            return  # nobody has been told, and there may be much mail to look through
        for message in watcher.cell.waiting():
            if isinstance(message.payload, Terminated) and message.payload.ref is target.cell.ref:
                watcher.cell.withdraw(message)

    def terminated(self, target: Life) -> Terminated:
        """What is told of a stopped agent."""
        assert target.reason is not None
        return Terminated(target.cell.ref, target.reason, target.incarnation)

    def _tell_end(self, watcher: Life, target: Life) -> None:
        watcher.cell.notify(self.terminated(target), control=True)

    def _end_watches(self, life: Life) -> None:
        """Watch nobody any more for an agent that has stopped, and tell those who watch it."""
        for target in life.watching or ():
            if target.watchers is not None:
                target.watchers.pop(life, None)
        watchers = life.watchers or ()
        life.watching = life.watchers = None
        for watcher in watchers:
            if watcher.watching is not None:
                watcher.watching.pop(life, None)
            self._tell_end(watcher, life)

    def fail_overflowed(self, cell: Cell, payload_type: str) -> None:
        life = cell.life
        if life.state not in (State.STOPPING, State.STOPPED):
            logger.error(
                "agent %r failed: its mailbox overflowed with %s, and its policy is STOP",
                cell.name,
                payload_type,
            )
            cell.close()
            if life.state in (State.RUNNING, State.DRAINING, State.STARTING):
                life.move(State.FAILED)
            self.begin_stop(life, StopReason.FAILED)

    def kill_cancelled(self, cell: Cell) -> None:
        if cell.life.state not in (State.STOPPING, State.STOPPED):
            if not self._dispatcher.closing:
                logger.warning("agent %r: its task was cancelled from outside, which kills the agent", cell.name)
            self.begin_stop(cell.life, StopReason.KILLED)


def _all_below(life: Life) -> list[Life]:
    """Children and theirs, newest first; not by recursion, since they may stand a thousand deep."""
    found = [life]
    for each in found:
        found.extend((each.children or {}).values())
    return found[:0:-1]
