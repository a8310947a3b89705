"""A probe says what came, in order, and answers; its timeouts are those of the loop."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from pmesh import AskTimeout, Coordinator, InvalidArgument, InvalidType, NameInUse, StopReason, Terminated, UnknownAgent
from pmesh.testing import Probe, assert_account


def test_each_message_is_looked_at_once_in_order(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            probe = await Probe.spawn(bus, "probe")
            for payload in ("a", 1, "b"):
                probe.ref.tell(payload)
            assert await probe.expect("a") == "a"
            assert await probe.expect_type(int) == 1
            while not probe.waiting:  # where a slice ended on a busy machine
                await asyncio.sleep(0)
            assert probe.waiting == 1
            assert await probe.expect_type(str) == "b"
            await probe.expect_none(within=0.01)
            assert_account(bus, pending=0)

    run(main)


def test_what_else_came_or_did_not_is_said(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            probe = await Probe.spawn(bus, "probe")
            with pytest.raises(AssertionError, match=r"^'probe' expected 1 and got nothing for 2 s$"):
                await probe.expect(1, timeout=2.0)
            with pytest.raises(AssertionError, match=r"^'probe' expected a dict and got nothing for 3 s$"):
                await probe.expect_type(dict)
            probe.ref.tell(2)
            with pytest.raises(AssertionError, match=r"^'probe' expected nothing for 0.1 s and got 2$"):
                await probe.expect_none()
            # It was not taken by that.
            with pytest.raises(AssertionError, match=r"^'probe' expected 1 and got 2$"):
                await probe.expect(1)
            probe.ref.tell(2)
            with pytest.raises(AssertionError, match=r"^'probe' expected a str and got 2$"):
                await probe.expect_type(str)

    run(main)


def test_nothing_means_for_as_long_as_was_said(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            probe = await Probe.spawn(bus)
            loop = asyncio.get_running_loop()
            began = loop.time()
            await probe.expect_none(within=10.0)
            assert loop.time() - began == pytest.approx(10.0)
            loop.call_later(1.0, probe.ref.tell, "late")
            with pytest.raises(AssertionError, match="got 'late'"):
                await probe.expect_none(within=1.5)

    run(main)


def test_an_ask_waits_until_it_is_answered(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            probe = await Probe.spawn(bus)
            first, second = (asyncio.ensure_future(probe.ref.ask(n)) for n in (1, 2))
            await probe.expect(1)
            # The next one comes though the first is not answered.
            await probe.expect(2)
            probe.reply("two")
            assert await second == "two"
            assert not first.done()
            first.cancel()
            third = asyncio.ensure_future(probe.ref.ask(3))
            await probe.expect(3)
            probe.fail(LookupError("no"))
            with pytest.raises(LookupError, match="no"):
                await third
            await bus.kill(probe.ref)  # the first one is still in hand

    run(main)


def test_the_sender_is_known(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            probe = await Probe.spawn(bus)
            forward = await bus.spawn(lambda payload: probe.ref.tell(payload) or None, name="forward")
            assert probe.message is None
            forward.tell(7)
            await probe.expect(7)
            assert probe.message is not None
            assert probe.message.sender is forward

    run(main)


def test_a_probe_is_told_of_the_end_of_what_it_watches(run: Any, mesh: Any, loop_kind: str) -> None:
    async def main() -> None:
        async with mesh() as bus:
            probe = await Probe.spawn(bus)
            agent = await bus.spawn(lambda payload: None, name="agent")
            probe.watch("agent")
            await bus.stop(agent)
            ended = await probe.expect_type(Terminated)
            assert (ended.ref, ended.reason) == (agent, StopReason.STOPPED)
            with pytest.raises(UnknownAgent):
                probe.watch("agent")

    run(main)


def test_answers_to_what_is_no_ask_are_errors(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh() as bus:
            probe = await Probe.spawn(bus, "probe")
            with pytest.raises(InvalidArgument, match="no message was taken"):
                probe.reply(1)
            probe.ref.tell(1)
            await probe.expect(1)
            with pytest.raises(InvalidArgument, match="int is no ask"):
                probe.fail(ValueError())
            asked = asyncio.ensure_future(probe.ref.ask(2))
            await probe.expect(2)
            with pytest.raises(InvalidType, match="error is 'x'"):
                probe.fail("x")  # type: ignore[arg-type]
            probe.reply(None)
            with pytest.raises(InvalidArgument, match="has its answer"):
                probe.reply(None)
            assert await asked is None
            with pytest.raises(NameInUse):
                await Probe.spawn(bus, "probe")
            with pytest.raises(InvalidType, match="kind is 5"):
                await probe.expect_type(5)  # type: ignore[arg-type]
            with pytest.raises(InvalidArgument, match="within is -1"):
                await probe.expect_none(within=-1)
            with pytest.raises(InvalidType, match=r"must be a pmesh\.Coordinator"):
                await Probe.spawn("mesh")  # type: ignore[arg-type]

    run(main)


def test_an_ask_that_is_never_answered_times_out_where_it_was_made(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh(drain_timeout=1.0) as bus:
            probe = await Probe.spawn(bus)
            with pytest.raises(AskTimeout):
                await probe.ref.ask(1, timeout=0.5)

    run(main)


def test_assert_account_says_who_has_mail_left(run: Any, mesh: Any) -> None:
    async def main() -> None:
        async with mesh("shop") as bus:
            slow = await bus.spawn(lambda payload: asyncio.sleep(1), name="slow")
            slow.tell_many([1, 2])
            assert_account(bus)
            assert_account(bus, pending=2)
            with pytest.raises(AssertionError, match=r"2 messages are pending in .*'shop'.* instead of 0: slow has 2$"):
                assert_account(bus, pending=0)
        assert_account(bus, pending=0)
        with pytest.raises(InvalidType, match=r"must be a pmesh\.Coordinator"):
            assert_account(bus.stats())

    run(main)


def test_assert_account_says_which_side_is_wrong(run: Any, mesh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with mesh() as bus:
            await bus.spawn(lambda payload: None, name="a")
            stats = bus.stats()
            wrong = bus.stats()
            wrong.add(stats)

            class Cooked:
                imbalance = "accepted 3 != handled 2"
                agents: ClassVar[Any] = {"a": wrong}
                pending = 0

            with monkeypatch.context() as patch:
                patch.setattr(Coordinator, "stats", lambda self: Cooked())
                with pytest.raises(
                    AssertionError, match="does not balance: all agents together: accepted 3 != handled 2"
                ):
                    assert_account(bus)

    run(main)
