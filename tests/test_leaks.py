"""Nothing outlives its use: cycles are collected, and spawning and stopping cost no memory."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import enum
import gc
import json
import logging
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import leftovers
import public_calls
import pytest

import pmesh
from pmesh import Agent, AgentRef, AgentStopped, Coordinator, MailboxPolicy
from pmesh.testing.loop import VirtualTimeLoop

Run = Callable[..., Any]
Mesh = Callable[..., Any]
Python = Callable[..., str]


class Payload:
    """Something that can be watched."""

    def __init__(self, *refers: Any) -> None:
        self.refers = refers


def collected(*refs: weakref.ref[Any]) -> bool:
    def are_gone() -> bool:
        return all(ref() is None for ref in refs)

    # The collector looks through all that pytest holds, so only as often as it is needed.
    return are_gone() or any(gc.collect() >= 0 and are_gone() for _ in range(3))


def test_agents_that_hold_each_others_refs_are_collected_after_they_stopped(run: Run, loop_kind: str) -> None:
    class Friend(Agent):
        friend: AgentRef

        async def receive(self, payload: AgentRef) -> None:
            self.friend = payload
            await asyncio.sleep(0)

    gone: list[weakref.ref[Any]] = []

    async def main() -> None:
        class Watched(Friend):
            def __init__(self) -> None:
                gone.append(weakref.ref(self))

        async with Coordinator(dead_letters=0, clock=getattr(asyncio.get_running_loop(), "clock", None)) as bus:
            one, two = await bus.spawn(Watched), await bus.spawn(Watched)
            await one.ask(two)
            await two.ask(one)
            gone.extend([weakref.ref(one), weakref.ref(two), weakref.ref(bus)])

    run(main)
    assert collected(*gone)


def test_a_stopped_agent_lets_go_of_its_instance_at_once_although_refs_to_it_live(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        gone: list[weakref.ref[Any]] = []

        class Watched(Agent):
            def __init__(self) -> None:
                gone.append(weakref.ref(self))

            async def receive(self, payload: Any) -> None:
                await asyncio.sleep(0)

        async with mesh() as bus:
            ref = await bus.spawn(Watched)
            await ref.ask(1)
            await bus.stop(ref)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert collected(*gone)
            assert ref.tell(1) is False

    run(main)


def test_a_payload_is_let_go_once_it_was_handled(
    run: Run, mesh: Mesh, loop_kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def suspended(payload: Any) -> None:
        await asyncio.sleep(0)

    async def fails(payload: Any) -> None:
        raise ZeroDivisionError

    async def starts_a_task(payload: Any) -> None:
        await asyncio.create_task(asyncio.sleep(0))

    def schedules_a_call(payload: Any) -> None:
        asyncio.get_running_loop().call_soon(lambda: None)

    async def sets_a_variable(payload: Any) -> None:
        variable.set(variable.get(0) + 1)

    variable = contextvars.ContextVar[int]("variable")

    # A log record of a failure holds its frames, and pytest keeps the records.
    monkeypatch.setattr(logging.getLogger("pmesh"), "disabled", True)

    async def main() -> None:
        async with mesh(dead_letters=0) as bus:
            for function in (
                lambda payload: None,
                suspended,
                fails,
                starts_a_task,
                schedules_a_call,
                sets_a_variable,
            ):
                ref = await bus.spawn(function)
                for how in ("tell", "send", "ask"):
                    payload = Payload()
                    gone = weakref.ref(payload)
                    call = getattr(ref, how)(payload)
                    del payload
                    if how != "tell":
                        await asyncio.gather(call, return_exceptions=True)
                    del call
                    while ref.counters().pending:
                        await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    assert collected(gone), (function, how)

    run(main)


def test_mail_that_waits_in_a_mesh_that_was_never_left_is_collected_with_it() -> None:
    def abandoned() -> list[weakref.ref[Any]]:
        loop = asyncio.new_event_loop()

        async def main() -> list[weakref.ref[Any]]:
            bus = Coordinator()
            await bus.__aenter__()
            ref = await bus.spawn(lambda payload: payload)
            payload = Payload(ref, bus)
            ref.tell(payload)
            for task in asyncio.all_tasks():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
            return [weakref.ref(payload), weakref.ref(ref), weakref.ref(bus)]

        gone = loop.run_until_complete(main())
        loop.close()
        return gone

    assert collected(*abandoned())


def test_an_answer_that_nobody_waits_for_is_let_go(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        gone: list[weakref.ref[Any]] = []

        async def late(payload: Any) -> Payload:
            await asyncio.sleep(10)
            answer = Payload()
            gone.append(weakref.ref(answer))
            return answer

        async with mesh() as bus:
            ref = await bus.spawn(late, concurrency=2)
            asking = asyncio.ensure_future(ref.ask(1, timeout=60))
            await asyncio.sleep(1)
            asking.cancel()
            with pytest.raises(TimeoutError):
                await ref.ask(1, timeout=1)
            del asking
            await asyncio.sleep(20)
            assert len(gone) == 2
            assert collected(*gone)

    run(main)


def test_senders_that_gave_up_leave_nothing_behind(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload, mailbox=MailboxPolicy(1))
            bus._life_of(ref).cell.pause()
            ref.tell(1)
            gone = []
            sends = []
            for _ in range(10):
                payload = Payload()
                gone.append(weakref.ref(payload))
                sends.append(asyncio.ensure_future(ref.send(payload)))
            del payload
            await asyncio.sleep(0)
            for send in sends:
                send.cancel()
            await asyncio.gather(*sends, return_exceptions=True)
            del send
            sends.clear()
            await asyncio.sleep(6)  # the heap of timeouts is swept
            assert collected(*gone)

    run(main)


CHURN = """
    import asyncio, gc, os, sys
    import pmesh

    class Worker(pmesh.Agent):
        async def on_start(self):
            await asyncio.sleep(0)

        @pmesh.handler
        async def work(self, payload: int) -> int:
            await asyncio.sleep(0)
            return payload

        @pmesh.handler
        def plain(self, payload: str) -> str:
            return payload

    def rss():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def live():
        # Twice: what a finaliser lets go of is only seen by the next collection.
        gc.collect()
        gc.collect()
        if hasattr(pmesh._core, "live_objects"):
            return dict(pmesh._core.live_objects())
        counts = {{}}
        for thing in gc.get_objects():
            name = type(thing).__name__
            if type(thing).__module__.startswith(("pmesh", "asyncio", "_asyncio", "_contextvars")):
                counts[name] = counts.get(name, 0) + 1
        return counts

    async def churn(bus, count):
        for _ in range(count // 10):
            refs = [await bus.spawn(Worker) for _ in range(10)]
            for ref in refs:
                ref.tell("plain")
            await asyncio.gather(*(ref.ask(1) for ref in refs))
            for ref in refs[:5]:
                ref.tell("dead")
                await bus.stop(ref)
            for ref in refs[5:]:
                await bus.kill(ref)

    async def main():
        async with pmesh.Coordinator(dead_letters=10) as bus:
            await churn(bus, {warm})
            before, rss_before, blocks_before = live(), rss(), sys.getallocatedblocks()
            await churn(bus, {count})
            after, rss_after, blocks_after = live(), rss(), sys.getallocatedblocks()
            grown = {{name: after[name] - before.get(name, 0) for name in after}}
            grown = {{name: count for name, count in grown.items() if count > 0}}
            assert bus.stats().imbalance is None
            print(repr((grown, rss_after - rss_before, blocks_after - blocks_before)))

    import logging
    logging.disable()
    asyncio.run(main())
"""


def test_spawning_and_stopping_ten_thousand_agents_leaves_no_object_behind(python: Python) -> None:
    """In any build: objects that the collector knows, allocated blocks, and memory."""
    grown, rss_bytes, blocks = eval(python(CHURN.format(warm=1_000, count=10_000)))
    # Freelists and asyncio's own caches may hold a few.
    assert all(count < 50 for count in grown.values()), grown
    assert blocks < 2_000, blocks
    assert rss_bytes < 10_000_000, rss_bytes


def test_the_cores_own_counters_of_live_objects_come_back_to_where_they_were(
    python: Python,
) -> None:
    if not pmesh.BUILD_INFO["debug"]:
        pytest.skip("NOT A DEBUG BUILD (PMESH_DEBUG=1): the core's live-object counters were not checked")
    grown, _, _ = eval(python(CHURN.format(warm=1_000, count=10_000)))
    assert grown == {}


def test_a_hundred_coordinators_one_after_another_leave_nothing_behind(python: Python) -> None:
    code = """
        import asyncio, gc, sys, weakref
        import pmesh

        async def main():
            async with pmesh.Coordinator() as bus:
                ref = await bus.spawn(lambda payload: payload)
                await ref.ask(1)
                return weakref.ref(bus), weakref.ref(ref)

        gone = [asyncio.run(main()) for _ in range(100)]
        gc.collect()
        gc.collect()
        print(sum(ref() is not None for pair in gone for ref in pair))
    """
    assert python(code) == "0\n"


def test_a_ref_to_a_stopped_agent_says_no_also_when_its_coordinator_is_gone() -> None:
    async def main() -> AgentRef:
        async with Coordinator() as bus:
            return await bus.spawn(lambda payload: payload, name="a")

    ref = asyncio.run(main())
    gc.collect()
    assert ref.tell(1) is False
    assert repr(ref) == "<AgentRef 'a' (stopped)>"

    async def ask() -> None:
        await ref.ask(1)

    with pytest.raises((AgentStopped, pmesh.WrongLoop)):
        asyncio.run(ask())


# Each public call, repeated.

# Public names that no call is made of, each with its reason.
NOT_CALLED = {
    "BUILD_INFO": "a dictionary",
    "load": "runs whole meshes in a mesh of its own, and its reports hold what they say; `test_load.py` runs it",
    **dict.fromkeys(("Agent.mailbox", "Agent.concurrency", "Agent.supervision"), "settings of a class"),
}


def public_names() -> Iterator[str]:
    """Of each public class the methods and properties, of each public module the functions.

    Exceptions and enumerations have nothing to call, and the fields of a dataclass are just there.
    """
    yield "load"
    yield from (f"debug.{name}" for name in pmesh.debug.__all__)
    for name in pmesh.__all__:
        value = getattr(pmesh, name)
        if not isinstance(value, type):
            yield name
        elif not issubclass(value, (BaseException, enum.Enum)):
            fields = {field.name for field in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
            yield from (
                f"{name}.{attribute}"
                for attribute in vars(value)
                if not attribute.startswith("_") and attribute not in fields
            )


def test_every_public_call_is_repeated_or_it_is_said_why_not() -> None:
    names = set(public_names())
    assert {"AgentRef.tell", "Coordinator.spawn", "Timers.every", "LatencyRecorder.record", "debug.dump"} <= names
    covered, excused = public_calls.COVERED.keys(), NOT_CALLED.keys()
    assert names - covered - excused == set(), "add them to public_calls.py"
    assert (covered | excused) - names == set(), "there are no such names any more"
    assert covered & excused == set()


@pytest.mark.parametrize("owner", public_calls.OWNERS)
def test_repeating_a_public_call_leaves_nothing_behind(owner: str) -> None:
    command = [sys.executable, leftovers.__file__, owner]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    found = {name: leftovers.Growth(**growth) for name, growth in json.loads(done.stdout).items()}
    assert found
    assert {name: growth for name, growth in found.items() if growth.is_leak} == {}


@pytest.mark.parametrize("kind", ["objects", "blocks", "rss_bytes"])
def test_a_call_that_leaves_something_behind_is_found(kind: str) -> None:
    kept: list[Any] = []

    async def leaks(bed: public_calls.Bed) -> None:
        kept.append({"objects": asyncio.Event, "blocks": object, "rss_bytes": lambda: bytearray(4_000)}[kind]())

    async def main() -> leftovers.Growth:
        return await public_calls.with_bed(lambda bed: leftovers.measure(leaks, bed))

    # What pytest holds is none of the growth, and looking through it for each measurement takes most of the time.
    gc.collect()
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            growth = runner.run(main())
    finally:
        gc.unfreeze()
    assert growth.is_leak, growth
    if kind == "objects":
        assert growth.objects == {"asyncio.locks.Event": pytest.approx(1, abs=0.5)}
