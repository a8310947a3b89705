"""Every public call of pmesh, each once, in a coordinator that goes on: to be repeated, by what looks for errors.

`leftovers.py` repeats each and looks at what stays behind; `memcheck.py` has valgrind look at all of them. A call says
what it calls by public name, and leaves everything as it was. Time is virtual, so waiting costs nothing.

    python tests/public_calls.py 3       all of them three times
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import io
import logging
import os
import pickle
import signal
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pmesh
from pmesh import Agent, AgentRef, Coordinator, LatencyRecorder, MailboxPolicy, Overflow, Restart, SupervisionPolicy
from pmesh.testing.loop import VirtualTimeLoop

LATENCY_NS = 1_500


@dataclass
class Job:
    """What a `Worker` is to do in its handler."""

    function: Callable[[Worker], object]


class Failure(Exception):
    """What a handler of a `Worker` raises to fail."""


class Worker(Agent):
    concurrency = 4
    supervision = SupervisionPolicy(intensity=1_000_000)

    async def on_start(self) -> None:
        self.started = True

    async def on_stop(self, reason: pmesh.StopReason) -> None:
        await asyncio.sleep(0)

    @pmesh.handler
    async def work(self, job: Job) -> object:
        result = job.function(self)
        return await result if isinstance(result, Awaitable) else result

    @pmesh.handler(lane="control")
    def hurry(self, payload: bytes) -> bytes:
        return payload

    @pmesh.handler
    def know(self, notice: pmesh.Terminated) -> None:
        pass

    @pmesh.handler
    def echo(self, payload: int | str | tuple) -> object:
        return payload


class Plain(Agent):
    """Its one handler is not a coroutine, and it has one slot."""

    supervision = SupervisionPolicy(restart=Restart.TEMPORARY)

    @pmesh.handler
    def echo(self, payload: int) -> int:
        return payload


@dataclass
class Bed:
    """What a call finds: a mesh that goes on, with agents in it."""

    mesh: Coordinator
    worker: AgentRef
    plain: AgentRef
    loop: VirtualTimeLoop
    recorder: LatencyRecorder = field(default_factory=LatencyRecorder)

    async def inside(self, function: Callable[[Worker], object]) -> Any:
        """What `function` gives in a handler of the worker."""
        return await self.worker.ask(Job(function))

    @contextlib.asynccontextmanager
    async def other_mesh(self, **options: Any) -> AsyncIterator[Coordinator]:
        options = {"stall_after": None, "dead_letters": 10, **options}
        async with Coordinator("other", clock=self.loop.clock, **options) as mesh:
            yield mesh

    @contextlib.asynccontextmanager
    async def agent(self, factory: Callable[..., Any] = Worker, **options: Any) -> AsyncIterator[AgentRef]:
        ref = await self.mesh.spawn(factory, **options)
        try:
            yield ref
        finally:
            await self.mesh.stop(ref)


Function = Callable[[Bed], Awaitable[None]]
CALLS: dict[str, Function] = {}
# By public name, such as "AgentRef.tell", the call that makes it.
COVERED: dict[str, str] = {}


def calls(*names: str) -> Callable[[Function], Function]:
    """A function that makes calls, by their public names; those of no public name are situations."""

    def add(function: Function) -> Function:
        CALLS[function.__name__] = function
        COVERED.update(dict.fromkeys(names, function.__name__))
        return function

    return add


def expect(condition: object) -> None:
    if not condition:
        raise AssertionError("a call did not do what it is here for")


@contextlib.contextmanager
def raises(*kinds: type[BaseException]) -> Any:
    try:
        yield
    except kinds:
        pass
    else:
        raise AssertionError(f"nothing raised {kinds}")


# Coordinators and refs.


@calls("Coordinator.tell", "AgentRef.tell")
async def tell(bed: Bed) -> None:
    expect(bed.mesh.tell("worker", 1))
    expect(bed.worker.tell(b"control", headers={"a": "b"}))
    expect(bed.worker.tell("late", ttl=1.0))
    with raises(pmesh.InvalidType):
        bed.worker.tell(1, ttl="soon")


@calls("Coordinator.tell_many", "AgentRef.tell_many")
async def tell_many(bed: Bed) -> None:
    expect(bed.mesh.tell_many("worker", [1, 2, b"c"]) == 3)
    expect(bed.worker.tell_many(range(5), ttl=1.0, headers={"a": "b"}) == 5)


@calls("Coordinator.send", "AgentRef.send", "Send.send")
async def send(bed: Bed) -> None:
    await bed.mesh.send("worker", 1)
    await bed.worker.send(b"control", headers={"a": "b"}, timeout=1.0)
    call = bed.worker.send(2)
    with raises(StopIteration):
        call.send(None)
    call = bed.worker.send(2)
    del call  # never awaited


@calls("Send.throw", "Send.close")
async def send_ended(bed: Bed) -> None:
    async with bed.agent(Plain, mailbox=MailboxPolicy(1)) as ref:
        bed.mesh.suspend(ref)
        ref.tell(1)
        for end in (lambda call: call.throw(Failure()), lambda call: call.close()):
            call = ref.send(2)
            call.send(None)
            with contextlib.suppress(Failure):
                end(call)
            call = ref.send(2)
            with contextlib.suppress(Failure):
                end(call)
        waiting = asyncio.ensure_future(ref.send(3))
        await asyncio.sleep(0)
        waiting.cancel()
        with raises(asyncio.CancelledError):
            await waiting
        with raises(pmesh.MailboxFull):
            await ref.send(4, timeout=0.1)
        waiting = asyncio.ensure_future(ref.send(5))
        await asyncio.sleep(0)
        bed.mesh.resume(ref)
        await waiting


@calls("Coordinator.ask", "AgentRef.ask", "Ask.send")
async def ask(bed: Bed) -> None:
    expect(await bed.mesh.ask("worker", 1) == 1)
    expect(await bed.worker.ask((1, 2), headers={"a": "b"}) == (1, 2))
    expect(await bed.worker.ask(b"control", timeout=1.0) == b"control")
    call = bed.worker.ask(1)
    future = call.send(None)
    expect(future is not None)
    await asyncio.sleep(0)
    with raises(StopIteration):
        call.send(None)


@calls("Ask.throw", "Ask.close")
async def ask_ended(bed: Bed) -> None:
    call = bed.worker.ask(1)
    call.close()
    call = bed.worker.ask(1)
    call.send(None)
    with raises(Failure):
        call.throw(Failure())
    call = bed.worker.ask(1)
    call.send(None)
    call.close()
    waiting = asyncio.ensure_future(bed.worker.ask(Job(lambda agent: asyncio.sleep(1))))
    await asyncio.sleep(0)
    waiting.cancel()
    with raises(asyncio.CancelledError):
        await waiting
    with raises(pmesh.AskTimeout):
        await bed.worker.ask(Job(lambda agent: asyncio.sleep(2)), timeout=0.5)
    with raises(pmesh.UnhandledMessage):
        await bed.plain.ask("nobody handles a str")
    await asyncio.sleep(3)


@calls("AgentRef.counters", "AgentRef.is_alive", "AgentRef.depth", "AgentRef.capacity", "AgentRef.limit")
async def look_at_a_ref(bed: Bed) -> None:
    ref = bed.worker
    expect(ref.counters().imbalance is None)
    expect((ref.is_alive, ref.depth, ref.capacity, ref.limit) == (True, 0, 1024, 1024))
    expect("worker" in repr(ref) and weakref.ref(ref)() is ref)
    with raises(pmesh.InvalidType):
        pickle.dumps(ref)


@calls("AgentRef.name")
async def look_at_awaitables(bed: Bed) -> None:
    expect(bed.worker.name in repr(bed.worker.send(1)) + repr(bed.worker.ask(1)))


@calls("Coordinator.close")
async def enter_and_leave(bed: Bed) -> None:
    async with bed.other_mesh(window=2) as mesh:
        ref = await mesh.spawn(Worker, own_recorders=True)
        await asyncio.gather(*(ref.send(number) for number in range(5)))
        ref.tell(1)
    await mesh.close()
    expect(ref.tell(1) is False)
    with raises(pmesh.AgentStopped, pmesh.CoordinatorClosed):
        await ref.ask(1)


@calls("Coordinator.spawn", "Coordinator.stop", "Agent.on_start", "Agent.on_stop")
async def spawn_and_stop(bed: Bed) -> None:
    ref = await bed.mesh.spawn(Worker, name="short")
    ref.tell(Job(lambda agent: asyncio.sleep(1)))
    await asyncio.sleep(0)
    ref.tell(1)
    await bed.mesh.stop("short")
    expect(not ref.is_alive and ref.tell(1) is False)
    await bed.mesh.stop(await bed.mesh.spawn(lambda payload: payload))
    with raises(TypeError):
        await bed.mesh.spawn(Worker, "an argument too many")
    with raises(pmesh.NameInUse):
        await bed.mesh.spawn(Worker, name="worker")


@calls("Coordinator.drain")
async def drain(bed: Bed) -> None:
    ref = await bed.mesh.spawn(Worker)
    ref.tell_many([Job(lambda agent: asyncio.sleep(0.1))] * 6)
    expect(await bed.mesh.drain(ref))
    ref = await bed.mesh.spawn(Worker)
    ref.tell(Job(lambda agent: asyncio.sleep(100)))
    await asyncio.sleep(0)
    expect(not await bed.mesh.drain(ref, timeout=0.1))


@calls("Coordinator.kill", "Coordinator.on_failure")
async def kill(bed: Bed) -> None:
    ref = await bed.mesh.spawn(Worker)
    asked = asyncio.ensure_future(ref.ask(Job(lambda agent: asyncio.sleep(100))))
    ref.tell_many(range(10))
    await asyncio.sleep(0)
    await bed.mesh.kill(ref)
    with raises(pmesh.HandlerCancelled, pmesh.AgentStopped):
        await asked


@calls("Coordinator.suspend", "Coordinator.resume")
async def suspend_and_resume(bed: Bed) -> None:
    bed.mesh.suspend("plain")
    bed.plain.tell(1)
    await asyncio.sleep(0)
    bed.mesh.resume("plain")
    expect(await bed.plain.ask(2) == 2)


@calls("Coordinator.watch")
async def watch(bed: Bed) -> None:
    ref = await bed.mesh.spawn(Plain)
    watching = asyncio.ensure_future(bed.mesh.watch(ref))
    given_up = asyncio.ensure_future(bed.mesh.watch(ref))
    await asyncio.sleep(0)
    given_up.cancel()
    await bed.mesh.stop(ref)
    expect((await watching).ref is ref)
    expect((await bed.mesh.watch(ref)).reason is pmesh.StopReason.STOPPED)


@calls("Coordinator.lookup", "Coordinator.agents", "Coordinator.state", "Coordinator.restarts")
async def look_up(bed: Bed) -> None:
    expect(bed.mesh.lookup("worker") is bed.worker)
    expect("worker" in bed.mesh.agents)
    expect(bed.mesh.state("worker") is pmesh.State.RUNNING and bed.mesh.restarts("worker") >= 0)
    with raises(pmesh.UnknownAgent):
        bed.mesh.tell("wroker", 1)
    expect("agents" in repr(bed.mesh))


@calls("Coordinator.stats", "Coordinator.totals", "Stats.agents", "Counters.add", "Counters.as_dict")
async def look_at_the_account(bed: Bed) -> None:
    stats = bed.mesh.stats()
    expect(stats.imbalance is None and "worker" in stats.agents)
    total = bed.mesh.totals()
    total.add(total)
    expect(total.as_dict()["sent"] == total.sent)
    expect(repr(stats) and repr(total))


@calls(*(f"Counters.{term}" for term in pmesh.Counters().as_dict()), "Counters.imbalance", "Counters.count_rejected")
async def look_at_counters(bed: Bed) -> None:
    counters = bed.plain.counters()
    expect(counters == bed.plain.counters())
    terms = [getattr(counters, term) for term in counters.as_dict()]
    counters.count_rejected()
    expect(counters.imbalance is None and counters.sent == terms[0] + 1)


@calls(
    *("Coordinator.latency", "Coordinator.queue_time", "Coordinator.service_time", "Coordinator.latency_of"),
    *("Coordinator.reset_latency", "Coordinator.take_times"),
)
async def look_at_times(bed: Bed) -> None:
    bed.plain.tell_many(range(70))
    await bed.plain.ask(1)
    expect(bed.mesh.latency.count and bed.mesh.queue_time.count and bed.mesh.service_time.count)
    expect(bed.mesh.latency_of("plain").by_name()["latency"].count)
    expect(bed.mesh.take_times()["latency"].count)
    await bed.plain.ask(1)
    bed.mesh.reset_latency()
    expect(not bed.mesh.latency.count)


@calls(
    *("Coordinator.supervisor", "Supervisor.spawn", "Supervisor.children", "Supervisor.name", "Supervisor.ref"),
    *("Backoff.seconds", "Backoff.quiet_seconds", "SupervisionPolicy.directive"),
)
async def supervise(bed: Bed) -> None:
    supervisor = await bed.mesh.supervisor("boss", strategy="one_for_all", backoff=pmesh.Backoff(0.01, 0.02))
    children = [await supervisor.spawn(Worker, supervision=SupervisionPolicy()) for _ in range(2)]

    def fails(agent: Worker) -> None:
        raise Failure

    with raises(Failure):
        await children[0].ask(Job(fails))
    await asyncio.sleep(1)
    expect(pmesh.Backoff(0.1, 0.2).seconds(1, 0.5) > 0 and pmesh.Backoff().quiet_seconds > 0)
    expect(SupervisionPolicy(directives="stop").directive(Failure()) is pmesh.Directive.STOP)
    expect(supervisor.name == "boss" and len(supervisor.children) == 2 and repr(supervisor))
    expect(await children[1].ask(1) == 1)
    await bed.mesh.stop(supervisor.ref)


@calls("Supervisor.supervisor", "AgentContext.supervisor")
async def supervise_below(bed: Bed) -> None:
    supervisor = await bed.mesh.supervisor()
    below = await supervisor.supervisor("below")
    await below.spawn(Plain)
    await bed.mesh.stop(supervisor.ref)
    inner = await bed.inside(lambda agent: agent.context.supervisor("inner"))
    await bed.mesh.stop(inner.ref)


@calls("Agent.pre_restart", "Agent.post_restart")
async def fail_and_restart(bed: Bed) -> None:
    def fails(agent: Worker) -> None:
        agent.context.timers.every(1.0, 1)
        raise Failure

    async with bed.agent() as ref:
        with raises(Failure):
            await ref.ask(Job(fails))
        await asyncio.sleep(1)
        expect(bed.mesh.restarts(ref) == 1 and await ref.ask(1) == 1)


@calls("Coordinator.on_overflow")
async def overflow(bed: Bed) -> None:
    for policy in Overflow:
        ref = await bed.mesh.spawn(Plain, mailbox=MailboxPolicy(2, overflow=policy, max_bytes=100, size=lambda x: 10))
        bed.mesh.suspend(ref)
        told = [ref.tell(number) for number in range(4)]
        expect(told == [True, True, *[policy in (Overflow.DROP_OLDEST, Overflow.DROP_NEWEST)] * 2])
        if policy is Overflow.DROP_OLDEST:
            asked = [asyncio.ensure_future(ref.ask(number)) for number in range(3)]
            await asyncio.sleep(0)
            bed.mesh.resume(ref)
            expect(isinstance((await asyncio.gather(*asked, return_exceptions=True))[0], pmesh.MailboxFull))
        await asyncio.sleep(0)
        await bed.mesh.stop(ref)


@calls("Coordinator.on_killed")
async def cancel_an_idle_slot(bed: Bed) -> None:
    ref = await bed.mesh.spawn(Worker, name="cancelled")
    await ref.ask(Job(lambda agent: asyncio.sleep(0)))
    for task in asyncio.all_tasks():
        if task.get_name() == "cancelled":
            task.cancel()
    await bed.mesh.watch(ref)


@calls("Coordinator.on_dead_letter", "DeadLetters.add", "DeadLetters.counts", "DeadLetters.subscribe")
async def die_unread(bed: Bed) -> None:
    letters: list[pmesh.DeadLetter] = []
    unsubscribe = bed.mesh.dead_letters.subscribe(letters.append)
    bed.mesh.suspend(bed.plain)
    bed.plain.tell(1, ttl=0.1)
    await asyncio.sleep(1)
    bed.mesh.resume(bed.plain)
    bed.plain.tell("nobody handles a str")
    await bed.plain.ask(1)
    unsubscribe()
    expect({letter.kind.value for letter in letters} == {"expired", "unhandled"})
    expect(sum(bed.mesh.dead_letters.counts.values()) and len(bed.mesh.dead_letters) <= 10)
    expect(list(bed.mesh.dead_letters) and repr(bed.mesh.dead_letters))


@calls("DeadLetters.log_summary")
async def sum_up_dead_letters(bed: Bed) -> None:
    bed.mesh.dead_letters.log_summary()


@calls("Coordinator.on_stalls", "Stalls.add", "Stalls.add_waiting", "Stalls.count")
async def stall(bed: Bed) -> None:
    async with bed.other_mesh(stall_after=0.5) as mesh:
        ref = await mesh.spawn(Worker)
        await ref.ask(Job(lambda agent: asyncio.sleep(2)))
        expect(mesh.stalls.count >= 1 and len(mesh.stalls) and repr(mesh.stalls) and str(next(iter(mesh.stalls))))


@calls("debug.dump", "debug.dump_text")
async def dump(bed: Bed) -> None:
    waiting = asyncio.ensure_future(bed.inside(lambda agent: asyncio.sleep(1)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    text = io.StringIO()
    pmesh.debug.dump(bed.mesh, text, all_agents=True)
    expect("worker" in text.getvalue() and "1 of 4 in hand" in pmesh.debug.dump_text(bed.mesh))
    await waiting


@calls("debug.dump_on_signal")
async def dump_on_signal(bed: Bed) -> None:
    text = io.StringIO()
    with pmesh.debug.dump_on_signal(bed.mesh, file=text):
        os.kill(os.getpid(), signal.SIGUSR1)
        while not text.getvalue():
            await asyncio.sleep(0)


# The end of a coordinator.


@calls("Shutdown.add_phase", "Shutdown.add_task", "Shutdown.run", "Shutdown.reason", "Shutdown.phase")
async def shut_down(bed: Bed) -> None:
    phases = []
    async with bed.other_mesh() as mesh:
        await mesh.spawn(Worker)
        mesh.shutdown.add_phase("early", before="drain", timeout=1.0)
        mesh.shutdown.add_task("early", "look", lambda: phases.append(mesh.shutdown.phase))
        mesh.shutdown.add_task("early", "too long", lambda: asyncio.sleep(10))
        await mesh.shutdown.run("enough")
    expect(phases == ["early"] and mesh.shutdown.reason == "enough" and repr(mesh.shutdown))


@calls("Shutdown.hasten", "Shutdown.wait", "Shutdown.requested")
async def shut_down_in_haste(bed: Bed) -> None:
    async with bed.other_mesh() as mesh:
        ref = await mesh.spawn(Worker)
        ref.tell(Job(lambda agent: asyncio.sleep(100)))
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(mesh.shutdown.wait())
        await asyncio.sleep(0)
        mesh.shutdown.hasten()
        await waiting
        expect(mesh.shutdown.requested)


# What an agent does about itself.


@calls(
    *("AgentContext.name", "AgentContext.ref", "AgentContext.coordinator", "Agent.context", "AgentContext.message"),
    *("AgentContext.sender", "AgentContext.deadline", "AgentContext.headers", "Message.payload", "Message.sender"),
    *("Message.headers", "Message.accepted_ns", "Message.deadline_ns", "Message.lane", "Message.expects_reply"),
)
async def look_at_what_is_in_hand(bed: Bed) -> None:
    def look(agent: Worker) -> None:
        context = agent.context
        message = context.message
        expect(context.name == "worker" and context.ref is bed.worker and context.coordinator is bed.mesh)
        expect(context.sender is message.sender is None and context.headers == message.headers == {"a": "b"})
        expect(context.deadline * 1e9 >= message.accepted_ns and message.deadline_ns)
        expect((message.lane, message.expects_reply, type(message.payload)) == ("normal", True, Job))
        expect(repr(message) and repr(context))

    await bed.worker.ask(Job(look), headers={"a": "b"})


@calls("AgentContext.spawn", "AgentContext.watch", "AgentContext.unwatch")
async def spawn_and_watch_a_child(bed: Bed) -> None:
    async def watches(agent: Worker) -> None:
        child = await agent.context.spawn(Plain, name="child")
        agent.context.watch(child)
        agent.context.unwatch(child)
        agent.context.watch("child")
        await agent.context.coordinator.stop(child)

    await bed.inside(watches)


@calls("AgentContext.stash", "AgentContext.unstash_all", "AgentContext.stashed")
async def stash_and_unstash(bed: Bed) -> None:
    kept = []

    def stashes(agent: Worker) -> int:
        kept.append(1)
        if len(kept) <= 2:
            agent.context.stash()
        return agent.context.stashed

    asked = [asyncio.ensure_future(bed.inside(stashes)) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    expect(await bed.inside(lambda agent: agent.context.stashed) == 2)
    expect(await bed.inside(lambda agent: agent.context.unstash_all()) == 2)
    await asyncio.gather(*asked)
    with raises(pmesh.InvalidStash):
        bed.mesh._life_of(bed.worker).cell.agent.context.stash()


@calls("AgentContext.become")
async def become(bed: Bed) -> None:
    async with bed.agent() as ref:
        await ref.ask(Job(lambda agent: agent.context.become(lambda payload: ("other", payload))))
        expect(await ref.ask(1) == ("other", 1))

    class Behaviour:
        @pmesh.handler
        async def handle(self, payload: int) -> int:
            return payload + 1

    async with bed.agent() as ref:
        await ref.ask(Job(lambda agent: agent.context.become(Behaviour())))
        expect(await ref.ask(1) == 2)


@calls("AgentContext.stop")
async def stop_itself(bed: Bed) -> None:
    ref = await bed.mesh.spawn(Worker)
    await ref.ask(Job(lambda agent: agent.context.stop()))
    await bed.mesh.watch(ref)


@calls("AgentContext.timers", "Timers.after", "Timers.every", "Timers.cancel", "Timers.is_active", "Timers.keys")
async def set_timers(bed: Bed) -> None:
    def sets(agent: Worker) -> None:
        timers = agent.context.timers
        timers.after(0.1, 1)
        timers.after(0.2, b"control", key="once")
        timers.every(0.1, 2, key="again")
        timers.every(0.1, 3, key="again", fixed_rate=True, initial=0.0)
        expect(timers.is_active("again") and timers.keys()[-1] == "again" and repr(timers))
        own = timers.after(100, 4)
        expect(repr(own) and timers.cancel(own) and len(timers) == 3)

    await bed.inside(sets)
    await asyncio.sleep(1)
    expect(await bed.inside(lambda agent: agent.context.timers.cancel("again")))


@calls("Timers.cancel_all", "Timers.missed")
async def miss_and_cancel_timers(bed: Bed) -> None:
    def sets(agent: Worker) -> None:
        for number in range(5):
            agent.context.timers.every(0.1, number)
            agent.context.timers.after(50 - number, number)

    async with bed.agent() as ref:
        await ref.ask(Job(sets))
        bed.mesh.suspend(ref)
        await asyncio.sleep(1)
        bed.mesh.resume(ref)
        expect(await ref.ask(Job(lambda agent: agent.context.timers.missed)) > 0)
        await ref.ask(Job(sets))
        await asyncio.sleep(0.15)
        expect(await ref.ask(Job(lambda agent: agent.context.timers.cancel_all())))
        await ref.ask(Job(sets))


@calls("handler", "Agent.receive")
async def define_an_agent(bed: Bed) -> None:
    class Defined(Agent):
        @pmesh.handler
        async def handle(self, payload: int) -> int:
            return payload

        async def receive(self, payload: object) -> object:
            return payload

    async with bed.other_mesh() as mesh:
        ref = await mesh.spawn(Defined)
        expect(await ref.ask(1) == 1 and await ref.ask("caught") == "caught")


# Recorders and clocks.


@calls(
    *("LatencyRecorder.record", "LatencyRecorder.record_corrected", "LatencyRecorder.count", "LatencyRecorder.min"),
    *("LatencyRecorder.max", "LatencyRecorder.mean", "LatencyRecorder.stddev", "LatencyRecorder.below_range"),
    *("LatencyRecorder.above_range", "LatencyRecorder.reset"),
)
async def record(bed: Bed) -> None:
    recorder = bed.recorder
    for value_ns in (0, LATENCY_NS, -1, 2**31, 61 * 10**9, 2**62, 2**200, -(2**200), True + 0):
        recorder.record(value_ns)
    recorder.record_corrected(10**9, 10**6)
    recorder.record_corrected(2**62, 2**60)
    expect((recorder.count, recorder.min, recorder.max) == (1013, -(2**63), 2**63 - 1))
    expect(recorder.mean > 0 and recorder.stddev > 0 and recorder.below_range == 2 and recorder.above_range == 7)
    for wrong in (True, 1.0, "1", None):
        with raises(pmesh.InvalidType):
            recorder.record(wrong)
    recorder.reset()
    expect(recorder.count == 0)


@calls("LatencyRecorder.percentile", "LatencyRecorder.percentiles", "LatencyRecorder.counts")
async def look_at_a_recorder(bed: Bed) -> None:
    recorder = LatencyRecorder()
    expect(recorder.percentile(99) == 0 and list(recorder.counts()) == [] and repr(recorder))
    for value_ns in range(1, 100_000, 7_919):
        recorder.record(value_ns)
    expect(recorder.percentile(100) == recorder.max)
    expect(recorder.percentiles((100, 0, 50.0)) == [recorder.percentile(rank) for rank in (100, 0, 50)])
    expect(sum(count for _, _, count in recorder.counts()) == recorder.count and repr(recorder))
    for wrong in (-1, 101, float("nan"), 10**400, "50", None):
        with raises(pmesh.InvalidArgument, pmesh.InvalidType):
            recorder.percentile(wrong)


@calls("LatencyRecorder.merge", "LatencyRecorder.snapshot", "LatencyRecorder.take")
async def copy_recorders(bed: Bed) -> None:
    recorder = LatencyRecorder()
    recorder.merge(LatencyRecorder())
    for value_ns in (-5, 0, LATENCY_NS, 70 * 10**9):
        recorder.record(value_ns)
    other = recorder.snapshot()
    other.merge(recorder)
    other.merge(other)
    expect(other.count == 16 and other.take().count == 16 and other.take().count == 0)
    expect(copy.copy(recorder).count == copy.deepcopy(recorder).count == pickle.loads(pickle.dumps(recorder)).count)
    expect(sys.getsizeof(recorder) > 200_000)


@calls("LatencyRecorder.encode", "LatencyRecorder.decode")
async def encode_and_decode(bed: Bed) -> None:
    recorder = LatencyRecorder()
    expect(LatencyRecorder.decode(recorder.encode()).count == 0)
    for value_ns in (-5, 0, LATENCY_NS, 10**9, 70 * 10**9):
        recorder.record(value_ns)
    again = LatencyRecorder.decode(recorder.encode())
    expect((again.count, again.min, again.max) == (recorder.count, recorder.min, recorder.max))
    with raises(pmesh.InvalidArgument):
        LatencyRecorder.decode(recorder.encode()[:-20])


@calls("LatencyRecorder.to_hdr", "LatencyRecorder.from_hdr")
async def convert_to_hdr(bed: Bed) -> None:
    recorder = LatencyRecorder()
    recorder.record(LATENCY_NS)
    try:
        other = recorder.to_hdr()
    except pmesh.ExtraMissing:
        return
    expect(LatencyRecorder.from_hdr(other).count == 1)


@calls("Clock.now_ns", "Clock.set_ns")
async def read_clocks(bed: Bed) -> None:
    clock = pmesh.Clock(virtual=True)
    clock.set_ns(5)
    expect(clock.now_ns() == 5 and pmesh.Clock().now_ns() > 0)


# Situations.


@calls()
async def use_a_mailbox_by_itself(bed: Bed) -> None:
    from pmesh._core import Mailbox

    for overflow in range(4):
        mailbox = Mailbox(2, max_bytes=30, overflow=overflow)
        for number in range(4):
            mailbox.offer(b"x" * 10, lane=("normal", "control")[number % 2], deadline_ns=number)
        mailbox.offer(b"y" * 100)
        for end in ("handled", "failed"):
            expect(mailbox.poll() is not None)
            mailbox.finish(end)
        mailbox.clear()
        heir = pmesh.Counters()
        mailbox.close()
        mailbox.bequeath(heir)
        expect(heir.imbalance is None and mailbox.pending == 0)


@calls()
async def drop_a_mailbox_with_its_mail(bed: Bed) -> None:
    from pmesh._core import Mailbox

    mailbox = Mailbox(100_000)
    for number in range(5_000):
        mailbox.offer(number, lane=("normal", "control")[number % 2])


@calls()
async def ask_in_a_circle(bed: Bed) -> None:
    async def asks(agent: Worker) -> None:
        await agent.context.ref.ask(1)

    async with bed.agent(concurrency=1) as ref:
        with raises(pmesh.AskCycle):
            await ref.ask(Job(asks))


@calls()
async def be_overloaded(bed: Bed) -> None:
    policy = MailboxPolicy(64, adaptive=True, target_queue_seconds=0.01, interval_seconds=0.1)
    async with bed.agent(mailbox=policy, concurrency=1) as ref:
        accepted = []
        for _ in range(100):
            accepted += [ref.tell(Job(lambda agent: asyncio.sleep(0.005))) for _ in range(3)]
            await asyncio.sleep(0.005)
        expect(not all(accepted) and ref.limit < ref.capacity)
        await asyncio.sleep(10)


@calls()
async def be_chosen(bed: Bed) -> None:
    async with bed.other_mesh(chooser=lambda ready: len(ready) - 1) as mesh:
        refs = [await mesh.spawn(Plain) for _ in range(5)]
        expect(await asyncio.gather(*(ref.ask(number) for number, ref in enumerate(refs))) == [0, 1, 2, 3, 4])


@calls()
async def wait_for_the_window(bed: Bed) -> None:
    async with bed.other_mesh(window=1) as mesh:
        ref = await mesh.spawn(Plain)
        mesh.suspend(ref)
        sends = [asyncio.ensure_future(ref.send(number)) for number in range(4)]
        await asyncio.sleep(0)
        sends[1].cancel()
        late = asyncio.ensure_future(ref.send(5, timeout=0.1))
        await asyncio.sleep(1)
        mesh.resume(ref)
        outcomes = await asyncio.gather(*sends, late, return_exceptions=True)
        expect(isinstance(outcomes[1], asyncio.CancelledError) and isinstance(outcomes[4], pmesh.MailboxFull))


@calls()
async def tell_on_a_schedule(bed: Bed) -> None:
    from pmesh._core import tell_intended

    expect(tell_intended(bed.worker, 1, bed.loop.clock.now_ns() - 5))
    await bed.worker.ask(1)


@calls()
async def tell_from_threads(bed: Bed) -> None:
    for policy in (Overflow.REJECT, Overflow.DROP_OLDEST, Overflow.DROP_NEWEST):
        async with bed.agent(Plain, mailbox=MailboxPolicy(8, overflow=policy)) as ref:

            def work(ref: AgentRef = ref) -> None:
                for number in range(50):
                    ref.tell(number)
                    ref.counters()
                bed.mesh.stats()
                bed.recorder.record(LATENCY_NS)

            threads = [threading.Thread(target=work) for _ in range(3)]
            bed.loop.expect_calls_of(threads)
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                await asyncio.sleep(0)
            # The loop's own list of them.
            bed.loop._expected.clear()
            while ref.counters().pending:
                await asyncio.sleep(0)
            expect(ref.counters().sent == 150 and ref.counters().imbalance is None)
    bed.recorder.reset()


# Running them.


async def settle() -> None:
    """Let all that was begun end: what is stopped, and timeouts that nobody waits for any more."""
    await asyncio.sleep(120)


async def with_bed(function: Callable[[Bed], Awaitable[Any]]) -> Any:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    async with Coordinator("bed", clock=loop.clock, stall_after=None, dead_letters=10) as mesh:
        worker, plain = await mesh.spawn(Worker, name="worker"), await mesh.spawn(Plain, name="plain")
        result = await function(Bed(mesh, worker, plain, loop))
        await settle()
        stats = mesh.stats()
        assert stats.imbalance is None, stats
        return result


def owner_of(name: str) -> str:
    """The class whose calls a function makes, by which they are measured together."""
    return next((public.partition(".")[0] for public, made_by in COVERED.items() if made_by == name), "situations")


OWNERS = sorted({owner_of(name) for name in CALLS})


async def call_all(bed: Bed, times: int) -> int:
    for _ in range(times):
        for function in CALLS.values():
            await function(bed)
    return times * len(CALLS)


def run_all(times: int) -> None:
    """Make all calls `times` times."""
    logging.disable()
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        done = runner.run(with_bed(lambda bed: call_all(bed, times)))
    sys.stdout.write(f"{done} calls of {len(CALLS)} kinds\n")


if __name__ == "__main__":
    run_all(int(sys.argv[1]))
