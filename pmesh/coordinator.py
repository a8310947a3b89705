"""The public face of the runtime: registry, life and account of the agents of one event loop.

Messages do not pass through here; they go from a ref to a mailbox to the dispatcher, in `_core`.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import os
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from pmesh._core import (
    AgentRef,
    Ask,
    Cell,
    Clock,
    Counters,
    Dispatcher,
    Handler,
    HandlerTable,
    InHand,
    LatencyRecorder,
    Message,
    Meter,
    Send,
    cell_of,
    timeout_seconds,
    type_name,
)
from pmesh.agent import (
    Agent,
    AgentContext,
    MailboxPolicy,
    Request,
    check_concurrency,
    function_table,
    table_of,
)
from pmesh.deadletters import KINDS, DeadLetter, DeadLetterKind, DeadLetters
from pmesh.errors import (
    CoordinatorClosed,
    HandlerDefinitionError,
    InvalidArgument,
    InvalidType,
    NameInUse,
    StartFailed,
    UnknownAgent,
    UsedAfterFork,
    WrongLoop,
)
from pmesh.lifecycle import State, StopReason
from pmesh.lives import NO_ARGUMENTS, Arguments, Kind, Life, Lives, Terminated
from pmesh.recovery import Lost, Recovery
from pmesh.shutdown import Shutdown
from pmesh.signals import SignalledBlock
from pmesh.stalls import LoopWatch, Stalls
from pmesh.stats import Stats
from pmesh.supervision import (
    Backoff,
    ChildSupervision,
    Directives,
    Strategy,
    SupervisionPolicy,
    Supervisor,
)

__all__ = ["Coordinator"]

logger = logging.getLogger("pmesh")

Answer = TypeVar("Answer")

# How many names the error for an unknown one suggests.
SUGGESTIONS = 3

_dispatchers: weakref.WeakSet[Coordinator] = weakref.WeakSet()


def _mark_forked() -> None:
    for coordinator in _dispatchers:
        coordinator._mark_forked()


# A thread would not be there in the child, and Python warns of a fork beside one.
def _stop_watches() -> None:
    for coordinator in list(_dispatchers):
        coordinator._loop_watch.stop()


def _start_watches() -> None:
    for coordinator in list(_dispatchers):
        coordinator._loop_watch.start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_stop_watches, after_in_parent=_start_watches, after_in_child=_mark_forked)


class Coordinator:
    """Registry, dispatcher and life of the agents of one event loop.

    Enter it with `async with`; leaving refuses mail from outside, lets agents handle what was accepted
    and what their handlers still send, and then stops them in reverse order of start; `shutdown` has the phases of
    that, and takes tasks for them. Leaving because of a cancellation, as Ctrl-C makes one, does not drain: handlers
    are cancelled, and what waits is dead-lettered.

    Args:
        name: For logs and repr.
        window: Most messages in flight through `send` from outside handlers (accepted, and their
            handler not over nor suspended); None for no limit. Mailboxes are bounded in any case.
        drain_timeout: Seconds that leaving waits for mail to be handled; what is left then is
            dead-lettered, and handlers are cancelled.
        dead_letters: Dead letters kept for inspection.
        slice_seconds: How long the dispatcher keeps the event loop at a stretch.
        stall_after: Seconds after which a handler that still waits, or blocks the event loop, is reported by the
            logger `pmesh.stalls` and in `stalls`; None for never.
        clock: The source of time; a virtual one in tests, and in an event loop in virtual time that loop's.
        chooser: Given the refs of all agents that are ready, returns the index of the one to serve next, before every
            message; first come, first served by default. For tests of schedules; see `pmesh.testing`.
        signals: SIGTERM and SIGINT shut it down: what runs in the `async with` block is cancelled, unless it waits in
            `shutdown.wait`, and the program goes on after the block. A second signal hastens that, and a third
            does what it would do without this. Only in the main thread; not on Windows.

    Attributes:
        shutdown: The `Shutdown` that leaving runs.
    """

    def __init__(
        self,
        name: str = "mesh",
        *,
        window: int | None = 1024,
        drain_timeout: float = 30.0,
        dead_letters: int = 1_000,
        slice_seconds: float = 0.001,
        stall_after: float | None = 10.0,
        clock: Clock | None = None,
        chooser: Callable[[list[AgentRef]], int] | None = None,
        signals: bool = False,
    ) -> None:
        if not isinstance(name, str):
            raise InvalidType(f"name is {name!r}; it must be a str")
        if window is not None:
            if isinstance(window, bool) or not isinstance(window, int):
                raise InvalidType(f"window is {window!r}; it must be a whole number of messages, or None for no limit")
            if not 1 <= window < 2**62:
                raise InvalidArgument(
                    f"window is {window}; it must be at least 1 and below 2**62, or None for no limit"
                )
        if clock is not None and not isinstance(clock, Clock):
            raise InvalidType(f"clock is {clock!r}; it must be a pmesh.Clock")
        if chooser is not None and not callable(chooser):
            raise InvalidType(f"chooser is {chooser!r}; it must be a function from a list of AgentRef to an index")
        if not isinstance(signals, bool):
            raise InvalidType(f"signals is {signals!r}; it must be True or False")
        self.name = name
        self.dead_letters = DeadLetters(dead_letters)
        self.shutdown = Shutdown(self, {"drain": self._drain_all, "stop": self._stop_all})
        self._block = SignalledBlock(self.shutdown) if signals else None
        self.stalls = Stalls()
        self._stall_seconds = 0.0 if stall_after is None else timeout_seconds(stall_after, "stall_after")
        self._window = window or 0
        self._drain_timeout = timeout_seconds(drain_timeout, "drain_timeout")
        self._slice_seconds = timeout_seconds(slice_seconds, "slice_seconds")
        self._has_own_clock = clock is not None
        self._clock = Clock() if clock is None else clock
        self._chooser = chooser
        self._lives = Lives(self._drain_timeout)
        self._recovery = self._lives.recovery = Recovery(self._lives, self._renew, self._respawn)
        self._numbers = itertools.count(1)
        self._incarnations = itertools.count(1)
        self._kinds: dict[type, Kind] = {}
        self._meters: dict[object, Meter] = {}
        self._strays = Counters()  # messages to names that nobody has
        self._keeper: asyncio.Task[None] | None = None
        self._drain_seconds = self._drain_timeout
        self._end_reason = StopReason.SHUTDOWN  # that agents are given when all of them stop
        self._closed = False
        self._forked = False

    # Entering and leaving.

    async def __aenter__(self) -> Self:
        if self._closed:
            raise CoordinatorClosed(f"coordinator {self.name!r} has been left; make a new one")
        if self._keeper is not None:
            raise CoordinatorClosed(f"coordinator {self.name!r} has been entered already")
        loop = asyncio.get_running_loop()
        if not self._has_own_clock and isinstance(getattr(loop, "clock", None), Clock):
            raise InvalidArgument(
                f"coordinator {self.name!r} goes by the real time, and its event loop by virtual time: make it by"
                " sim.coordinator() in a simulation, and by Coordinator(clock=loop.clock) elsewhere"
            )
        self._loop = loop
        self._dispatcher = Dispatcher(
            loop,
            self,
            self._clock,
            window=self._window,
            slice_seconds=self._slice_seconds,
            chooser=self._chooser,
            stall_seconds=self._stall_seconds,
        )
        self._lives.open(loop, self._dispatcher)
        self._recovery.open(loop)
        self.shutdown._open(loop)
        if self._block is not None:
            self._block.enter(loop)
        self._loop_watch = LoopWatch(self, self._dispatcher, self._stall_seconds)
        self._loop_watch.start()
        # asyncio.run cancels all tasks when it ends; this one hears of it for all agents.
        self._start_keeper()
        _dispatchers.add(self)
        return self

    def _start_keeper(self) -> None:
        self._keeper = self._loop.create_task(self._keep(), name=f"pmesh-{self.name}")
        self._keeper.add_done_callback(self._keeper_done)

    def _keeper_done(self, keeper: asyncio.Task[None]) -> None:
        """A keeper that was cancelled before its first step has ended nothing, and somebody may wait for the end."""
        if not self._closed:
            self._start_keeper()
            self.shutdown.hasten()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if self._keeper is None:
            return None
        by_signal = self._block is not None and self._block.leave(error)
        if kind is not None and not issubclass(kind, Exception) and not by_signal and not self._closed:
            # Cancelled, as by Ctrl-C: whoever wants to leave now does not want to drain.
            self.shutdown.hasten()
        await self.close()
        return by_signal

    async def close(self, *, timeout: float | None = None) -> None:
        """Refuse mail from outside, wait until nothing is pending, then stop all agents, newest first.

        Runs `shutdown`; called from a handler, or from a task of the shutdown, it returns at once.

        Args:
            timeout: Seconds to wait for mail to be handled; by default the coordinator's `drain_timeout`. That of the
                call which begins the shutdown counts.

        Cancel safety: a cancelled call kills what still runs, and then lets the cancellation through.
        """
        if self._keeper is not None and not self._closed:
            seconds = self._drain_timeout if timeout is None else timeout_seconds(timeout, "timeout")
            self._check_loop("close")
            if not self.shutdown.requested:
                self._drain_seconds = seconds
            await self.shutdown.run()

    async def _keep(self) -> None:
        """Wait for the end, and carry it out."""
        try:
            await self.shutdown._carry_out()
        except GeneratorExit:
            raise  # the loop was closed under it, and nothing can be done in it any more
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and not self.shutdown.requested:
                logger.warning(
                    "coordinator %r was not left before its event loop ended; its agents are killed", self.name
                )
            self._kill_all()
            await self._stop_all()
            raise
        finally:
            try:
                self._closed = True
                self._loop_watch.end()
                self._dispatcher.end()
                self.dead_letters.log_summary()
                _dispatchers.discard(self)
                if self._block is not None:
                    self._block.end()
            finally:
                # Whatever came in between, those who wait for the end go on.
                if not self._loop.is_closed():
                    self.shutdown._end()

    # What the shutdown does to agents.

    def _refuse_outside(self) -> None:
        """No mail from outside is taken any more, and nothing waits that could handle its mail instead."""
        self._dispatcher.closing = True
        for life in list(self._lives.by_name.values()):
            life.cell.refuse_waiters(outside_only=True)
        self._lives.hasten_all()

    async def _drain_all(self) -> None:
        self._refuse_outside()
        if not await self._lives.all_quiet(self._drain_seconds):
            logger.warning(
                "coordinator %r: %s after draining for %g s",
                self.name,
                self._lives.what_is_pending(),
                self._drain_seconds,
            )
            self._end_reason = StopReason.DRAIN_TIMEOUT

    async def _stop_all(self) -> None:
        self._refuse_outside()
        await self._lives.stop_all(self._end_reason)
        await self._recovery.end()

    def _kill_all(self) -> None:
        self._refuse_outside()
        self._end_reason = StopReason.KILLED
        self._lives.hurry()
        self._lives.begin_kill_all()

    def _is_in_handler(self) -> bool:
        """Whether a handler or a hook of an agent here is what calls, or something that it started."""
        cell = self._dispatcher.current_cell()
        return cell is not None and cell.dispatcher is self._dispatcher

    # Spawning.

    async def spawn(
        self,
        factory: Callable[..., Any],
        *args: object,
        name: str | None = None,
        mailbox: MailboxPolicy | None = None,
        concurrency: int | None = None,
        own_recorders: bool = False,
        supervision: SupervisionPolicy | None = None,
        **kwargs: object,
    ) -> AgentRef:
        """Start an agent and return its ref once `on_start` is over.

        Args:
            factory: An `Agent` subclass (or a `functools.partial` of one), called with `args` and
                `kwargs`; or a function of one payload, which is then the agent's only handler.
            name: Unique among living agents; made from the class by default.
            mailbox, concurrency, supervision: Override the class attributes of the same names.
            own_recorders: Record this agent's times apart from those of its class, in 648 KiB of its own;
                `latency_of` shows them. They are added to those of the class when it stops.

        Raises:
            NameInUse: An agent of that name is alive.
            StartFailed: The agent was stopped while it started, or is to start below one that is being restarted.
            Exception: Whatever the factory or `on_start` raises; the name is free again then.

        Cancel safety: a cancelled call has started nothing; `on_start` is cancelled with it.
        """
        return await self._spawn(factory, args, kwargs, name, mailbox, concurrency, own_recorders, supervision, None)

    async def supervisor(
        self,
        name: str | None = None,
        *,
        strategy: Strategy | str = Strategy.ONE_FOR_ONE,
        intensity: int = 5,
        period: float = 10.0,
        directives: Directives = None,
        backoff: Backoff | None = None,
        supervision: SupervisionPolicy | None = None,
    ) -> Supervisor:
        """Start a supervisor, whose `spawn` starts children that are restarted together.

        Args:
            name: As of an agent.
            strategy: Which children are restarted when one is: "one_for_one", "one_for_all", or "rest_for_one" (those
                started after it).
            intensity: Most restarts of all children together within `period`. One more, and the children are stopped,
                newest first, and the supervisor itself fails.
            period: Seconds, sliding.
            directives: For errors that a child's own `supervision` says nothing about.
            backoff: For children that have none of their own.
            supervision: What becomes of the supervisor itself when it fails: by default it is restarted, and starts
                its children again.

        Raises:
            NameInUse: An agent of that name is alive.
            InvalidArgument: A strategy or directive that does not exist, an intensity of 0 where children are to be
                restarted, a period that is not above 0.

        Cancel safety: a cancelled call has started nothing.
        """
        rules = ChildSupervision(strategy, intensity, period, directives, backoff, is_supervisor=True)
        return await self._spawn_supervisor(name, rules, supervision, None)

    async def _spawn_supervisor(
        self,
        name: str | None,
        rules: ChildSupervision,
        supervision: SupervisionPolicy | None,
        parent: AgentRef | None,
    ) -> Supervisor:
        ref = await self._spawn(_SupervisorAgent, (), {}, name, None, None, False, supervision, parent)
        self._life_of(ref).rules = rules
        return Supervisor(ref, self)

    async def _spawn(
        self,
        factory: Callable[..., Any],
        args: tuple[object, ...],
        kwargs: dict[str, Any],
        name: str | None,
        mailbox: MailboxPolicy | None,
        concurrency: int | None,
        own_recorders: bool,
        supervision: SupervisionPolicy | None,
        parent: AgentRef | None,
    ) -> AgentRef:
        self._check_loop("spawn")
        if mailbox is not None and not isinstance(mailbox, MailboxPolicy):
            raise InvalidType(f"mailbox is {mailbox!r}; it must be a MailboxPolicy")
        if concurrency is not None:
            check_concurrency(concurrency, "concurrency")
        if supervision is not None and not isinstance(supervision, SupervisionPolicy):
            raise InvalidType(f"supervision is {supervision!r}; it must be a SupervisionPolicy")
        elder = None if parent is None else self._life_of(parent)
        if self._dispatcher.closing and not _is_starting(elder):
            raise CoordinatorClosed(f"coordinator {self.name!r} is closing and starts no agents")
        if elder is not None and elder.state in (State.STOPPING, State.STOPPED):
            raise CoordinatorClosed(f"agent {elder.name!r} is {elder.state.value} and starts no children")
        if elder is not None and self._recovery.is_between(elder):
            raise StartFailed(
                f"agent {elder.name!r} is being restarted, and starts no children until its next instance does"
                if self._lives.restarter_of(elder) is not None
                else f"agent {elder.name!r} has failed, and starts no children"
            )
        kind = self._kinds.get(factory) if isinstance(factory, type) else None
        if kind is None:
            kind = self._kind_of(factory, args, kwargs)
        if name is None:
            name = self._make_name(kind.base_name)
        elif not isinstance(name, str):
            raise InvalidType(f"name is {name!r}; it must be a str")
        elif not name:
            raise InvalidArgument("name is ''; it must not be empty")
        if name in self._lives.by_name:
            status = self._lives.by_name[name].state.value
            raise NameInUse(
                f"an agent named {name!r} is alive ({status}) in coordinator {self.name!r};"
                " await its stop() first, or choose another name"
            )
        agent = None if kind.agent_class is None else _make_agent(factory, args, kwargs)
        defaults = kind.agent_class or Agent
        policy = defaults.supervision if supervision is None else supervision
        life = Life(name, elder, policy, next(self._incarnations))
        if args or kwargs or mailbox is not None or concurrency is not None or own_recorders:
            life.arguments = Arguments(args, kwargs, mailbox, concurrency, own_recorders)
        cell = Cell(
            defaults.mailbox if mailbox is None else mailbox,
            self._dispatcher,
            kind.table,
            name,
            agent,
            Meter() if own_recorders else kind.meter,
            concurrency=defaults.concurrency if concurrency is None else concurrency,
        )
        life.cell = cell
        life.kind = kind
        cell.life = life
        if agent is not None:
            agent.context = AgentContext(cell.ref, self)
        self._lives.add(life)
        if agent is not None and kind.has_on_start:
            await self._lives.run_on_start(life, agent)
        if life.state is State.DRAINING:
            # Drained while it started: it handles what it was sent, and is gone.
            cell.resume()
            await self._lives.until_ended(life)
            raise self._lives.start_failed(life)
        life.move(State.RUNNING)
        cell.resume()
        self._recovery.started(life)
        return cell.ref

    def _renew(self, life: Life) -> None:
        """Replace the instance of an agent by a new one, made as the first was."""
        given = life.arguments or NO_ARGUMENTS
        agent = _make_agent(life.kind.factory, given.args, given.kwargs)
        agent.context = AgentContext(life.cell.ref, self)
        life.cell.agent = agent

    async def _respawn(self, elder: Life, lost: Lost) -> None:
        """Start a child again that a supervisor lost, and below it what that one lost."""
        child = lost.life
        given = child.arguments or NO_ARGUMENTS
        ref = await self._spawn(
            child.kind.factory,
            given.args,
            dict(given.kwargs),
            child.name,
            given.mailbox,
            given.concurrency,
            given.own_recorders,
            child.policy,
            elder.cell.ref,
        )
        life = self._life_of(ref)
        if child.rules is not None:
            life.rules = child.rules.anew()
        for grandchild in lost.children:
            await self._respawn(life, grandchild)

    def _make_name(self, base: str) -> str:
        while True:
            name = f"{base}-{next(self._numbers)}"
            if name not in self._lives.by_name:
                return name

    def _kind_of(self, factory: Any, args: tuple[object, ...], kwargs: dict[str, Any]) -> Kind:
        """What agents from `factory` have in common; looked up again for each spawn unless it is a class."""
        agent_class, table = _resolve_factory(factory, args, kwargs)
        kind = Kind(
            agent_class, self._dispatching_by(table, agent_class), self._meter_of(agent_class or factory), factory
        )
        if isinstance(factory, type):
            self._kinds[factory] = kind
        return kind

    def _dispatching_by(self, table: HandlerTable, agent_class: type[Agent] | None = None) -> HandlerTable:
        """The table that agents of a class, or with another behaviour, dispatch by: where a simulation steps in."""
        return table

    def _meter_of(self, key: object) -> Meter:
        # Functions are told apart by their code only: a closure for each agent is one class of agents.
        key = getattr(key, "__code__", key)
        try:
            meter = self._meters.get(key)
        except TypeError:
            key = type(key)
            meter = self._meters.get(key)
        if meter is None:
            meter = self._meters[key] = Meter()
        return meter

    # Finding and reaching agents.

    def lookup(self, name: str) -> AgentRef:
        """The ref of the living agent called `name`.

        Raises:
            UnknownAgent: There is none; the text names close matches.
        """
        return self._life(name).cell.ref

    def _life(self, name: object) -> Life:
        life = self._lives.by_name.get(name) if isinstance(name, str) else None
        if life is not None:
            return life
        if not isinstance(name, str):
            raise InvalidType(f"agent is {name!r}; it must be an AgentRef or the name of one")
        import difflib  # only to word this error

        close = difflib.get_close_matches(name, self._lives.by_name, SUGGESTIONS)
        hint = (
            f"; did you mean {' or '.join(map(repr, close))}?"
            if close
            else f"; {len(self._lives.by_name)} agents are alive"
        )
        raise UnknownAgent(f"no agent named {name!r} is alive in coordinator {self.name!r}{hint}")

    def _life_of(self, agent: AgentRef | str) -> Life:
        if isinstance(agent, AgentRef):
            life = cell_of(agent).life
            if not isinstance(life, Life) or cell_of(agent).dispatcher is not self._dispatcher:
                raise InvalidArgument(f"{agent!r} belongs to another coordinator than {self.name!r}")
            return life
        return self._life(agent)

    def _ref_for(self, agent: AgentRef | str, payload: object) -> AgentRef:
        """The ref for a message; one to an unknown name is counted and dead-lettered before the error."""
        try:
            return self._ref(agent)
        except UnknownAgent:
            self._count_stray(agent, payload)
            raise

    def _ref(self, agent: AgentRef | str) -> AgentRef:
        if isinstance(agent, AgentRef):
            return agent
        self._check_entered()
        if self._closed:
            raise CoordinatorClosed(f"coordinator {self.name!r} has been left; nobody takes mail any more")
        return self.lookup(agent)

    def _count_stray(self, name: object, payload: object) -> None:
        self._strays.count_rejected()
        self.dead_letters.add(DeadLetter(DeadLetterKind.UNKNOWN, payload, str(name), None))

    def tell(
        self,
        agent: AgentRef | str,
        payload: object,
        *,
        ttl: float | None = None,
        headers: Mapping[str, object] | None = None,
    ) -> bool:
        """`AgentRef.tell`, by ref or by name.

        Raises:
            UnknownAgent: No living agent has that name; the message is counted rejected.
        """
        return self._ref_for(agent, payload).tell(payload, ttl=ttl, headers=headers)

    def tell_many(
        self,
        agent: AgentRef | str,
        payloads: Iterable[object],
        *,
        ttl: float | None = None,
        headers: Mapping[str, object] | None = None,
    ) -> int:
        """`AgentRef.tell_many`, by ref or by name."""
        payloads = payloads if isinstance(agent, AgentRef) else tuple(payloads)
        try:
            ref = self._ref(agent)
        except UnknownAgent:
            for payload in payloads:
                self._count_stray(agent, payload)
            raise
        return ref.tell_many(payloads, ttl=ttl, headers=headers)

    def send(
        self,
        agent: AgentRef | str,
        payload: object,
        *,
        timeout: float = 5.0,
        headers: Mapping[str, object] | None = None,
    ) -> Send:
        """`AgentRef.send`, by ref or by name; to be awaited."""
        return self._ref_for(agent, payload).send(payload, timeout=timeout, headers=headers)

    @overload
    def ask(
        self,
        agent: AgentRef | str,
        payload: Request[Answer],
        *,
        timeout: float = ...,
        headers: Mapping[str, object] | None = ...,
    ) -> Ask[Answer]: ...
    # Where an answer of another type is expected, mypy goes on to the next overload: it must not be the one of Any.
    @overload
    def ask(
        self,
        agent: AgentRef | str,
        payload: Request[Any],
        *,
        timeout: float = ...,
        headers: Mapping[str, object] | None = ...,
    ) -> Ask[object]: ...
    @overload
    def ask(
        self,
        agent: AgentRef | str,
        payload: object,
        *,
        timeout: float = ...,
        headers: Mapping[str, object] | None = ...,
    ) -> Ask[Any]: ...
    def ask(
        self,
        agent: AgentRef | str,
        payload: Any,
        *,
        timeout: float = 5.0,
        headers: Mapping[str, object] | None = None,
    ) -> Ask[Any]:
        """`AgentRef.ask`, by ref or by name; to be awaited."""
        return self._ref_for(agent, payload).ask(payload, timeout=timeout, headers=headers)

    # Stopping one agent.

    async def stop(self, agent: AgentRef | str) -> None:
        """Stop an agent: it finishes the message in hand, and mail that waits becomes dead letters.

        Returns once it has stopped, children first; called from its own handler or from that of a child,
        at once. Stopping a stopped agent does nothing. Two agents whose handlers await the stop of each other wait
        until one is killed or the coordinator is left; where both may, one awaits it in a task of its own.

        Cancel safety: a cancelled call still stops the agent, and does not wait for it.
        """
        self._check_loop("stop")
        await self._lives.stop(self._life_of(agent), StopReason.STOPPED)

    async def drain(self, agent: AgentRef | str, *, timeout: float | None = None) -> bool:
        """Refuse new mail, handle what was accepted before, then stop.

        Args:
            timeout: Seconds to handle it in, by default the coordinator's `drain_timeout`; what is left
                then becomes dead letters, and handlers that still run are cancelled.

        Returns:
            Whether all of it was handled in time. From its own handler: at once, True.

        Cancel safety: a cancelled call still drains and stops the agent, and does not wait for it.
        """
        self._check_loop("drain")
        life = self._life_of(agent)
        seconds = self._drain_timeout if timeout is None else timeout_seconds(timeout, "timeout")
        self._lives.begin_drain(life, seconds)
        if self._lives.called_from(life):
            return True
        await self._lives.until_ended(life)
        return life.reason is not StopReason.DRAIN_TIMEOUT

    async def kill(self, agent: AgentRef | str) -> None:
        """Cancel what an agent handles, dead-letter what waits, and stop it.

        A handler that does not end within five seconds of being cancelled is written off: its message
        counts failed. Cancel safety: a cancelled call still kills the agent, and does not wait for it.
        """
        self._check_loop("kill")
        await self._lives.stop(self._life_of(agent), StopReason.KILLED)

    def _stop_soon(self, ref: AgentRef) -> None:
        life = self._life_of(ref)
        if not self._recovery.restart_stopped(life):
            self._lives.begin_stop(life, StopReason.STOPPED)

    # Suspending one agent.

    def suspend(self, agent: AgentRef | str) -> None:
        """Let the mail of an agent wait, up to its mailbox's capacity, until `resume`; handlers that run finish.

        Raises:
            IllegalTransition: It is not running; the text says what it is.
            CoordinatorClosed: The coordinator is being left, which waits until all mail is handled.
        """
        self._check_loop("suspend")
        self._lives.suspend(self._life_of(agent))

    def resume(self, agent: AgentRef | str) -> None:
        """Let a suspended agent handle its mail again; one that is being restarted, as soon as it is up.

        Raises:
            IllegalTransition: It is not suspended; the text says what it is.
        """
        self._check_loop("resume")
        self._lives.resume(self._life_of(agent))

    # Watching one agent.

    async def watch(self, agent: AgentRef | str) -> Terminated:
        """Wait until an agent has stopped; at once for one that has. A restart is no end.

        Raises:
            InvalidArgument: What calls is a handler of that agent or of one below it, whose end it waits for.

        Cancel safety: a cancelled call only stops waiting.
        """
        self._check_loop("watch")
        life = self._life_of(agent)
        if life.state is not State.STOPPED and self._lives.called_from(life):
            raise InvalidArgument(
                f"agent {life.name!r} is watched by what a handler of it, or of an agent below it, does; its end would"
                " wait for that. Its own end is told to its on_stop(), and other agents use context.watch()"
            )
        await self._lives.until_ended(life)
        return self._lives.terminated(life)

    def _watch(self, watcher: AgentRef, agent: AgentRef | str) -> None:
        self._check_loop("watch")
        target = self._life_of(agent)
        if target.cell.ref is watcher:
            raise InvalidArgument(f"agent {watcher.name!r} watches itself; its own end is told to its on_stop()")
        self._lives.watch(self._life_of(watcher), target)

    def _unwatch(self, watcher: AgentRef, agent: AgentRef | str) -> None:
        self._check_loop("unwatch")
        self._lives.unwatch(self._life_of(watcher), self._life_of(agent))

    # What the core reports.

    def on_dead_letter(self, kind: str, message: Message, receiver: AgentRef) -> None:
        self.dead_letters.add(DeadLetter(KINDS[kind], message.payload, receiver.name, message.sender))

    def on_failure(self, cell: Cell, handler: Handler | None, message: Message, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError) and (cell.is_closed or self._dispatcher.closing):
            return  # the end of a handler that kill or the end of a drain cut short
        logger.error(
            "agent %r: %s failed on %s",
            cell.name,
            "dispatch" if handler is None else f"handler {handler.name}",
            type_name(message.payload),
            exc_info=error,
        )
        if not isinstance(error, (SystemExit, KeyboardInterrupt)):
            self._recovery.fail(cell.life, error)

    def on_overflow(self, cell: Cell, payload_type: str) -> None:
        self._lives.fail_overflowed(cell, payload_type)

    def on_killed(self, cell: Cell) -> None:
        self._lives.kill_cancelled(cell)

    def on_stalls(self, shown: list[InHand], count: int) -> None:
        self.stalls.add_waiting(shown, count, self._clock.now_ns())

    # Looking.

    def stats(self) -> Stats:
        """The account of all agents together and of each living one, at this instant."""
        with self._lives.lock:
            stats = Stats({name: life.cell.counters() for name, life in list(self._lives.by_name.items())})
            stats.add(self._lives.stopped_total)
        stats.add(self._strays)
        return stats

    @property
    def latency(self) -> LatencyRecorder:
        """Accept to end of handling, of all agents: a merged copy, in nanoseconds."""
        return self._merged("latency")

    @property
    def queue_time(self) -> LatencyRecorder:
        """Accept to start of handling, of all agents: a merged copy, in nanoseconds."""
        return self._merged("queue")

    @property
    def service_time(self) -> LatencyRecorder:
        """Start to end of handling, of all agents: a merged copy, in nanoseconds."""
        return self._merged("service")

    def _merged(self, kind: str) -> LatencyRecorder:
        merged = LatencyRecorder()
        with self._lives.lock:
            for meter in self._all_meters():
                merged.merge(getattr(meter, kind))
        return merged

    def _all_meters(self) -> list[Meter]:
        own = [
            life.cell.recorders
            for life in list(self._lives.by_name.values())
            if life.cell.recorders is not life.kind.meter
        ]
        return [*list(self._meters.values()), *own]

    def latency_of(self, agent: AgentRef | str) -> Meter:
        """The recorders `queue`, `service` and `latency` of this agent, which it shares with its class unless
        it was spawned with `own_recorders`."""
        return self._life_of(agent).cell.recorders

    def reset_latency(self) -> None:
        """Start the recorders afresh, as after a warm-up; the account goes on."""
        for meter in self._all_meters():
            for recorder in meter.by_name().values():
                recorder.reset()

    def take_times(self) -> dict[str, LatencyRecorder]:
        """What the recorders of all agents hold, merged by name as in `Meter.by_name`; they start afresh.

        Nothing is lost or taken twice while agents go on: what is recorded meanwhile is in the next one.
        """
        taken = {name: LatencyRecorder() for name in Meter().by_name()}
        with self._lives.lock:
            for meter in self._all_meters():
                for name, recorder in meter.by_name().items():
                    if recorder.count:
                        taken[name].merge(recorder.take())
        return taken

    def totals(self) -> Counters:
        """The account of all agents together at this instant: `stats` without a part for each of them."""
        total = Counters()
        with self._lives.lock:
            for life in list(self._lives.by_name.values()):
                total.add(life.cell.counters())
            total.add(self._lives.stopped_total)
        total.add(self._strays)
        return total

    def state(self, agent: AgentRef | str) -> State:
        """Where in its life an agent is; by ref also after it stopped."""
        state: State = self._life_of(agent).state
        return state

    def restarts(self, agent: AgentRef | str) -> int:
        """How often an agent has been restarted, alone or with its group."""
        record = self._life_of(agent).record
        return 0 if record is None else record.restarts

    def _children_of(self, ref: AgentRef) -> tuple[str, ...]:
        return tuple(self._life_of(ref).children or ())

    @property
    def agents(self) -> tuple[str, ...]:
        """Names of the living agents, in order of start."""
        return tuple(self._lives.by_name)

    # Guards.

    def _check_entered(self) -> None:
        if self._forked:
            raise UsedAfterFork(
                f"coordinator {self.name!r} was made before a fork; its event loop runs in the parent process."
                " Make a Coordinator of your own in the child"
            )
        if self._keeper is None:
            raise CoordinatorClosed(f"coordinator {self.name!r} has not been entered; use `async with` first")

    def _check_loop(self, method: str, *, even_closed: bool = False) -> None:
        self._check_entered()
        if self._closed and not even_closed:
            raise CoordinatorClosed(f"coordinator {self.name!r} has been left; make a new one")
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is not self._loop:
            raise WrongLoop(
                f"{method}() belongs to the event loop of coordinator {self.name!r};"
                " use asyncio.run_coroutine_threadsafe to call it from elsewhere"
            )

    def _mark_forked(self) -> None:
        self._forked = True
        self._dispatcher.mark_forked()

    def __repr__(self) -> str:
        if self._keeper is None:
            status = "not entered"
        elif self._closed:
            status = "closed"
        else:
            status = f"{len(self._lives.by_name)} agents"
        return f"<Coordinator {self.name!r} {status}>"


def _is_starting(life: Life | None) -> bool:
    """Whether an agent or one above it is being started, or restarted: what it spawns is a part of that."""
    while life is not None:
        if life.state is State.STARTING:
            return True
        life = life.parent
    return False


class _SupervisorAgent(Agent):
    """The agent that a supervisor is: a place in the tree."""


def _make_agent(factory: Callable[..., Any], args: tuple[object, ...], kwargs: Mapping[str, Any]) -> Agent:
    agent = factory(*args, **kwargs)
    if not isinstance(agent, Agent):
        raise InvalidType(f"{factory!r} made {agent!r}; it must make an Agent")
    return agent


def _resolve_factory(
    factory: Any, args: tuple[object, ...], kwargs: dict[str, Any]
) -> tuple[type[Agent] | None, HandlerTable]:
    """The agent class behind a factory (None for a function agent) and the table to dispatch with."""
    made = factory
    while isinstance(made, functools.partial):
        made = made.func
    if isinstance(made, type) and issubclass(made, Agent):
        table = table_of(made)
        if made is Agent:
            raise HandlerDefinitionError("Agent itself handles nothing; spawn a subclass of it, or a function")
        return made, table
    if isinstance(factory, Agent):
        raise InvalidType(
            f"factory is an instance, {factory!r}; give the class and its arguments, so that each start makes its own"
        )
    if not callable(factory) or isinstance(factory, type):
        raise InvalidType(f"factory is {factory!r}; it must be a subclass of Agent or a function of one payload")
    if args or kwargs:
        given = ", ".join([*map(repr, args), *kwargs])
        raise InvalidType(f"a function agent takes no arguments of its own, but got {given}; use functools.partial")
    return None, function_table(factory)
