"""What is put under load: pmesh's own load agent or the user's, its payloads, and what is made to go wrong in it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import inspect
import logging
import os
import random
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, cast

from pmesh._core import Handler, HandlerTable
from pmesh.agent import Agent, handler
from pmesh.coordinator import _resolve_factory
from pmesh.errors import InvalidArgument, InvalidType, PmeshError
from pmesh.load.plan import Plan
from pmesh.supervision import Directive, SupervisionPolicy

__all__ = ["InjectedFailure", "LoadAgent", "Subject", "name_of", "one_line", "quiet_failures", "resolve"]

GOES_ON = SupervisionPolicy(directives=Directive.RESUME)

MakePayload = Callable[[int], object]


class InjectedFailure(PmeshError):
    """Raised by a handler because the load test was asked to make some fail."""


class LoadAgent(Agent):
    """Counts what it gets: a second account, which the coordinator's is held against."""

    __slots__ = ("received",)

    def __init__(self, peers: list[LoadAgent]) -> None:
        self.received = 0
        peers.append(self)

    @handler
    async def receive_payload(self, payload: bytes) -> None:
        self.received += 1


@contextlib.contextmanager
def quiet_failures(plan: Plan) -> Iterator[None]:
    """Keep out of the log what goes wrong because the plan wants it so; the report counts it."""

    def is_real(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], InjectedFailure))

    def is_unexpected(record: logging.LogRecord) -> bool:
        return not plan.stop_every_seconds and plan.overflow == "reject"

    filters = ((logging.getLogger("pmesh"), is_real), (logging.getLogger("pmesh.dead_letters"), is_unexpected))
    for logger, wanted in filters:
        logger.addFilter(wanted)
    try:
        yield
    finally:
        for logger, wanted in filters:
            logger.removeFilter(wanted)


class Subject:
    """Which agents a load run spawns and what it sends them.

    Args:
        plan: Says the payload's size, and what is to go wrong.
        agent: An agent class or a function agent; the load tester's own by default.
        payload: Makes a payload, called with nothing or, if it needs an argument, with the message's number
            from 0; bytes of the profile's size by default.

    Attributes:
        supervision: What becomes of an agent whose handler raised: the failure is counted and the agent goes on, unless
            its class has a `supervision` of its own.
        failures: Handlers that were made to raise.
        delays: Handlers that were made to wait.

    Raises:
        InvalidArgument: The agent cannot be spawned without arguments, the payload factory raised, or the
            agent has no handler for what it made.
        InvalidType: Not an agent class or function, or not a payload factory.
    """

    def __init__(
        self,
        plan: Plan,
        agent: Callable[..., Any] | None = None,
        payload: Callable[..., object] | None = None,
    ) -> None:
        self.plan = plan
        self.failures = 0
        self.delays = 0
        self.is_own = agent is None
        self._random = random.Random(plan.seed)
        self._peers: list[LoadAgent] = []
        self._agent: Callable[..., Any] = LoadAgent if agent is None else agent
        self._args: tuple[object, ...] = (self._peers,) if agent is None else ()
        self._class, table = self._look_up_agent()
        has_policy = self._class is not None and self._class.supervision is not Agent.supervision
        self.supervision = None if has_policy else GOES_ON
        # Bytes of the profile's size, for which each sender has its own quick way.
        self.makes_bytes = payload is None
        self.make_payload: MakePayload = self._make_bytes if payload is None else _PayloadFactory(payload)
        sample = self.make_payload(0)
        if table.find(sample) is None:
            raise InvalidArgument(
                f"agent {name_of(self._agent)} has no handler for {type(sample).__qualname__}, which is what"
                f" {'a load profile sends' if payload is None else 'the payload factory ' + name_of(payload) + ' made'}"
            )
        self._plain = self._with_faults(table, slow_ns=0) if plan.fail_rate else self._agent
        self._slow = self._with_faults(table, slow_ns=plan.slow_ns) if plan.slow_agents else self._agent

    @property
    def received(self) -> int:
        """Messages that load agents say their handlers saw."""
        return sum(peer.received for peer in self._peers)

    def factory(self, index: int) -> tuple[Callable[..., Any], tuple[object, ...]]:
        """What to spawn as agent `index` (from 0), and its arguments."""
        return (self._slow if index < self.plan.slow_agents else self._plain), self._args

    def _make_bytes(self, number: int) -> bytes:
        return b"x" * self.plan.profile.payload_bytes

    def _look_up_agent(self) -> tuple[type[Agent] | None, HandlerTable]:
        agent_class, table = _resolve_factory(self._agent, (), {})
        if agent_class is not None:
            try:
                inspect.signature(self._agent).bind(*self._args)
            except TypeError as error:
                raise InvalidArgument(
                    f"agent {name_of(self._agent)} cannot be made without arguments: {error};"
                    " give a functools.partial with them"
                ) from None
        return agent_class, table

    def _with_faults(self, table: HandlerTable, *, slow_ns: int) -> Callable[..., Any]:
        """The agent with each of its handlers wrapped."""
        if self._class is None:
            entry = table.find(None)
            assert entry is not None
            return cast(Callable[..., Any], self._wrap(entry, slow_ns).function)
        wrapped: dict[Handler, Handler] = {}

        def resolve_faulty(payload_type: type) -> Handler | None:
            entry = table.resolve(payload_type)
            if entry is not None and entry not in wrapped:
                wrapped[entry] = self._wrap(entry, slow_ns)
            return None if entry is None else wrapped[entry]

        made: type[Agent] = types.new_class(
            self._class.__name__, (self._class,), exec_body=lambda names: names.update(__slots__=())
        )
        made.__module__, made.__qualname__ = self._class.__module__, self._class.__qualname__
        made._pmesh_table = HandlerTable(resolve_faulty, has_control=table.has_control, has_async=True)
        if isinstance(self._agent, functools.partial):
            return functools.partial(made, *self._agent.args, **self._agent.keywords)
        return made

    def _wrap(self, entry: Handler, slow_ns: int) -> Handler:
        fail_rate = self.plan.fail_rate
        share = self._random.random
        seconds = slow_ns / 1e9

        async def faulty(*arguments: Any) -> object:
            if slow_ns:
                self.delays += 1
                await asyncio.sleep(seconds)
            if fail_rate and share() < fail_rate:
                self.failures += 1
                raise InjectedFailure(f"made to fail, as {fail_rate:.3%} of all messages are")
            answer = entry.function(*arguments)
            return await answer if inspect.isawaitable(answer) else answer

        return Handler(faulty, entry.name, lane=entry.lane, is_async=True, takes_agent=entry.takes_agent)


class _PayloadFactory:
    """Calls the user's factory, and says whose fault it is when that raises."""

    def __init__(self, function: Callable[..., object]) -> None:
        if not callable(function):
            raise InvalidType(f"payload is {function!r}; it must be a function that makes a payload")
        if inspect.iscoroutinefunction(function):
            raise InvalidType(
                f"payload factory {name_of(function)} is a coroutine function; payloads are made without waiting"
            )
        self._function = function
        try:
            inspect.signature(function).bind()
            self._takes_number = False
        except TypeError:
            self._takes_number = True
        except ValueError:
            self._takes_number = False  # some builtins have no signature

    def __call__(self, number: int) -> object:
        try:
            return self._function(number) if self._takes_number else self._function()
        except (Exception, SystemExit) as error:
            raise InvalidArgument(
                f"payload factory {name_of(self._function)} raised {type(error).__name__}: {one_line(error)}"
                f" (for message {number})"
            ) from error


def one_line(error: BaseException) -> str:
    """What an error says, on one line and without control characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(error)).split())


def name_of(thing: Any) -> str:
    """`module:name` of a class or function."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    module = getattr(thing, "__module__", None) or "?"
    return f"{module}:{getattr(thing, '__qualname__', None) or repr(thing)}"


def resolve(path: str, what: str) -> Any:
    """What `module:name` stands for; modules are looked for in the current folder too, after all other places.

    Args:
        what: What it is for, as errors say it: "agent", "payload".

    Raises:
        InvalidArgument: It is not of that form, the module cannot be imported or has no such name.
    """
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise InvalidArgument(f"{what} {path!r} must have the form package.module:name")
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)
    try:
        found = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise InvalidArgument(
            f"{what} {path!r}: {module_name} cannot be imported: {type(error).__name__}: {one_line(error)}"
        ) from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise InvalidArgument(f"{what} {path!r}: {module_name} has no {name!r}") from None
    return found
