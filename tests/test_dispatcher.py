"""The dispatcher: order, fairness, slots, deadlines, and what can be done with an ask."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any

import pytest

from pmesh import (
    Agent,
    AgentRef,
    AskTimeout,
    DeadLetterKind,
    InvalidArgument,
    InvalidType,
    MailboxPolicy,
    WrongLoop,
    handler,
)


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# Concurrency.


@pytest.mark.parametrize("concurrency", [1, 2, 3, 8])
def test_handlers_start_in_order_and_at_most_n_are_in_progress(
    run: Any, mesh: Any, loop_kind: str, concurrency: int
) -> None:
    rng = random.Random(concurrency)
    started: list[int] = []
    running = most = 0

    async def agent(payload: int) -> int:
        nonlocal running, most
        started.append(payload)
        running += 1
        most = max(most, running)
        assert running <= concurrency
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(rng.choice((0, 0.0005)))
        running -= 1
        return payload

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(agent, concurrency=concurrency)
            results = await asyncio.gather(*(ref.ask(number) for number in range(60)))
            assert results == list(range(60))

    run(main)
    assert started == list(range(60))
    assert most == concurrency


def test_slots_are_made_on_demand_and_used_again(run: Any, mesh: Any, loop_kind: str) -> None:
    async def agent(payload: float) -> None:
        await asyncio.sleep(payload)

    def tasks() -> int:
        return sum(task.get_name() == "io" for task in asyncio.all_tasks())

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(agent, name="io", concurrency=100)
            assert tasks() == 0
            for _ in range(10):
                await ref.ask(0)
                assert tasks() == 1
            await asyncio.gather(*(ref.ask(0.001) for _ in range(5)))
            assert tasks() == 5
            for _ in range(10):
                await ref.ask(0.0)
            assert tasks() == 5
            await bus.stop(ref)
            await turns()
            assert tasks() == 0

    run(main)


def test_plain_handlers_of_a_concurrent_agent_run_in_order_between_waiting_ones(
    run: Any, mesh: Any, loop_kind: str
) -> None:
    class Mixed(Agent):
        concurrency = 2
        seen: list[object]

        def __init__(self) -> None:
            self.seen = []

        @handler
        async def wait(self, message: float) -> None:
            self.seen.append(message)
            await asyncio.sleep(message)

        @handler
        def plain(self, message: int) -> list[object]:
            self.seen.append(message)
            return list(self.seen)

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Mixed)
            ref.tell_many([0.004, 1, 2, 0.002, 3])
            assert await ref.ask(4) == [0.004, 1, 2, 0.002, 3, 4]

    run(main)


def test_one_at_a_time_means_the_next_starts_after_the_last_one_ended(run: Any, mesh: Any, loop_kind: str) -> None:
    log: list[str] = []

    async def agent(payload: int) -> None:
        log.append(f"start {payload}")
        await asyncio.sleep(0 if payload % 2 else 0.0005)
        log.append(f"end {payload}")

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(agent)
            await asyncio.gather(*(ref.ask(number) for number in range(10)))

    run(main)
    assert log == [f"{what} {number}" for number in range(10) for what in ("start", "end")]


# Fairness.


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_an_agent_that_floods_itself_gives_the_loop_back(run: Any, mesh: Any, loop_kind: str, kind: str) -> None:
    stop = False

    class Flood(Agent):
        mailbox = MailboxPolicy(capacity=10)
        count = 0

        def on(self) -> None:
            self.count += 1
            if not stop:
                self.context.ref.tell(0)

        if kind == "plain":

            def receive(self, payload: object) -> int:  # type: ignore[override]
                self.on()
                return self.count

        else:

            async def receive(self, payload: object) -> int:
                self.on()
                return self.count

    async def main() -> None:
        nonlocal stop
        gaps = []
        async with mesh() as bus:
            ref = await bus.spawn(Flood)
            ref.tell(0)
            for _ in range(50):
                before = time.thread_time()
                await asyncio.sleep(0)
                gaps.append(time.thread_time() - before)
            stop = True
            count = await ref.ask(0)
        gaps.sort()
        # One slice is about 1 ms of processor time; in virtual time, where none passes, it is 8,192 messages.
        assert gaps[len(gaps) // 2] < (0.5 if loop_kind == "virtual" else 0.02)
        assert count > 50

    run(main)


def test_slow_messages_do_not_add_up_in_one_slice(run: Any, mesh: Any) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        handled = []

        def slow(payload: int) -> None:
            handled.append(payload)
            loop.advance(0.0005)

        async with mesh() as bus:
            ref = await bus.spawn(slow)
            ref.tell_many(range(40))
            await asyncio.sleep(0)
            seen = []
            while len(handled) < 40:
                before = loop.time()
                await asyncio.sleep(0)
                seen.append(loop.time() - before)
            assert max(seen) <= 0.002

    run(main)


def test_a_slow_agent_holds_up_the_fast_ones_for_one_message_at_most(run: Any, mesh: Any) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        log: list[str] = []

        def slow(payload: int) -> None:
            loop.advance(0.05)
            log.append("slow")

        def fast(payload: int) -> None:
            log.append("fast")

        async with mesh() as bus:
            agents = [await bus.spawn(slow)]
            agents += [await bus.spawn(fast) for _ in range(99)]
            for round_ in range(3):
                log.clear()
                for ref in agents:
                    ref.tell_many([round_] * 5 if ref is agents[0] else [round_])
                for _ in range(4):
                    await asyncio.sleep(0)
                    if log.count("fast") == 99:
                        break
                assert log.count("fast") == 99
                assert log.index("fast") <= 1
                last = len(log) - 1 - log[::-1].index("fast")
                assert log[:last].count("slow") <= 2
                while bus.stats().pending:
                    await asyncio.sleep(0)

    run(main)


def test_every_agent_gets_its_turn_while_another_has_a_full_mailbox(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        order: list[str] = []
        async with mesh() as bus:
            big = await bus.spawn(lambda payload: order.append("big"), mailbox=MailboxPolicy(5_000))
            small = await bus.spawn(lambda payload: order.append("small"))
            big.tell_many(range(5_000))
            small.tell(1)
            while bus.stats().pending:
                await asyncio.sleep(0)
        assert order.index("small") <= 64

    run(main)


def test_the_loop_turns_in_virtual_time_though_no_time_passes(run: Any, mesh: Any) -> None:
    async def main() -> None:
        ticks = 0
        stop = False

        class Flood(Agent):
            def receive(self, payload: object) -> None:  # type: ignore[override]
                if not stop:
                    self.context.ref.tell(payload)

        async with mesh() as bus:
            ref = await bus.spawn(Flood)
            ref.tell(1)
            while ticks < 5:
                await asyncio.sleep(0)
                ticks += 1
            stop = True

    run(main)


# The hook that chooses among ready agents.


def test_a_chooser_decides_who_is_served_next(run: Any, mesh: Any, loop_kind: str) -> None:
    order: list[str] = []
    offered: list[list[str]] = []

    def last_name_first(ready: list[AgentRef]) -> int:
        names = [ref.name for ref in ready]
        offered.append(names)
        return names.index(max(names))

    async def main() -> None:
        async with mesh(chooser=last_name_first) as bus:
            refs = [await bus.spawn(lambda payload, name=name: order.append(name), name=name) for name in "bdac"]
            for ref in refs:
                ref.tell_many([1, 2])
            await turns()
            while bus.stats().pending:
                await asyncio.sleep(0)

    run(main)
    assert order == ["d", "d", "c", "c", "b", "b", "a", "a"]
    assert offered[0] == ["b", "d", "a", "c"]


def test_a_chooser_at_random_loses_and_reorders_nothing(run: Any, mesh: Any, loop_kind: str) -> None:
    rng = random.Random(7)
    got: dict[str, list[int]] = {}

    async def main() -> None:
        async with mesh(chooser=lambda ready: rng.randrange(len(ready))) as bus:

            def make(name: str) -> Any:
                async def agent(payload: int) -> None:
                    got.setdefault(name, []).append(payload)
                    if payload % 7 == 0:
                        await asyncio.sleep(0)

                return agent

            refs = [await bus.spawn(make(str(n)), name=str(n)) for n in range(10)]
            for number in range(100):
                for ref in refs:
                    ref.tell(number)
                if number % 10 == 0:
                    await asyncio.sleep(0)
        assert bus.stats().handled == 1_000

    run(main)
    assert all(numbers == list(range(100)) for numbers in got.values())


@pytest.mark.parametrize("wrong", [-1, 99, "0", None])
def test_a_chooser_that_is_wrong_once_is_reported_and_loses_nothing(
    run: Any, mesh: Any, loop_kind: str, wrong: Any
) -> None:
    answers = [wrong]

    async def main() -> None:
        async with mesh(chooser=lambda ready: answers.pop() if answers else 0, drain_timeout=1) as bus:
            ref = await bus.spawn(lambda payload: payload)
            assert await ref.ask(1, timeout=1) == 1

        assert len(run.loop_errors) == 1
        error = run.loop_errors.pop()["exception"]
        assert isinstance(error, TypeError | InvalidArgument)

    run(main)


# Two coordinators in one loop.


def test_two_coordinators_in_one_loop_talk_to_each_other(run: Any, mesh: Any, loop_kind: str) -> None:
    class Player(Agent):
        async def receive(self, payload: tuple[int, Any]) -> list[object]:
            left, other = payload
            sender = self.context.sender
            seen: list[object] = [None if sender is None else sender.name]
            if left:
                mine = asyncio.current_task()
                seen += await other.ask((left - 1, self.context.ref))
                assert asyncio.current_task() is mine
                assert self.context.message.payload is payload  # type: ignore[union-attr]
            return seen

    async def main() -> None:
        async with mesh("left") as left, mesh("right") as right:
            one = await left.spawn(Player, name="one", concurrency=20)
            two = await right.spawn(Player, name="two", concurrency=20)
            results = await asyncio.gather(*(one.ask((6, two)) for _ in range(3)))
            assert results == [[None, "one", "two", "one", "two", "one", "two"]] * 3
            # Plain handlers, in place, from one dispatcher into the other and back.
            got: list[object] = []
            back = await left.spawn(lambda payload: got.append(payload))
            forth = await right.spawn(lambda payload: back.tell(payload))
            start = await left.spawn(lambda payload: forth.tell(payload))
            start.tell_many(range(200))
            while len(got) < 200:
                await asyncio.sleep(0)
            assert got == list(range(200))
            with pytest.raises(InvalidArgument, match="another coordinator"):
                await left.stop(two)

    run(main)


# Deadlines.


def test_an_ask_inside_a_handler_inherits_the_smaller_deadline(run: Any, mesh: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        deadlines: dict[str, float] = {}

        class Last(Agent):
            async def receive(self, payload: str) -> None:
                assert self.context.deadline is not None
                deadlines[payload] = self.context.deadline

        async with mesh() as bus:
            last = await bus.spawn(Last)

            async def front(timeout: float) -> None:
                await last.ask("before", timeout=timeout)
                await asyncio.sleep(0.1)
                await last.ask("after", timeout=timeout)

            ref = await bus.spawn(front)
            now = loop.time()
            await ref.ask(10.0, timeout=1.0)
            assert deadlines == pytest.approx({"before": now + 1.0, "after": now + 1.0})
            now = loop.time()
            await ref.ask(0.2, timeout=1.0)
            assert deadlines == pytest.approx({"before": now + 0.2, "after": now + 0.3})
            # Not outside of it.
            now = loop.time()
            await last.ask("outside", timeout=3.0)
            assert deadlines["outside"] == pytest.approx(now + 3.0)

    run(main)


def test_an_inherited_deadline_ends_the_inner_ask_with_the_outer_one(run: Any, mesh: Any) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ended: list[float] = []

        async def silent(payload: object) -> None:
            await asyncio.sleep(5)

        async with mesh() as bus:
            last = await bus.spawn(silent)

            async def front(payload: object) -> None:
                try:
                    await last.ask(payload, timeout=60)
                except AskTimeout:
                    ended.append(loop.time())
                    raise

            ref = await bus.spawn(front)
            now = loop.time()
            with pytest.raises(AskTimeout):
                await ref.ask(1, timeout=1)
            await turns()
            assert loop.time() == pytest.approx(now + 1, abs=0.01)
            assert ended == pytest.approx([now + 1], abs=0.01)

    run(main)


def test_mail_past_its_deadline_is_not_handled_but_counted_expired(run: Any, mesh: Any, loop_kind: str) -> None:
    handled: list[object] = []

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()

        def slow(payload: object) -> object:
            handled.append(payload)
            if payload == "slow":
                if loop_kind == "virtual":
                    loop.advance(0.02)
                else:
                    time.sleep(0.02)
            return payload

        async with mesh() as bus:
            ref = await bus.spawn(slow)
            # The tasks of the asks have their turn before the dispatcher, so that all wait behind "slow".
            asks = [asyncio.create_task(ref.ask(payload, timeout=0.01)) for payload in ("late", "later")]
            ref.tell("slow")
            ref.tell("stale", ttl=0.01)
            ref.tell("fresh", ttl=60)
            with pytest.raises(AskTimeout):
                await asks[0]
            with pytest.raises(AskTimeout):
                await asks[1]
            assert await ref.ask("last") == "last"
            stats = bus.stats()
            assert stats.expired == bus.dead_letters.counts[DeadLetterKind.EXPIRED] == 3
            assert handled == ["slow", "fresh", "last"]
            assert stats.pending == 0

    run(main)


@pytest.mark.parametrize("count", [1, 1_000, 5_000])
def test_many_asks_time_out_each_at_its_time(run: Any, mesh: Any, count: int) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        rng = random.Random(count)

        async def silent(payload: object) -> None:
            await asyncio.sleep(20)

        async with mesh() as bus:
            ref = await bus.spawn(silent, mailbox=MailboxPolicy(count), concurrency=2)
            start = loop.time()

            async def ask(timeout: float) -> None:
                with pytest.raises(AskTimeout):
                    await ref.ask(1, timeout=timeout)
                assert loop.time() - start == pytest.approx(timeout, abs=1e-6)

            await asyncio.gather(*(ask(rng.randrange(1, 1000) / 100) for _ in range(count)))
            assert bus.stats().imbalance is None

    run(main)


def test_asks_on_a_real_loop_never_time_out_early(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        async def silent(payload: object) -> None:
            await asyncio.sleep(0.05)

        async with mesh() as bus:
            ref = await bus.spawn(silent, concurrency=50)
            loop = asyncio.get_running_loop()

            async def ask(timeout: float) -> None:
                before = time.monotonic() if loop_kind != "virtual" else loop.time()
                with pytest.raises(AskTimeout):
                    await ref.ask(1, timeout=timeout)
                after = time.monotonic() if loop_kind != "virtual" else loop.time()
                assert after - before >= timeout - 1e-6

            await asyncio.gather(*(ask(0.001 * number) for number in range(1, 40)))

    run(main)


def test_answered_asks_leave_no_timeouts_behind(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload)
            slow = await bus.spawn(lambda payload: asyncio.sleep(0), concurrency=50)
            for _ in range(100):
                await asyncio.gather(*(slow.ask(n) for n in range(50)), ref.ask(1))
            assert bus._dispatcher.timeouts == 0

    run(main)


# What can be done with an ask and a send.


@pytest.mark.parametrize("kind", ["ask", "send"])
def test_a_call_can_be_awaited_once(run: Any, mesh: Any, loop_kind: str, kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload)
            call = getattr(ref, kind)(1)
            assert await call == (1 if kind == "ask" else None)
            for _ in range(2):
                with pytest.raises(RuntimeError, match="already awaited"):
                    await call
            assert bus.stats().sent == 1

    run(main)


@pytest.mark.parametrize("kind", ["ask", "send"])
def test_a_second_task_that_awaits_a_call_gets_an_error_and_disturbs_nothing(
    run: Any, mesh: Any, loop_kind: str, kind: str
) -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def agent(payload: int) -> int:
            await gate.wait()
            return payload

        async with mesh(drain_timeout=1) as bus:
            ref = await bus.spawn(agent, mailbox=MailboxPolicy(capacity=1))
            if kind == "send":
                ref.tell(0)
                await turns()
                ref.tell(1)
            call = getattr(ref, kind)(2)

            async def wait() -> Any:
                return await call

            first = asyncio.create_task(wait())
            await turns()
            second = asyncio.create_task(wait())
            try:
                await asyncio.wait([second], timeout=1)
                assert second.done()
                with pytest.raises(RuntimeError):
                    second.result()
                assert not first.done()
            finally:
                gate.set()
            async with asyncio.timeout(1):
                assert await first == (2 if kind == "ask" else None)
                while bus.stats().pending:
                    await turns()
            assert bus.stats().handled == (1 if kind == "ask" else 3)

    run(main)


def test_a_call_works_wherever_a_coroutine_does(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        async def double(payload: int) -> int:
            await asyncio.sleep(0)
            return payload * 2

        async with mesh() as bus:
            ref = await bus.spawn(double)
            call = ref.ask(1)
            assert asyncio.iscoroutine(call)
            call.close()
            assert await asyncio.gather(ref.ask(1), ref.ask(2), ref.send(3)) == [2, 4, None]
            assert await asyncio.create_task(ref.ask(4), name="mine") == 8
            assert await asyncio.ensure_future(ref.ask(5)) == 10
            assert await asyncio.wait_for(ref.ask(6), 5) == 12
            assert await asyncio.shield(ref.ask(7)) == 14
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(ref.ask(8)), group.create_task(ref.send(9))]
            assert [task.result() for task in tasks] == [16, None]
            done = [await call for call in asyncio.as_completed([ref.ask(10), ref.ask(11)])]
            assert sorted(done) == [20, 22]
            assert "ask" in repr(asyncio.ensure_future(bus.ask(ref, 1))).lower()
            await turns(5)

    run(main)


def test_an_ask_can_come_from_a_thread_through_the_loop(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload + 1)

            def ask() -> Any:
                assert threading.current_thread() is not threading.main_thread()
                return asyncio.run_coroutine_threadsafe(ref.ask(1), loop).result(10)

            assert await asyncio.to_thread(ask) == 2

            async def elsewhere() -> None:
                await ref.ask(1)

            with pytest.raises(WrongLoop, match=r"ask\(\)"):
                await asyncio.to_thread(asyncio.run, elsewhere())

    run(main)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), -0.0, 1e12])
@pytest.mark.parametrize("kind", ["ask", "send"])
def test_a_timeout_that_is_not_positive_and_finite_is_refused(run: Any, mesh: Any, kind: str, timeout: float) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload)
            with pytest.raises(InvalidArgument, match=r"timeout is .* must be positive"):
                await getattr(ref, kind)(1, timeout=timeout)
            assert bus.stats().sent == 0

    run(main)


@pytest.mark.parametrize("timeout", [None, "1", True])
def test_a_timeout_that_is_no_number_is_refused(run: Any, mesh: Any, timeout: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload)
            with pytest.raises(InvalidType, match="number of seconds"):
                await ref.ask(1, timeout=timeout)
            assert bus.stats().sent == 0

    run(main)


def test_a_ring_of_asks_comes_back(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            refs: list[AgentRef] = []

            async def hop(payload: tuple[int, int]) -> int:
                place, left = payload
                if not left:
                    return place
                return await refs[(place + 1) % 50].ask(((place + 1) % 50, left - 1))  # type: ignore[no-any-return]

            refs += [await bus.spawn(hop, concurrency=5) for _ in range(50)]
            assert await refs[0].ask((0, 200)) == 0

    run(main)
