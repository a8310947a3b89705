"""What `pmesh.debug` shows of a mesh: all that is under way, from any thread and on a signal, and no payloads."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pmesh
from pmesh import Agent, Coordinator, InvalidArgument, InvalidType, MailboxPolicy, handler
from pmesh.debug import MOST_SHOWN, dump, dump_on_signal, dump_text
from pmesh.stacks import HIDDEN, may_look

Run = Callable[..., Any]
Mesh = Callable[..., Any]

SECRET = "the secret"


class Clerk(Agent):
    @handler
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    @handler
    async def ask(self, name: str) -> None:
        await self.context.coordinator.ask(name, 10.0, timeout=20.0)

    @handler
    async def beget(self, child: bytes) -> None:
        await self.context.spawn(Clerk, name=child.decode())

    @handler
    def look(self, looks: list) -> None:  # type: ignore[type-arg]
        looks.append(dump_text(self.context.coordinator))


def shown(text: str) -> list[str]:
    """Lines of a dump with the paths and line numbers cut out."""
    return [re.sub(r"at \S*/([a-z_]+\.py):\d+ ", r"at \1 ", line) for line in text.splitlines()]


def test_each_agent_is_shown_with_what_it_does_and_waits_for(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh(window=2) as bus:
            shop = await bus.spawn(Clerk, name="shop", concurrency=2)
            await shop.ask(b"bank")
            till = await bus.spawn(Clerk, name="till", mailbox=MailboxPolicy(capacity=1))
            await bus.spawn(Clerk, name="idle")
            shop.tell("bank")
            await asyncio.sleep(0.5)
            till.tell(10.0)
            await asyncio.sleep(0.25)
            till.tell(10.0)
            sending = [asyncio.ensure_future(till.send(1.0, timeout=20.0)) for _ in range(2)]
            await asyncio.sleep(0.25)
            assert shown(dump_text(bus)) == [
                "coordinator 'test': open, 4 agents, 4 messages pending, 0 of 2 places in the window taken,"
                " 3 timeouts set, 0 stalls reported",
                "  shop: running, 1 of 2 in hand, waiting: normal 0, control 0 (capacity 1024);"
                " sent 2, accepted 2, handled 1, pending 1",
                "      Clerk.ask of str, for 1 s: waits for the answer of agent 'bank' (for 1 s)",
                "        at test_debug.py in Clerk.ask",
                "    bank: running, 1 of 1 in hand, waiting: normal 0, control 0 (capacity 1024);"
                " sent 1, accepted 1, pending 1",
                "        Clerk.sleep of float from 'shop', for 1 s: waits for a Future",
                "          at test_debug.py in Clerk.sleep",
                "          at tasks.py in sleep",
                "  till: running, 1 of 1 in hand, waiting: normal 1, control 0 (capacity 1)"
                " and 2 senders wait, the longest for 250 ms; sent 2, accepted 2, pending 2",
                "      Clerk.sleep of float, for 500 ms: waits for a Future",
                "        at test_debug.py in Clerk.sleep",
                "        at tasks.py in sleep",
                "  and 1 agents that have nothing to do",
            ]
            for task in sending:
                task.cancel()

    run(main)


def test_senders_that_wait_for_the_window_are_shown(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh(window=1) as bus:
            one = await bus.spawn(lambda payload: payload)
            sending = [asyncio.ensure_future(one.send(1)) for _ in range(2)]
            looks: list[str] = []
            asyncio.get_running_loop().call_soon(lambda: looks.append(dump_text(bus)))
            await asyncio.gather(*sending)
            assert "1 of 1 places in the window taken and 1 sender waits for 0 ns" in looks[0]

    run(main)


def test_agents_that_start_or_stop_are_shown_with_their_hook(run: Run, mesh: Mesh) -> None:
    class Slow(Agent):
        async def on_start(self) -> None:
            await asyncio.sleep(1.0)

        async def on_stop(self, reason: object) -> None:
            await asyncio.sleep(1.0)

    async def main() -> None:
        async with mesh() as bus:
            spawning = asyncio.ensure_future(bus.spawn(Slow, name="slow"))
            await asyncio.sleep(0.5)
            assert "slow: starting, 1 of 1 in hand" in dump_text(bus)
            assert "Slow.on_start, for 500 ms: waits for a Future" in dump_text(bus)
            stopping = asyncio.ensure_future(bus.stop(await spawning))
            await asyncio.sleep(0.5)
            assert "slow: stopping, 1 of 1 in hand" in dump_text(bus)
            assert "Slow.on_stop, for 500 ms" in dump_text(bus)
            await stopping

    run(main)


def test_a_handler_sees_itself_run(run: Run, mesh: Mesh, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            looks: list[str] = []
            await (await bus.spawn(Clerk, name="a")).ask(looks)
            [text] = looks
            assert re.search(
                r"  Clerk\.look of list, for .*: runs right now\n +at .*test_debug.py:\d+ in Clerk.look\n$", text
            )

    run(main)


def test_no_payload_reply_or_error_is_shown(run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    class Secret(str):
        __slots__ = ()

    async def holds(payload: Secret) -> None:
        local = payload
        await asyncio.create_task(asyncio.sleep(3.0, local))

    async def main() -> None:
        async with mesh(stall_after=1.0) as bus:
            agent = await bus.spawn(holds, name="holds")
            for _ in range(3):
                agent.tell(Secret(SECRET), headers={"h": SECRET})
            asking = asyncio.ensure_future(agent.ask(Secret(SECRET)))
            await asyncio.sleep(2.0)
            assert "of Secret" in dump_text(bus)
            assert SECRET not in dump_text(bus)
            assert bus.stalls.count
            assert SECRET not in str(list(bus.stalls))
            asking.cancel()

    run(main)
    assert SECRET not in caplog.text


def test_idle_agents_are_summed_up_and_busy_ones_come_first(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            refs = [await bus.spawn(Clerk, name=f"a{number}") for number in range(MOST_SHOWN + 50)]
            assert dump_text(bus).splitlines()[1:] == [f"  and {MOST_SHOWN + 50} agents that have nothing to do"]
            refs[7].tell(5.0)
            await asyncio.sleep(0.5)
            refs[3].tell(5.0)
            await asyncio.sleep(0.5)
            lines = dump_text(bus).splitlines()
            assert [line.partition(":")[0] for line in lines if "in hand" in line] == ["  a7", "  a3"]
            assert lines[-1] == f"  and {MOST_SHOWN + 48} agents that have nothing to do"
            names = [line.partition(":")[0].strip() for line in dump_text(bus, all_agents=True).splitlines()]
            assert [name for name in names if re.fullmatch(r"a\d+", name)] == (
                ["a7", "a3"] + [f"a{number}" for number in range(MOST_SHOWN + 50) if number not in (3, 7)]
            )
            for ref in refs[: MOST_SHOWN + 20]:
                ref.tell(5.0)
            await asyncio.sleep(0.5)
            lines = dump_text(bus).splitlines()
            assert lines[-2:] == ["  and 20 more busy agents", "  and 30 agents that have nothing to do"]
            assert sum("in hand" in line for line in lines) == MOST_SHOWN
            assert sum("in hand" in line for line in dump_text(bus, all_agents=True).splitlines()) == MOST_SHOWN + 50

    run(main)


def test_children_stand_below_their_parents_however_deep(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            ref = await bus.spawn(Clerk, name="n0")
            for number in range(1, 1_200):
                await ref.ask(b"n%d" % number)
                ref = bus.lookup(f"n{number}")
            ref.tell(5.0)
            await asyncio.sleep(0.1)
            lines = dump_text(bus).splitlines()[1:1_201]
            assert [line.partition(":")[0] for line in lines] == [f"{'  ' * (n + 1)}n{n}" for n in range(1_200)]

    run(main)


def test_a_hundred_thousand_agents_are_looked_through_within_seconds(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with mesh() as bus:
            for _ in range(100_000):
                await bus.spawn(Clerk)
            bus.tell("clerk-77777", 1.0)
            await asyncio.sleep(0.1)
            begun = time.perf_counter()
            lines = dump_text(bus).splitlines()
            assert time.perf_counter() - begun < 5.0
            assert lines[1].startswith("  clerk-77777: running, 1 of 1 in hand")
            assert lines[-1] == "  and 99999 agents that have nothing to do"

    run(main)


def test_a_coordinator_can_be_dumped_before_and_after_it_is_entered(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        bus = mesh()
        assert dump_text(bus) == "coordinator 'test': not entered\n"
        async with bus:
            await bus.spawn(Clerk)
        assert dump_text(bus).startswith("coordinator 'test': closed, 0 agents, 0 messages pending")

    run(main)


def test_while_it_is_left_it_says_so(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        looks: list[str] = []
        async with mesh() as bus:
            (await bus.spawn(Clerk)).tell(1.0)
            asyncio.get_running_loop().call_later(0.5, lambda: looks.append(dump_text(bus)))
        assert "'test': closing, 1 agents, 1 messages pending" in looks[0]

    run(main)


def test_one_agent_that_cannot_be_shown_does_not_hide_the_others(
    run: Run, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(asyncio.Future[None]):
        @property
        def _children(self) -> Any:
            raise LookupError("odd")

    async def main() -> None:
        async with mesh() as bus:
            odd = Odd()

            async def waits(payload: int) -> None:
                await odd

            (await bus.spawn(waits, name="odd")).tell(1)
            (await bus.spawn(Clerk, name="other")).tell(1.0)
            await asyncio.sleep(0.1)
            text = dump_text(bus)
            assert "  odd: cannot be shown: LookupError: odd\n" in text
            assert "  other: running, 1 of 1 in hand" in text
            odd.set_result(None)

    run(main)


def test_other_threads_may_dump_while_the_loop_goes_on(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        async with Coordinator() as bus:
            refs = [await bus.spawn(Clerk, concurrency=4) for _ in range(20)]
            looks: list[str] = []

            def look() -> None:
                looks.extend(dump_text(bus, all_agents=True) for _ in range(500))

            threads = [threading.Thread(target=look) for _ in range(2)]
            for thread in threads:
                thread.start()
            # The threads end by themselves: how fast this goes on beside them is the interpreter's affair.
            while any(thread.is_alive() for thread in threads):
                await asyncio.gather(*[ref.ask(0.0) for ref in refs])
                await bus.stop(await bus.spawn(Clerk))
            assert len(looks) == 1_000
            assert not any("cannot be shown" in text for text in looks)
            assert all(text.startswith("coordinator 'mesh': open") for text in looks)

    asyncio.run(main())


def test_without_a_gil_the_frames_of_another_thread_are_not_looked_at(
    run: Run, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)

    async def main() -> None:
        async with mesh() as bus:
            clerk = await bus.spawn(Clerk)
            asked = asyncio.ensure_future(clerk.ask(1.0))
            await asyncio.sleep(0.5)
            from_outside = await asyncio.get_running_loop().run_in_executor(None, dump_text, bus)
            assert HIDDEN in from_outside
            assert " at " not in from_outside
            assert "waits for a Future" in from_outside
            assert HIDDEN not in dump_text(bus)
            assert "in Clerk.sleep" in dump_text(bus)
            await asked

    run(main)


def test_dump_writes_to_stderr_or_a_file(run: Run, mesh: Mesh, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        async with mesh() as bus:
            pmesh.debug.dump(bus)
            assert capsys.readouterr().err == dump_text(bus)
            file = io.StringIO()
            dump(bus, file, all_agents=True)
            assert file.getvalue() == dump_text(bus, all_agents=True)

    run(main)


@pytest.mark.parametrize("function", [dump, dump_text, dump_on_signal])
def test_what_is_no_coordinator_is_refused(function: Any) -> None:
    with pytest.raises(InvalidType, match=r"mesh is 'shop'; it must be a pmesh.Coordinator"):
        function("shop")


# On a signal.


def test_a_signal_dumps_while_the_loop_is_idle_and_while_it_is_blocked(
    run: Run, loop_kind: str, mesh: Mesh, tmp_path: Path
) -> None:
    class Blocker(Agent):
        @handler
        def block(self, path: str) -> None:
            os.kill(os.getpid(), signal.SIGUSR1)
            give_up = time.monotonic() + 20.0
            while not os.path.getsize(path) and time.monotonic() < give_up:
                time.sleep(0.001)

    async def main() -> None:
        async with mesh() as bus:
            blocker = await bus.spawn(Blocker, name="blocker")
            path = tmp_path / "dump"
            with path.open("w", encoding="utf-8") as file, dump_on_signal(bus, file=file):
                await blocker.ask(str(path))
                blocked = path.read_text(encoding="utf-8")
                assert re.search(
                    r"Blocker.block of str, for .*: runs right now\n +at .* in .*Blocker.block\n$", blocked
                )
                threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
                while len(path.read_text(encoding="utf-8")) == len(blocked):
                    await asyncio.sleep(0.01)
            idle = path.read_text(encoding="utf-8")[len(blocked) :]
            assert idle.splitlines()[1:] == ["  and 1 agents that have nothing to do"]

    run(main)


def test_a_loop_in_another_thread_is_dumped_by_the_main_thread(tmp_path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()
    made: list[Coordinator] = []

    async def main() -> None:
        async with Coordinator() as bus:
            agent = await bus.spawn(lambda payload: (entered.set(), leave.wait(20.0)), name="stuck")
            made.append(bus)
            await agent.ask(1, timeout=30.0)

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        assert entered.wait(20.0)
        with (tmp_path / "dump").open("w", encoding="utf-8") as file, dump_on_signal(made[0], file=file):
            signal.raise_signal(signal.SIGUSR1)
        text = (tmp_path / "dump").read_text(encoding="utf-8")
        if may_look(0):
            assert re.search(r"<lambda> of int, for .*: runs right now\n +at .*test_debug.py:\d+ in .*<lambda>\n", text)
            assert text.rstrip().endswith("in Condition.wait")
        else:
            assert re.search(r"<lambda> of int, for .*: runs right now\n +" + re.escape(HIDDEN), text)
    finally:
        leave.set()
        thread.join()


def test_the_signal_goes_back_to_whom_it_had(run: Run, mesh: Mesh, capfd: pytest.CaptureFixture[str]) -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: got.append(number))
    try:
        bus = Coordinator("signalled")
        undo = dump_on_signal(bus, signal.SIGUSR2)
        signal.raise_signal(signal.SIGUSR2)
        assert not got
        undo.close()
        signal.raise_signal(signal.SIGUSR2)
        assert got == [signal.SIGUSR2]
        with dump_on_signal(bus, signal.SIGUSR2):
            signal.raise_signal(signal.SIGUSR2)
        undo.close()
        assert signal.getsignal(signal.SIGUSR2) not in (signal.SIG_DFL, before)
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_dump_that_fails_is_logged_and_surfaces_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("no space left")

    with dump_on_signal(Coordinator(), file=Full()):
        signal.raise_signal(signal.SIGUSR1)
    assert "a dump on signal" in caplog.text
    assert "no space left" in caplog.text


@pytest.mark.parametrize("signum", [signal.SIGKILL, 0, 1_000, "SIGUSR1", None])
def test_a_signal_that_cannot_be_caught_is_refused(signum: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"signum is .*; it must be a signal that can be caught"):
        dump_on_signal(Coordinator(), signum)


def test_only_the_main_thread_can_ask_for_dumps_on_a_signal() -> None:
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            dump_on_signal(Coordinator())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    [error] = errors
    assert isinstance(error, InvalidArgument)
    assert "main thread" in str(error)
