"""The public face of the runtime: registry, life and account of the agents of one event loop.

Messages do not pass through here; they go from a ref to a mailbox to the dispatcher, in `_core`.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import os
import threading
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
    is_overridden,
    table_of,
)
from pmesh.deadletters import DeadLetter, DeadLetterKind, DeadLetters
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
from pmesh.lifecycle import Lifecycle, State, StopReason
from pmesh.stats import Stats

__all__ = ["Coordinator"]

logger = logging.getLogger("pmesh")

Answer = TypeVar("Answer")

# A handler that does not end within this time of being cancelled is written off, so that kill is bounded.
KILL_GRACE_SECONDS = 5.0

# How many names the error for an unknown one suggests.
SUGGESTIONS = 3

_dispatchers: weakref.WeakSet[Coordinator] = weakref.WeakSet()


def _mark_forked() -> None:
    for coordinator in _dispatchers:
        coordinator._mark_forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_forked)


class _Life(Lifecycle):
    """The coordinator's record of one agent."""

    __slots__ = ("cell", "children", "ended", "parent", "quiet", "reason", "starting", "stopper")

    def __init__(self, name: str, parent: _Life | None) -> None:
        self.name = name
        self.state = State.NEW
        self.cell: Cell
        self.parent = parent
        self.children: dict[str, _Life] | None = None  # in order of start
        self.starting: asyncio.Future[None] | None = None  # done once a suspended on_start is over
        self.quiet: asyncio.Future[None] | None = None  # done once nothing is pending
        self.stopper: asyncio.Task[None] | None = None  # ends the agent; there is only ever one
        self.ended: asyncio.Future[None] | None = None  # for those who wait for the end
        self.reason: StopReason | None = None

    def on_quiet(self) -> None:
        """The core calls this when nothing is pending and somebody asked to know."""
        if self.quiet is not None and not self.quiet.done():
            self.quiet.set_result(None)


class _Kind:
    """What the agents of one factory have in common in one coordinator."""

    __slots__ = ("agent_class", "base_name", "has_on_start", "meter", "table")

    def __init__(self, agent_class: type[Agent] | None, table: HandlerTable, meter: Meter, factory: Any) -> None:
        self.agent_class = agent_class
        self.table = table
        self.meter = meter
        named = agent_class or factory
        self.base_name = str(getattr(named, "__name__", type(named).__name__)).lower()
        self.has_on_start = agent_class is not None and is_overridden(agent_class, "on_start")


class Coordinator:
    """Registry, dispatcher and life of the agents of one event loop.

    Enter it with `async with`; leaving refuses mail from outside, lets agents handle what was accepted
    and what their handlers still send, and then stops them in reverse order of start.

    Args:
        name: For logs and repr.
        window: Most messages in flight through `send` from outside handlers (accepted, and their
            handler not over nor suspended); None for no limit. Mailboxes are bounded in any case.
        drain_timeout: Seconds that leaving waits for mail to be handled; what is left then is
            dead-lettered, and handlers are cancelled.
        dead_letters: Dead letters kept for inspection.
        slice_seconds: How long the dispatcher keeps the event loop at a stretch.
        clock: The source of time; a virtual one in tests.
    """

    def __init__(
        self,
        name: str = "mesh",
        *,
        window: int | None = 1024,
        drain_timeout: float = 30.0,
        dead_letters: int = 1_000,
        slice_seconds: float = 0.001,
        clock: Clock | None = None,
        chooser: Callable[[list[AgentRef]], int] | None = None,
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
        self.name = name
        self.dead_letters = DeadLetters(dead_letters)
        self._window = window or 0
        self._drain_timeout = timeout_seconds(drain_timeout, "drain_timeout")
        self._slice_seconds = timeout_seconds(slice_seconds, "slice_seconds")
        self._clock = Clock() if clock is None else clock
        self._chooser = chooser
        self._lives: dict[str, _Life] = {}  # in order of start
        self._numbers = itertools.count(1)
        self._kinds: dict[type, _Kind] = {}
        self._meters: dict[object, Meter] = {}
        self._stopped_total = Counters()  # what stopped agents leave to the account
        self._strays = Counters()  # messages to names that nobody has
        self._registry_lock = threading.Lock()  # stats() sees a stopping agent once, in any thread
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False
        self._forked = False

    # Entering and leaving.

    async def __aenter__(self) -> Self:
        if self._closed:
            raise CoordinatorClosed(f"coordinator {self.name!r} has been left; make a new one")
        if self._keeper is not None:
            raise CoordinatorClosed(f"coordinator {self.name!r} has been entered already")
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._dispatcher = Dispatcher(
            loop,
            self,
            self._clock,
            window=self._window,
            slice_seconds=self._slice_seconds,
            chooser=self._chooser,
        )
        # asyncio.run cancels all tasks when it ends; this one hears of it for all agents.
        self._keeper = loop.create_task(self._keep(), name=f"pmesh-{self.name}")
        _dispatchers.add(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self, *, timeout: float | None = None) -> None:
        """Refuse mail from outside, wait until nothing is pending, then stop all agents, newest first.

        Args:
            timeout: Seconds to wait for mail to be handled; by default the coordinator's `drain_timeout`.

        Cancel safety: a cancelled call kills what still runs, and then lets the cancellation through.
        """
        if self._keeper is None or self._closed:
            return
        self._check_loop("close")
        seconds = self._drain_timeout if timeout is None else timeout_seconds(timeout, "timeout")
        self._dispatcher.closing = True
        for life in self._lives.values():
            life.cell.refuse_waiters(outside_only=True)
        finish = StopReason.SHUTDOWN
        try:
            if not await self._all_quiet(seconds):
                logger.warning(
                    "coordinator %r: %s after draining for %g s", self.name, self._what_is_pending(), seconds
                )
                finish = StopReason.DRAIN_TIMEOUT
            await self._stop_all(finish)
        except asyncio.CancelledError:
            for life in reversed(list(self._lives.values())):
                self._begin_stop(life, StopReason.KILLED)
            await self._stop_all(StopReason.KILLED)
            raise
        finally:
            self._closed = True
            self._dispatcher.end()
            if not self._loop.is_closed():
                self._keeper.cancel()
            self.dead_letters.log_summary()
            _dispatchers.discard(self)

    async def _all_quiet(self, seconds: float) -> bool:
        """Wait until no agent has anything pending, since handlers may still send to each other."""
        give_up = self._loop.time() + seconds
        while True:
            busy = [life for life in self._lives.values() if life.cell.pending]
            if not busy:
                return True
            for life in busy:
                if not await self._quiet(life, give_up - self._loop.time()):
                    return False

    def _what_is_pending(self) -> str:
        busy = {name: life.cell.pending for name, life in self._lives.items() if life.cell.pending}
        shown = ", ".join(f"{name} has {count}" for name, count in itertools.islice(busy.items(), 5))
        return (
            f"{sum(busy.values())} messages pending in {len(busy)} agents ({shown}{', ...' if len(busy) > 5 else ''})"
        )

    async def _stop_all(self, reason: StopReason) -> None:
        for life in reversed(list(self._lives.values())):
            await self._stop(life, reason)

    async def _keep(self) -> None:
        try:
            await self._loop.create_future()
        except asyncio.CancelledError:
            if self._closed:
                raise
            logger.warning("coordinator %r was not left before its event loop ended; its agents are killed", self.name)
            self._dispatcher.closing = True
            for life in reversed(list(self._lives.values())):
                self._begin_stop(life, StopReason.KILLED)
            await self._stop_all(StopReason.KILLED)
            self._closed = True
            self._dispatcher.end()
            raise

    # Spawning.

    async def spawn(
        self,
        factory: Callable[..., Any],
        *args: object,
        name: str | None = None,
        mailbox: MailboxPolicy | None = None,
        concurrency: int | None = None,
        **kwargs: object,
    ) -> AgentRef:
        """Start an agent and return its ref once `on_start` is over.

        Args:
            factory: An `Agent` subclass (or a `functools.partial` of one), called with `args` and
                `kwargs`; or a function of one payload, which is then the agent's only handler.
            name: Unique among living agents; made from the class by default.
            mailbox, concurrency: Override the class attributes of the same names.

        Raises:
            NameInUse: An agent of that name is alive.
            StartFailed: The agent was stopped while it started.
            Exception: Whatever the factory or `on_start` raises; the name is free again then.

        Cancel safety: a cancelled call has started nothing; `on_start` is cancelled with it.
        """
        return await self._spawn(factory, args, kwargs, name, mailbox, concurrency, None)

    async def _spawn(
        self,
        factory: Callable[..., Any],
        args: tuple[object, ...],
        kwargs: dict[str, Any],
        name: str | None,
        mailbox: MailboxPolicy | None,
        concurrency: int | None,
        parent: AgentRef | None,
    ) -> AgentRef:
        self._check_loop("spawn")
        if mailbox is not None and not isinstance(mailbox, MailboxPolicy):
            raise InvalidType(f"mailbox is {mailbox!r}; it must be a MailboxPolicy")
        if concurrency is not None:
            check_concurrency(concurrency, "concurrency")
        if self._dispatcher.closing:
            raise CoordinatorClosed(f"coordinator {self.name!r} is closing and starts no agents")
        elder = None if parent is None else self._life_of(parent)
        if elder is not None and elder.state in (State.STOPPING, State.STOPPED):
            raise CoordinatorClosed(f"agent {elder.name!r} is {elder.state.value} and starts no children")
        kind = self._kinds.get(factory) if isinstance(factory, type) else None
        if kind is None:
            kind = self._kind_of(factory, args, kwargs)
        if name is None:
            name = self._make_name(kind.base_name)
        elif not isinstance(name, str):
            raise InvalidType(f"name is {name!r}; it must be a str")
        elif not name:
            raise InvalidArgument("name is ''; it must not be empty")
        if name in self._lives:
            raise NameInUse(
                f"an agent named {name!r} is alive in coordinator {self.name!r}; stop it or choose another name"
            )
        agent: Agent | None = None
        if kind.agent_class is not None:
            agent = factory(*args, **kwargs)
            if not isinstance(agent, Agent):
                raise InvalidType(f"{factory!r} made {agent!r}; it must make an Agent")
        life = _Life(name, elder)
        defaults = kind.agent_class or Agent
        cell = Cell(
            defaults.mailbox if mailbox is None else mailbox,
            self._dispatcher,
            kind.table,
            name,
            agent,
            kind.meter,
            concurrency=defaults.concurrency if concurrency is None else concurrency,
        )
        life.cell = cell
        cell.life = life
        if agent is not None:
            agent.context = AgentContext(cell.ref, self)
        self._lives[name] = life
        if elder is not None:
            if elder.children is None:
                elder.children = {}
            elder.children[name] = life
        life.move(State.STARTING)
        if agent is not None and kind.has_on_start:
            await self._run_on_start(life, agent)
        if life.state is State.DRAINING:
            # Drained while it started: it handles what it was sent, and is gone.
            cell.resume()
            await self._ended(life)
            raise self._start_failed(life)
        life.move(State.RUNNING)
        cell.resume()
        return cell.ref

    async def _run_on_start(self, life: _Life, agent: Agent) -> None:
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
            self._begin_stop(life, StopReason.FAILED, run_on_stop=False)
            await self._ended(life)
            raise error
        await self._ended(life)
        raise self._start_failed(life) from error

    def _start_failed(self, life: _Life) -> StartFailed:
        return StartFailed(f"agent {life.name!r} was stopped while it started")

    def _make_name(self, base: str) -> str:
        while True:
            name = f"{base}-{next(self._numbers)}"
            if name not in self._lives:
                return name

    def _kind_of(self, factory: Any, args: tuple[object, ...], kwargs: dict[str, Any]) -> _Kind:
        """What agents from `factory` have in common; looked up again for each spawn unless it is a class."""
        agent_class, table = _resolve_factory(factory, args, kwargs)
        kind = _Kind(agent_class, table, self._meter_of(agent_class or factory), factory)
        if isinstance(factory, type):
            self._kinds[factory] = kind
        return kind

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

    def _life(self, name: object) -> _Life:
        life = self._lives.get(name) if isinstance(name, str) else None
        if life is not None:
            return life
        if not isinstance(name, str):
            raise InvalidType(f"agent is {name!r}; it must be an AgentRef or the name of one")
        import difflib  # only to word this error

        close = difflib.get_close_matches(name, self._lives, SUGGESTIONS)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else f"; {len(self._lives)} agents are alive"
        raise UnknownAgent(f"no agent named {name!r} is alive in coordinator {self.name!r}{hint}")

    def _life_of(self, agent: AgentRef | str) -> _Life:
        if isinstance(agent, AgentRef):
            life = cell_of(agent).life
            if not isinstance(life, _Life) or cell_of(agent).dispatcher is not self._dispatcher:
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
        at once. Stopping a stopped agent does nothing.

        Cancel safety: a cancelled call still stops the agent, and does not wait for it.
        """
        self._check_loop("stop")
        await self._stop(self._life_of(agent), StopReason.STOPPED)

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
        self._begin_drain(life, seconds)
        if self._called_from(life):
            return True
        await self._ended(life)
        return life.reason is not StopReason.DRAIN_TIMEOUT

    async def kill(self, agent: AgentRef | str) -> None:
        """Cancel what an agent handles, dead-letter what waits, and stop it.

        A handler that does not end within five seconds of being cancelled is written off: its message
        counts failed. Cancel safety: a cancelled call still kills the agent, and does not wait for it.
        """
        self._check_loop("kill")
        await self._stop(self._life_of(agent), StopReason.KILLED)

    def _stop_soon(self, ref: AgentRef) -> None:
        self._begin_stop(self._life_of(ref), StopReason.STOPPED)

    async def _stop(self, life: _Life, reason: StopReason) -> None:
        self._begin_stop(life, reason)
        if not self._called_from(life):
            await self._ended(life)

    def _called_from(self, life: _Life) -> bool:
        """Whether a handler of this agent, or of one below it, is what calls: its end cannot be awaited there."""
        cell = self._dispatcher.current_cell()
        caller = None if cell is None else cell.life
        while caller is not None:
            if caller is life:
                return True
            caller = caller.parent
        return False

    async def _ended(self, life: _Life) -> None:
        """Wait for the end of an agent that is being stopped."""
        if life.state is State.STOPPED:
            return
        if life.ended is None:
            life.ended = self._loop.create_future()
        # Many may wait for the one end, and none of them may cancel it for the others.
        await asyncio.shield(life.ended)

    def _begin_drain(self, life: _Life, seconds: float) -> None:
        if life.stopper is not None or life.state in (State.STOPPING, State.STOPPED):
            return
        life.cell.close()
        life.cell.refuse_waiters()
        if life.state is not State.DRAINING:
            life.move(State.DRAINING)
        life.stopper = self._loop.create_task(self._drain(life, seconds), name=f"pmesh-drain-{life.name}")

    async def _drain(self, life: _Life, seconds: float) -> None:
        give_up = self._loop.time() + seconds
        if life.starting is not None:
            await asyncio.wait([life.starting], timeout=seconds)
        done = await self._quiet(life, give_up - self._loop.time())
        if life.state is State.DRAINING:
            life.move(State.STOPPING)
            await self._end(life, StopReason.DRAINED if done else StopReason.DRAIN_TIMEOUT, True)

    def _begin_stop(self, life: _Life, reason: StopReason, *, run_on_stop: bool = True) -> None:
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
        life.stopper = self._loop.create_task(self._end(life, reason, run_on_stop), name=f"pmesh-stop-{life.name}")

    async def _end(self, life: _Life, reason: StopReason, run_on_stop: bool) -> None:
        """Children, the message in hand, `on_stop`, and the last entries in the account; state is STOPPING."""
        cell = life.cell
        forced = reason in (StopReason.KILLED, StopReason.DRAIN_TIMEOUT)
        try:
            if life.starting is not None:
                if not life.starting.done():
                    self._loop.call_later(KILL_GRACE_SECONDS, self._write_off, life)
                await asyncio.shield(life.starting)
            for child in reversed(list((life.children or {}).values())):
                self._begin_stop(child, reason)
                await self._ended(child)
            cell.discard()
            if forced:
                self._force(life)
            if not await self._quiet(life, self._drain_timeout if reason is StopReason.SHUTDOWN else None):
                self._force(life)
                await self._quiet(life, None)
            if run_on_stop:
                await self._run_on_stop(life, reason)
        finally:
            self._finish(life, reason)

    async def _run_on_stop(self, life: _Life, reason: StopReason) -> None:
        """Run `on_stop`, bounded in time; whatever it raises is logged, so that the agent ends."""
        cell = life.cell
        if cell.agent is None or not is_overridden(type(cell.agent), "on_stop"):
            return
        try:
            hook = cell.run_hook(cell.agent.on_stop, reason)
            if hook is not None:
                async with asyncio.timeout(self._drain_timeout):
                    await hook
        except TimeoutError:
            cell.cancel_handlers()
            logger.error("agent %r: on_stop did not end within %g s", life.name, self._drain_timeout)
        except (Exception, asyncio.CancelledError):
            logger.exception("agent %r: on_stop failed", life.name)

    def _force(self, life: _Life) -> None:
        """Dead-letter what waits and cancel what runs; what outlives that is written off, so that it ends."""
        life.cell.discard()
        if life.cell.cancel_handlers():
            self._loop.call_later(KILL_GRACE_SECONDS, self._write_off, life)

    def _write_off(self, life: _Life) -> None:
        written_off = life.cell.abandon_handlers() if life.state is not State.STOPPED else 0
        if written_off:
            logger.error(
                "agent %r: %d handlers went on %g s after they were cancelled; their messages count failed",
                life.name,
                written_off,
                KILL_GRACE_SECONDS,
            )

    def _finish(self, life: _Life, reason: StopReason) -> None:
        """The last step of every end: out of the registry, and into the total of stopped agents."""
        cell = life.cell
        life.reason = reason
        cell.end_slots()
        with self._registry_lock:
            self._lives.pop(life.name, None)
            cell.bequeath(self._stopped_total)
        if life.parent is not None and life.parent.children is not None:
            life.parent.children.pop(life.name, None)
        life.move(State.STOPPED)
        if life.ended is not None and not life.ended.done():
            life.ended.set_result(None)

    async def _quiet(self, life: _Life, seconds: float | None) -> bool:
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

    # What the core reports.

    def on_dead_letter(self, kind: str, message: Message, receiver: AgentRef) -> None:
        self.dead_letters.add(DeadLetter(DeadLetterKind(kind), message.payload, receiver.name, message.sender))

    def on_failure(self, cell: Cell, handler: Handler | None, message: Message, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError) and cell.is_closed:
            return  # the end of a handler that kill or the end of a drain cut short
        logger.error(
            "agent %r: %s failed on %s",
            cell.name,
            "dispatch" if handler is None else f"handler {handler.name}",
            type_name(message.payload),
            exc_info=error,
        )

    def on_overflow(self, cell: Cell, payload_type: str) -> None:
        life = cell.life
        if life.state in (State.RUNNING, State.DRAINING, State.STARTING):
            logger.error(
                "agent %r failed: its mailbox overflowed with %s, and its policy is STOP",
                cell.name,
                payload_type,
            )
            cell.close()
            life.move(State.FAILED)
            self._begin_stop(life, StopReason.FAILED)

    def on_killed(self, cell: Cell) -> None:
        if cell.life.state not in (State.STOPPING, State.STOPPED):
            logger.warning("agent %r: its task was cancelled from outside, which kills the agent", cell.name)
            self._begin_stop(cell.life, StopReason.KILLED)

    # Looking.

    def stats(self) -> Stats:
        """The account of all agents together and of each living one, at this instant."""
        with self._registry_lock:
            stats = Stats({name: life.cell.counters() for name, life in list(self._lives.items())})
            stats.add(self._stopped_total)
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
        for meter in list(self._meters.values()):
            merged.merge(getattr(meter, kind))
        return merged

    def latency_of(self, agent: AgentRef | str) -> Meter:
        """The recorders `queue`, `service` and `latency` that this agent's class shares."""
        return self._life_of(agent).cell.recorders

    def reset_latency(self) -> None:
        """Start the recorders afresh, as after a warm-up; the account goes on."""
        for meter in self._meters.values():
            meter.queue.reset()
            meter.service.reset()
            meter.latency.reset()

    def state(self, agent: AgentRef | str) -> State:
        """Where in its life an agent is; by ref also after it stopped."""
        state: State = self._life_of(agent).state
        return state

    @property
    def agents(self) -> tuple[str, ...]:
        """Names of the living agents, in order of start."""
        return tuple(self._lives)

    # Guards.

    def _check_entered(self) -> None:
        if self._forked:
            raise UsedAfterFork(
                f"coordinator {self.name!r} was made before a fork; its event loop runs in the parent process."
                " Make a Coordinator of your own in the child"
            )
        if self._keeper is None:
            raise CoordinatorClosed(f"coordinator {self.name!r} has not been entered; use `async with` first")

    def _check_loop(self, method: str) -> None:
        self._check_entered()
        if self._closed:
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
            status = f"{len(self._lives)} agents"
        return f"<Coordinator {self.name!r} {status}>"


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
