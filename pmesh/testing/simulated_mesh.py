"""The coordinator of a simulation, whose agents are served, and whose handlers are disturbed, as a seed decides."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pmesh._core import AgentRef, Cell, Handler, HandlerTable, Message
from pmesh.agent import Agent
from pmesh.coordinator import Coordinator
from pmesh.lifecycle import StopReason
from pmesh.lives import Life
from pmesh.testing.faults import InjectedFault
from pmesh.testing.probe import ProbeAgent
from pmesh.testing.trace import shown

if TYPE_CHECKING:
    from pmesh.testing.simulation import Simulation

__all__ = ["SLICE_SECONDS", "SimulatedCoordinator"]

# The shortest slice that the dispatcher takes: a microsecond of virtual time ends it.
SLICE_SECONDS = 1e-6


class SimulatedCoordinator(Coordinator):
    """A coordinator whose agents are served, and disturbed, as the simulation decides."""

    def __init__(self, simulation: Simulation, name: str, **options: Any) -> None:
        options.setdefault("stall_after", None)  # that takes a thread, which looks at the real time
        super().__init__(
            name,
            clock=simulation.loop.clock,
            chooser=lambda ready: simulation.choose(self, ready),
            slice_seconds=SLICE_SECONDS,
            **options,
        )
        self._simulation = simulation
        self._refused = 0
        self._refused_by: dict[str, int] = {}
        self._lives.on_end = self._on_end
        self._run_hook = self._lives.run_hook
        self._lives.run_hook = self._run_watched_hook  # type: ignore[method-assign]

    @property
    def has_begun(self) -> bool:
        return self._keeper is not None

    @property
    def has_ended(self) -> bool:
        return self._closed

    def victims(self) -> list[Life]:
        """The agents that faults may happen to: those with handlers that are no probes."""
        return [
            life
            for life in self._lives.by_name.values()
            if life.kind.agent_class is None
            or (
                not (life.rules is not None and life.rules.is_supervisor)
                and not issubclass(life.kind.agent_class, ProbeAgent)
            )
        ]

    def note_refusals(self, total: int) -> None:
        """Put into the trace what was refused since the last time, of `total` in all; who told it may look away."""
        new = total - self._refused
        if not new:
            return
        self._refused = total
        before = self._refused_by
        self._refused_by = {name: account.rejected for name, account in self.stats().agents.items()}
        for name, refused in self._refused_by.items():
            known = before.get(name, 0)
            more = refused - known if refused >= known else refused  # less is that of a new agent of the name
            if more:
                new -= more
                self._simulation.add_event(name, f"has refused {_messages(more)}")
        if new > 0:
            self._simulation.add_event(self.name, f"has refused {_messages(new)} to agents that are not there any more")

    def begin_kill(self, life: Life) -> None:
        self._lives.begin_stop(life, StopReason.KILLED)

    def _dispatching_by(self, table: HandlerTable, agent_class: type[Agent] | None = None) -> HandlerTable:
        disturbed = agent_class is None or not issubclass(agent_class, ProbeAgent)
        wrapped: dict[Handler, Handler] = {}

        def resolve(payload_type: type) -> Handler | None:
            found = table.resolve(payload_type)
            if found is not None and found not in wrapped:
                wrapped[found] = _wrap(self._simulation, self, found, disturbed)
            return None if found is None else wrapped[found]

        return HandlerTable(resolve, has_control=table.has_control, has_async=table.has_async)

    async def _spawn(self, *args: Any) -> AgentRef:
        ref = await super()._spawn(*args)
        self._simulation.agents.add(ref.name)
        self._simulation.add_event(ref.name, "has started")
        return ref

    def _renew(self, life: Life) -> None:
        self._simulation.add_event(life.name, "is restarted")
        try:
            super()._renew(life)
        except BaseException as error:
            self._simulation.hear_of(error)
            raise

    async def _run_watched_hook(self, life: Life, hook: Callable[..., object], *args: object) -> None:
        try:
            await self._run_hook(life, hook, *args)
        except BaseException as error:
            self._simulation.hear_of(error)
            raise

    def on_failure(self, cell: Cell, handler: Handler | None, message: Message, error: BaseException) -> None:
        if not message.expects_reply:  # else whoever asked gets it
            self._simulation.hear_of(error)
        super().on_failure(cell, handler, message, error)

    def _on_end(self, life: Life) -> None:
        self._simulation.add_event(life.name, f"has stopped ({life.reason.value if life.reason else ''})")

    def on_dead_letter(self, kind: str, message: Message, receiver: AgentRef) -> None:
        if self._simulation.is_traced:
            self._simulation.add_event(receiver.name, f"does not see {shown(message.payload)}: {kind}")
        super().on_dead_letter(kind, message, receiver)


def _messages(count: int) -> str:
    return "a message" if count == 1 else f"{count} messages"


def _wrap(simulation: Simulation, mesh: Coordinator, handler: Handler, disturbed: bool) -> Handler:
    """The same handler, which the simulation sees begin and end and may disturb."""
    function: Any = handler.function

    def begin(args: tuple[Any, ...]) -> tuple[str, str, float]:
        simulation.handled += 1
        scope = mesh._dispatcher.scope()
        assert scope is not None
        name = scope[0].name
        fault, seconds = simulation.handler_fault(name, handler.is_async) if disturbed else ("", 0.0)
        if simulation.is_traced:
            sender = None if scope[1] is None else scope[1].sender
            simulation.add_event(name, f"handles {shown(args[-1])}{'' if sender is None else f' from {sender.name}'}")
            if fault:
                text = f"{fault}, by {seconds:.6f} s" if seconds else fault
                simulation.add_event(name, text, True)
        return name, fault, seconds

    def end(name: str, fault: str, result: object) -> None:
        if fault == "raises at its end":
            raise InjectedFault(f"at the end of {handler.name}")
        if simulation.is_traced and result is not None:
            simulation.add_event(name, f"answers {shown(result)}")

    def failed(name: str, error: BaseException) -> None:
        if simulation.is_traced:
            simulation.add_event(name, f"raised {shown(error)}")

    async def finish(args: tuple[Any, ...], name: str, fault: str, seconds: float) -> object:
        timer = None
        try:
            if fault == "raises first":
                raise InjectedFault(f"instead of {handler.name}")
            if fault == "stalls":
                await asyncio.sleep(seconds)
            elif fault == "is cancelled":
                task = asyncio.current_task()
                assert task is not None
                timer = simulation.loop.call_later(seconds, task.cancel)
            result = await function(*args)
            end(name, fault, result)
        except BaseException as error:
            failed(name, error)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        return result

    async def finish_awaitable(awaitable: Any, name: str, fault: str) -> object:
        try:
            result = await awaitable
            end(name, fault, result)
        except BaseException as error:
            failed(name, error)
            raise
        return result

    async def handle(*args: Any) -> object:
        return await finish(args, *begin(args))

    def handle_in_place(*args: Any) -> object:
        name, fault, seconds = begin(args)
        try:
            if fault == "raises first":
                raise InjectedFault(f"instead of {handler.name}")
            if fault == "stalls":
                simulation.block(seconds)
            result = function(*args)
            if not hasattr(result, "__await__"):
                end(name, fault, result)
                return result
        except BaseException as error:
            failed(name, error)
            raise
        return finish_awaitable(result, name, fault)

    return Handler(
        handle if handler.is_async else handle_in_place,
        handler.name,
        lane=handler.lane,
        is_async=handler.is_async,
        takes_agent=handler.takes_agent,
    )
