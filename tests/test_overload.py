"""Adaptive mailboxes: what controlled delay promises, in virtual time.

The agents are servers that take a fixed time for a message, so that their capacity is known and a load of 2.0 is
exactly twice of what they can handle.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import model
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pmesh import (
    Agent,
    AgentRef,
    AskTimeout,
    Coordinator,
    DeadLetterKind,
    InvalidArgument,
    InvalidType,
    MailboxFull,
    MailboxPolicy,
    Overflow,
    _core,
    handler,
)
from pmesh.testing.loop import SECOND_NS, VirtualTimeLoop

Run = Callable[..., Any]
Mesh = Callable[..., Any]

SERVICE = 0.001
TARGET = 0.010
INTERVAL = 0.1

# Messages that are handled within the target.
SERVED_IN_TARGET = round(TARGET / SERVICE)


def adaptive(capacity: int = 1024, **options: Any) -> MailboxPolicy:
    return MailboxPolicy(capacity, adaptive=True, target_queue_seconds=TARGET, interval_seconds=INTERVAL, **options)


class Server(Agent):
    """Takes `service` seconds for each message; notes when it started which, and how long that had waited."""

    def __init__(self, service: float = SERVICE) -> None:
        self.service = service
        self.starts: list[tuple[float, float]] = []
        self.handled: list[Any] = []
        self.at_start: Callable[[], object] = lambda: None

    @handler
    async def work(self, payload: object) -> object:
        self.at_start()
        loop = asyncio.get_running_loop()
        message = self.context.message
        assert message is not None
        self.starts.append((loop.time(), loop.time() - message.accepted_ns / SECOND_NS))
        await asyncio.sleep(self.service)
        self.handled.append(payload)
        return payload

    @handler(lane="control")
    async def control(self, payload: complex) -> None:
        await asyncio.sleep(self.service)

    def waits(self, since: float, until: float = math.inf) -> list[float]:
        return [waited for at, waited in self.starts if since <= at < until]


async def serve(bus: Coordinator, policy: MailboxPolicy, service: float = SERVICE, **options: Any) -> Any:
    """The ref and the instance of a `Server`."""
    made: list[Server] = []

    class Noted(Server):
        def __init__(self) -> None:
            super().__init__(service)
            made.append(self)

    return await bus.spawn(Noted, mailbox=policy, name="server", **options), made[0]


async def offer(ref: AgentRef, rate: float, seconds: float, jitter: random.Random | None = None) -> tuple[int, int]:
    """Tell `rate` messages a second, at random times with `jitter`: how many were sent, and how many accepted."""
    loop = asyncio.get_running_loop()
    due, end = loop.time(), loop.time() + seconds
    sent = accepted = 0
    while due < end:
        await asyncio.sleep(due - loop.time())
        accepted += ref.tell(sent)
        sent += 1
        due += jitter.expovariate(rate) if jitter else 1 / rate
    return sent, accepted


async def overload(ref: AgentRef, load: float = 2.0, seconds: float = 5 * INTERVAL) -> None:
    """Until the limit has been lowered and the queue is as short as that."""
    await offer(ref, load / SERVICE, seconds)
    assert ref.limit < ref.capacity


DROPPING = (Overflow.REJECT, Overflow.DROP_NEWEST, Overflow.DROP_OLDEST)


@pytest.mark.parametrize("overflow", DROPPING)
@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("chance", [False, True], ids=["regular", "poisson"])
def test_at_twice_the_load_mail_waits_for_about_the_target_and_the_agent_stays_busy(
    run: Run, mesh: Mesh, overflow: Overflow, concurrency: int, chance: bool
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            # So many at a time, each taking so much longer, are as fast as one.
            ref, server = await serve(bus, adaptive(overflow=overflow), SERVICE * concurrency, concurrency=concurrency)
            jitter = random.Random(5) if chance else None
            await offer(ref, 2 / SERVICE, 4 * INTERVAL, jitter)
            settled, handled, before = loop.time(), len(server.handled), ref.counters()
            sent, _ = await offer(ref, 2 / SERVICE, 20 * INTERVAL, jitter)
            done, after = len(server.handled) - handled, ref.counters()

            waits = server.waits(settled)
            # Of the newest mail, which displaces what waited longer, some waits for long when little comes by chance.
            assert max(waits) <= (3 if overflow is Overflow.DROP_OLDEST else 2) * TARGET
            assert sum(waits) / len(waits) <= 1.3 * TARGET
            assert 0.95 <= done * SERVICE / (20 * INTERVAL) <= 1.01
            refused = after.rejected - before.rejected + after.dropped - before.dropped
            assert 0.45 <= refused / sent <= 0.55
            assert after.rejected == 0 or overflow is Overflow.REJECT

    run(main)


@pytest.mark.parametrize("load", [1.05, 1.5, 4.0, 20.0])
def test_the_wait_is_bounded_whatever_the_load(run: Run, mesh: Mesh, load: float) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            ref, server = await serve(bus, adaptive(256))
            # What came before the limit was lowered, a full mailbox at most, has to be handled first.
            await offer(ref, load / SERVICE, 4 * INTERVAL + 256 * SERVICE)
            settled, handled = loop.time(), len(server.handled)
            await offer(ref, load / SERVICE, 10 * INTERVAL)
            assert (len(server.handled) - handled) * SERVICE >= 0.95 * 10 * INTERVAL
            assert max(server.waits(settled)) <= 1.5 * TARGET

    run(main)


def test_a_fixed_mailbox_at_twice_the_load_makes_mail_wait_for_all_of_its_capacity(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            ref, server = await serve(bus, MailboxPolicy(256))
            await offer(ref, 2 / SERVICE, 1.0)
            settled = loop.time()
            await offer(ref, 2 / SERVICE, 0.5)
            assert min(server.waits(settled)) >= 0.9 * 256 * SERVICE
            assert ref.limit == ref.capacity == 256

    run(main)


def test_bursts_that_are_worked_off_within_an_interval_are_accepted_in_full(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, server = await serve(bus, adaptive(90))
            for _ in range(20):
                assert ref.tell_many(range(90)) == 90
                await asyncio.sleep(INTERVAL)
                assert ref.limit == 90
            assert max(server.waits(0)) > 8 * TARGET

    run(main)


def test_at_nine_tenths_of_the_load_nothing_is_rejected(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        jitter = random.Random(7)
        async with mesh() as bus:
            ref, _ = await serve(bus, adaptive(), SERVICE / 20)
            sent, accepted = await offer(ref, 0.9 * 20 / SERVICE, 1.0, jitter)
            assert sent == accepted
            assert ref.limit == ref.capacity

    run(main)


def test_the_limit_doubles_in_each_interval_after_the_overload_until_it_is_the_capacity(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, _ = await serve(bus, adaptive(1024))
            await overload(ref)
            await asyncio.sleep(2 * TARGET)
            assert ref.depth == 0
            limits = [ref.limit]
            while limits[-1] < 1024:
                await asyncio.sleep(INTERVAL)
                limits.append(ref.limit)
            assert limits[0] < 4 * SERVED_IN_TARGET
            assert all(2 * low <= high <= 2 * low + 2 for low, high in itertools.pairwise(limits[:-1]))
            assert len(limits) - 1 == math.ceil(math.log2(1024 / limits[0]))

    run(main)


def test_a_quiet_time_after_the_overload_makes_room_for_a_burst_as_large_as_the_capacity(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, server = await serve(bus, adaptive(80))
            await overload(ref)
            await asyncio.sleep(INTERVAL * math.log2(80))
            # Nobody has looked at the limit and nothing was started since: the burst itself finds it out.
            assert ref.tell_many(range(1000)) == 80
            await asyncio.sleep(2 * INTERVAL)
            assert server.handled[-80:] == list(range(80))

    run(main)


def test_the_limit_recovers_under_a_load_that_the_agent_can_handle(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, _ = await serve(bus, adaptive(1024))
            await overload(ref)
            await asyncio.sleep(TARGET)
            sent, accepted = await offer(ref, 0.8 / SERVICE, INTERVAL * (1 + math.log2(1024 / SERVED_IN_TARGET)))
            assert accepted == sent
            assert ref.limit == 1024

    run(main)


def test_an_overload_that_comes_again_is_noticed_again(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, _ = await serve(bus, adaptive(512))
            for _ in range(3):
                await overload(ref)
                assert SERVED_IN_TARGET <= ref.limit <= 2 * SERVED_IN_TARGET
                await asyncio.sleep(1.0)
                assert ref.limit == 512

    run(main)


def test_the_limit_follows_an_agent_that_becomes_slower_and_faster(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, server = await serve(bus, adaptive(1024))
            for slower in (1, 4, 1, 0.25):
                server.service = SERVICE * slower
                await offer(ref, 8 / SERVICE, 12 * INTERVAL)
                expected = SERVED_IN_TARGET / slower
                assert expected - 1 <= ref.limit <= 1.5 * expected + 2

    run(main)


def test_an_agent_slower_than_the_target_keeps_one_waiting_and_stays_busy(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, server = await serve(bus, adaptive(), 10 * TARGET)
            await offer(ref, 2 / (10 * TARGET), 100 * TARGET)
            handled = len(server.handled)
            for _ in range(10):
                await offer(ref, 2 / (10 * TARGET), 20 * TARGET)
                assert 1 <= ref.limit <= 3
            assert len(server.handled) - handled in (20, 21)

    run(main)


def test_mail_that_waited_while_the_agent_was_paused_is_no_overload(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, server = await serve(bus, adaptive(1024))
            cell = _core.cell_of(ref)
            # The pause begins when the queue has been bad for most of an interval.
            ref.tell_many(range(200))
            await asyncio.sleep(0.9 * INTERVAL)
            cell.pause()
            await asyncio.sleep(100 * INTERVAL)
            cell.resume()
            resumed = asyncio.get_running_loop().time()
            await asyncio.sleep(0.9 * INTERVAL)
            assert min(server.waits(resumed)) > 100 * INTERVAL
            assert ref.limit == 1024

    run(main)


def test_without_a_pause_the_same_mail_is_an_overload(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, _ = await serve(bus, adaptive(1024))
            ref.tell_many(range(200))
            await asyncio.sleep(1.2 * INTERVAL)
            assert ref.limit == SERVED_IN_TARGET

    run(main)


def test_mail_that_expires_is_not_counted_as_work_that_the_agent_can_do(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, _ = await serve(bus, adaptive(10_000))
            limits = []
            for _ in range(40):
                ref.tell_many(range(100), ttl=3 * TARGET)
                await asyncio.sleep(INTERVAL / 10)
                limits.append(ref.limit)
            assert ref.counters().expired > 1000
            assert min(limits) in (SERVED_IN_TARGET - 1, SERVED_IN_TARGET)

    run(main)


def test_drop_oldest_gives_up_what_waits_beyond_the_lowered_limit_for_the_newest(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, server = await serve(bus, adaptive(1024, overflow=Overflow.DROP_OLDEST))
            ref.tell_many(range(200))
            await asyncio.sleep(1.2 * INTERVAL)
            limit, waiting = ref.limit, ref.depth
            assert limit == SERVED_IN_TARGET < waiting
            assert ref.tell("newest")
            assert ref.depth == limit
            dropped = [letter.payload for letter in bus.dead_letters]
            assert dropped == list(range(200 - waiting, 200 - limit + 1))
            assert {letter.kind for letter in bus.dead_letters} == {DeadLetterKind.DROPPED}
            assert ref.counters().dropped == len(dropped)
            await asyncio.sleep(INTERVAL)
            assert server.handled[-limit:] == [*range(200 - limit + 1, 200), "newest"]

    run(main)


def test_a_refused_ask_says_that_the_agent_is_overloaded(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, _ = await serve(bus, adaptive(1024))
            ref.tell_many(range(200))
            await asyncio.sleep(1.2 * INTERVAL)
            with pytest.raises(MailboxFull, match=r"'server'.*full.* 10 messages while it is overloaded, 1024"):
                await ref.ask("late")
            await asyncio.sleep(INTERVAL)
            assert await ref.ask("in time") == "in time"

    run(main)


def test_a_dropped_ask_says_that_the_agent_is_overloaded(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, _ = await serve(bus, adaptive(1024, overflow=Overflow.DROP_NEWEST))
            ref.tell_many(range(200))
            await asyncio.sleep(1.2 * INTERVAL)
            with pytest.raises(MailboxFull, match=r"dropped.* 10 messages while it is overloaded, 1024"):
                await ref.ask("late")

    run(main)


def test_senders_that_wait_get_room_under_the_limit_in_their_order_and_lose_nothing(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            ref, server = await serve(bus, adaptive(256))
            started = loop.time()
            ref.tell("in hand")
            await asyncio.sleep(SERVICE / 2)
            ref.tell_many([None] * 256)

            async def sender(number: int) -> None:
                for count in range(20):
                    await ref.send((number, count), timeout=60)

            async with asyncio.TaskGroup() as group:
                for number in range(100):
                    group.create_task(sender(number))
                await asyncio.sleep(6 * INTERVAL)
                assert SERVED_IN_TARGET <= ref.limit <= 2 * SERVED_IN_TARGET
                assert ref.depth <= ref.limit
            await asyncio.sleep(1)
            assert max(server.waits(started + 6 * INTERVAL)) <= 1.5 * TARGET
            assert server.handled[257:] == [(number, count) for count in range(20) for number in range(100)]

    run(main)


@pytest.mark.parametrize("moment", ["before", "during", "same tick"])
def test_a_cancelled_send_under_the_limit_has_accepted_nothing(run: Run, mesh: Mesh, moment: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, server = await serve(bus, adaptive(1024))
            cell = _core.cell_of(ref)
            ref.tell_many(range(200))
            await asyncio.sleep(1.2 * INTERVAL)
            sending = asyncio.ensure_future(ref.send("cancelled"))
            following = asyncio.ensure_future(ref.send("sent"))
            if moment == "same tick":
                # Where the handler starts, its message has just made room that the sender was promised.
                server.at_start = lambda: ref.depth < SERVED_IN_TARGET and sending.cancel()
            else:
                await asyncio.sleep(SERVICE if moment == "during" else 0)
                assert not sending.done()
                sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await following
            await asyncio.sleep(INTERVAL)
            assert server.handled == [*range(200), "sent"]
            counters = ref.counters()
            assert (counters.sent, counters.accepted, counters.pending) == (201, 201, 0)
            assert cell.waiting_bytes == 0

    run(main)


def test_the_control_lane_keeps_the_capacity_and_says_nothing_of_the_load(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, _ = await serve(bus, adaptive(200))
            assert ref.tell_many([1j] * 200) == 200
            await asyncio.sleep(1.5 * INTERVAL)
            assert ref.limit == 200
            await asyncio.sleep(INTERVAL)
            await overload(ref)
            assert ref.tell_many([1j] * 201) == 200

    run(main)


def test_bytes_are_limited_as_without_it(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, _ = await serve(bus, adaptive(200, max_bytes=10))
            assert ref.tell_many([b"123"] * 5) == 3
            assert ref.limit == 200

    run(main)


def test_a_mailbox_that_is_not_adaptive_never_changes_its_limit(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, _ = await serve(bus, MailboxPolicy(100))
            for _ in range(20):
                await offer(ref, 2 / SERVICE, INTERVAL)
                assert (ref.limit, ref.capacity) == (100, 100)

    run(main)


def test_a_stopped_agent_still_says_what_its_limit_was(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, _ = await serve(bus, adaptive(100))
            await bus.stop(ref)
            assert (ref.limit, ref.capacity) == (100, 100)

    run(main)


# An adaptive mailbox is compared with its model, message by message.

# Seconds between two messages, and how many times; long enough for an overload to be noticed.
GAPS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0003, 0.0007, 0.001, 0.002, 0.02, 0.3]), st.sampled_from([1, 10, 100, 400])),
    min_size=3,
    max_size=12,
)


@given(
    gaps=GAPS,
    capacity=st.sampled_from([2, 16, 64, 1000]),
    services=st.lists(st.sampled_from([0.0001, 0.001, 0.003, 0.02]), min_size=1, max_size=3),
)
@settings(max_examples=60, deadline=None, database=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
def test_each_message_is_accepted_or_rejected_as_by_the_model(
    gaps: list[tuple[float, int]], capacity: int, services: list[float]
) -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().clock  # type: ignore[attr-defined]
        expected = model.Limit(capacity, round(TARGET * SECOND_NS), round(INTERVAL * SECOND_NS))
        count = 0

        async def work(number: int) -> None:
            expected.start(clock.now_ns())
            await asyncio.sleep(services[number % len(services)])

        async with Coordinator(clock=clock, drain_timeout=600) as bus:
            ref = await bus.spawn(work, mailbox=adaptive(capacity))
            for gap, repeats in gaps:
                for _ in range(repeats):
                    await asyncio.sleep(gap)
                    fits = expected.offer(clock.now_ns())
                    assert ref.tell(count) is fits, f"message {count}: {expected}"
                    count += 1
                    assert ref.depth == len(expected.waiting)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("tell"), st.integers(1, 40)),
        st.tuples(st.just("mortal"), st.integers(1, 40)),
        st.tuples(st.just("ask"), st.integers(1, 10)),
        st.tuples(st.just("send"), st.integers(1, 10)),
        st.tuples(st.just("control"), st.integers(1, 5)),
        st.tuples(st.just("wait"), st.sampled_from([1, 7, 30, 200, 2000])),
        st.tuples(st.just("slow"), st.sampled_from([0, 1, 3, 30])),
        st.tuples(st.just("pause"), st.just(1)),
        st.tuples(st.just("resume"), st.just(1)),
    ),
    max_size=60,
)


@given(
    steps=STEPS,
    capacity=st.sampled_from([1, 2, 8, 64]),
    overflow=st.sampled_from(DROPPING),
    concurrency=st.sampled_from([1, 3]),
)
@settings(max_examples=150, deadline=None, database=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_happens_the_limit_stays_in_its_range_and_nothing_is_lost(
    steps: list[tuple[str, int]], capacity: int, overflow: Overflow, concurrency: int
) -> None:
    async def main() -> None:
        outcomes: dict[str, int] = {"answered": 0, "refused": 0, "late": 0, "sent": 0}

        async def ask(ref: AgentRef) -> None:
            try:
                assert await ref.ask("ask", timeout=0.5) == "ask"
                outcomes["answered"] += 1
            except MailboxFull:
                outcomes["refused"] += 1
            except AskTimeout:
                outcomes["late"] += 1

        async def send(ref: AgentRef) -> None:
            try:
                await ref.send("send", timeout=0.5)
                outcomes["sent"] += 1
            except MailboxFull:
                outcomes["refused"] += 1

        clock = asyncio.get_running_loop().clock  # type: ignore[attr-defined]
        async with Coordinator(clock=clock, drain_timeout=600) as bus:
            ref, server = await serve(bus, adaptive(capacity, overflow=overflow), concurrency=concurrency)
            cell = _core.cell_of(ref)
            tasks: list[asyncio.Task[None]] = []
            sent = 0
            for step, count in steps:
                if step == "tell":
                    ref.tell_many(range(count))
                elif step == "mortal":
                    ref.tell_many(range(count), ttl=0.02)
                elif step == "control":
                    ref.tell_many([1j] * count)
                elif step in ("ask", "send"):
                    call = ask if step == "ask" else send
                    tasks += [asyncio.create_task(call(ref)) for _ in range(count)]
                elif step == "wait":
                    await asyncio.sleep(count * SERVICE)
                elif step == "slow":
                    server.service = count * SERVICE
                elif step == "pause":
                    cell.pause()
                else:
                    cell.resume()
                if step in ("tell", "mortal", "control", "ask", "send"):
                    sent += count
                counters = ref.counters()
                assert counters.imbalance is None
                assert 1 <= ref.limit <= capacity
                assert ref.depth <= 2 * capacity
            cell.resume()
            await asyncio.gather(*tasks)
        final = bus.stats()
        assert final.imbalance is None
        assert (final.sent, final.pending, final.failed) == (sent, 0, 0)
        assert sum(outcomes.values()) == len(tasks)
        controls = final.handled - len(server.handled)
        assert 0 <= controls <= sum(count for step, count in steps if step == "control")
        assert final.accepted == final.handled + final.expired + final.dropped

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())


# The policy.


def test_the_defaults_are_those_of_codel() -> None:
    policy = MailboxPolicy(adaptive=True)
    assert (policy.target_queue_seconds, policy.interval_seconds) == (0.005, 0.1)
    assert MailboxPolicy().adaptive is False


@pytest.mark.parametrize("name", ["target_queue_seconds", "interval_seconds"])
@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan])
def test_times_must_be_positive_and_finite(name: str, value: float) -> None:
    with pytest.raises(InvalidArgument, match=rf"{name} is {value}; it must be positive, finite"):
        MailboxPolicy(adaptive=True, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["target_queue_seconds", "interval_seconds"])
@pytest.mark.parametrize("value", ["1", None, True])
def test_times_must_be_numbers(name: str, value: Any) -> None:
    with pytest.raises(InvalidType, match=rf"{name} is {value!r}; it must be a number of seconds"):
        MailboxPolicy(adaptive=True, **{name: value})


@pytest.mark.parametrize("name", ["target_queue_seconds", "interval_seconds"])
def test_times_without_adaptive_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"{name} is 0.05, and adaptive is False; it belongs to adaptive=True"):
        MailboxPolicy(**{name: 0.05})  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [0.1, 1])
def test_the_target_must_be_less_than_the_interval(target: float) -> None:
    with pytest.raises(InvalidArgument, match=rf"target_queue_seconds is {target}; it must be less than .* 0\.1"):
        MailboxPolicy(adaptive=True, target_queue_seconds=target)


def test_an_adaptive_mailbox_does_not_stop_its_agent() -> None:
    with pytest.raises(InvalidArgument, match=r"overflow is Overflow.STOP and adaptive is True.* DROP_OLDEST"):
        MailboxPolicy(adaptive=True, overflow=Overflow.STOP)


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_adaptive_must_be_a_bool(value: Any) -> None:
    with pytest.raises(InvalidType, match=rf"adaptive is {value!r}; it must be True or False"):
        MailboxPolicy(adaptive=value)
