"""A program as users write it, which mypy checks in strict mode: what is right passes, and what is wrong is reported.

An error that mypy should report has `type: ignore`, and one that it does not report leaves that unused, which fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_type

from pmesh import Agent, AgentRef, Coordinator, MailboxPolicy, Overflow, Request, StopReason, handler


@dataclass(slots=True)
class Charged:
    order: str


@dataclass(slots=True)
class Charge(Request[Charged]):
    order: str
    cents: int


class Orders(Request[list[str]]):
    pass


class Flush(Request[None]):
    pass


class Billing(Agent):
    mailbox = MailboxPolicy(capacity=4096, overflow=Overflow.REJECT)
    concurrency = 8

    def __init__(self, currency: str) -> None:
        self.currency = currency
        self.charged = 0

    async def on_start(self) -> None:
        self.context.timers.every(1.0, Flush(), key="flush")

    @handler
    async def charge(self, message: Charge) -> Charged:
        self.charged += message.cents
        return Charged(message.order)

    @handler(lane="control")
    def flush(self, message: Flush) -> None:
        self.charged = 0

    async def receive(self, payload: object) -> object:
        return payload

    async def on_stop(self, reason: StopReason) -> None:
        self.charged = 0


async def answers_have_their_type(ref: AgentRef, mesh: Coordinator) -> Charged:
    assert_type(await ref.ask(Charge("o1", 5)), Charged)
    assert_type(await mesh.ask("billing", Charge("o1", 5), timeout=0.5), Charged)
    assert_type(await ref.ask(Orders()), list[str])
    assert_type(await ref.ask("untyped"), Any)
    await ref.ask(Flush())
    return await ref.ask(Charge("o1", 5))


async def what_an_answer_is_assigned_to_may_be_wider(ref: AgentRef, mesh: Coordinator) -> None:
    maybe: Charged | None = await ref.ask(Charge("o1", 5))
    anything: object = await mesh.ask(ref, Charge("o1", 5))
    orders: Sequence[str] = await ref.ask(Orders())
    untyped: int = await ref.ask("untyped")
    del maybe, anything, orders, untyped


async def an_answer_of_another_type_is_an_error(ref: AgentRef, mesh: Coordinator) -> str:
    text: str = await ref.ask(Charge("o1", 5))  # type: ignore[assignment]
    _ = (await ref.ask(Charge("o1", 5))).cents  # type: ignore[attr-defined]
    numbers: Sequence[int] = await mesh.ask(ref, Orders())  # type: ignore[assignment]
    del text, numbers
    return await mesh.ask("billing", Charge("o1", 5))  # type: ignore[return-value]


async def agents_of_all_kinds() -> None:
    async with Coordinator("shop", window=64) as mesh:
        billing = await mesh.spawn(Billing, "EUR", name="billing")
        assert_type(billing, AgentRef)
        assert_type(await mesh.spawn(lambda payload: payload, name="echo"), AgentRef)
        assert_type(billing.tell(Charge("o1", 5)), bool)
        assert_type(billing.tell_many([1, "two"]), int)
        await billing.send(Flush(), timeout=1.0)
        assert_type(mesh.stats().agents["billing"].handled, int)
        assert_type(mesh.latency.percentile(99), int)
        await mesh.spawn(5)  # type: ignore[arg-type]
        billing.tell()  # type: ignore[call-arg]
        await billing.send(Flush(), timeout="1s")  # type: ignore[arg-type]
        await mesh.drain("billing")
