"""The core under many threads at once: whatever may be called from any thread is, and nothing is lost or counted twice.

    PMESH_STRESS=20 pytest tests/test_thread_stress.py       twenty times as many messages

With a GIL threads take turns, and not within the core; without one they meet in it. Each test says how much it did.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import pmesh
from pmesh import Agent, AgentRef, Coordinator, Counters, LatencyRecorder, MailboxPolicy, Overflow
from pmesh._core import Mailbox, cell_of

THREADS = max(4, min(8, os.cpu_count() or 1))
TIMES = int(os.environ.get("PMESH_STRESS", "1"))
MESSAGES = 5_000 * TIMES

# A thread that waits for longer hangs.
PATIENCE_SECONDS = 60.0 * TIMES

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

Tally = Callable[[str], None]


@pytest.fixture
def tally(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Tally:
    """Writes how much was done to the terminal."""
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()

    def write(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{request.node.name}: {text}, {'with' if gil else 'without'} a GIL\n")

    return write


class Crowd:
    """Threads that begin at once; what one of them raises is raised at the end."""

    def __init__(self) -> None:
        self._errors: list[BaseException] = []
        self._work: list[Callable[[], object]] = []
        self._watchers: list[Callable[[], None]] = []
        self.over = threading.Event()

    def add(self, function: Callable[..., object], *args: object) -> None:
        """Have a thread call `function` once."""
        self._work.append(lambda: function(*args))

    def add_watcher(self, look: Callable[[], object]) -> list[int]:
        """Have a thread call `look` until the others are through; how often, in a list of one."""
        looks = [0]

        def watch() -> None:
            while not self.over.is_set() or not looks[0]:
                look()
                looks[0] += 1

        self._watchers.append(watch)
        return looks

    @contextmanager
    def running(self) -> Iterator[list[threading.Thread]]:
        """Inside, the threads run; yields those that end by themselves."""
        barrier = threading.Barrier(len(self._work) + len(self._watchers))

        def guarded(function: Callable[[], object]) -> None:
            try:
                barrier.wait()
                function()
            except BaseException as error:
                self._errors.append(error)
                self.over.set()

        workers, watchers = (
            [threading.Thread(target=guarded, args=(function,), daemon=True) for function in functions]
            for functions in (self._work, self._watchers)
        )
        for thread in [*workers, *watchers]:
            thread.start()
        try:
            yield workers
            self._join(workers)
        finally:
            self.over.set()
            self._join(watchers)
        if self._errors:
            raise self._errors[0]

    def _join(self, threads: list[threading.Thread]) -> None:
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
            assert not thread.is_alive(), "a thread hangs"

    def run(self) -> None:
        with self.running():
            pass


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


async def turns_until_ended(threads: list[threading.Thread]) -> None:
    """Let the loop go round as long as one of `threads` lives."""
    while any(thread.is_alive() for thread in threads):
        await asyncio.sleep(0.001)


def test_a_free_threaded_interpreter_runs_this_without_its_gil() -> None:
    """Else everything here would be as good as with one. `PYTHON_GIL=0`, or a core that says that it needs none."""
    if not FREE_THREADED:
        pytest.skip("NOT A FREE-THREADED INTERPRETER: the core was not tested without a GIL")
    assert sys._is_gil_enabled() is False
    assert pmesh.BUILD_INFO["gil"] is False


@pytest.mark.skipif(not FREE_THREADED, reason="NOT A FREE-THREADED INTERPRETER: there is no GIL to be turned on")
def test_all_of_pmesh_leaves_the_gil_off() -> None:
    code = "import sys, pmesh.debug, pmesh.load, pmesh.testing; pmesh.Coordinator; print(sys._is_gil_enabled())"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}

    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=False
    )

    assert (done.stdout, done.stderr, done.returncode) == ("False\n", "", 0)


# The parts by themselves.


@pytest.mark.parametrize("overflow", [0, 1, 2])
def test_a_mailbox_shared_by_threads_loses_nothing(crowd: Crowd, tally: Tally, overflow: int) -> None:
    mailbox = Mailbox(64, overflow=overflow)
    displaced = [0] * THREADS
    outcomes: list[dict[str, int]] = [{} for _ in range(THREADS)]
    taken = [0, 0]
    left = list(range(THREADS))

    def offer(thread: int) -> None:
        for number in range(MESSAGES):
            outcome, gone = mailbox.offer((thread, number), lane="control" if number % 16 == 0 else "normal")
            outcomes[thread][outcome] = outcomes[thread].get(outcome, 0) + 1
            displaced[thread] += len(gone)
        left.pop()

    def take(taker: int) -> None:
        newest: dict[tuple[int, str], int] = {}
        while True:
            ended = not left
            message = mailbox.poll()
            if message is None:
                if ended:
                    return
                continue
            taken[taker] += 1
            thread, number = message.payload
            assert number > newest.get((thread, message.lane), -1)
            newest[thread, message.lane] = number
            mailbox.finish(("handled", "failed", "expired", "dead")[number % 4])

    for thread in range(THREADS):
        crowd.add(offer, thread)
    for taker in range(2):
        crowd.add(take, taker)
    balanced = crowd.add_watcher(lambda: check_balance(mailbox.counters()))
    crowd.run()
    account = mailbox.counters()
    check_balance(account)
    told = {outcome: sum(one.get(outcome, 0) for one in outcomes) for outcome in ("accepted", "full", "dropped")}
    assert account.sent == THREADS * MESSAGES == sum(told.values())
    assert account.rejected == told["full"]
    assert account.dropped == told["dropped"] + sum(displaced)
    assert account.accepted == sum(taken) + account.dropped
    assert account.pending == 0
    tally(f"{THREADS} threads x {MESSAGES:,} messages, 2 that take, {balanced[0]:,} looks at the account")


def check_balance(account: Counters) -> None:
    assert account.imbalance is None, account.imbalance


def test_recorders_shared_by_threads_lose_nothing(crowd: Crowd, tally: Tally) -> None:
    recorder, total = LatencyRecorder(), LatencyRecorder()
    lock = threading.Lock()

    def record(thread: int) -> None:
        for number in range(MESSAGES):
            recorder.record(thread * 1_000_000 + number)
            if number % 64 == 0:
                recorder.record_corrected(3_000_000, 1_000_000)

    def move() -> None:
        taken = recorder.take()
        # Taken by this thread alone, so both sides of a merge are used by others only at the other end.
        with lock:
            total.merge(taken)
        LatencyRecorder.decode(recorder.encode())
        snapshot = recorder.snapshot()
        assert sum(count for _, _, count in snapshot.counts()) == snapshot.count
        low, high = recorder.percentiles((1, 99))
        assert low <= high

    for thread in range(THREADS):
        crowd.add(record, thread)
    moves = crowd.add_watcher(move), crowd.add_watcher(move)
    crowd.run()
    total.merge(recorder.take())
    assert total.count == THREADS * (MESSAGES + 3 * -(-MESSAGES // 64))
    tally(f"{THREADS} threads x {MESSAGES:,} values, {moves[0][0] + moves[1][0]:,} times taken and merged")


def test_recorders_that_threads_merge_into_each_other_do_not_lock_up(crowd: Crowd, tally: Tally) -> None:
    recorders = [LatencyRecorder() for _ in range(3)]
    for recorder in recorders:
        recorder.record(1_000)
    times = MESSAGES // 10

    def merge(thread: int) -> None:
        for number in range(times):
            one, other = recorders[(thread + number) % 3], recorders[(2 * thread + number + 1) % 3]
            one.merge(other)
            if one.count > 2**40:
                one.reset()
            assert other.snapshot().count >= 0

    for thread in range(THREADS):
        crowd.add(merge, thread)
    crowd.run()
    tally(f"{THREADS} threads x {times:,} merges")


def test_counters_added_by_threads_lose_nothing(crowd: Crowd, tally: Tally) -> None:
    total, one = Counters(), Counters()
    one.count_rejected()

    def add() -> None:
        for _ in range(MESSAGES):
            total.add(one)
            total.count_rejected()

    for _ in range(THREADS):
        crowd.add(add)
    crowd.run()
    assert total.sent == total.rejected == 2 * THREADS * MESSAGES
    tally(f"{THREADS} threads x {2 * MESSAGES:,} additions")


# A mesh.

# Threads are real, and so is the time that they take.
real_loops = pytest.mark.parametrize("loop_kind", ["asyncio", "uvloop"], indirect=True)


out_of_order: list[str] = []


@pytest.fixture(autouse=True)
def nothing_is_out_of_order() -> Iterator[None]:
    """What receivers have seen, in any thread."""
    out_of_order.clear()
    yield
    assert out_of_order == []


class Receiver(Agent):
    """Has both lanes, so that whoever tells it something looks into its table of handlers."""

    def __init__(self) -> None:
        self.last: dict[tuple[str, int], int] = {}

    def seen(self, payload: tuple[int, int]) -> None:
        lane = self.context.message.lane
        key = lane, payload[0]
        if payload[1] <= self.last.get(key, -1):
            # Beside the failures of handlers that are killed on purpose, this one would not be seen.
            out_of_order.append(f"{payload} on the {lane} lane after {self.last[key]}")
        self.last[key] = payload[1]

    @pmesh.handler
    async def normal(self, payload: tuple) -> None:
        self.seen(payload)
        if payload[1] % 512 == 0:
            await asyncio.sleep(0)

    @pmesh.handler(lane="control")
    def control(self, payload: list) -> None:
        self.seen((payload[0], payload[1]))


def look_at_all(mesh: Coordinator, ref: AgentRef) -> None:
    """Whatever may be looked at from any thread."""
    stats = mesh.stats()
    check_balance(stats)
    for account in stats.agents.values():
        check_balance(account)
    check_balance(mesh.totals())
    dispatcher, cell = mesh._dispatcher, cell_of(ref)
    step = dispatcher.step_in_hand()
    assert step is None or isinstance(repr(step[1]), str)
    assert all(in_hand.agent == ref.name for in_hand in cell.in_hand_now())
    assert 0 <= ref.limit <= ref.capacity
    assert "receiver" in repr(ref)
    assert pmesh.debug.dump_text(mesh, all_agents=True).startswith("coordinator")
    assert min(mesh.latency.count, ref.depth, dispatcher.timeouts, *cell.lanes().values()) >= 0
    assert len(cell.waiting()) <= 4 * ref.capacity + 2


@real_loops
@pytest.mark.parametrize("policy", [Overflow.REJECT, Overflow.DROP_NEWEST, Overflow.DROP_OLDEST])
@pytest.mark.parametrize("adaptive", [False, True])
def test_threads_tell_while_others_look(
    run: Any, mesh: Any, loop_kind: str, crowd: Crowd, tally: Tally, policy: Overflow, adaptive: bool
) -> None:
    async def main() -> None:
        async with mesh(dead_letters=10, stall_after=0.01) as bus:
            mailbox = MailboxPolicy(256, overflow=policy, adaptive=adaptive)
            ref = await bus.spawn(Receiver, name="receiver", mailbox=mailbox, concurrency=1)
            told = [0] * THREADS

            def tell(thread: int) -> None:
                for number in range(MESSAGES):
                    told[thread] += ref.tell([thread, number] if number % 8 == 0 else (thread, number))

            for thread in range(THREADS):
                crowd.add(tell, thread)
            looks = crowd.add_watcher(lambda: look_at_all(bus, ref))
            with crowd.running() as threads:
                await turns_until_ended(threads)
        stats = bus.stats()
        assert stats.imbalance is None
        assert (stats.sent, stats.accepted) == (THREADS * MESSAGES, sum(told))
        assert (stats.failed, stats.pending) == (0, 0)
        assert stats.handled + stats.dropped == stats.accepted
        assert sum(bus.dead_letters.counts.values()) == stats.dropped
        tally(f"{THREADS} threads x {MESSAGES:,} messages, {stats.handled:,} handled, {looks[0]:,} looks")

    run(main)


@real_loops
def test_agents_come_and_go_while_threads_tell_them(
    run: Any, mesh: Any, loop_kind: str, crowd: Crowd, tally: Tally
) -> None:
    agents = 100 * TIMES

    async def main() -> None:
        async with mesh(dead_letters=10) as bus:
            current = [await bus.spawn(Receiver)]
            sent, accepted = [0] * THREADS, [0] * THREADS
            over = threading.Event()

            def tell(thread: int) -> None:
                number = 0
                while not over.is_set():
                    accepted[thread] += current[0].tell((thread, number))
                    sent[thread] += 1
                    number += 1

            for thread in range(THREADS):
                crowd.add(tell, thread)
            looks = crowd.add_watcher(lambda: check_balance(bus.stats()))
            with crowd.running() as threads:
                for number in range(agents):
                    old, current[0] = current[0], await bus.spawn(Receiver)
                    await (bus.kill(old) if number % 3 == 0 else bus.stop(old))
                    await asyncio.sleep(0)
                over.set()
                await turns_until_ended(threads)
        stats = bus.stats()
        assert stats.imbalance is None
        assert (stats.sent, stats.accepted) == (sum(sent), sum(accepted))
        tally(f"{THREADS} threads, {sum(sent):,} messages to {agents:,} agents, {looks[0]:,} looks")

    run(main)


@real_loops
def test_agents_become_others_while_threads_tell_them(
    run: Any, mesh: Any, loop_kind: str, crowd: Crowd, tally: Tally
) -> None:
    class Other:
        @pmesh.handler(lane="control")
        def other(self, payload: tuple) -> None:
            pass

        @pmesh.handler
        def switch(self, payload: str) -> None:
            self.receiver.context.become(None)

    class Switching(Receiver):
        @pmesh.handler(lane="control")
        def control(self, payload: list) -> None:
            pass

        def seen(self, payload: tuple[int, int]) -> None:
            pass  # the lane of a type changes, and with it the order

        @pmesh.handler
        def switch(self, payload: str) -> None:
            other = Other()
            other.receiver = self
            self.context.become(other)

    async def main() -> None:
        async with mesh(dead_letters=0) as bus:
            ref = await bus.spawn(Switching, mailbox=MailboxPolicy(THREADS * MESSAGES + 10))

            def tell(thread: int) -> None:
                for number in range(MESSAGES):
                    assert ref.tell((thread, number))

            for thread in range(THREADS):
                crowd.add(tell, thread)
            switches = 0
            with crowd.running() as threads:
                while any(thread.is_alive() for thread in threads):
                    await ref.ask("switch", timeout=60)
                    switches += 1
                    await asyncio.sleep(0)
        assert bus.stats().sent == THREADS * MESSAGES + switches
        tally(f"{THREADS} threads x {MESSAGES:,} messages, {switches:,} switches")

    run(main)


def test_meshes_in_threads_of_their_own_tell_each_other(crowd: Crowd, tally: Tally) -> None:
    refs: list[Any] = [None] * THREADS
    ready, through = threading.Barrier(THREADS), threading.Barrier(THREADS)
    stats: list[Any] = [None] * THREADS

    def serve(thread: int) -> None:
        async def main() -> None:
            async with Coordinator(f"mesh-{thread}", dead_letters=0) as bus:
                mailbox = MailboxPolicy(THREADS * MESSAGES)
                ref = refs[thread] = await bus.spawn(Receiver, mailbox=mailbox)
                echo = await bus.spawn(lambda payload: payload)
                await asyncio.to_thread(ready.wait, PATIENCE_SECONDS)
                for number in range(MESSAGES):
                    for other in refs:
                        assert other.tell((thread, number))
                    if number % 64 == 0:
                        assert await echo.ask(number) == number
                await asyncio.to_thread(through.wait, PATIENCE_SECONDS)
                while ref.counters().pending:
                    await asyncio.sleep(0.001)
            stats[thread] = bus.stats()

        asyncio.run(main())

    for thread in range(THREADS):
        crowd.add(serve, thread)
    crowd.run()
    for account in stats:
        assert account.imbalance is None
        assert account.failed == 0
        assert account.handled == account.sent == THREADS * MESSAGES + -(-MESSAGES // 64)
    tally(f"{THREADS} meshes in threads, {THREADS * THREADS * MESSAGES:,} messages")
