"""A simulation reaches the schedules that matter, repeats them by their seed, and says what went wrong."""

from __future__ import annotations

import asyncio
import bdb
import concurrent.futures
import gc
import inspect
import itertools
import logging
import random
import re
import signal
import threading
import time
import unittest
from typing import Any
from unittest import mock

import pytest

from pmesh import (
    Agent,
    AgentStopped,
    AskTimeout,
    Coordinator,
    HandlerCancelled,
    InvalidArgument,
    InvalidType,
    MailboxFull,
    MailboxPolicy,
    PmeshError,
    WrongLoop,
    handler,
)
from pmesh._core import Cell, cell_of
from pmesh.testing import Deadlock, Event, Faults, InjectedFault, NotDeterministic, Probe, Simulation, simulate
from pmesh.testing.decisions import Decisions, fewest
from pmesh.testing.other_thread import StuckError, call_elsewhere
from pmesh.testing.trace import shown, trace_text


def attempt(main: Any, seed: int = 1, **options: Any) -> Simulation:
    simulation = Simulation(seed, **options)
    simulation.run(main)
    return simulation


# Determinism.


class Worker(Agent):
    concurrency = 2

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim

    @handler
    async def work(self, number: int) -> int:
        if number % 3 == 0:
            await asyncio.sleep(self.sim.random.random())
        if number % 7 == 0:
            raise ValueError(number)
        return number

    @handler(lane="control")
    def urgent(self, text: str) -> None:
        self.context.timers.after(0.5, 1, key="later")


async def busy_program(sim: Simulation) -> None:
    async with sim.coordinator("busy") as mesh:
        workers = [await mesh.spawn(Worker, sim, name=f"worker-{n}") for n in range(3)]
        for number in range(30):
            ref = sim.random.choice(workers)
            sim.in_thread(ref.tell, number)
            ref.tell("urgent")
            if number % 5 == 0:
                await asyncio.sleep(random.random() / 10)
    assert mesh.stats().pending == 0


EVERYTHING = Faults(raises=0.1, stalls=0.1, cancels=0.1, kills=0.02, fills=0.1, jumps=0.05)


@pytest.mark.parametrize("faults", [None, EVERYTHING], ids=["no faults", "all faults"])
def test_the_same_seed_is_the_same_run(faults: Faults | None) -> None:
    for seed in range(20):
        first = attempt(busy_program, seed, faults=faults)
        second = attempt(busy_program, seed, faults=faults)
        assert first.trace == second.trace
        assert first.departures == second.departures
        untraced = attempt(busy_program, seed, faults=faults, traced=False)
        assert untraced.departures == first.departures
        assert not untraced.trace
        assert untraced.seconds == first.seconds


def test_other_seeds_are_other_runs() -> None:
    assert len({tuple(attempt(busy_program, seed).trace) for seed in range(20)}) == 20


def test_without_departures_a_run_is_that_of_the_plain_loop() -> None:
    got: list[int] = []

    async def main(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            for name in "abc":
                agent = await mesh.spawn(lambda payload: got.append(payload), name=name)
                agent.tell_many(range(3))

    first = attempt(main, allowed=frozenset())
    assert first.departures == ()
    assert got == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_the_module_random_is_seeded_and_given_back() -> None:
    async def main(sim: Simulation) -> None:
        drawn.append(random.random())

    drawn: list[float] = []
    random.seed("before")
    expected = random.Random("before").random()
    for seed in (1, 2, 1):
        attempt(main, seed)
    assert drawn[0] == drawn[2] != drawn[1]
    assert random.random() == expected


# What a seed can reach.


def test_every_order_of_ready_agents_is_reached() -> None:
    orders = set()
    for seed in range(100):
        order: list[str] = []

        async def main(sim: Simulation, order: list[str] = order) -> None:
            async with sim.coordinator() as mesh:
                refs = [
                    await mesh.spawn(lambda payload, name=name: order.append(name), name=name)
                    for name in ("a", "b", "c")
                ]
                for ref in refs:
                    ref.tell(1)

        attempt(main, seed, traced=False)
        orders.add("".join(order))
    assert orders == {"".join(order) for order in itertools.permutations("abc")}


def test_an_agent_that_is_ready_is_served_within_a_bounded_number_of_messages() -> None:
    for seed in range(50):
        served: list[str] = []

        async def main(sim: Simulation, served: list[str] = served) -> None:
            async with sim.coordinator(window=None) as mesh:
                one = await mesh.spawn(lambda payload: served.append("one"), name="one")
                other = await mesh.spawn(lambda payload: served.append("other"), name="other")
                one.tell(0)
                other.tell_many(range(500))

        attempt(main, seed, traced=False)
        assert served.index("one") <= 40


def test_a_task_comes_between_any_two_messages() -> None:
    seen = set()
    for seed in range(200):
        got: list[int] = []

        async def main(sim: Simulation, got: list[int] = got) -> int:
            async with sim.coordinator() as mesh:
                agent = await mesh.spawn(lambda payload: got.append(payload), name="a")
                agent.tell_many(range(4))
                await asyncio.sleep(0)
                return len(got)

        seen.add(Simulation(seed, traced=False).run(main))
    assert seen == {1, 2, 3, 4}


def test_a_call_of_another_thread_arrives_at_any_moment_and_comes_from_a_thread() -> None:
    places = set()
    threads = set()
    for seed in range(200):
        got: list[object] = []

        async def main(sim: Simulation, got: list[object] = got) -> None:
            async with sim.coordinator() as mesh:
                busy = await mesh.spawn(lambda payload: got.append(payload), name="busy")
                other = await mesh.spawn(lambda payload: got.append(payload), name="other")
                busy.tell_many(range(3))

                def call() -> bool:
                    threads.add(threading.get_ident())
                    return other.tell("thread")

                assert await sim.in_thread(call)

        attempt(main, seed, traced=False)
        places.add(got.index("thread"))
        assert [number for number in got if number != "thread"] == [0, 1, 2]
    assert places == {0, 1, 2, 3}
    assert threading.get_ident() not in threads


def test_what_a_thread_call_raises_is_raised_where_it_is_awaited() -> None:
    async def main(sim: Simulation) -> None:
        with pytest.raises(ZeroDivisionError):
            await sim.in_thread(divmod, 1, 0)
        assert await sim.in_thread(divmod, 7, 2) == (3, 1)

    attempt(main)


def test_a_thread_that_waits_for_the_loop_is_an_error_and_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmesh.testing.simulation.THREAD_PATIENCE_SECONDS", 0.05)

    async def main(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            echo = await mesh.spawn(lambda payload: payload)

            def wait() -> object:
                return asyncio.run_coroutine_threadsafe(_ask(echo), sim.loop).result()

            await sim.in_thread(wait)

    async def _ask(ref: Any) -> object:
        return await ref.ask(1)

    with pytest.raises(AssertionError, match=r"has not returned after 0.05 s: what in_thread.* must not wait"):
        attempt(main)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_what_a_thread_call_raises_is_never_taken_for_this_threads_own(error: BaseException) -> None:
    def fail() -> None:
        raise error

    async def main(sim: Simulation) -> None:
        future = sim.in_thread(fail)
        await asyncio.wait([future])
        assert future.exception() is error

    attempt(main)


@pytest.mark.parametrize("what", ["a coroutine function", "ask"])
def test_a_thread_call_that_gives_an_awaitable_says_that_nothing_awaits_it(what: str) -> None:
    async def work(number: int) -> None: ...

    async def main(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            ref = await mesh.spawn(lambda payload: payload)
            await sim.in_thread(work if what == "a coroutine function" else ref.ask, 1)

    with pytest.raises(InvalidType, match=r"(work|AgentRef.ask) returned <.*> in a thread, where nothing awaits it"):
        attempt(main)


def test_a_thread_is_to_call_something() -> None:
    async def main(sim: Simulation) -> None:
        sim.in_thread(True)  # type: ignore[arg-type]

    with pytest.raises(InvalidType, match=r"function is True; .* as in in_thread\(ref.tell, payload\)"):
        attempt(main)


@pytest.mark.parametrize("method", ["coordinator", "in_thread"])
def test_a_simulation_that_does_not_run_yet_says_so(method: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"{method}\(\) of the simulation of seed 3 before it runs"):
        getattr(Simulation(3), method)(*["mesh"] if method == "coordinator" else [print])


def test_a_thread_call_that_raises_stop_iteration_says_so() -> None:
    async def main(sim: Simulation) -> None:
        with pytest.raises(RuntimeError, match="next raised StopIteration") as caught:
            await sim.in_thread(next, iter(()))
        assert isinstance(caught.value.__cause__, StopIteration)

    attempt(main)


def test_ctrl_c_while_a_thread_works_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("pmesh.testing.simulation.call_elsewhere", interrupted)

    async def main(sim: Simulation) -> None:
        future = sim.in_thread(divmod, 7, 2)
        try:
            await future
        except BaseException as error:
            assert isinstance(error, asyncio.CancelledError), error
            raise

    with pytest.raises(KeyboardInterrupt):
        attempt(main)


async def works_in_threads(sim: Simulation, executor: Any = None) -> list[int]:
    order: list[int] = []

    async def work(number: int) -> int:
        # Longest first: the real time would tell another order than the seed.
        await sim.loop.run_in_executor(executor, time.sleep, 0.001 * (3 - number))
        order.append(number)
        return await asyncio.to_thread(abs, number)

    async with sim.coordinator() as mesh:
        ref = await mesh.spawn(work, name="a", concurrency=3)
        ring = await mesh.spawn(lambda left: ring.tell(left - 1) if left else None, name="ring")
        ring.tell(30)
        assert await asyncio.gather(*(ref.ask(number) for number in range(3))) == [0, 1, 2]
    return order


def test_the_seed_decides_when_a_call_in_an_executor_is_over() -> None:
    orders = set()
    for seed in range(40):
        runs = [Simulation(seed), Simulation(seed)]
        order, again = (run.run(works_in_threads) for run in runs)
        assert runs[0].trace == runs[1].trace
        assert order == again
        orders.add(tuple(order))
    assert orders == set(itertools.permutations(range(3)))
    calls = [event.what for event in runs[0].trace if event.who == "thread"]
    assert sorted(calls)[:3] == ["calls abs(0)", "calls abs(1)", "calls abs(2)"]


def test_an_executor_of_the_programs_own_makes_the_calls() -> None:
    threads = set()

    def note(seconds: float) -> None:
        threads.add(threading.current_thread().name)

    async def main(sim: Simulation) -> None:
        with concurrent.futures.ThreadPoolExecutor(thread_name_prefix="mine") as executor:
            await sim.loop.run_in_executor(executor, note, 1.0)
            sim.loop.set_default_executor(executor)
            await asyncio.to_thread(note, 1.0)
            with pytest.raises(ZeroDivisionError):
                await asyncio.to_thread(divmod, 1, 0)

    attempt(main)
    assert threads == {"mine_0"}


def test_a_call_in_an_executor_may_wait_for_the_loop() -> None:
    async def main(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            echo = await mesh.spawn(lambda payload: payload, name="echo")

            async def ask(number: int) -> int:
                answer: int = await echo.ask(number)
                return answer

            def call(number: int) -> int:
                return asyncio.run_coroutine_threadsafe(ask(number), sim.loop).result()

            assert await asyncio.gather(*(asyncio.to_thread(call, number) for number in range(3))) == [0, 1, 2]

    for seed in range(3):
        attempt(main, seed)


def test_cleaning_up_after_the_end_may_use_threads() -> None:
    done: list[int] = []

    async def main(sim: Simulation) -> None:
        async def work() -> None:
            try:
                await asyncio.sleep(100.0)
            finally:
                await asyncio.to_thread(done.append, 1)

        task = asyncio.ensure_future(work())
        await asyncio.sleep(1.0)
        del task

    attempt(main)
    assert done == [1]


@pytest.mark.parametrize("ends", ["by itself", "by an error", "cancelled"])
def test_ctrl_c_is_never_taken_for_the_end_of_the_run(ends: str) -> None:
    async def main(sim: Simulation) -> None:
        signal.raise_signal(signal.SIGINT)
        if ends == "by an error":
            raise LookupError
        if ends == "cancelled":
            await asyncio.sleep(1.0)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            attempt(main)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_stuck_thread_serves_nobody_else() -> None:
    release = threading.Event()
    with pytest.raises(StuckError):
        call_elsewhere(release.wait, (), 0.01)
    assert call_elsewhere(divmod, (7, 2), 30.0) == ((3, 1), None)
    release.set()


def test_timers_are_late_and_never_early() -> None:
    late = []
    for seed in range(200):

        async def main(sim: Simulation) -> float:
            began = sim.loop.time()
            await asyncio.sleep(1.0)
            return sim.loop.time() - began - 1.0

        late.append(Simulation(seed, traced=False).run(main))
    assert min(late) >= -1e-9
    assert 5 <= sum(seconds > 1e-9 for seconds in late) <= 60
    assert max(late) <= 0.000_51


# Faults.


def faulted(faults: Faults, seeds: range = range(30), **options: Any) -> list[Any]:
    """What each of 20 asks to an `async def` and to a plain agent came to, in all runs."""
    outcomes: list[Any] = []

    async def patient(payload: int) -> int:
        await asyncio.sleep(0.01)
        return payload

    async def main(sim: Simulation) -> None:
        async with sim.coordinator(**options) as mesh:
            for function in (patient, lambda payload: payload):
                ref = await mesh.spawn(function, name=f"agent-{len(mesh.agents)}", mailbox=MailboxPolicy(capacity=64))
                asks = await asyncio.gather(*(ref.ask(n, timeout=20.0) for n in range(20)), return_exceptions=True)
                outcomes.extend(type(answer) for answer in asks)

    for seed in seeds:
        attempt(main, seed, faults=faults, traced=False)
    return outcomes


def test_no_faults_no_failures() -> None:
    assert set(faulted(Faults())) == {int}


@pytest.mark.parametrize(
    ("faults", "errors"),
    [
        (Faults(raises=0.05), {"InjectedFault"}),  # fewer than those after which an agent is given up
        (Faults(cancels=0.3), {"HandlerCancelled"}),
        (Faults(kills=0.05), {"AgentStopped", "HandlerCancelled"}),
    ],
    ids=["raises", "cancels", "kills"],
)
def test_each_fault_is_seen_by_those_who_ask(faults: Faults, errors: set[str]) -> None:
    outcomes = [outcome.__name__ for outcome in faulted(faults)]
    assert set(outcomes) == {"int"} | errors
    assert 20 <= sum(outcome in errors for outcome in outcomes) <= len(outcomes) - 100


def test_a_stalled_handler_takes_longer_and_a_jump_of_the_clock_times_asks_out() -> None:
    def seconds(faults: Faults) -> float:
        async def main(sim: Simulation) -> float:
            async with sim.coordinator() as mesh:
                ref = await mesh.spawn(lambda payload: payload)
                for number in range(50):
                    try:
                        await ref.ask(number, timeout=30.0)
                    except AskTimeout:
                        assert faults.jumps
                return sim.seconds

        return sum(Simulation(seed, faults=faults).run(main) for seed in range(10)) / 10

    assert seconds(Faults()) < 0.1
    assert 1.0 < seconds(Faults(stalls=0.1)) < 10.0
    assert seconds(Faults(jumps=0.1, jump_seconds=100.0)) > 60.0
    assert {outcome.__name__ for outcome in faulted(Faults(jumps=0.2, jump_seconds=60.0))} == {"int", "AskTimeout"}


def test_a_mailbox_that_is_full_refuses_and_has_room_again_afterwards() -> None:
    refused = accepted_later = 0
    for seed in range(30):

        async def main(sim: Simulation) -> None:
            nonlocal refused, accepted_later
            async with sim.coordinator() as mesh:
                ref = await mesh.spawn(lambda payload: asyncio.sleep(0.1), name="a", mailbox=MailboxPolicy(capacity=16))
                for _ in range(20):
                    refused += 3 - ref.tell_many(range(3))
                    await asyncio.sleep(0.4)
                await asyncio.sleep(2.0)
                assert ref.limit == 16
                # Senders that wait get the room, too.
                await asyncio.gather(*(ref.send(n, timeout=5.0) for n in range(10)))
                accepted_later += ref.tell_many(range(3))

        attempt(main, seed, faults=Faults(fills=0.2), traced=False)
    assert refused > 30
    assert accepted_later > 60


def test_a_full_mailbox_lets_waiting_senders_in_when_it_has_room_again() -> None:
    async def main(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            ref = await mesh.spawn(lambda payload: asyncio.sleep(1.0), mailbox=MailboxPolicy(capacity=8))
            cell = cell_of(ref)
            cell.squeeze(1)
            ref.tell(0)
            await asyncio.sleep(0.1)
            assert ref.tell(1)
            assert not ref.tell(2)
            sends = [asyncio.ensure_future(ref.send(n)) for n in range(3)]
            await asyncio.sleep(0.1)
            assert not any(send.done() for send in sends)
            cell.squeeze(100)
            await asyncio.sleep(0.1)
            assert all(send.done() for send in sends)
            assert ref.limit == ref.capacity == 8

    attempt(main, allowed=frozenset())


@pytest.mark.parametrize("limit", [0, -1])
def test_a_mailbox_is_squeezed_to_one_message_at_least(limit: int) -> None:
    async def main(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            with pytest.raises(InvalidArgument, match=f"limit is {limit}; it must be at least 1"):
                cell_of(await mesh.spawn(lambda payload: None)).squeeze(limit)

    attempt(main)


def test_faults_concern_the_agents_that_they_name_and_never_probes_or_supervisors() -> None:
    for seed in range(20):

        async def main(sim: Simulation) -> None:
            async with sim.coordinator() as mesh:
                await mesh.supervisor("fragile-boss")
                refs = [await mesh.spawn(lambda payload: payload, name=name) for name in ("fragile-1", "solid")]
                probe = await Probe.spawn(mesh, "fragile-probe")
                for number in range(20):
                    refs[0].tell(number)
                    assert await refs[1].ask(number) == number
                    probe.ref.tell(number)
                    await probe.expect(number)
                assert {"fragile-boss", "solid", "fragile-probe"} <= set(mesh.agents)

        run = attempt(main, seed, faults=Faults(raises=0.2, stalls=0.1, kills=0.1, agents="fragile-* nobody"))
        hit = {event.who for event in run.trace if "raises" in event.what or "killed" in event.what}
        assert hit <= {"fragile-1"}


def test_faults_for_agents_that_there_never_are_are_warned_of() -> None:
    @simulate(seeds=5, faults=Faults(raises=0.5, agents="acount-*"))
    async def misspelt(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            await mesh.spawn(lambda payload: payload, name=f"account-{sim.seed % 2}")

    with pytest.warns(
        RuntimeWarning, match=r"for agents 'acount-\*', and no agent .*; there were account-0, account-1"
    ):
        misspelt()

    @simulate(seeds=5, faults=Faults(raises=0.5, agents="account-4"))
    async def rare(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            await mesh.spawn(lambda payload: payload, name=f"account-{sim.seed}")

    rare()


def test_no_more_faults_than_asked_for() -> None:
    outcomes = faulted(Faults(raises=0.5, most=3), range(10))
    assert outcomes.count(InjectedFault) == 30


# What is noticed.


def test_an_account_that_does_not_balance_fails_at_the_message_before(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            ref = await mesh.spawn(lambda payload: payload, name="a")
            ref.tell_many(range(20))
            await asyncio.sleep(1.0)
            pytest.fail("it went on")

    class Cooked:
        imbalance = "accepted 3 != handled 2"

    def fail(mesh: Coordinator, **options: Any) -> None:
        raise AssertionError("cooked")

    monkeypatch.setattr(Coordinator, "totals", lambda self: Cooked())
    monkeypatch.setattr("pmesh.testing.simulation.assert_account", fail)
    with pytest.raises(AssertionError, match="cooked"):
        attempt(main)


def test_an_agent_that_is_forgotten_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            ref = await mesh.spawn(lambda payload: payload, name="a")
            cell = cell_of(ref)
            cell.pause()
            ref.tell(1)
            # What a lost wake-up would leave: it may run, has mail, and is in no queue.
            monkeypatch.setattr("pmesh.testing.simulation.cell_of", lambda ref: Forgotten())
            await asyncio.sleep(1.0)

    class Forgotten:
        is_forgotten = True

        def waiting(self) -> list[object]:
            return [1]

    with pytest.raises(AssertionError, match="a lost wake-up: 1 messages wait for agent 'a'"):
        attempt(main)


def test_a_healthy_agent_is_not_forgotten() -> None:
    async def main(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            ref = await mesh.spawn(lambda payload: asyncio.sleep(1), name="a")
            cell: Cell = cell_of(ref)
            assert not cell.is_forgotten
            ref.tell_many([1, 2])
            assert not cell.is_forgotten  # in the run queue
            await asyncio.sleep(0.5)
            assert not cell.is_forgotten  # no slot is free
            mesh.suspend(ref)
            await asyncio.sleep(5)
            assert not cell.is_forgotten  # suspended
            mesh.resume(ref)

    attempt(main)


def test_a_program_that_goes_in_circles_without_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmesh.testing.simulation.MOST_STEPS", 500)

    async def main(sim: Simulation) -> None:
        async with sim.coordinator(drain_timeout=1.0) as mesh:
            ref = await mesh.spawn(lambda payload: ref.tell(payload), name="circle")
            ref.tell(1)
            await asyncio.sleep(1.0)

    with pytest.raises(Deadlock, match="still busy after 500 messages and turns"):
        attempt(main)


class Restless(Agent):
    """Asserts where it is told to."""

    def __init__(self, where: str, starts: list[int]) -> None:
        self.where = where
        starts.append(1)
        assert where != "__init__" or len(starts) == 1, "in __init__"
        self.starts = starts

    async def on_start(self) -> None:
        assert self.where != "on_start" or len(self.starts) == 1, "in on_start"

    async def on_stop(self, reason: Any) -> None:
        assert self.where != "on_stop", "in on_stop"

    async def receive(self, payload: object) -> None:
        await asyncio.sleep(0)
        if self.where in ("__init__", "on_start"):
            raise ValueError  # and it is restarted
        assert self.where != "a handler", "in a handler"


@pytest.mark.parametrize("where", ["a handler", "__init__", "on_start", "on_stop"])
def test_an_assertion_that_fails_in_an_agent_fails_the_run_whatever_its_supervision_says(where: str) -> None:
    after: list[str] = []

    async def main(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            ref = await mesh.spawn(Restless, where, [])
            ref.tell(1)
            await asyncio.sleep(1.0)
            after.append(where)

    with pytest.raises(AssertionError, match=f"^in {where}"):
        attempt(main)
    assert after == (["on_stop"] if where == "on_stop" else [])


@pytest.mark.parametrize("error", [AssertionError("no"), pytest.fail.Exception("no")], ids=repr)
def test_an_assertion_in_a_plain_handler_or_function_fails_the_run_too(error: BaseException) -> None:
    def fails(payload: object) -> None:
        raise error

    async def main(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            (await mesh.spawn(fails)).tell(1)

    with pytest.raises(type(error), match="no"):
        attempt(main)


@pytest.mark.parametrize("error", [unittest.SkipTest("no"), bdb.BdbQuit(), pytest.skip.Exception("no")], ids=repr)
def test_who_leaves_the_test_leaves_it_in_a_handler_too(error: BaseException) -> None:
    runs = itertools.count()

    @simulate
    async def test(sim: Simulation) -> None:
        def leaves(payload: object) -> None:
            next(runs)
            raise error

        async with sim.coordinator() as mesh:
            (await mesh.spawn(leaves)).tell(1)

    with pytest.raises(type(error)) as caught:
        test()
    assert caught.value is error
    assert next(runs) == 1


def test_an_assertion_that_fails_for_an_ask_is_the_askers() -> None:
    async def fails(payload: object) -> None:
        raise AssertionError("no")

    async def main(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            ref = await mesh.spawn(fails, name="fails")
            with pytest.raises(AssertionError, match="no"):
                await ref.ask(1)
            probe = await Probe.spawn(mesh)
            asked = asyncio.ensure_future(probe.ref.ask(2))
            await probe.expect(2)
            probe.fail(AssertionError("by the probe"))
            with pytest.raises(AssertionError, match="by the probe"):
                await asked
            await sim.in_thread(ref.tell, 1)

    with pytest.raises(AssertionError, match=r"^no"):
        attempt(main)


def test_what_is_reported_to_the_loop_fails_the_run() -> None:
    async def main(sim: Simulation) -> None:
        sim.loop.call_soon(divmod, 1, 0)
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="reported to the event loop: Exception in callback") as caught:
        attempt(main)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def lose_in_thread(sim: Simulation) -> None:
    sim.in_thread(divmod, 1, 0)
    await asyncio.sleep(1.0)


async def lose_in_task(sim: Simulation) -> None:
    class Owner:
        async def work(self) -> None:
            raise ZeroDivisionError("lost")

    owner: Any = Owner()
    # What the traceback holds holds the task: only the garbage collector finds it.
    owner.task = asyncio.ensure_future(owner.work())
    await asyncio.sleep(1.0)


@pytest.mark.parametrize("main", [lose_in_thread, lose_in_task])
def test_an_error_that_nobody_asks_for_fails_the_run_whenever_garbage_is_collected(main: Any) -> None:
    for collects in (False, True):

        async def run(sim: Simulation, collects: bool = collects) -> None:
            await main(sim)
            if collects:
                gc.collect()

        gc.disable()
        try:
            with pytest.raises(AssertionError, match=r"exception was never retrieved: ZeroDivisionError\(") as caught:
                attempt(run)
        finally:
            gc.enable()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        del caught


def test_an_error_that_was_asked_for_fails_nothing() -> None:
    async def main(sim: Simulation) -> None:
        futures = [sim.in_thread(divmod, 1, 0) for _ in range(200)]
        assert all(
            isinstance(error, ZeroDivisionError) for error in await asyncio.gather(*futures, return_exceptions=True)
        )

    attempt(main)


def test_what_else_was_reported_is_said_of_a_run_that_fails() -> None:
    async def main(sim: Simulation) -> None:
        answer = sim.loop.create_future()

        async def work() -> None:
            answer.set_result(1 / 0)

        task = asyncio.ensure_future(work())
        await answer
        del task

    with pytest.raises(Deadlock) as caught:
        attempt(main)
    assert caught.value.__notes__ == [
        "Besides, reported to the event loop: Task exception was never retrieved: ZeroDivisionError('division by zero')"
    ]


def test_a_simulation_inside_an_event_loop_is_refused() -> None:
    async def main(sim: Simulation) -> None:
        attempt(busy_program)

    with pytest.raises(WrongLoop, match="a simulation runs an event loop of its own"):
        attempt(main)


def test_a_mesh_that_was_left_must_have_nothing_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    demanded: list[int | None] = []

    def look(mesh: Coordinator, *, pending: int | None = None) -> None:
        demanded.append(pending)

    monkeypatch.setattr("pmesh.testing.simulation.assert_account", look)

    async def main(sim: Simulation) -> None:
        async with sim.coordinator():
            pass

    attempt(main)
    assert demanded[-1] == 0


def test_a_simulation_runs_once() -> None:
    simulation = attempt(busy_program)
    with pytest.raises(InvalidArgument, match="the simulation of seed 1 has run"):
        simulation.run(busy_program)


@pytest.mark.parametrize("option", ["clock", "chooser", "slice_seconds"])
def test_what_a_simulation_decides_is_no_option(option: str) -> None:
    async def main(sim: Simulation) -> None:
        sim.coordinator(**{option: None})

    with pytest.raises(InvalidArgument, match=f"{option} is the simulation's"):
        attempt(main)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"raises": -0.1}, "raises is -0.1; it must be a share"),
        ({"kills": 1.5}, "kills is 1.5; it must be a share"),
        ({"stalls": float("nan")}, "stalls is nan"),
        ({"fills": "often"}, "fills is 'often'; it must be a number"),
        ({"jump_seconds": 0}, "jump_seconds is 0; it must be a finite number of seconds above 0"),
        ({"stall_seconds": float("inf")}, "stall_seconds is inf"),
        ({"agents": ""}, "agents is empty"),
        ({"agents": ["a"]}, r"agents is \['a'\]"),
        ({"most": -1}, "most is -1"),
        ({"most": 1.5}, "most is 1.5"),
    ],
)
def test_faults_that_cannot_be_are_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises((InvalidArgument, InvalidType), match=error):
        Faults(**options)


@pytest.mark.parametrize("seed", ["1", 1.5, True, None])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with pytest.raises(InvalidType, match="seed is"):
        Simulation(seed)


# The trace.


def test_a_trace_tells_what_happened_in_words() -> None:
    class Account(Agent):
        @handler
        def add(self, amount: int) -> int:
            if amount < 0:
                raise ValueError(amount)
            return amount

        async def on_start(self) -> None:
            self.context.become(self.other)

        async def other(self, payload: object) -> object:
            self.context.become(None)
            return [payload]

    async def main(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            account = await mesh.spawn(Account, name="account")
            sim.note("begins")
            assert await account.ask(1) == [1]
            assert await account.ask(2) == 2
            account.tell(-3)
            await asyncio.sleep(1.0)
            account.tell("nobody takes this")

    assert [(event.who, event.what) for event in attempt(main, allowed=frozenset()).trace] == [
        ("account", "has started"),
        ("test", "begins"),
        ("account", "handles 1"),
        ("account", "answers [1]"),
        ("account", "handles 2"),
        ("account", "answers 2"),
        ("account", "handles -3"),
        ("account", "raised ValueError(-3)"),
        ("account", "is restarted"),
        ("account", "handles 'nobody takes this'"),
        ("account", "answers ['nobody takes this']"),
        ("account", "has stopped (shutdown)"),
    ]


def test_a_trace_tells_what_was_refused_and_by_whom() -> None:
    async def main(sim: Simulation) -> None:
        async with sim.coordinator("shop") as mesh:
            small = await mesh.spawn(lambda payload: None, name="small", mailbox=MailboxPolicy(capacity=2))
            gone = await mesh.spawn(lambda payload: None, name="gone")
            assert small.tell_many(range(5)) == 2
            await asyncio.sleep(1.0)
            await mesh.stop(gone)
            gone.tell(1)
            await asyncio.sleep(1.0)
            again = await mesh.spawn(lambda payload: None, name="gone", mailbox=MailboxPolicy(capacity=1))
            again.tell_many([1, 2])

    said = [(event.who, event.what) for event in attempt(main, allowed=frozenset()).trace if "refused" in event.what]
    assert said == [
        ("small", "has refused 3 messages"),
        ("shop", "has refused a message to agents that are not there any more"),
        ("gone", "has refused a message"),
    ]


def test_a_trace_shows_no_addresses_and_survives_any_repr() -> None:
    class Plain:
        pass

    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    async def main(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            ref = await mesh.spawn(lambda payload: None, name="a")
            for payload in (Plain(), Rude(), "x" * 1_000, Plain):
                await ref.ask(payload)

    handled = [event.what for event in attempt(main).trace if event.what.startswith("handles")]
    assert " at 0x" not in "".join(handled)
    assert "Plain object>" in handled[0]
    assert "Rude" in handled[1]
    assert len(handled[2]) < 100


def test_a_trace_names_the_sender_and_marks_what_departs_from_the_usual() -> None:
    async def main(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            last = await mesh.spawn(lambda payload: None, name="last")
            first = await mesh.spawn(lambda payload: last.tell(payload) and None, name="first")
            first.tell(1)
            sim.in_thread(first.tell, 2)
            await asyncio.sleep(1.0)

    run = attempt(main, allowed=frozenset())
    assert "handles 1 from first" in [event.what for event in run.trace if event.who == "last"]
    [call] = [event for event in run.trace if event.who == "thread"]
    assert not run.departures
    assert not call.is_departure
    # One that comes before time would pass departs from it.
    runs = [attempt(main, seed) for seed in range(20)]
    assert {event.is_departure for run in runs for event in run.trace if event.who == "thread"} == {True, False}


def test_a_timer_that_is_late_is_named_by_what_waits_for_it() -> None:
    async def main(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            ref = await mesh.spawn(lambda payload: asyncio.sleep(1.0), name="sleeper")
            await ref.ask(1, timeout=50.0)
            await asyncio.sleep(1.0)

    late = set()
    for seed in range(100):
        late |= {event.what.partition(" us ")[2] for event in attempt(main, seed).trace if event.who == "loop"}
    assert {"late with a sleep of sleeper", "late with a sleep of the test"} <= late
    assert any(what.startswith("late with timeouts and timers") for what in late), late


def test_an_event_is_one_line_without_addresses_wherever_they_are_in_it() -> None:
    class Table:
        def __repr__(self) -> str:
            return f"1 2\n  3 4 {object.__repr__(self)}{'x' * 26}"

    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    texts = [shown(value) for value in (Table(), Table(), [Table()], {"rude": Rude()})]
    assert texts[0] == texts[1]
    assert texts[0].startswith("1 2 3 4 <")
    assert "\n" not in "".join(texts)
    assert not re.search("0x|[0-9a-f]{8}", "".join(texts))
    assert len(texts[0]) <= 80
    assert "Rude, whose repr raised RuntimeError>" in texts[3]


def test_an_event_in_a_line() -> None:
    assert str(Event(1.5, "a", "has started")) == "      1.500000  a                has started"
    assert str(Event(1.5, "a", "is killed", True)).startswith("!     1.5")


def test_a_long_trace_shows_its_end_and_all_that_the_seed_decided() -> None:
    events = [Event(float(number), "a", f"event {number}", number in (0, 7, 8)) for number in range(250)]
    lines = trace_text(events).splitlines()
    assert [line.partition("event ")[2] or line.strip() for line in lines[:6]] == [
        *("0", "... 6 more events", "7", "8", "... 141 more events", "150")
    ]
    assert len(lines) == 5 + 100
    assert lines[-1].endswith("event 249")
    assert trace_text(events[9:119]).startswith("  ... 10 earlier events\n")
    assert trace_text(events[:100]).count("\n") == 99


# Reduction.


def test_only_the_departures_that_matter_are_kept() -> None:
    def failing(allowed: frozenset[int]) -> list[int] | None:
        nonlocal runs
        runs += 1
        return sorted(allowed) if {17, 61} <= allowed else None

    runs = 0
    assert fewest(range(100), failing, 400) == [17, 61]
    assert runs < 60


def test_nothing_is_kept_where_nothing_is_needed() -> None:
    assert fewest(range(100), lambda allowed: sorted(allowed), 400) == []


def test_reduction_ends_after_so_many_runs() -> None:
    runs = 0

    def failing(allowed: frozenset[int]) -> list[int] | None:
        nonlocal runs
        runs += 1
        return sorted(allowed) if len(allowed) > 50 else None

    assert 50 < len(fewest(range(1_000), failing, 20)) < 1_000
    assert runs == 20


def test_reduction_ends_after_so_many_seconds() -> None:
    runs = 0

    def failing(allowed: frozenset[int]) -> list[int] | None:
        nonlocal runs
        runs += 1
        return sorted(allowed) if len(allowed) > 50 else None

    assert fewest(range(1_000), failing, 400, 0.0) == list(range(1_000))
    assert runs == 1


def test_decisions_that_may_not_depart_take_the_usual_outcome() -> None:
    free = Decisions(3)
    drawn = [free.choose(5) for _ in range(100)]
    assert free.departures == [i for i, outcome in enumerate(drawn) if outcome]
    held = Decisions(3, frozenset(free.departures[:2]))
    again = [held.choose(5) for _ in range(100)]
    assert held.departures == free.departures[:2]
    assert [again[i] for i in held.departures] == [drawn[i] for i in held.departures]
    assert sum(map(bool, again)) == 2


def test_the_details_of_what_may_not_depart_are_not_missed_by_what_comes_later() -> None:
    """Otherwise leaving a departure out makes another run of all that follows, and little can be left out."""

    def draw(decisions: Decisions) -> list[object]:
        return [(decisions.pick(1000), decisions.between(0, 1)) if decisions.happens(0.2) else None for _ in range(100)]

    free = Decisions(3)
    drawn = draw(free)
    kept = free.departures[::3]
    again = draw(Decisions(3, frozenset(kept)))
    assert len(kept) > 3
    assert again == [outcome if number in kept else None for number, outcome in enumerate(drawn)]


def test_every_seed_draws_other_numbers() -> None:
    seeds = [-(2**200), -2, -1, 0, 1, 2, 2**200]
    drawn = set()
    for seed in seeds:
        decisions = Decisions(seed)
        drawn.add(tuple(decisions.choose(1000) for _ in range(5)))
    assert len(drawn) == len(seeds)


def test_what_is_switched_off_is_no_decision() -> None:
    with_off, without = Decisions(5), Decisions(5)
    assert not with_off.happens(0.0)
    assert [with_off.choose(9) for _ in range(20)] == [without.choose(9) for _ in range(20)]


# The decorator, without pytest.


def racy(sim: Simulation) -> Any:
    """Fails when the second agent is served first."""

    async def main() -> None:
        order: list[str] = []
        async with sim.coordinator() as mesh:
            a = await mesh.spawn(lambda payload: order.append("a"), name="a")
            b = await mesh.spawn(lambda payload: order.append("b"), name="b")
            for _ in range(10):
                order.clear()
                a.tell(1)
                b.tell(1)
                await asyncio.sleep(1.0)
                assert order == ["a", "b"], "b was first"

    return main()


def test_a_seed_that_fails_is_named_with_the_shortest_way_to_it() -> None:
    @simulate(seeds=50)
    async def test(sim: Simulation) -> None:
        await racy(sim)

    with pytest.raises(AssertionError, match="b was first") as caught:
        test()
    [note] = caught.value.__notes__
    assert "Simulation: seed 0 fails (of 0:50). Again: --pmesh-seed 0\n" in note
    assert ", 1 is enough (marked !)" in note
    [marked] = [line for line in note.splitlines() if line.startswith("!")]
    assert marked.endswith("b                is served before a")


def test_an_assertion_in_a_handler_is_shown_with_its_line_and_the_shortest_way_to_it() -> None:
    @simulate(seeds=50)
    async def test(sim: Simulation) -> None:
        got: list[int] = []

        def second(payload: int) -> None:
            assert got, "the second came first"

        async with sim.coordinator() as mesh:
            refs = [await mesh.spawn(got.append, name="a"), await mesh.spawn(second, name="b")]
            for ref in refs:
                ref.tell(1)

    with pytest.raises(AssertionError, match="the second came first") as caught:
        test()
    [note] = caught.value.__notes__
    assert ", 1 is enough (marked !)" in note
    assert [entry.name for entry in caught.traceback if str(entry.path) == __file__][-1] == "second"


def test_a_failure_without_any_help_of_the_seed_is_said_to_be_one() -> None:
    @simulate(seeds=range(7, 9))
    async def test(sim: Simulation) -> None:
        raise LookupError("always")

    with pytest.raises(LookupError, match="always") as caught:
        test()
    assert "seed 7 fails (of 7:9)" in caught.value.__notes__[0]
    assert "It fails without anything that a seed makes different" in caught.value.__notes__[0]


def test_every_seed_runs_once_and_the_first_one_twice_more() -> None:
    seeds: list[int] = []

    @simulate(seeds=5)
    async def test(sim: Simulation) -> None:
        seeds.append(sim.seed)

    test()
    assert seeds == [0, 0, 0, 1, 2, 3, 4]
    seeds.clear()

    @simulate(seeds=3, check_determinism=False)
    async def plain(sim: Simulation) -> None:
        seeds.append(sim.seed)

    plain()
    assert seeds == [0, 1, 2]


def test_bare_and_in_a_class_and_with_arguments() -> None:
    seen: list[object] = []

    @simulate
    async def bare(sim: Simulation, /, more: int) -> None:
        seen.append(more)

    class Tests:
        @simulate(seeds=1, check_determinism=False)
        async def method(self, sim: Simulation, *, key: str) -> None:
            seen.append((type(self), sim.seed, key))

    bare(more=5)
    Tests().method(key="k")
    assert seen == [5] * 102 + [(Tests, 0, "k")]


def test_a_program_that_the_seed_does_not_decide_is_told_apart() -> None:
    runs = itertools.count()

    @simulate(seeds=5)
    async def test(sim: Simulation) -> None:
        sim.note(f"run {next(runs)}")

    with pytest.raises(NotDeterministic, match=r"Event 1 was\n .*run 0\nand then\n .*run 1"):
        test()

    fails = itertools.cycle([True, False])

    @simulate(seeds=5, check_determinism=False)
    async def flaky(sim: Simulation) -> None:
        assert not next(fails), "once"

    with pytest.raises(NotDeterministic, match="failed with AssertionError, and run again it passed") as caught:
        flaky()
    assert "once" in str(caught.value.__cause__)


def test_a_run_that_fails_only_once_is_not_passed_over() -> None:
    runs = itertools.count()

    @simulate(seeds=5)
    async def test(sim: Simulation) -> None:
        assert next(runs), "the first"

    with pytest.raises(NotDeterministic, match="seed 0 failed with AssertionError, and run again it passed") as caught:
        test()
    assert "the first" in str(caught.value.__cause__)


def test_a_failure_without_any_event_shows_none() -> None:
    @simulate(seeds=1)
    async def test(sim: Simulation) -> None:
        raise LookupError

    with pytest.raises(LookupError) as caught:
        test()
    assert caught.value.__notes__[0].endswith("It fails without anything that a seed makes different from the usual")


class Odd(BaseException):
    pass


@pytest.mark.parametrize(
    "error",
    [Odd(), GeneratorExit(), SystemExit(3), asyncio.CancelledError(), BaseExceptionGroup("all", [Odd(), ValueError()])],
    ids=repr,
)
def test_whatever_ends_a_test_is_a_failure_by_its_seed(error: BaseException) -> None:
    @simulate(seeds=range(3, 5))
    async def test(sim: Simulation) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        test()
    assert "Simulation: seed 3 fails" in caught.value.__notes__[0]
    del error.__notes__


@pytest.mark.parametrize(
    "error",
    [
        unittest.SkipTest("no"),
        bdb.BdbQuit(),
        pytest.skip.Exception(),
        pytest.xfail.Exception(),
        pytest.exit.Exception("now"),
        BaseExceptionGroup("all", [ValueError(), KeyboardInterrupt()]),
    ],
    ids=repr,
)
def test_who_leaves_does_not_fail(error: BaseException) -> None:
    runs = itertools.count()

    @simulate
    async def test(sim: Simulation) -> None:
        next(runs)
        raise error

    with pytest.raises(type(error)) as caught:
        test()
    assert caught.value is error
    assert not hasattr(error, "__notes__")
    assert next(runs) == 1


def test_mocks_may_be_above_and_below() -> None:
    seen: list[tuple[Any, ...]] = []

    class Tests:
        @mock.patch("os.getcwd", new="fixed")
        @mock.patch("os.getpid")
        @simulate(seeds=1, check_determinism=False)
        async def above(self, sim: Simulation, getpid: mock.Mock) -> None:
            seen.append((sim, getpid))

    @simulate(seeds=1, check_determinism=False)
    @mock.patch("os.getcwd", new="fixed")
    @mock.patch("os.getpid")
    async def below(sim: Simulation, getpid: mock.Mock, fixture: str) -> None:
        seen.append((sim, getpid, fixture))

    Tests().above()
    below(fixture="f")
    assert list(inspect.signature(below).parameters) == ["fixture"]
    assert len(seen) == 2
    for sim, getpid, *more in seen:
        assert isinstance(sim, Simulation)
        assert isinstance(getpid, mock.Mock)
        assert more in ([], ["f"])


def test_pmeshs_logs_are_those_of_the_failing_run_only(caplog: pytest.LogCaptureFixture) -> None:
    @simulate(seeds=50)
    async def test(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            ref = await mesh.spawn(lambda payload: 1 // payload, name="a")
            ref.tell(0)
        assert sim.seed < 3, "the fourth"

    with pytest.raises(AssertionError, match="the fourth"):
        test()
    assert len([record for record in caplog.records if "ZeroDivisionError" in (record.exc_text or "")]) <= 1
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert not logging.getLogger("pmesh").disabled


def test_an_interrupt_is_no_failure_of_the_test() -> None:
    @simulate(seeds=5)
    async def test(sim: Simulation) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        test()
    assert not hasattr(caught.value, "__notes__")


def test_an_interrupt_while_the_shortest_way_is_sought_names_the_seed() -> None:
    runs = itertools.count()

    @simulate(seeds=range(3, 9))
    async def test(sim: Simulation) -> None:
        if next(runs) == 4:  # after two that are compared, the one that fails, and the one that repeats it
            raise KeyboardInterrupt
        raise LookupError

    with pytest.raises(KeyboardInterrupt, match=r"what fails by seed 3\. Again: --pmesh-seed 3"):
        test()


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"seeds": 0}, "seeds is 0; it must be at least 1"),
        ({"seeds": -3}, "seeds is -3"),
        ({"seeds": range(0)}, r"seeds is range\(0, 0\), which is empty"),
        ({"seeds": "5"}, "seeds is '5'"),
        ({"seeds": True}, "seeds is True"),
        ({"faults": 0.5}, "faults is 0.5; it must be a pmesh.testing.Faults"),
        ({"check_determinism": 1}, "check_determinism is 1"),
        ({"horizon_seconds": float("nan")}, "horizon_seconds is nan"),
    ],
)
def test_options_that_cannot_be_are_refused_at_the_decorator(options: dict[str, Any], error: str) -> None:
    with pytest.raises((InvalidArgument, InvalidType), match=error):
        simulate(**options)


def test_a_run_may_take_longer_than_a_week_where_it_is_told_so() -> None:
    async def months(sim: Simulation) -> None:
        await asyncio.sleep(90 * 86_400)
        assert sim.seconds >= 90 * 86_400

    simulate(seeds=3, horizon_seconds=100 * 86_400)(months)()
    with pytest.raises(Deadlock, match=r"still busy after 604800 virtual s \(horizon_seconds\)"):
        simulate(seeds=3)(months)()


def test_what_cannot_be_simulated_is_refused_at_the_decorator() -> None:
    with pytest.raises(InvalidType, match="it must decorate an `async def` test"):

        @simulate  # type: ignore[arg-type, call-overload]
        def plain(sim: Simulation) -> None: ...

    with pytest.raises(InvalidType, match="takes no simulation: its first parameter must be one"):

        @simulate
        async def nothing() -> None: ...

    with pytest.raises(InvalidType, match="takes no simulation"):

        class Tests:
            @simulate
            async def method(self) -> None: ...

    with pytest.raises(InvalidType, match="the simulation as 'sim': it is given as the first parameter, here 'path'"):

        @simulate
        async def second(path: str, sim: Simulation) -> None: ...


def test_runs_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest keeps what is logged, and with it the frames of errors.
    for name in ("pmesh", "pmesh.dead_letters"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)

    def objects() -> int:
        gc.collect()
        return sum(isinstance(thing, (Simulation, Coordinator)) for thing in gc.get_objects())

    before = objects()
    for seed in range(10):
        attempt(busy_program, seed, faults=EVERYTHING)
    assert objects() == before


def test_agents_killed_while_the_mesh_is_left_do_not_keep_it() -> None:
    for seed in range(50):

        async def main(sim: Simulation) -> None:
            async with sim.coordinator(drain_timeout=5.0) as mesh:
                refs = [await mesh.spawn(Worker, sim) for _ in range(3)]
                for ref in refs:
                    try:
                        ref.tell_many(range(1, 30, 3))
                        await ref.ask(3, timeout=1.0)
                    except (AgentStopped, AskTimeout, InjectedFault, ValueError):
                        pass
                    except PmeshError as error:
                        assert isinstance(error, (HandlerCancelled, MailboxFull)), error

        attempt(main, seed, faults=EVERYTHING, traced=False)
