"""`send`: waiting for room and for a place in the window, in order, and every way to give up.

After each test nobody waits, no place is kept, and the account balances: `settled` checks it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from pmesh import Agent, AgentRef, AgentStopped, MailboxFull, MailboxPolicy, Overflow, handler

Run = Callable[..., Any]
Mesh = Callable[..., Any]


class Gate(Agent):
    """Each message waits in its handler until `release` lets one through."""

    def __init__(self) -> None:
        self.handled: list[Any] = []
        self.permits = asyncio.Semaphore(0)
        self.before: dict[Any, Callable[[], object]] = {}  # called when that payload's handler starts

    async def receive(self, payload: Any) -> Any:
        self.before.pop(payload, list)()
        await self.permits.acquire()
        self.handled.append(payload)
        return payload


class Gates:
    """Spawns `Gate`s and keeps the newest instance."""

    last: Gate

    def __init__(self, bus: Any) -> None:
        self.bus = bus

    async def spawn(self, capacity: int = 1, **options: Any) -> tuple[AgentRef, Gate]:
        gates = self

        class Kept(Gate):
            def __init__(self) -> None:
                super().__init__()
                gates.last = self

        ref = await self.bus.spawn(Kept, mailbox=MailboxPolicy(capacity), **options)
        return ref, self.last


async def turns(count: int = 5) -> None:
    """Let the loop turn a few times, at the same instant."""
    for _ in range(count):
        await asyncio.sleep(0)


async def full(bus: Any, capacity: int = 1) -> tuple[AgentRef, Gate]:
    """An agent with one message, 0, suspended in its handler and 1 to `capacity` waiting."""
    ref, gate = await Gates(bus).spawn(capacity, name="gate")
    ref.tell(0)
    await turns()
    assert ref.tell_many(range(1, capacity + 1)) == capacity
    assert ref.depth == capacity
    return ref, gate


def begin(ref: AgentRef, payload: Any, timeout: float = 5.0) -> asyncio.Future[None]:
    return asyncio.ensure_future(ref.send(payload, timeout=timeout))


def settled(bus: Any, ref: AgentRef, capacity: int) -> None:
    """Nothing is kept for anybody: the whole capacity and the whole window are there to be used."""
    assert bus._dispatcher.in_window == 0
    assert bus._dispatcher.timeouts == 0
    assert bus.stats().imbalance is None
    assert ref.counters().pending == 0
    assert ref.tell_many(["filler"] * (capacity + 1)) == capacity


async def finish(bus: Any, ref: AgentRef, gate: Gate, capacity: int = 1) -> None:
    """Let everything through, and check that nothing is kept."""
    for _ in range(100):
        gate.permits.release()
    await turns(200)
    settled(bus, ref, capacity)


# Room in the mailbox.


@pytest.mark.parametrize("capacity", [1, 2, 8])
def test_senders_that_wait_for_room_are_served_first_come_first_served(
    run: Run, mesh: Mesh, loop_kind: str, capacity: int
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, gate = await full(bus, capacity)
            sends = []
            for number in range(20):
                sends.append(begin(ref, f"s{number}"))
                await turns(1)
            for done in range(20):
                assert [send.done() for send in sends] == [True] * done + [False] * (20 - done)
                gate.permits.release()
                await turns()
            await finish(bus, ref, gate, capacity)
            assert gate.handled[: capacity + 21] == [
                *range(capacity + 1),
                *(f"s{number}" for number in range(20)),
            ]

    run(main)


def test_a_send_that_comes_later_does_not_overtake_one_that_waits(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, gate = await full(bus)
            first = begin(ref, "first")
            await turns()
            gate.permits.release()
            # The place is free, or about to be, when the second comes; it belongs to the first.
            second = begin(ref, "second")
            await turns()
            assert (first.done(), second.done()) == (True, False)
            await finish(bus, ref, gate)
            assert gate.handled[:4] == [0, 1, "first", "second"]

    run(main)


def test_send_accepts_at_once_when_there_is_room(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, gate = await Gates(bus).spawn(2)
            call = ref.send("now")
            with pytest.raises(StopIteration):
                call.send(None)
            assert ref.depth == 1
            gate.permits.release()

    run(main)


def test_a_send_that_is_never_awaited_sends_nothing(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, gate = await Gates(bus).spawn(1)
            ref.send("never").close()
            with pytest.warns(RuntimeWarning, match="never awaited"):
                ref.send("never")
            assert ref.counters().sent == 0
            settled(bus, ref, 1)
            gate.permits.release()

    run(main)


def test_a_send_is_awaited_once(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload)
            call = ref.send(1)
            await call
            with pytest.raises(RuntimeError, match="already awaited"):
                await call
            assert ref.counters().sent == 1

    run(main)


# The window.


def test_send_waits_while_the_window_is_full(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        seen: list[int] = []
        async with mesh(window=4) as bus:
            refs = [await bus.spawn(lambda payload: seen.append(bus._dispatcher.in_window)) for _ in range(3)]

            async def sender(ref: AgentRef) -> None:
                for _ in range(50):
                    await ref.send("x")
                    assert bus._dispatcher.in_window <= 4

            await asyncio.gather(*(sender(ref) for ref in refs))
        assert len(seen) == 150
        assert max(seen) <= 4
        assert bus._dispatcher.in_window == 0

    run(main)


def test_a_place_in_the_window_is_free_when_the_handler_ends(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh(window=1) as bus:
            ref = await bus.spawn(lambda payload: payload)
            await ref.send(1)
            assert bus._dispatcher.in_window == 1
            second = begin(ref, 2)
            third = begin(ref, 3)
            assert not second.done()
            await asyncio.gather(second, third)
            await turns()
            assert ref.counters().handled == 3
            settled(bus, ref, 1024)

    run(main)


def test_a_place_in_the_window_is_free_when_the_handler_first_suspends(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh(window=1) as bus:
            gates = Gates(bus)
            agents = [await gates.spawn(1) for _ in range(5)]
            for ref, _ in agents:
                await ref.send("waits on the network", timeout=1)
            await turns()
            assert bus._dispatcher.in_window == 0
            assert [ref.counters().pending for ref, _ in agents] == [1] * 5
            for _, gate in agents:
                gate.permits.release()
            await turns()
            assert [ref.counters().handled for ref, _ in agents] == [1] * 5
            assert bus._dispatcher.in_window == 0

    run(main)


@pytest.mark.parametrize("how", ["fails", "is unhandled", "is displaced", "is dead-lettered"])
def test_a_place_in_the_window_is_free_however_the_message_ends(run: Run, mesh: Mesh, how: str) -> None:
    class Handled(Agent):
        mailbox = MailboxPolicy(1, overflow=Overflow.DROP_OLDEST)

        @handler
        def text(self, payload: str) -> None:
            raise ZeroDivisionError

    async def main() -> None:
        async with mesh(window=1) as bus:
            ref = await bus.spawn(Handled)
            cell = bus._life_of(ref).cell
            cell.pause()
            await ref.send(b"no handler" if how == "is unhandled" else "text")
            assert bus._dispatcher.in_window == 1
            if how == "is displaced":
                ref.tell("y")
            elif how == "is dead-lettered":
                await bus.stop(ref)
            if how in ("fails", "is unhandled"):
                cell.resume()
            await turns()
            assert bus._dispatcher.in_window == 0
            assert bus.stats().imbalance is None

    run(main)


def test_those_who_wait_for_the_window_are_served_first_come_first_served(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        order: list[int] = []
        async with mesh(window=1) as bus:
            refs = [await bus.spawn(order.append) for _ in range(10)]
            sends = [begin(refs[number % 10], number) for number in range(30)]
            await asyncio.gather(*sends)
            await turns()
            assert order == list(range(30))
            settled(bus, refs[0], 1024)

    run(main)


def test_no_window_means_that_only_the_mailbox_bounds(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh(window=None) as bus:
            ref, gate = await Gates(bus).spawn(100)
            for number in range(100):
                await ref.send(number, timeout=1)
            assert ref.depth == 100
            await finish(bus, ref, gate, 100)

    run(main)


def test_tell_and_ask_take_no_place_in_the_window(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh(window=1) as bus:
            ref = await bus.spawn(lambda payload: payload)
            assert ref.tell_many(range(10)) == 10
            assert await ref.ask("x") == "x"
            assert bus._dispatcher.in_window == 0

    run(main)


def test_sends_from_handlers_are_exempt_from_the_window(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh(window=1) as bus:
            sink = await bus.spawn(lambda payload: payload)
            noted: list[Any] = []

            class Relay(Agent):
                async def receive(self, payload: Any) -> None:
                    # Before the first suspension this message itself holds the only place.
                    await sink.send("before", timeout=1)
                    await sink.send("again", timeout=1)
                    noted.append(bus._dispatcher.in_window)
                    await asyncio.sleep(0)
                    await sink.send("after", timeout=1)
                    task = asyncio.ensure_future(sink.send("from a task that it started", timeout=1))
                    await task

            relay = await bus.spawn(Relay)
            await relay.send("go", timeout=1)
        assert noted == [1]
        assert bus.stats().rejected == 0
        assert bus.stats().handled == 5

    run(main)


# Own mailbox, and each other's.


@pytest.mark.parametrize("moment", ["before it suspends", "after"])
def test_a_send_to_ones_own_full_mailbox_raises_at_once(run: Run, mesh: Mesh, loop_kind: str, moment: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        waited: list[float] = []

        class Selfish(Agent):
            mailbox = MailboxPolicy(1)

            async def receive(self, payload: Any) -> None:
                if payload != "go":
                    return
                if moment == "after":
                    await asyncio.sleep(0)
                await self.context.ref.send("fits", timeout=5)
                started = loop.time()
                with pytest.raises(MailboxFull, match="own full mailbox"):
                    await self.context.ref.send("does not", timeout=5)
                waited.append(loop.time() - started)

        async with mesh() as bus:
            ref = await bus.spawn(Selfish)
            await ref.ask("go")
            await turns()
            assert waited[0] < 0.5
            assert ref.counters().as_dict() == {
                **dict.fromkeys(("failed", "expired", "dropped", "dead", "pending"), 0),
                "sent": 3,
                "accepted": 2,
                "rejected": 1,
                "handled": 2,
            }
            settled(bus, ref, 1)

    run(main)


def test_a_send_to_ones_own_full_mailbox_waits_where_another_slot_makes_room(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        class Selfish(Agent):
            mailbox = MailboxPolicy(1)
            concurrency = 2

            async def receive(self, payload: Any) -> None:
                if payload == "go":
                    await self.context.ref.send("a", timeout=5)
                    await self.context.ref.send("b", timeout=5)

        async with mesh() as bus:
            ref = await bus.spawn(Selfish)
            await ref.ask("go")
            await turns()
            assert ref.counters().handled == 3
            settled(bus, ref, 1)

    run(main)


def test_two_agents_with_full_mailboxes_that_send_to_each_other_end_in_mailbox_full_at_the_timeout(
    run: Run, mesh: Mesh
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ends: list[tuple[str, float]] = []

        class Peer(Agent):
            mailbox = MailboxPolicy(1)
            other: AgentRef

            async def receive(self, payload: Any) -> None:
                if payload != "go":
                    return
                await asyncio.sleep(1)
                try:
                    await self.other.send("to a full mailbox", timeout=3)
                except MailboxFull:
                    ends.append((self.context.name, loop.time()))

        peers: list[Peer] = []

        def make() -> type[Peer]:
            class Kept(Peer):
                def __init__(self) -> None:
                    peers.append(self)

            return Kept

        async with mesh() as bus:
            one = await bus.spawn(make(), name="one")
            two = await bus.spawn(make(), name="two")
            peers[0].other, peers[1].other = two, one
            started = loop.time()
            for ref in (one, two):
                ref.tell("go")
            await turns()
            for ref in (one, two):
                assert ref.tell("filler")
            await asyncio.sleep(10)
            assert [(name, round(at - started, 6)) for name, at in ends] == [("one", 4), ("two", 4)]
            assert bus.stats().pending == 0
            assert bus.stats().imbalance is None
            settled(bus, one, 1)
            settled(bus, two, 1)

    run(main)


# Timeouts and cancellation.


def test_a_send_without_room_times_out_and_is_counted_sent_and_rejected(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            ref, gate = await full(bus)
            started = loop.time()
            with pytest.raises(MailboxFull, match=r"1\.5 s"):
                await ref.send("late", timeout=1.5)
            assert loop.time() - started == pytest.approx(1.5, abs=1e-6)
            assert (ref.counters().sent, ref.counters().rejected) == (3, 1)
            await finish(bus, ref, gate)
            assert "late" not in gate.handled

    run(main)


def test_a_send_without_a_place_in_the_window_times_out_and_gives_its_room_back(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh(window=1) as bus:
            gates = Gates(bus)
            holder, holding = await gates.spawn(8)
            ref, gate = await gates.spawn(1)
            bus._life_of(holder).cell.pause()
            await holder.send("holds the window")
            started = loop.time()
            with pytest.raises(MailboxFull, match=r"window of 1 within 2 s"):
                await ref.send("late", timeout=2)
            assert loop.time() - started == pytest.approx(2, abs=1e-6)
            assert (ref.counters().sent, ref.counters().rejected) == (1, 1)
            bus._life_of(holder).cell.resume()
            holding.permits.release()
            await turns()
            await finish(bus, ref, gate)

    run(main)


def test_the_timeout_covers_room_and_window_together(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh(window=1) as bus:
            gates = Gates(bus)
            holder, holding = await gates.spawn(8)
            ref, gate = await full(bus)
            bus._life_of(holder).cell.pause()
            await holder.send("holds the window")
            started = loop.time()
            send = begin(ref, "late", timeout=3)
            await asyncio.sleep(2)
            gate.permits.release()  # room after two seconds, the window never
            with pytest.raises(MailboxFull, match="window"):
                await send
            assert loop.time() - started == pytest.approx(3, abs=1e-6)
            bus._life_of(holder).cell.resume()
            holding.permits.release()
            await finish(bus, ref, gate)

    run(main)


def test_a_send_cancelled_before_it_began_sends_nothing(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, gate = await Gates(bus).spawn(1)
            send = begin(ref, "never")
            send.cancel()
            with pytest.raises(asyncio.CancelledError):
                await send
            assert ref.counters().sent == 0
            settled(bus, ref, 1)
            gate.permits.release()

    run(main)


@pytest.mark.parametrize("waits_for", ["room", "window"])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_send_cancelled_while_it_waits_has_accepted_nothing_and_gives_its_place_up(
    run: Run, mesh: Mesh, loop_kind: str, waits_for: str, place: str
) -> None:
    async def main() -> None:
        async with mesh(window=1) as bus:
            gates = Gates(bus)
            holder, holding = await gates.spawn(8)
            ref, gate = await (full(bus) if waits_for == "room" else gates.spawn(8))
            if waits_for == "window":
                bus._life_of(holder).cell.pause()
                await holder.send("holds the window")
            before = ref.counters().sent
            sends = [begin(ref, f"s{number}") for number in range(3)]
            await turns()
            cancelled = ("first", "middle", "last").index(place)
            sends[cancelled].cancel()
            with pytest.raises(asyncio.CancelledError):
                await sends[cancelled]
            assert ref.counters().sent == before
            bus._life_of(holder).cell.resume()
            holding.permits.release()
            for _ in range(10):
                gate.permits.release()
            await turns(30)
            rest = [f"s{number}" for number in range(3) if number != cancelled]
            assert [payload for payload in gate.handled if payload in ("s0", "s1", "s2")] == rest
            assert (ref.counters().sent, ref.counters().rejected) == (before + 2, 0)
            await finish(bus, ref, gate, 1 if waits_for == "room" else 8)

    run(main)


@pytest.mark.parametrize("waits_for", ["room", "window"])
@pytest.mark.parametrize("first", ["freed", "cancelled"])
@pytest.mark.parametrize("successor", [False, True], ids=["nobody behind", "another behind"])
def test_a_send_cancelled_in_the_tick_in_which_its_place_falls_free_gives_it_back(
    run: Run, mesh: Mesh, loop_kind: str, waits_for: str, first: str, successor: bool
) -> None:
    async def main() -> None:
        async with mesh(window=1) as bus:
            gates = Gates(bus)
            ref, gate = await gates.spawn(1, name="gate")
            cell = bus._life_of(ref).cell
            if waits_for == "room":
                cell.pause()
                assert ref.tell("takes the room")
            else:
                other, _ = await gates.spawn(8)
                cell = bus._life_of(other).cell
                cell.pause()
                await other.send("takes the window")
            before = ref.counters().sent
            send = begin(ref, "cancelled")
            behind = begin(ref, "behind") if successor else None
            await turns()
            # A ready cell and a cancelled waiter, in both orders: they meet in one drain.
            if first == "freed":
                cell.resume()
                send.cancel()
            else:
                send.cancel()
                cell.resume()
            outcome = (await asyncio.gather(send, return_exceptions=True))[0]
            assert isinstance(outcome, asyncio.CancelledError)
            if behind is not None:
                gate.permits.release()
                gates.last.permits.release()
                await behind
            assert ref.counters().sent == before + successor
            gates.last.permits.release()
            await finish(bus, ref, gate, 1)
            assert "cancelled" not in gate.handled

    run(main)


@pytest.mark.parametrize("waits_for", ["room", "window"])
def test_a_send_that_times_out_in_the_tick_in_which_its_place_falls_free_keeps_no_place(
    run: Run, mesh: Mesh, waits_for: str
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh(window=1) as bus:
            gates = Gates(bus)
            ref, gate = await gates.spawn(1, name="gate")
            other, _ = await gates.spawn(8)
            held = ref if waits_for == "room" else other
            cell = bus._life_of(held).cell
            cell.pause()
            if waits_for == "room":
                held.tell("holds")
            else:
                await held.send("holds")
            send = begin(ref, "late", timeout=1)
            await turns()
            # Scheduled later for the same instant: the sweep comes first, then the cell is ready,
            # and only then the drain that resumes the sender.
            loop.call_at(loop.time() + 1, cell.resume)
            outcome = (await asyncio.gather(send, return_exceptions=True))[0]
            assert outcome is None or isinstance(outcome, MailboxFull)
            gates.last.permits.release()
            await finish(bus, ref, gate, 1)
            assert ("late" in gate.handled) == (outcome is None)

    run(main)


def test_a_sender_cancelled_right_after_its_place_was_granted_passes_it_to_the_next(
    run: Run, mesh: Mesh, loop_kind: str
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, gate = await full(bus)
            sends = [begin(ref, f"s{number}") for number in range(5)]
            await turns()
            # This handler runs after the place of its message went to s0, and before s0 goes on.
            gate.before[1] = lambda: [send.cancel() for send in sends[:4]]
            gate.permits.release()
            await turns(20)
            assert [send.cancelled() for send in sends] == [True] * 4 + [False]
            await asyncio.wait_for(sends[4], 1)
            await finish(bus, ref, gate)
            assert gate.handled[:3] == [0, 1, "s4"]

    run(main)


@pytest.mark.parametrize("seed", range(10))
def test_any_mix_of_cancels_timeouts_and_room_leaves_no_place_behind(run: Run, mesh: Mesh, seed: int) -> None:
    """Seeded interleavings; the seed is the test's parameter."""

    async def main() -> None:
        random_ = random.Random(seed)
        capacity = random_.choice([1, 2, 8])
        accepted: list[int] = []
        async with mesh(window=random_.choice([1, 2, 5])) as bus:
            gates = Gates(bus)
            agents = [await gates.spawn(capacity) for _ in range(3)]

            async def sender(number: int) -> None:
                ref, _ = random_.choice(agents)
                try:
                    await ref.send(number, timeout=random_.choice([1, 2, 3, 50]))
                except MailboxFull:
                    return
                accepted.append(number)

            tasks: list[asyncio.Task[None]] = []
            for number in range(400):
                tasks.append(asyncio.ensure_future(sender(number)))
                for _ in range(random_.randrange(3)):
                    random_.choice(agents)[1].permits.release()
                if random_.random() < 0.3:
                    random_.choice(tasks).cancel()
                if random_.random() < 0.5:
                    await asyncio.sleep(random_.choice([0, 0, 0.5, 1]))
            for _, gate in agents:
                for _ in range(400):
                    gate.permits.release()
            await asyncio.gather(*tasks, return_exceptions=True)
            await turns(50)
            assert sorted(payload for _, gate in agents for payload in gate.handled) == sorted(accepted)
            for ref, _ in agents:
                settled(bus, ref, capacity)

    run(main)


# Stopping while senders wait.


@pytest.mark.parametrize("how", ["stop", "kill", "drain"])
def test_senders_that_wait_for_room_get_agent_stopped_at_once(run: Run, mesh: Mesh, loop_kind: str, how: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh() as bus:
            ref, gate = await full(bus)
            sends = [begin(ref, f"s{number}") for number in range(3)]
            await turns()
            started = loop.time()
            ending = asyncio.ensure_future(getattr(bus, how)(ref))
            outcomes = await asyncio.gather(*sends, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [AgentStopped] * 3
            assert loop.time() - started < 1
            for _ in range(5):
                gate.permits.release()
            await ending
            counters = ref.counters()
            assert (counters.sent, counters.accepted, counters.rejected) == (5, 2, 3)
            assert counters.imbalance is None
            assert bus._dispatcher.in_window == 0
            assert bus._dispatcher.timeouts == 0

    run(main)


@pytest.mark.parametrize("how", ["stop", "kill", "drain"])
def test_senders_that_wait_for_the_window_get_agent_stopped_at_once(run: Run, mesh: Mesh, how: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with mesh(window=1) as bus:
            gates = Gates(bus)
            holder, holding = await gates.spawn(8)
            ref, _ = await gates.spawn(8)
            bus._life_of(holder).cell.pause()
            await holder.send("holds the window")
            sends = [begin(ref, f"s{number}") for number in range(3)]
            await turns()
            started = loop.time()
            await getattr(bus, how)(ref)
            outcomes = await asyncio.gather(*sends, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [AgentStopped] * 3
            assert loop.time() - started < 1
            assert (ref.counters().sent, ref.counters().rejected) == (3, 3)
            bus._life_of(holder).cell.resume()
            holding.permits.release()
            await turns()
            settled(bus, holder, 8)

    run(main)


def test_a_sender_granted_a_place_in_the_tick_in_which_the_agent_stops_gets_agent_stopped(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref, gate = await Gates(bus).spawn(1)
            cell = bus._life_of(ref).cell
            cell.pause()
            ref.tell("waits")
            send = begin(ref, "late")
            await turns()
            # The drain takes "waits" and grants its place; the handler stops the agent before the
            # sender goes on.
            gate.before["waits"] = lambda: bus._stop_soon(ref)
            cell.resume()
            with pytest.raises(AgentStopped):
                await send
            gate.permits.release()
            await bus.stop(ref)
            assert (ref.counters().sent, ref.counters().rejected) == (2, 1)
            assert bus._dispatcher.in_window == 0

    run(main)


def test_a_send_to_a_stopped_agent_raises_agent_stopped_and_counts_rejected(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload, name="gone")
            await bus.stop(ref)
            with pytest.raises(AgentStopped, match="'gone'"):
                await ref.send("late")
            with pytest.raises(AgentStopped, match="'gone'"):
                await ref.ask("late")
            assert ref.tell("late") is False
            assert (ref.counters().sent, ref.counters().rejected) == (3, 3)

    run(main)


def test_timeouts_that_were_not_needed_do_not_pile_up(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh(window=None) as bus:
            ref = await bus.spawn(lambda payload: payload, mailbox=MailboxPolicy(1))
            most = 0
            for _ in range(200):
                await asyncio.gather(*(ref.send(number, timeout=3600) for number in range(50)))
                most = max(most, bus._dispatcher.timeouts)
            assert bus._dispatcher.timeouts == 0
            assert most <= 50

    run(main)
