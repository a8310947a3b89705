"""`Coordinator(signals=True)`: real signals, in interpreters of their own where they end or interrupt a program."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pmesh import Agent, Coordinator, CoordinatorClosed, InvalidArgument, StopReason

Run = Callable[..., Any]
Mesh = Callable[..., Any]

FOREVER = 100_000.0

PRELUDE = """
import asyncio, os, signal, sys, time, logging
import pmesh
from pmesh import Agent, Coordinator, StopReason

# Shells ignore SIGINT in what they run in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
FOREVER = 100_000.0

def hit(name="SIGTERM"):
    os.kill(os.getpid(), getattr(signal, name))

async def hang(payload):
    await asyncio.sleep(FOREVER)

def run(main):
    if sys.argv[1] == "uvloop":
        import uvloop
        factory = uvloop.new_event_loop
    else:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())
"""


@pytest.fixture(params=["asyncio", "uvloop"])
def program(request: pytest.FixtureRequest) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`program(code)`: runs it on asyncio's loop and on uvloop, and returns how it ended."""
    kind = request.param
    if kind == "uvloop" and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop IS NOT INSTALLED: nothing was tested on it")

    def run_code(code: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-c", PRELUDE + textwrap.dedent(code), kind]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run_code


Program = Callable[[str], subprocess.CompletedProcess[str]]


def lines(done: subprocess.CompletedProcess[str], status: int = 0) -> list[str]:
    assert done.returncode == status, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_drains_and_the_program_goes_on_after_the_block(program: Program, name: str) -> None:
    done = program(f"""
        async def main():
            async def slow(payload):
                await asyncio.sleep(0.01)
                print("handled", payload)

            async with Coordinator(signals=True) as mesh:
                mesh.shutdown.add_task("after-stop", "close", lambda: print("closed"))
                (await mesh.spawn(slow)).tell_many(range(3))
                asyncio.get_running_loop().call_later(0.01, hit, "{name}")
                await asyncio.sleep(FOREVER)
                print("not reached")
            print(mesh.shutdown.reason, asyncio.current_task().cancelling(), mesh.stats().handled)
            await asyncio.sleep(0.01)
            print("after the block")
            sys.exit(7)

        run(main)
    """)
    assert lines(done, 7) == ["handled 0", "handled 1", "handled 2", "closed", f"{name} 0 3", "after the block"]
    assert done.stderr == ""


def test_a_body_that_waits_for_the_shutdown_goes_on_when_it_is_over(program: Program) -> None:
    done = program("""
        async def main():
            async with Coordinator(signals=True) as mesh:
                (await mesh.spawn(print)).tell("handled")
                asyncio.get_running_loop().call_soon(hit)
                await mesh.shutdown.wait()
                print("over", mesh.shutdown.reason, mesh.agents)
            print("after the block")

        run(main)
    """)
    assert lines(done) == ["handled", "over SIGTERM ()", "after the block"]
    assert done.stderr == ""


def test_a_body_that_sends_without_end_is_ended_by_the_signal_and_not_by_a_refusal(program: Program) -> None:
    done = program("""
        async def main():
            async with Coordinator(signals=True) as mesh:
                def count(payload):
                    if payload == 1000:
                        hit("SIGINT")

                ref = await mesh.spawn(count)
                number = 0
                while True:
                    number += 1
                    await ref.send(number)
            stats = mesh.stats()
            print(number > 1000, stats.handled == stats.accepted, stats.rejected, stats.dead)

        run(main)
    """)
    assert lines(done) == ["True True 0 0"]
    assert done.stderr == ""


@pytest.mark.parametrize("names", ["SIGTERM SIGTERM", "SIGINT SIGINT", "SIGTERM SIGINT"])
def test_a_second_signal_hastens(program: Program, names: str) -> None:
    first, second = names.split()
    done = program(f"""
        async def main():
            loop = asyncio.get_running_loop()
            began = time.monotonic()
            async with Coordinator(signals=True) as mesh:
                (await mesh.spawn(hang)).tell_many(range(3))
                mesh.shutdown.add_task("after-stop", "close", lambda: print("closed"))
                loop.call_later(0.05, hit, "{first}")
                loop.call_later(0.1, hit, "{second}")
                await asyncio.sleep(FOREVER)
            stats = mesh.stats()
            print(mesh.shutdown.reason, stats.failed, stats.dead, stats.pending, time.monotonic() - began < 3)

        run(main)
    """)
    assert lines(done) == ["closed", f"{first} 1 2 0 True"]


def test_two_signals_at_once_hasten(program: Program) -> None:
    done = program("""
        async def main():
            async with Coordinator(signals=True) as mesh:
                (await mesh.spawn(hang)).tell_many(range(3))
                await asyncio.sleep(0.01)
                hit("SIGTERM")
                hit("SIGINT")
                await asyncio.sleep(FOREVER)
            stats = mesh.stats()
            print(stats.failed, stats.dead)

        run(main)
    """)
    assert lines(done) == ["1 2"]


@pytest.mark.parametrize("third", ["SIGTERM", "SIGINT"])
def test_a_third_signal_does_what_it_does_without_pmesh(program: Program, third: str) -> None:
    done = program(f"""
        async def stubborn():
            end = time.monotonic() + 1.0
            while time.monotonic() < end:
                try:
                    await asyncio.sleep(end - time.monotonic())
                except asyncio.CancelledError:
                    print("not yet", flush=True)

        async def main():
            loop = asyncio.get_running_loop()
            async with Coordinator(signals=True) as mesh:
                mesh.shutdown.add_task("before-drain", "stubborn", stubborn)
                for number, name in enumerate(["SIGTERM", "SIGINT", "{third}"]):
                    loop.call_later(0.1 * (number + 1), hit, name)
                await asyncio.sleep(FOREVER)
            print("not reached")

        try:
            run(main)
        except KeyboardInterrupt:
            print("interrupted")
    """)
    if third == "SIGTERM":
        assert lines(done, -signal.SIGTERM) == ["not yet"]
    else:
        # It cancels the main task, as `asyncio.run` does it.
        assert lines(done) == ["not yet", "interrupted"]


def test_a_signal_while_a_plain_handler_keeps_the_loop_is_heard_after_it(program: Program) -> None:
    done = program("""
        import threading

        async def main():
            def spin(payload):
                end = time.monotonic() + 0.2
                while time.monotonic() < end:
                    pass
                print("spun", mesh.shutdown.requested)

            async with Coordinator(signals=True) as mesh:
                (await mesh.spawn(spin)).tell_many(range(5))
                threading.Timer(0.1, hit).start()
                await asyncio.sleep(FOREVER)
            print(mesh.stats().handled)

        run(main)
    """)
    found = lines(done)
    assert (found[0], found[-2:]) == ("spun False", ["spun True", "5"])


def test_a_signal_during_on_start_ends_the_block_and_not_the_program(program: Program) -> None:
    done = program("""
        class Slow(Agent):
            async def on_start(self):
                asyncio.get_running_loop().call_later(0.01, hit)
                try:
                    await asyncio.sleep(FOREVER)
                except asyncio.CancelledError:
                    print("cancelled")
                    raise

        async def main():
            async with Coordinator(signals=True) as mesh:
                await mesh.spawn(Slow)
            print(mesh.shutdown.reason, mesh.agents)

        run(main)
    """)
    assert lines(done) == ["cancelled", "SIGTERM ()"]
    assert done.stderr == ""


def test_a_signal_while_the_block_is_left_counts_and_the_next_one_hastens(program: Program) -> None:
    done = program("""
        async def main():
            loop = asyncio.get_running_loop()
            async with Coordinator(signals=True) as mesh:
                (await mesh.spawn(hang)).tell_many(range(3))
                mesh.shutdown.add_task("before-drain", "slow", lambda: asyncio.sleep(0.2))
                loop.call_later(0.05, hit)
                loop.call_later(0.1, lambda: print(mesh.shutdown.phase, mesh.stats().failed, flush=True))
                loop.call_later(0.3, hit)
            stats = mesh.stats()
            print(mesh.shutdown.reason, stats.failed, stats.dead)

        run(main)
    """)
    assert lines(done) == ["before-drain 0", "None 1 2"]


def test_nested_coordinators_are_shut_down_innermost_first(program: Program) -> None:
    done = program("""
        async def main():
            order = []
            async with Coordinator("outer", signals=True) as outer:
                outer.shutdown.add_task("after-stop", "note", lambda: order.append("outer"))
                sink = await outer.spawn(order.append)
                async with Coordinator("inner", signals=True) as inner:
                    async def pass_on(payload):
                        await asyncio.sleep(0.01)
                        sink.tell(payload)

                    inner.shutdown.add_task("after-stop", "note", lambda: order.append("inner"))
                    (await inner.spawn(pass_on)).tell_many(range(3))
                    asyncio.get_running_loop().call_soon(hit)
                    await asyncio.sleep(FOREVER)
                print("not reached")
            print(order, asyncio.current_task().cancelling(), inner.shutdown.reason, outer.shutdown.reason)

        run(main)
    """)
    assert lines(done) == ["[0, 1, 2, 'inner', 'outer'] 0 SIGTERM SIGTERM"]
    assert done.stderr == ""


def test_coordinators_side_by_side_are_all_shut_down(program: Program) -> None:
    done = program("""
        async def one(name):
            async with Coordinator(name, signals=True) as mesh:
                (await mesh.spawn(print)).tell(name)
                await asyncio.sleep(FOREVER)
            print(name, mesh.shutdown.reason)

        async def main():
            asyncio.get_running_loop().call_later(0.05, hit)
            async with asyncio.TaskGroup() as group:
                for name in "abc":
                    group.create_task(one(name))
            print("done")

        run(main)
    """)
    assert lines(done) == ["a", "b", "c", "c SIGTERM", "b SIGTERM", "a SIGTERM", "done"]


def test_a_second_signal_hastens_nested_coordinators_too(program: Program) -> None:
    done = program("""
        async def main():
            loop = asyncio.get_running_loop()
            async with Coordinator(signals=True) as outer:
                (await outer.spawn(hang)).tell(1)
                async with Coordinator(signals=True) as inner:
                    (await inner.spawn(hang)).tell(1)
                    loop.call_later(0.05, hit)
                    loop.call_later(0.1, hit)
                    await asyncio.sleep(FOREVER)
            print(inner.stats().failed, outer.stats().failed, asyncio.current_task().cancelling())

        run(main)
    """)
    assert lines(done) == ["1 1 0"]


def test_what_hears_of_signals_is_put_back(program: Program) -> None:
    done = program("""
        def mine(number, frame):
            print("mine", flush=True)

        signal.signal(signal.SIGTERM, mine)

        async def main():
            before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
            for end in ("leave", "run", "error", "signal"):
                try:
                    async with Coordinator(signals=True) as mesh:
                        assert signal.getsignal(signal.SIGTERM) is not mine
                        if end == "run":
                            await mesh.shutdown.run()
                        elif end == "error":
                            raise KeyError
                        elif end == "signal":
                            hit()
                            await asyncio.sleep(FOREVER)
                except KeyError:
                    pass
                assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before, end
            hit()
            hit("SIGINT")
            await asyncio.sleep(FOREVER)

        try:
            run(main)
        except KeyboardInterrupt:
            print("interrupted")
    """)
    assert lines(done) == ["mine", "interrupted"]


def test_an_error_of_the_body_goes_through_also_after_a_signal(program: Program) -> None:
    done = program("""
        async def main():
            async with Coordinator(signals=True):
                hit()
                try:
                    await asyncio.sleep(FOREVER)
                finally:
                    raise ValueError("from the body")

        run(main)
    """)
    assert done.returncode == 1
    assert "ValueError: from the body" in done.stderr


def test_without_signals_an_interrupt_cancels_the_body_as_ever(program: Program) -> None:
    done = program("""
        async def main():
            async with Coordinator() as mesh:
                asyncio.get_running_loop().call_soon(hit, "SIGINT")
                await asyncio.sleep(FOREVER)

        try:
            run(main)
        except KeyboardInterrupt:
            print("interrupted")
    """)
    assert lines(done) == ["interrupted"]


# In this process and in virtual time: what a signal cancels.


def test_the_cancellation_of_somebody_else_is_not_swallowed(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        entered = asyncio.Event()

        async def body() -> None:
            async with mesh(signals=True):
                entered.set()
                await asyncio.sleep(FOREVER)

        task = asyncio.ensure_future(body())
        await entered.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    run(main)


def test_a_body_that_does_not_end_has_five_seconds_before_mail_is_refused(
    run: Run, mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        handled: list[object] = []
        accepted = []
        async with mesh(signals=True) as bus:
            ref = await bus.spawn(handled.append)
            os.kill(os.getpid(), signal.SIGTERM)
            try:
                await asyncio.sleep(FOREVER)
            finally:
                began = loop.time()
                accepted.append(ref.tell("cleaning up"))
                await asyncio.sleep(4)
                accepted.append(ref.tell("still"))
                await asyncio.sleep(2)
                accepted.append(ref.tell("late"))
        assert loop.time() - began == 6
        assert accepted == [True, True, False]
        assert handled == ["cleaning up", "still"]

    run(main)
    assert "'end of the async with block' of phase 'before-drain' did not end within 5 s" in caplog.text


def test_a_timeout_around_a_block_that_a_signal_ends_stays_in_order(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        async with asyncio.timeout(FOREVER):
            async with mesh(signals=True) as bus:
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(FOREVER)
            assert bus.shutdown.reason == "SIGINT"
            assert task.cancelling() == 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await asyncio.sleep(FOREVER)

    run(main)


def test_agents_hear_that_it_is_a_shutdown(run: Run, mesh: Mesh) -> None:
    async def main() -> None:
        reasons: list[StopReason] = []

        class Last(Agent):
            async def on_stop(self, reason: StopReason) -> None:
                reasons.append(reason)

        async with mesh(signals=True) as bus:
            await bus.spawn(Last)
            os.kill(os.getpid(), signal.SIGTERM)
            await bus.shutdown.wait()
        assert reasons == [StopReason.SHUTDOWN]

    run(main)


# What cannot be.


def test_signals_are_refused_outside_of_the_main_thread() -> None:
    refused: list[BaseException] = []

    async def main() -> None:
        bus = Coordinator(signals=True)
        with pytest.raises(InvalidArgument, match=r"signals is True in thread 'side'.*main thread only") as raised:
            await bus.__aenter__()
        refused.append(raised.value)
        with pytest.raises(CoordinatorClosed, match="not been entered"):
            await bus.spawn(print)

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="side")
    thread.start()
    thread.join()
    assert len(refused) == 1


def test_signals_are_refused_on_a_loop_that_has_none() -> None:
    class Deaf(asyncio.SelectorEventLoop):
        def add_signal_handler(self, sig: int, *args: Any) -> None:
            if sig == signal.SIGINT:
                raise NotImplementedError
            super().add_signal_handler(sig, *args)

    async def main() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(InvalidArgument, match="Deaf has no signal handlers"):
            async with Coordinator(signals=True):
                pass
        assert signal.getsignal(signal.SIGTERM) is before
        async with Coordinator() as bus:
            assert await (await bus.spawn(lambda payload: payload)).ask(1) == 1

    with asyncio.Runner(loop_factory=Deaf) as runner:
        runner.run(main())


@pytest.mark.parametrize("loop_kind", ["asyncio", "uvloop"], indirect=True)
def test_signals_are_refused_where_the_loop_has_a_handler_that_could_not_be_put_back(
    run: Run, mesh: Mesh, loop_kind: str
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, print)
        try:
            with pytest.raises(InvalidArgument, match=r"SIGTERM has the handler .* could not be put back"):
                async with mesh(signals=True):
                    pass
        finally:
            loop.remove_signal_handler(signal.SIGTERM)
        async with mesh(signals=True):
            pass

    run(main)
