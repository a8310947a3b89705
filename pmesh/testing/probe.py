"""A probe: an agent whose mail a test looks at."""

from __future__ import annotations

import asyncio
import collections
from typing import Any, Self, TypeVar

from pmesh._core import AgentRef, Message, timeout_seconds, type_name
from pmesh.agent import Agent, MailboxPolicy
from pmesh.coordinator import Coordinator
from pmesh.errors import InvalidArgument, InvalidType
from pmesh.supervision import SupervisionPolicy

__all__ = ["Probe", "ProbeAgent"]

Kind = TypeVar("Kind")

# Asks that wait for `reply` hold a slot each; so many wait at a time.
MOST_ASKS = 4096


class Inbox:
    """What came and has not been looked at: the envelope, and where the answer goes if it is an ask."""

    __slots__ = ("arrived", "got")

    def __init__(self) -> None:
        self.got: collections.deque[tuple[Message, asyncio.Future[object] | None]] = collections.deque()
        self.arrived = asyncio.Event()


class ProbeAgent(Agent):
    """Takes all mail, and lets asks wait until the probe answers them."""

    concurrency = MOST_ASKS
    mailbox = MailboxPolicy(capacity=1 << 20)
    supervision = SupervisionPolicy(directives="resume")

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox

    def receive(self, payload: object) -> asyncio.Future[object] | None:
        message = self.context.message
        assert message is not None
        answer = asyncio.get_running_loop().create_future() if message.expects_reply else None
        self.inbox.got.append((message, answer))
        self.inbox.arrived.set()
        return answer


class Probe:
    """Stands where an agent would, and expects; made by `await Probe.spawn(mesh)`.

    Each message is looked at once, in the order in which it came: `expect` and `expect_type` take the next one. Times
    are those of the event loop, and virtual in a simulation. An ask waits until `reply` or `fail`; draining the
    mesh waits for it, too.

    Attributes:
        ref: For whoever is to send here.
        message: The envelope taken last, with `sender` and `headers`; None before the first.
    """

    def __init__(self, mesh: Coordinator, ref: AgentRef, inbox: Inbox) -> None:
        self.ref = ref
        self._mesh = mesh
        self.message: Message | None = None
        self._inbox = inbox
        self._answer: asyncio.Future[object] | None = None

    @classmethod
    async def spawn(cls, mesh: Coordinator, name: str | None = None) -> Self:
        """Start one in `mesh`.

        Raises:
            NameInUse: An agent of that name is alive.

        Cancel safety: a cancelled call has started nothing.
        """
        if not isinstance(mesh, Coordinator):
            raise InvalidType(f"mesh is {mesh!r}; it must be a pmesh.Coordinator")
        inbox = Inbox()
        return cls(mesh, await mesh.spawn(ProbeAgent, inbox, name=name), inbox)

    async def expect(self, payload: object, *, timeout: float = 3.0) -> object:
        """Take the next message, whose payload must equal `payload`; returns what came.

        Raises:
            AssertionError: Another one came, or none within `timeout` seconds.

        Cancel safety: a cancelled call has taken nothing.
        """
        got = await self._next(timeout, repr(payload))
        if got != payload:
            raise AssertionError(f"{self.ref.name!r} expected {payload!r} and got {got!r}")
        return got

    async def expect_type(self, kind: type[Kind], *, timeout: float = 3.0) -> Kind:
        """Take the next message, whose payload must be a `kind`; returns it.

        Raises:
            AssertionError: Another one came, or none within `timeout` seconds.

        Cancel safety: a cancelled call has taken nothing.
        """
        if not isinstance(kind, type):
            raise InvalidType(f"kind is {kind!r}; it must be a class")
        got = await self._next(timeout, f"a {kind.__qualname__}")
        if not isinstance(got, kind):
            raise AssertionError(f"{self.ref.name!r} expected a {kind.__qualname__} and got {got!r}")
        return got

    async def expect_none(self, *, within: float = 0.1) -> None:
        """Wait `within` seconds, in which nothing may come, and nothing may have come before.

        Raises:
            AssertionError: Something did; it is not taken.

        Cancel safety: nothing to undo.
        """
        try:
            got = await self._arrival(timeout_seconds(within, "within"))
        except TimeoutError:
            return
        raise AssertionError(f"{self.ref.name!r} expected nothing for {within:g} s and got {got!r}")

    def reply(self, value: object) -> None:
        """Answer the ask that was taken last.

        Raises:
            InvalidArgument: It was no ask, or is answered already.
        """
        self._open("reply").set_result(value)

    def fail(self, error: BaseException) -> None:
        """Answer the ask that was taken last by an error; the probe counts it failed and goes on.

        Raises:
            InvalidArgument: It was no ask, or is answered already.
        """
        if not isinstance(error, BaseException):
            raise InvalidType(f"error is {error!r}; it must be an exception")
        self._open("fail").set_exception(error)

    def watch(self, agent: AgentRef | str) -> None:
        """Be told when `agent` stops: then `await probe.expect_type(Terminated)` says how.

        Raises:
            UnknownAgent: No living agent has that name.
        """
        self._mesh._watch(self.ref, agent)

    @property
    def waiting(self) -> int:
        """Messages that came and have not been looked at."""
        return len(self._inbox.got)

    def _open(self, call: str) -> asyncio.Future[object]:
        answer = self._answer
        if answer is None:
            what = "no message was taken" if self.message is None else f"{type_name(self.message.payload)} is no ask"
            raise InvalidArgument(f"{call}() answers the ask that was taken last; {what}")
        if answer.done():
            raise InvalidArgument(f"{call}() a second time: the ask that was taken last has its answer")
        return answer

    async def _next(self, timeout: float, expected: str) -> Any:
        try:
            await self._arrival(timeout_seconds(timeout, "timeout"))
        except TimeoutError:
            raise AssertionError(f"{self.ref.name!r} expected {expected} and got nothing for {timeout:g} s") from None
        self.message, self._answer = self._inbox.got.popleft()
        return self.message.payload

    async def _arrival(self, seconds: float) -> Any:
        """The payload of the next message, left where it is."""
        async with asyncio.timeout(seconds):
            while not self._inbox.got:
                self._inbox.arrived.clear()
                await self._inbox.arrived.wait()
        return self._inbox.got[0][0].payload

    def __repr__(self) -> str:
        return f"<Probe {self.ref.name!r} waiting={self.waiting}>"
