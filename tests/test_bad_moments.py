"""What comes at a bad moment: code that finalisers and collections run, no memory, no stack left, an exit, a signal.

None of it may crash, hang, or leave the account out of balance, and the mesh serves its agents afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import logging
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pmesh import (
    BUILD_INFO,
    Agent,
    AgentStopped,
    AskTimeout,
    Coordinator,
    Counters,
    InvalidArgument,
    MailboxFull,
    MailboxPolicy,
    Overflow,
    PmeshError,
    SupervisionPolicy,
    handler,
    lives,
)
from pmesh._core import Meter, cell_of
from pmesh.testing.loop import VirtualTimeLoop

RESUME = SupervisionPolicy(directives="resume")


class Number(Agent):
    """Takes numbers and gives them back."""

    supervision = RESUME

    @handler
    async def number(self, payload: int) -> int:
        return payload


class Bomb:
    """Calls a function when it is let go of."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.function = function

    def __del__(self) -> None:
        self.function()


# Copies.


def test_what_carries_one_message_cannot_be_copied(run: Any, mesh: Any) -> None:
    """A copy of a send would put its envelope, which is the node of the mailbox's list, there twice."""

    async def main() -> None:
        async with mesh() as bus:
            messages: list[Any] = []

            class Keeps(Number):
                @handler
                def text(self, payload: str) -> None:
                    messages.append(self.context.message)

            ref = await bus.spawn(Keeps)
            calls = (ref.send(1), ref.ask(1))
            await ref.ask("hello")
            for thing in (*calls, *messages, cell_of(ref).agent.context.timers):
                for copies in (copy.copy, copy.deepcopy, pickle.dumps):
                    with pytest.raises(TypeError, match="cannot pickle"):
                        copies(thing)
            for call in calls:
                await call
            assert copy.copy(ref.counters()) == ref.counters()

    run(main)


def test_a_send_that_is_begun_and_dropped_keeps_no_place(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Number, mailbox=MailboxPolicy(capacity=1))
            bus.suspend(ref)
            ref.tell(1)
            call = ref.send(2)
            next(call)
            del call
            gc.collect()
            bus.resume(ref)
            await asyncio.sleep(1.0)
            bus.suspend(ref)
            assert ref.tell(3)
            bus.resume(ref)

    run(main)


# Code of others, in the middle of what the core does.


class MeddlingLoop(VirtualTimeLoop):
    """Runs `meddle`, once, inside of one of its methods."""

    meddle: Callable[[], object] | None = None
    within = "call_soon"

    def _meddle(self, method: str) -> None:
        if self.meddle is not None and method == self.within:
            meddle, self.meddle = self.meddle, None
            meddle()

    def call_soon(self, callback: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(callback, "__name__", "") == "_drain":
            self._meddle("call_soon")
        return super().call_soon(callback, *args, **kwargs)

    def call_later(self, delay: Any, callback: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(callback, "__name__", "") == "_sweep":
            self._meddle("call_later")
        return super().call_later(delay, callback, *args, **kwargs)


def in_meddling_loop(main: Callable[[MeddlingLoop, Coordinator], Any], *, within: str = "call_soon") -> list[Any]:
    """Run `main` in a mesh; returns what was reported to the loop's exception handler."""
    errors: list[Any] = []

    async def around() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, MeddlingLoop)
        loop.within = within
        loop.set_exception_handler(lambda _, told: errors.append(told["exception"]))
        bus = Coordinator(clock=loop.clock, drain_timeout=1.0)
        async with bus:
            await main(loop, bus)
        account = bus.totals()
        assert account.imbalance is None, account
        assert account.pending == 0, account

    with asyncio.Runner(loop_factory=MeddlingLoop) as runner:
        runner.run(around())
    return errors


@pytest.mark.parametrize("end", ["cancel", "cancel_all", "stop", "replace"])
@pytest.mark.parametrize("within", ["call_soon", "call_later"])
def test_a_timer_may_be_ended_by_what_the_event_loop_runs_while_it_fires(end: str, within: str) -> None:
    async def main(loop: MeddlingLoop, bus: Coordinator) -> None:
        ref = await bus.spawn(Number)
        context = cell_of(ref).agent.context
        context.timers.every(1.0, 1, key="tick", fixed_rate=True)

        def meddle() -> None:
            if end == "cancel":
                context.timers.cancel("tick")
            elif end == "cancel_all":
                context.timers.cancel_all()
            elif end == "replace":
                context.timers.after(1000.0, 1, key="tick")
            else:
                context.stop()

        loop.call_later(0.9999, lambda: setattr(loop, "meddle", meddle))
        await asyncio.sleep(3.5)
        assert loop.meddle is None
        assert ref.counters().accepted <= 1
        assert bus._dispatcher.timeouts == (end == "replace")
        with contextlib.suppress(AgentStopped):
            context.timers.cancel_all()

    assert in_meddling_loop(main, within=within) == []


@pytest.mark.parametrize("within", ["call_soon", "call_later"])
@pytest.mark.parametrize(
    ("first", "second", "raised"),
    [
        (MemoryError, KeyboardInterrupt, KeyboardInterrupt),
        (KeyboardInterrupt, MemoryError, KeyboardInterrupt),
        (MemoryError, OSError, MemoryError),
    ],
)
def test_an_interrupt_is_not_lost_to_a_loop_that_fails_twice(
    within: str, first: type[BaseException], second: type[BaseException], raised: type[BaseException]
) -> None:
    async def main(loop: MeddlingLoop, bus: Coordinator) -> None:
        ref = await bus.spawn(Number)

        def fail_again() -> None:
            raise second

        def fail() -> None:
            loop.meddle = fail_again
            raise first

        loop.meddle = fail
        with pytest.raises(raised):
            if within == "call_soon":
                ref.tell(1)
            else:
                cell_of(ref).agent.context.timers.after(1.0, 1)
        assert loop.meddle is None
        assert await ref.ask(2, timeout=5.0) == 2

    assert in_meddling_loop(main, within=within) == []


def test_a_payload_that_is_let_go_of_may_cancel_the_timer_that_takes_its_place(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Number)
            timers = cell_of(ref).agent.context.timers
            timers.after(1.0, Bomb(lambda: timers.cancel("tick")), key="tick")
            timers.after(1.0, 1, key="tick")
            assert timers.keys() == ()
            await asyncio.sleep(2.0)
            assert ref.counters().accepted == 0
            assert bus._dispatcher.timeouts == 0

    run(main)


def test_a_finaliser_in_the_context_of_no_agent_is_outside_of_handlers(run: Any, mesh: Any) -> None:
    """Hooks run in a spare slot, whose Task may end while a collection runs: what that tells has no sender."""

    async def main() -> None:
        async with mesh() as bus:

            class Starts(Number):
                async def on_start(self) -> None:
                    pass

            ref = await bus.spawn(Starts)
            context = cell_of(ref).agent.context
            slots = [task.get_coro() for task in asyncio.all_tasks() if type(task.get_coro()).__name__ == "Slot"]
            for slot in slots:
                assert slot.context.run(ref.tell, 1)
                assert slot.context.run(lambda: (context.message, context.sender)) == (None, None)
            assert await ref.ask(2) == 2

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a Task shows its Context from 3.12 on")
def test_the_context_of_a_hook_that_was_kept_is_not_given_to_another_agent(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            contexts = []

            class Keeps(Number):
                async def on_start(self) -> None:
                    task: Any = asyncio.current_task()
                    contexts.append(task.get_context())

            await bus.spawn(Keeps)
            await bus.spawn(Keeps)
            assert contexts[0] is not contexts[1]

    run(main)


@pytest.mark.parametrize("messages", [1, 2])
@pytest.mark.parametrize("has_hook", [False, True])
def test_a_finaliser_may_stop_the_agent_that_stops_already(
    run: Any, mesh: Any, messages: int, has_hook: bool
) -> None:  # fmt: skip
    async def main() -> None:
        async with mesh(dead_letters=0) as bus:
            stopped = []

            class Stops(Number):
                async def on_stop(self, reason: Any) -> None:
                    stopped.append(reason)

            ref = await bus.spawn(Stops if has_hook else Number)
            context = cell_of(ref).agent.context
            bus.suspend(ref)
            for _ in range(messages):
                ref.tell(Bomb(context.stop))
            await bus.stop(ref)
            assert bus.state(ref).name == "STOPPED"
            assert len(stopped) == has_hook

    run(main)


@pytest.mark.skipif(not BUILD_INFO["gil"], reason="collections come too seldom there, whatever the threshold is")
def test_who_sums_up_may_be_interrupted_by_code_that_sums_up(python: Any) -> None:
    """A signal handler or a finaliser that looks at the figures while this thread does must not wait for itself."""
    python(
        """
        import asyncio, faulthandler, gc
        from pmesh import Coordinator
        faulthandler.dump_traceback_later(30, exit=True)
        looks = 0

        async def main():
            async with Coordinator() as bus:
                refs = [await bus.spawn(lambda payload: payload, own_recorders=n < 5) for n in range(20)]
                inside = False

                def look(phase, info):
                    nonlocal inside
                    global looks
                    if not inside:
                        inside = True
                        looks += 1
                        assert bus.stats().imbalance is None
                        bus.latency, bus.totals()
                        inside = False

                gc.callbacks.append(look)
                gc.set_threshold(1)
                for ref in refs[:10]:
                    await ref.ask(1)
                    bus.stats(), bus.latency, bus.totals(), bus.take_times()
                    await bus.stop(ref)
                gc.callbacks.remove(look)
                gc.set_threshold(700)

        asyncio.run(main())
        assert looks > 50
        """
    )


def test_tasks_cancelled_by_a_subscriber_of_dead_letters_end_the_batch(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:

            class Waits(Number):
                @handler
                async def text(self, payload: str) -> None:
                    await asyncio.sleep(0.01)

            ref = await bus.spawn(Waits, name="waits")
            await ref.ask("first")

            def cancel(letter: Any) -> None:
                for task in asyncio.all_tasks():
                    if task.get_name() == "waits":
                        task.cancel()

            bus.dead_letters.subscribe(cancel)
            ref.tell(2.5)
            ref.tell("second")
            ref.tell("third")
            await asyncio.sleep(1.0)
            account = ref.counters()
            assert (account.handled, account.dead, account.pending) == (1, 3, 0)
            assert bus.state(ref).name == "STOPPED"

    run(main)


# Exits.


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_an_exit_out_of_a_dead_letter_leaves_its_message_counted_once(error: type[BaseException]) -> None:
    async def main(loop: MeddlingLoop, bus: Coordinator) -> None:
        ref = await bus.spawn(Number)

        def exits(letter: Any) -> None:
            raise error

        end = bus.dead_letters.subscribe(exits)
        ref.tell("nobody takes text")
        with contextlib.suppress(BaseException):
            bus._dispatcher._drain()
        end()
        account = ref.counters()
        assert (account.dead, account.failed, account.pending) == (1, 0, 0)
        assert await ref.ask(1) == 1

    in_meddling_loop(main)


def test_an_exit_out_of_a_dead_letter_leaves_no_asker_behind(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Number)
            bus.suspend(ref)
            asks = [asyncio.ensure_future(ref.ask(n, timeout=1000)) for n in range(3)]
            await asyncio.sleep(0)

            def exits(letter: Any) -> None:
                raise SystemExit

            end = bus.dead_letters.subscribe(exits)
            with pytest.raises(SystemExit):
                cell_of(ref).discard()
            end()
            for ask in asks:
                with pytest.raises(AgentStopped):
                    await asyncio.wait_for(ask, 1.0)
            assert len(bus.dead_letters) == 3

    run(main)


def test_an_exit_out_of_what_a_message_displaces_leaves_none_behind(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            policy = MailboxPolicy(capacity=9, max_bytes=3, overflow=Overflow.DROP_OLDEST)
            ref = await bus.spawn(Number, mailbox=policy)
            bus.suspend(ref)
            asks = [asyncio.ensure_future(ref.ask(b"x", timeout=1000)) for _ in range(3)]
            await asyncio.sleep(0)

            def exits(letter: Any) -> None:
                raise SystemExit

            end = bus.dead_letters.subscribe(exits)
            with pytest.raises(SystemExit):
                ref.tell(b"xxx")
            end()
            for ask in asks:
                with pytest.raises(MailboxFull):
                    await asyncio.wait_for(ask, 1.0)
            assert (ref.counters().dropped, ref.counters().pending) == (3, 1)
            bus.resume(ref)

    run(main)


def test_an_exit_out_of_the_log_of_a_failure_leaves_its_agent_a_slot() -> None:
    class Exits(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise SystemExit

    exits = Exits()

    class Fails(Number):
        @handler
        async def text(self, payload: str) -> None:
            await asyncio.sleep(0)
            raise ValueError(payload)

    loop = VirtualTimeLoop()
    bus = Coordinator(clock=loop.clock)

    async def begin() -> Any:
        await bus.__aenter__()
        return await bus.spawn(Fails)

    async def end() -> int:
        answer: int = await ref.ask(7)
        await bus.close()
        return answer

    try:
        ref = loop.run_until_complete(begin())
        logging.getLogger("pmesh").addHandler(exits)
        try:
            ref.tell("fails")
            with pytest.raises(SystemExit):
                loop.run_until_complete(asyncio.sleep(1.0))
        finally:
            logging.getLogger("pmesh").removeHandler(exits)
        assert loop.run_until_complete(end()) == 7
        assert (bus.totals().failed, bus.totals().handled, bus.totals().pending) == (1, 1, 0)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def test_an_interrupt_while_an_agent_begins_to_stop_leaves_nobody_waiting(
    run: Any, mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Number)

            def interrupt(cls: Any, method: str) -> bool:
                raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(lives, "is_overridden", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    cell_of(ref).agent.context.stop()
            await bus.stop(ref)
            assert bus.state(ref).name == "STOPPED"
        assert bus.totals().imbalance is None

    run(main)


@pytest.mark.parametrize("agents", [0, 2])
def test_a_mesh_all_of_whose_tasks_are_cancelled_in_its_first_turn_ends(run: Any, mesh: Any, agents: int) -> None:
    """As `asyncio.run` does when it ends while another task has just entered a mesh."""

    async def main() -> None:
        entered: list[Coordinator] = []

        async def other() -> None:
            async with mesh() as bus:
                entered.append(bus)
                for _ in range(agents):
                    await bus.spawn(Number)
                for task in asyncio.all_tasks() - {this}:
                    task.cancel()
                await asyncio.sleep(1.0)

        this = asyncio.current_task()
        task = asyncio.create_task(other())
        done, _ = await asyncio.wait([task], timeout=100)
        assert done
        assert task.cancelled()
        assert "closed" in repr(entered[0])
        assert entered[0].agents == ()

    run(main)


# No stack, no memory, a signal while the event loop is asked for something.


def test_tell_with_the_last_of_the_stack_does_not_close_the_mailbox(run: Any, mesh: Any) -> None:
    """Asking the event loop for its turn may raise a RecursionError, which is a RuntimeError as a closed loop's is."""

    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(lambda payload: payload)
            told: list[bool] = []

            def at(depth: int) -> None:
                if depth:
                    at(depth - 1)
                else:
                    told.append(ref.tell(depth))

            refused = 0
            gc.collect()
            gc.disable()  # what other tests left behind is not to be let go of with the last of the stack
            try:
                for depth in range(sys.getrecursionlimit() - 80, sys.getrecursionlimit() + 2):
                    try:
                        at(depth)
                    except RecursionError:
                        refused += 1
                    await asyncio.sleep(0)
            finally:
                gc.enable()
            assert all(told)
            assert refused
            assert ref.is_alive
            assert await ref.ask("next") == "next"

    run(main)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_turn_that_the_loop_is_asked_for_in_vain_once_is_asked_for_again(error: type[BaseException]) -> None:
    async def main(loop: MeddlingLoop, bus: Coordinator) -> None:
        ref = await bus.spawn(Number)

        def fail() -> None:
            raise error

        loop.meddle = fail
        if error is MemoryError:
            assert ref.tell(1)
        else:
            with pytest.raises(error):
                ref.tell(1)
            assert ref.counters().rejected == 1
        assert await ref.ask(2) == 2

    assert in_meddling_loop(main) == []


def test_what_is_told_in_vain_is_rejected_and_the_agent_goes_on() -> None:
    async def main(loop: MeddlingLoop, bus: Coordinator) -> None:
        ref = await bus.spawn(Number, mailbox=MailboxPolicy(capacity=1))

        def fail() -> None:
            loop.meddle = fail
            raise MemoryError

        loop.meddle = fail
        for _ in range(3):
            with pytest.raises(MemoryError):
                ref.tell(1)
        assert (ref.counters().rejected, ref.counters().pending) == (3, 0)
        loop.meddle = None
        assert await ref.ask(2) == 2

    assert in_meddling_loop(main) == []


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_timer_that_the_loop_is_asked_for_in_vain_leaves_no_ask_without_an_end(
    error: type[BaseException], times: int
) -> None:
    async def main(loop: MeddlingLoop, bus: Coordinator) -> None:
        ref = await bus.spawn(Number)
        bus.suspend(ref)
        left = times

        def fail() -> None:
            nonlocal left
            left -= 1
            loop.meddle = fail if left else None
            raise error

        loop.meddle = fail
        raised: type[BaseException] = AskTimeout if error is MemoryError and times == 1 else error
        with pytest.raises(raised):
            await ref.ask(1, timeout=1.0)
        with pytest.raises(AskTimeout):
            await ref.ask(2, timeout=5.0)
        assert bus._dispatcher.timeouts == 0
        bus.resume(ref)
        assert await ref.ask(3) == 3

    assert in_meddling_loop(main, within="call_later") == []


def test_a_place_promised_to_a_send_that_cannot_wait_for_the_window_is_given_back() -> None:
    async def main(loop: MeddlingLoop, bus: Coordinator) -> None:
        ref = await bus.spawn(Number, mailbox=MailboxPolicy(capacity=1))
        bus.suspend(ref)
        for _ in range(bus._dispatcher.window):
            other = await bus.spawn(Number)
            bus.suspend(other)
            await other.send(1)

        def fail() -> None:
            loop.meddle = fail
            raise MemoryError

        loop.meddle = fail
        with pytest.raises(MemoryError):
            await ref.send(1, timeout=0.001)
        loop.meddle = None
        assert ref.tell(2)
        for name in bus.agents:
            bus.resume(name)

    assert in_meddling_loop(main, within="call_later") == []


@pytest.fixture
def no_memory() -> Iterator[Callable[[int], Any]]:
    """A context in which the allocation of that number, from 0, finds no memory."""
    testcapi = pytest.importorskip("_testcapi", reason="this interpreter cannot withhold memory: nothing was tested")

    @contextlib.contextmanager
    def withheld(number: int) -> Iterator[None]:
        testcapi.set_nomemory(number, number + 1)
        try:
            yield
        finally:
            testcapi.remove_mem_hooks()

    yield withheld
    testcapi.remove_mem_hooks()


@pytest.mark.parametrize("kind", ["plain", "async", "unhandled"])
def test_a_message_that_finds_no_memory_is_counted_all_the_same(
    run: Any, mesh: Any, no_memory: Any, kind: str
) -> None:  # fmt: skip
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(None)
        logging.disable()
        async with mesh() as bus:

            class Both(Number):
                @handler
                def text(self, payload: str) -> None:
                    pass

            missed = 0
            payload = {"plain": "text", "async": 1, "unhandled": 2.5}[kind]
            for number in range(40):
                ref = await bus.spawn(Both, own_recorders=True)
                ref.tell(payload)
                with no_memory(number):
                    try:
                        bus._dispatcher._drain()
                    except (MemoryError, SystemError):  # of a weak reference that finds no memory, on 3.13
                        missed += 1
                bus._dispatcher._drain()
                account = ref.counters()
                assert (account.imbalance, account.pending, account.accepted) == (None, 0, 1), number
                assert await ref.ask(7) == 7
                meter = bus.latency_of(ref)
                timed = ref.counters().handled + ref.counters().failed
                assert meter.latency.count == meter.queue.count == meter.service.count == timed - meter.untimed
                await bus.stop(ref)

    try:
        run(main)
    finally:
        logging.disable(logging.NOTSET)


def test_times_that_find_no_memory_with_their_heir_are_counted_there(no_memory: Any) -> None:
    lost = 0
    for number in range(8):
        meter, heir = Meter(), Meter()
        for recorder in meter.by_name().values():
            recorder.record(1_000)
        with no_memory(number):
            meter.bequeath(heir)
        meter.bequeath(heir)  # once more, as where a signal came into the end of an agent
        assert heir.latency.count == heir.queue.count == heir.service.count <= 1
        assert heir.latency.count + heir.send_delay.count + heir.intended.count + heir.untimed == 3
        lost += heir.untimed
        Meter().bequeath(heir)
        meter.bequeath(last := Meter())
        assert last.latency.count == 0, "an account has one heir"
        heir.bequeath(last)
        assert last.untimed == heir.untimed
    assert lost == 5, "one for each recorder without memory, of which the first three go together"


# Sizes.


def test_a_size_far_below_zero_is_refused_by_name(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Number, mailbox=MailboxPolicy(max_bytes=10, size=lambda payload: -(2**70)))
            with pytest.raises(InvalidArgument, match=r"size\(int\) returned -1180591620717411303424"):
                ref.tell(1)

    run(main)


# All at once.


@pytest.mark.parametrize("seed", range(24))
def test_code_that_a_collection_runs_may_do_anything(seed: int) -> None:
    """At every allocation; what it does is drawn by the seed."""
    chance = random.Random(seed)
    errors: list[Any] = []

    class Boom(Exception):
        pass

    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.set_exception_handler(lambda _, told: errors.append(told))
        bus = Coordinator(
            clock=loop.clock, window=chance.choice([None, 1, 2, 5]), drain_timeout=2.0, dead_letters=3,
            stall_after=chance.choice([None, 0.5]),
        )  # fmt: skip
        agents: list[Any] = []
        refs: list[Any] = []
        tasks: set[asyncio.Task[Any]] = set()
        depth = looks = 0

        class Busy(Agent):
            def on_start(self) -> None:
                agents.append(self)
                self.context.timers.every(0.1, 1, key="tick", fixed_rate=chance.random() < 0.5)

            @handler
            async def number(self, payload: int) -> int:
                what = chance.randrange(40)
                with contextlib.suppress(PmeshError):
                    if what < 8:
                        await asyncio.sleep(chance.choice([0, 0.01, 0.3]))
                    elif what < 10:
                        raise Boom
                    elif what < 12:
                        await chance.choice(refs).ask(chance.choice([1, "text"]), timeout=0.05)
                    elif what < 14:
                        await chance.choice(refs).send(chance.choice([1, "text", b"bytes"]), timeout=0.05)
                    elif what == 14:
                        self.context.stash()
                    elif what == 15:
                        self.context.unstash_all()
                    elif what == 16:
                        self.context.become(chance.choice([None, keep]))
                return payload

            @handler(lane="control")
            def text(self, payload: str) -> str:
                return payload

            @handler
            def content(self, payload: bytes) -> None:
                pass

        def keep(payload: object) -> object:
            return payload

        def payload() -> object:
            return Bomb(anything) if chance.random() < 0.1 else chance.choice([1, 2, "text", 2.5, b"x" * 5])

        def anything() -> None:
            nonlocal depth, looks
            if depth > 1 or not refs:
                return
            depth += 1
            looks += 1
            try:
                with contextlib.suppress(PmeshError, RuntimeError):
                    meddle(chance.randrange(14), chance.choice(refs), chance.choice(agents).context)
            finally:
                depth -= 1

        def meddle(what: int, ref: Any, context: Any) -> None:
            if what < 3:
                ref.tell(payload(), ttl=chance.choice([None, 0.001, 0.05]))
            elif what == 3:
                context.timers.cancel("tick")
            elif what == 4:
                context.timers.cancel_all()
            elif what == 5:
                context.timers.after(chance.choice([0, 0.01, 1]), payload(), key=chance.choice([None, "tick"]))
            elif what == 6:
                context.timers.every(chance.choice([0.01, 0.1]), payload(), key=chance.choice([None, "tick"]))
            elif what == 7:
                bus.suspend(ref)
            elif what == 8:
                bus.resume(ref)
            elif what == 9:
                context.become(chance.choice([None, keep]))
            elif what == 10:
                context.unstash_all()
            elif what == 11:
                assert bus.stats().imbalance is None
                bus.take_times()
            elif what == 12 and chance.random() < 0.05:
                context.stop()
            elif what == 13 and tasks:
                chance.choice(sorted(tasks, key=asyncio.Task.get_name)).cancel()

        def look(phase: str, info: object) -> None:
            if chance.random() < 0.3:
                anything()

        async def sender() -> None:
            ref, what = chance.choice(refs), chance.randrange(8)
            with contextlib.suppress(PmeshError, Boom, TypeError):
                if what < 3:
                    await ref.send(payload(), timeout=chance.choice([0.001, 0.05, 1]))
                elif what < 6:
                    await ref.ask(payload(), timeout=chance.choice([0.001, 0.05, 1]))
                elif what == 6:
                    ref.tell_many([payload() for _ in range(5)])
                else:
                    next(ref.send(payload(), timeout=0.05), None)

        try:
            async with bus:
                for number in range(chance.randrange(1, 5)):
                    policy = MailboxPolicy(
                        capacity=chance.choice([1, 1, 2, 8]),
                        max_bytes=chance.choice([None, 10]),
                        overflow=chance.choice(list(Overflow)),
                    )
                    directive = chance.choice(["resume", "restart", "stop"])
                    ref = await bus.spawn(
                        Busy, name=f"busy-{number}", mailbox=policy, concurrency=chance.choice([1, 1, 2]),
                        own_recorders=chance.random() < 0.3,
                        supervision=SupervisionPolicy(directives=directive, intensity=50),
                    )  # fmt: skip
                    refs.append(ref)
                gc.callbacks.append(look)
                gc.set_threshold(chance.choice([1, 2, 7]))
                for _ in range(60):
                    task = loop.create_task(sender())
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    if chance.random() < 0.3:
                        await asyncio.sleep(chance.choice([0, 0.01, 0.2]))
        finally:
            with contextlib.suppress(ValueError):
                gc.callbacks.remove(look)
            gc.set_threshold(*threshold)
        account: Counters = bus.totals()
        assert account.imbalance is None, account
        assert account.pending == 0, account
        assert bus._dispatcher.in_window == 0
        return looks

    threshold = gc.get_threshold()
    logging.disable()
    try:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            assert runner.run(main()) > 0
    finally:
        logging.disable(logging.NOTSET)
    # A lifecycle that is changed in the middle of another change says so.
    assert [told for told in errors if not isinstance(told.get("exception"), PmeshError)] == []
