"""Any sequence of operations on timers does what a model of them, in plain Python, says."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pmesh import Agent, Coordinator, MailboxPolicy, Overflow, handler
from pmesh._core import cell_of
from pmesh.testing.loop import VirtualTimeLoop

MS_NS = 1_000_000
# Each wait is longer by this, so that no timer is due at the very moment of an operation unless a rule wants it so.
SKEW_NS = 13_700

KEYS = st.sampled_from(["a", "b", "c"])
DELAYS = st.integers(0, 40)
INTERVALS = st.integers(1, 20)


class Urgent(int):
    """The payload of a timer whose message takes the control lane."""


@dataclasses.dataclass
class ModelTimer:
    payload: int
    due_ns: int
    interval_ns: int
    fixed_rate: bool
    waits: bool = False


class Model:
    """What timers do, in the most obvious way."""

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns
        self.timers: dict[Any, ModelTimer] = {}
        self.paused = False
        self.handled: list[int] = []
        self.missed = 0

    def set(self, key: Any, payload: int, delay_ns: int, interval_ns: int = 0, fixed_rate: bool = False) -> None:
        self.timers[key] = ModelTimer(payload, self.now_ns + delay_ns, interval_ns, fixed_rate)

    def pass_time(self, to_ns: int) -> None:
        """With a loop that is on time."""
        while True:
            due = [(timer.due_ns, key) for key, timer in self.timers.items() if timer.due_ns <= to_ns]
            if not due:
                break
            self.fire(*min(due, key=lambda entry: entry[0]))
        self.now_ns = to_ns

    def be_late(self, to_ns: int) -> None:
        """With a loop that sees nothing before `to_ns`."""
        for key, timer in list(self.timers.items()):
            if timer.due_ns <= to_ns:
                self.fire(to_ns, key)
        self.now_ns = to_ns

    def fire(self, now_ns: int, key: Any) -> None:
        timer = self.timers[key]
        if timer.waits:
            self.missed += 1
        elif self.paused:
            timer.waits = True
        else:
            self.handled.append(timer.payload)
        if timer.interval_ns:
            grid_ns = timer.due_ns + timer.interval_ns
            if timer.fixed_rate:
                while grid_ns <= now_ns:
                    grid_ns += timer.interval_ns
                    self.missed += 1
            timer.due_ns = grid_ns if timer.fixed_rate else now_ns + timer.interval_ns
        elif timer.waits:
            timer.due_ns = 2**62
        else:
            del self.timers[key]

    def resume(self) -> None:
        self.paused = False
        for key, timer in list(self.timers.items()):
            if timer.waits:
                timer.waits = False
                self.handled.append(timer.payload)
                if not timer.interval_ns:
                    del self.timers[key]


class Receiver(Agent):
    def __init__(self) -> None:
        self.handled: list[int] = []
        self.revoked: set[int] = set()
        self.stale: list[int] = []

    def take(self, payload: int) -> None:
        self.handled.append(payload)
        if payload in self.revoked:
            self.stale.append(payload)

    @handler
    def normal(self, payload: int) -> None:
        self.take(payload)

    @handler(lane="control")
    def urgent(self, payload: Urgent) -> None:
        self.take(payload)

    @handler
    def mail(self, payload: str) -> None: ...


class TimersMachine(RuleBasedStateMachine):
    @initialize(
        capacity=st.sampled_from([1, 2, 100]),
        overflow=st.sampled_from([Overflow.REJECT, Overflow.DROP_NEWEST, Overflow.DROP_OLDEST]),
    )
    def start(self, capacity: int, overflow: Overflow) -> None:
        self.loop = VirtualTimeLoop()
        self.errors: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda loop, context: self.errors.append(context))
        self.mesh = Coordinator(clock=self.loop.clock, dead_letters=0)
        self.do(self.mesh.__aenter__)
        self.ref = self.do(lambda: self.mesh.spawn(Receiver, mailbox=MailboxPolicy(capacity, overflow=overflow)))
        self.cell = cell_of(self.ref)
        self.agent = self.cell.agent
        self.timers = self.agent.context.timers
        self.model = Model(self.loop.clock.now_ns())
        self.numbers = 0
        self.mail = 0

    def do(self, function: Callable[..., Any]) -> Any:
        async def call() -> Any:
            result = function()
            return await result if asyncio.iscoroutine(result) else result

        return self.loop.run_until_complete(call())

    def now(self) -> int:
        # A turn of the loop may take a nanosecond of virtual time; a timer's time does not.
        return round(self.loop.clock.now_ns() / 1000) * 1000

    def payload(self, urgent: bool) -> int:
        self.numbers += 1
        return Urgent(self.numbers) if urgent else self.numbers

    def revoke(self, key: Any) -> None:
        if key in self.model.timers:
            self.agent.revoked.add(self.model.timers.pop(key).payload)

    def set(self, key: Any, urgent: bool, delay_ms: int, interval_ms: int = 0, fixed_rate: bool = False) -> None:
        payload = self.payload(urgent)
        self.model.now_ns = self.loop.clock.now_ns()
        if interval_ms:
            given = self.do(
                lambda: self.timers.every(
                    interval_ms / 1000, payload, key=key, fixed_rate=fixed_rate, initial=delay_ms / 1000
                )
            )
        else:
            given = self.do(lambda: self.timers.after(delay_ms / 1000, payload, key=key))
        if key is not None:
            assert given == key
            self.revoke(key)
        self.model.set(given, payload, delay_ms * MS_NS, interval_ms * MS_NS, fixed_rate)
        self.settle()

    def settle(self) -> None:
        """Let happen what is due now."""
        self.wait(0)

    def wait(self, milliseconds: int) -> None:
        begin_ns = self.loop.clock.now_ns()
        end_ns = begin_ns + milliseconds * MS_NS + SKEW_NS
        self.do(lambda: asyncio.sleep((end_ns - begin_ns) / 1e9))
        self.model.pass_time(self.loop.clock.now_ns())

    @rule(key=KEYS, urgent=st.booleans(), delay=DELAYS)
    def after(self, key: str, urgent: bool, delay: int) -> None:
        self.set(key, urgent, delay)

    @rule(urgent=st.booleans(), delay=DELAYS)
    def after_without_key(self, urgent: bool, delay: int) -> None:
        self.set(None, urgent, delay)

    @rule(key=KEYS, urgent=st.booleans(), delay=DELAYS, interval=INTERVALS, fixed_rate=st.booleans())
    def every(self, key: str, urgent: bool, delay: int, interval: int, fixed_rate: bool) -> None:
        self.set(key, urgent, delay, interval, fixed_rate)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from([*self.model.timers, "a", "nobody's"]))
        assert self.do(lambda: self.timers.cancel(key)) is (key in self.model.timers)
        self.revoke(key)

    @rule(chance=st.integers(0, 4))
    def cancel_all(self, chance: int) -> None:
        if chance == 0:
            assert self.do(self.timers.cancel_all) == len(self.model.timers)
            for key in list(self.model.timers):
                self.revoke(key)

    @rule(
        key=KEYS,
        urgent=st.booleans(),
        delay=DELAYS,
        interval=st.sampled_from([0, 1, 7]),
        early_ns=st.sampled_from([-1, 0, 1]),
        turns=st.integers(0, 4),
    )
    def cancel_when_it_is_due(
        self, key: str, urgent: bool, delay: int, interval: int, early_ns: int, turns: int
    ) -> None:
        """It has arrived, or it never does; which of the two depends on the turn of the loop."""
        self.do(self.timers.cancel_all)
        for other in list(self.model.timers):
            self.revoke(other)
        payload = self.payload(urgent)

        async def cancel() -> None:
            if interval:
                self.timers.every(interval / 1000, payload, key=key, initial=delay / 1000)
            else:
                self.timers.after(delay / 1000, payload, key=key)
            self.loop.advance(max(delay * MS_NS - early_ns, 0) / 1e9)
            for _ in range(turns):
                await asyncio.sleep(0)
            assert self.timers.cancel(key) or payload in self.agent.handled
            self.agent.revoked.add(payload)

        self.do(cancel)
        self.settle()
        self.wait(interval)
        self.model.handled.extend([payload] * self.agent.handled.count(payload))
        self.model.missed = self.timers.missed

    @rule(milliseconds=st.integers(0, 60))
    def time_passes(self, milliseconds: int) -> None:
        self.wait(milliseconds)

    @rule(milliseconds=st.integers(1, 60))
    def the_loop_is_busy(self, milliseconds: int) -> None:
        async def busy() -> None:
            self.loop.advance(milliseconds / 1000)

        self.do(busy)
        end_ns = self.loop.clock.now_ns()
        self.do(lambda: asyncio.sleep(0))
        self.do(lambda: asyncio.sleep(0))
        self.model.be_late(end_ns)
        self.settle()

    @rule()
    def pause(self) -> None:
        self.model.paused = True
        self.cell.pause()

    @rule()
    def resume(self) -> None:
        self.model.resume()
        self.do(self.cell.resume)
        self.settle()

    @rule(count=st.integers(1, 3))
    def other_mail(self, count: int) -> None:
        self.do(lambda: self.ref.tell_many(["mail"] * count))
        self.settle()

    @invariant()
    def nothing_stale_arrives(self) -> None:
        if hasattr(self, "ref"):
            assert self.agent.stale == []
            assert self.errors == []

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        if not hasattr(self, "ref"):
            return
        # Those due at the same moment come in any order.
        assert sorted(self.agent.handled) == sorted(self.model.handled)
        assert set(self.do(self.timers.keys)) == set(self.model.timers)
        assert self.timers.missed == self.model.missed
        waiting = sum(timer.waits for timer in self.model.timers.values())
        counters = self.ref.counters()
        assert counters.imbalance is None
        assert self.ref.depth >= waiting
        still_to_come = sum(timer.due_ns < 2**62 for timer in self.model.timers.values())
        assert self.mesh._dispatcher.timeouts == still_to_come

    def teardown(self) -> None:
        if hasattr(self, "ref"):
            self.cell.resume()
            self.do(lambda: self.mesh.__aexit__(None, None, None))
            self.do(lambda: asyncio.sleep(0))
            self.loop.close()
            assert self.errors == []


TestTimersMachine = TimersMachine.TestCase
# print_blob: a failure prints what reproduces it. It is not made smaller, which takes minutes; add
# Phase.shrink for that.
TestTimersMachine.settings = settings(
    phases=[Phase.generate],
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
