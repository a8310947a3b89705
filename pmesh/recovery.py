"""What happens when an agent fails: the directive is found, and it is resumed, restarted, stopped or its parent fails.

The rules are in `supervision.py`; how agents start and end otherwise is in `lives.py`. A restart is a task of its
own, since hooks, handlers that still run and backoff take time; the mailbox goes on taking mail meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from pmesh.errors import TooManyRestarts
from pmesh.lifecycle import State, StopReason
from pmesh.lives import KILL_GRACE_SECONDS, Life
from pmesh.supervision import (
    Backoff,
    ChildSupervision,
    Directive,
    Restart,
    RestartWindow,
    Strategy,
    SupervisionPolicy,
    find_directive,
)

if TYPE_CHECKING:
    from pmesh.lives import Lives

__all__ = ["Lost", "Recovery"]

logger = logging.getLogger("pmesh")

# An agent in one of these takes mail, and a failure of its handlers is its own.
_ALIVE = (State.RUNNING, State.SUSPENDED, State.DRAINING)
_ENDING = (State.STOPPING, State.STOPPED)
_BETWEEN = (State.FAILED, State.BACKOFF, State.STARTING)


class Record:
    """What is kept of an agent that has failed before."""

    __slots__ = (
        "escalated",
        "hasten",
        "in_a_row",
        "restarter",
        "restarts",
        "returns_to",
        "torn_down",
        "up_since",
        "window",
    )

    def __init__(self, policy: SupervisionPolicy) -> None:
        self.window = RestartWindow(policy.intensity, policy.period)  # for one at the top level
        self.restarts = 0
        self.in_a_row = 0  # restarts without a quiet time between them, for the backoff
        self.up_since: float | None = None  # when the last restart was over, on the loop's clock
        self.restarter: asyncio.Task[None] | None = None
        self.returns_to = State.RUNNING
        self.torn_down = False  # the old instance has had its pre_restart
        self.hasten: asyncio.Future[None] | None = None  # ends the backoff
        self.escalated: list[tuple[Life, BaseException]] = []  # children and their errors, while this one starts


class Lost:
    """A child that a failing supervisor stopped, to be started again with it, and that child's own."""

    __slots__ = ("children", "life")

    def __init__(self, life: Life) -> None:
        self.life = life
        rules = life.rules
        self.children = [] if rules is None or not rules.is_supervisor else lost_children(life)


def lost_children(life: Life) -> list[Lost]:
    """The children that a supervisor starts again when it is restarted, in order of start."""
    if life.rules is not None and life.rules.lost:
        return life.rules.lost  # it is being restarted already, and has stopped them
    children = (life.children or {}).values()
    return [
        Lost(child)
        for child in children
        if child.state not in _ENDING and child.policy.restart is not Restart.TEMPORARY
    ]


class Recovery:
    """Restarts the agents of one coordinator.

    Args:
        renew: Makes a new instance of an agent, from the factory and arguments of its spawn.
        respawn: Starts what a supervisor lost, below it.
    """

    def __init__(
        self, lives: Lives, renew: Callable[[Life], None], respawn: Callable[[Life, Lost], Awaitable[None]]
    ) -> None:
        self._lives = lives
        self._renew = renew
        self._respawn = respawn
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    # What the rules say.

    def _directive(self, life: Life, error: BaseException | None) -> Directive:
        found = life.policy.directive(error)
        if found is None and life.parent is not None and life.parent.rules is not None:
            found = find_directive(life.parent.rules.directives, error)
        if found is not None:
            return found
        # Who cancels a handler's Task means this message, and says nothing about the agent.
        return Directive.RESUME if isinstance(error, asyncio.CancelledError) else Directive.RESTART

    def _rules_for(self, life: Life) -> ChildSupervision | None:
        """How its parent supervises this agent; None at the top level."""
        if life.parent is None:
            return None
        if life.parent.rules is None:
            life.parent.rules = ChildSupervision()
        return life.parent.rules

    def _record(self, life: Life) -> Record:
        if life.record is None:
            life.record = Record(life.policy)
        return life.record

    def _backoff(self, life: Life) -> Backoff | None:
        rules = self._rules_for(life)
        return life.policy.backoff or (None if rules is None else rules.backoff)

    def _may_restart(self, life: Life) -> bool:
        """Count a restart; False when it is one too many."""
        record = self._record(life)
        now = self._loop.time()
        backoff = self._backoff(life)
        if backoff is not None and record.up_since is not None and now - record.up_since >= backoff.quiet_seconds:
            record.in_a_row = 0
        record.up_since = None
        rules = self._rules_for(life)
        if not (record.window if rules is None else rules.window).add(now):
            return False
        record.restarts += 1
        return True

    def _group(self, life: Life) -> list[Life]:
        """The agents to restart with this one, in order of start."""
        rules = self._rules_for(life)
        if rules is None or rules.strategy is Strategy.ONE_FOR_ONE:
            return [life]
        assert life.parent is not None
        siblings = list((life.parent.children or {}).values())
        if rules.strategy is Strategy.REST_FOR_ONE:
            siblings = siblings[siblings.index(life) :]
        return [other for other in siblings if other is life or other.state in (State.RUNNING, State.SUSPENDED)]

    def is_between(self, life: Life) -> bool:
        """Whether an agent has failed, or is being restarted, and its next instance has not begun to start."""
        if life.state is not State.STARTING:
            return life.state in (State.FAILED, State.BACKOFF)
        return life.record is not None and life.record.restarter is not None and not life.record.torn_down

    def take_back_suspension(self, life: Life) -> bool:
        """Let an agent that is being restarted handle its mail then, though it was suspended; False for any other."""
        record = life.record
        if life.state not in _BETWEEN or record is None or record.returns_to is not State.SUSPENDED:
            return False
        record.returns_to = State.RUNNING
        return True

    # What happens.

    def fail(self, life: Life, error: BaseException) -> Directive | None:
        """A handler raised `error`, or a child escalated it; returns the directive, None when it was ignored.

        Called while the core serves the agent, so that nothing more is handled before this returns; everything that
        takes time or runs the user's code follows later in the loop.
        """
        if life.state not in _ALIVE:
            return None  # it ends, or is being restarted: a handler that was cut short
        directive = self._directive(life, error)
        if directive is Directive.RESTART and life.policy.restart is Restart.TEMPORARY:
            directive = Directive.STOP
        if directive is not Directive.RESUME:
            life.cell.pause()
            self._record(life).returns_to = life.state
            life.move(State.FAILED)
            if directive is Directive.RESTART:
                self._begin(life, error)
            elif directive is Directive.STOP:
                self._loop.call_soon(self._lives.begin_stop, life, StopReason.FAILED)
            else:
                self._escalate(life, error)
        return directive

    def restart_stopped(self, life: Life) -> bool:
        """A permanent agent stopped itself: it is restarted instead. False for one that is not permanent."""
        if life.policy.restart is not Restart.PERMANENT or life.state not in (State.RUNNING, State.SUSPENDED):
            return False
        life.cell.pause()
        self._record(life).returns_to = State.RUNNING
        self._begin(life, None)
        return True

    def _begin(self, life: Life, error: BaseException | None) -> None:
        if not self._may_restart(life):
            self._give_up(life, error)
            return
        group = self._group(life)
        for member in group:
            if self._is_only_stopped(member, life):
                continue
            member.cell.pause()
            record = self._record(member)
            record.torn_down = False
            if member is not life:
                record.returns_to = member.state
                record.restarts += 1  # for those who look; the window counts what failed
            if member.state in (State.RUNNING, State.SUSPENDED):
                member.move(State.STARTING)
        task = self._loop.create_task(self._restart(life, group, error), name=f"pmesh-restart-{life.name}")
        self._tasks.add(task)
        task.add_done_callback(self._restart_over)
        for member in group:
            if not self._is_only_stopped(member, life):
                self._record(member).restarter = task

    def _is_only_stopped(self, member: Life, failed: Life) -> bool:
        """Whether a member of a group that is restarted ends with it, and has no next instance."""
        return member is not failed and member.policy.restart is Restart.TEMPORARY

    def _give_up(self, life: Life, error: BaseException | None) -> None:
        rules = self._rules_for(life)
        window = self._record(life).window if rules is None else rules.window
        limit = f"more than {window.intensity} restarts within {window.period:g} s"
        if life.parent is None:
            logger.error("agent %r: %s; it is stopped", life.name, limit)
            self._loop.call_soon(self._lives.begin_stop, life, StopReason.FAILED)
            return
        many = TooManyRestarts(f"the children of agent {life.parent.name!r} needed {limit}; the last was {life.name!r}")
        many.__cause__ = error
        self._escalate(life, many)

    def _escalate(self, life: Life, error: BaseException) -> None:
        """The parent fails with the same error, and its children stop with it; at the top this subtree stops."""
        parent = life.parent
        if parent is not None and parent.state is State.STARTING and not self.is_between(parent):
            logger.error("agent %r escalates %r to agent %r, once that has started", life.name, error, parent.name)
            self._record(parent).escalated.append((life, error))
            if not (parent.rules is not None and parent.rules.is_supervisor):
                # Its start may wait for this one, and learns so that nothing will come.
                self._loop.call_soon(self._lives.begin_stop, life, StopReason.ESCALATED)
            return
        if parent is None or parent.state not in _ALIVE:
            logger.error("agent %r escalates %r, and nobody is above it; it is stopped", life.name, error)
            self._loop.call_soon(self._lives.begin_stop, life, StopReason.ESCALATED)
            return
        logger.error("agent %r escalates %r to agent %r", life.name, error, parent.name)
        if parent.rules is not None and parent.rules.is_supervisor:
            parent.rules.lost = lost_children(parent)
        if self.fail(parent, error) is Directive.RESUME:
            if parent.rules is not None:
                parent.rules.lost = []
            self._loop.call_soon(self._lives.begin_stop, life, StopReason.ESCALATED)

    def started(self, life: Life) -> None:
        """An agent is up, and hears of the children that failed for good while it started."""
        if life.record is None:
            return
        escalated, life.record.escalated = life.record.escalated, []
        for child, error in escalated:
            if life.state not in _ALIVE:
                return  # whatever becomes of it ends its children too
            if life.rules is None or not life.rules.is_supervisor:
                self.fail(life, error)
            elif child.state not in _ENDING:
                self._escalate(child, error)

    async def _restart(self, failed: Life, group: Sequence[Life], error: BaseException | None) -> None:
        """Replace the instances of a group: the old ones end in reverse order of start, the new ones start in it.

        Cancel safety: cancelled only when the coordinator ends, which then ends the agents too.
        """
        try:
            for member in reversed(group):
                if self._is_only_stopped(member, failed):
                    await self._stop(member)
                else:
                    # One that stopped itself finishes the message in hand, as those that did not fail do.
                    await self._tear_down(member, error, at_once=member is failed and error is not None)
            for member in group:
                if not self._is_only_stopped(member, failed):
                    await self._bring_up(member, error, backs_off=member is failed)
        except BaseException:
            # An exit that a hook asked for; should the loop go on, nobody would start what is left of the group.
            for member in group:
                if member.state in _BETWEEN:
                    self._lives.begin_stop(member, StopReason.FAILED)
            raise
        finally:
            for member in group:
                # One that failed again meanwhile has a restart of its own.
                if member.record is not None and member.record.restarter is asyncio.current_task():
                    member.record.restarter = None

    def _restart_over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        # An exit has been raised out of the loop.
        if error is not None and not isinstance(error, (SystemExit, KeyboardInterrupt)):
            self._loop.call_exception_handler({"message": "pmesh: a restart failed", "exception": error, "task": task})

    async def _tear_down(self, life: Life, error: BaseException | None, *, at_once: bool) -> None:
        """End the old instance: its children, the handlers that still run, its hook, what it set up."""
        lives, cell, record = self._lives, life.cell, self._record(life)
        if life.rules is not None:
            if life.rules.is_supervisor:
                life.rules.lost = lost_children(life)
            life.rules.window.clear()
        await self._stop_children(life)
        if life.state in _ENDING:
            return
        # The one that failed has other handlers only where it handles several messages at a time.
        if at_once or not await lives.idle(life, KILL_GRACE_SECONDS):
            await lives.cut_short(life)
        if life.state in _ENDING:
            return
        if cell.agent is not None:
            await lives.run_bounded(life, "pre_restart", cell.agent.pre_restart, error)
        record.torn_down = True
        cell.end_instance()

    async def _stop_children(self, life: Life) -> None:
        for child in reversed(list((life.children or {}).values())):
            await self._stop(child)

    async def _stop(self, life: Life) -> None:
        """End an agent on the way of a restart, which a handler that never ends must not hold up."""
        self._lives.begin_stop(life, StopReason.RESTARTED)
        limit = self._loop.call_later(KILL_GRACE_SECONDS, self._lives.begin_stop, life, StopReason.KILLED)
        try:
            await self._lives.until_ended(life)
        finally:
            limit.cancel()

    async def _bring_up(self, life: Life, error: BaseException | None, *, backs_off: bool) -> None:
        """Start a new instance, again and again while its start fails and restarts are left."""
        record = self._record(life)
        while life.state not in _ENDING:
            if backs_off:
                await self._back_off(life)
            if life.state in _ENDING:
                return
            if life.state is not State.STARTING:
                life.move(State.STARTING)
            logger.info("agent %r is restarted (restart %d)", life.name, record.restarts)
            failure = await self._start_again(life, error)
            if life.state in _ENDING:
                return
            if failure is None:
                self._go_on(life)
                return
            logger.error("agent %r: its restart failed", life.name, exc_info=failure)
            await self._stop_children(life)
            record.escalated.clear()
            life.cell.end_instance()
            if life.state in _ENDING:
                return
            life.move(State.FAILED)
            error = failure
            directive = self._directive(life, failure)
            if directive is Directive.ESCALATE:
                self._escalate(life, failure)
                return
            if directive is Directive.STOP:
                self._lives.begin_stop(life, StopReason.FAILED)
                return
            if not self._may_restart(life):
                self._give_up(life, failure)
                return
            backs_off = True
            # A start may fail without suspending, and the loop has others to serve.
            await asyncio.sleep(0)

    async def _start_again(self, life: Life, error: BaseException | None) -> BaseException | None:
        """Make a new instance and run its hook; what either raised, or None."""
        lives, cell = self._lives, life.cell
        try:
            cell.renew_slots()
            if cell.agent is not None:
                self._renew(life)
                await lives.run_hook(life, cell.agent.post_restart, error)
            if life.rules is not None and life.rules.lost:
                for lost in life.rules.lost:
                    if life.state in _ENDING:
                        return None
                    await self._respawn(life, lost)
                # Only now: where one fails to start, those before it are stopped and started again too.
                life.rules.lost = []
        except asyncio.CancelledError as cancelled:
            if lives.is_cancelled():
                raise
            return cancelled  # that of its own Task
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as failure:  # noqa: BLE001 - counted and logged by the caller
            return failure
        return None

    def _go_on(self, life: Life) -> None:
        record = self._record(life)
        record.torn_down = False
        record.up_since = self._loop.time()
        if record.returns_to is State.DRAINING:
            life.move(State.DRAINING)
            life.cell.resume()
        else:
            life.move(State.RUNNING)
            if record.returns_to is State.SUSPENDED:
                life.move(State.SUSPENDED)
            else:
                life.cell.resume()
        self.started(life)

    async def _back_off(self, life: Life) -> None:
        """Wait before a restart as long as the backoff says; not when the agent or the coordinator is to end."""
        backoff = self._backoff(life)
        record = self._record(life)
        if backoff is None:
            return
        import random  # a tenth of what importing all of pmesh takes, and few ever need it

        seconds = backoff.seconds(record.in_a_row, random.random())
        record.in_a_row += 1
        if self._lives.is_closing or record.returns_to is State.DRAINING:
            return
        if life.state is State.STARTING:
            life.move(State.FAILED)  # it stopped itself
        life.move(State.BACKOFF)
        record.hasten = self._loop.create_future()
        await asyncio.wait([record.hasten], timeout=seconds)
        record.hasten = None

    def hasten(self, life: Life) -> None:
        """Restart now what waits in its backoff, or end it when it has been stopped."""
        record = life.record
        if record is not None and record.hasten is not None and not record.hasten.done():
            record.hasten.set_result(None)

    async def end(self) -> None:
        """Cancel what is left of restarts.

        Cancel safety: a cancelled call has cancelled them, and does not wait for them.
        """
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
