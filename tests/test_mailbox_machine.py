"""Any sequence of operations does the same to the compiled mailbox and to its model."""

from __future__ import annotations

from typing import Any

import model
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pmesh import _core

LANES = st.sampled_from(["normal", "control"])
ENDS = st.sampled_from(["handled", "failed", "expired", "dropped", "dead"])
SIZES = st.integers(0, 12)


class MailboxMachine(RuleBasedStateMachine):
    @initialize(
        capacity=st.sampled_from([1, 2, 8]),
        overflow=st.sampled_from([model.REJECT, model.DROP_NEWEST, model.DROP_OLDEST, model.STOP]),
        max_bytes=st.sampled_from([None, 1, 10, 50]),
        measured=st.booleans(),
    )
    def start(self, capacity: int, overflow: int, max_bytes: int | None, measured: bool) -> None:
        options: dict[str, Any] = {"max_bytes": max_bytes, "overflow": overflow}
        if measured:
            options["size"] = lambda payload: 2 * len(payload)
        self.core = _core.Mailbox(capacity, **options)
        self.model = model.Mailbox(capacity, **options)
        self.overflow = overflow
        self.number = 0

    def same(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Do it to both; what they return must be equal."""
        expected = getattr(self.model, method)(*args, **kwargs)
        found = getattr(self.core, method)(*args, **kwargs)
        assert found == expected, f"{method}{args}{kwargs}: core {found}, model {expected}"
        return expected

    def offer_one(self, size: int, lane: str) -> None:
        # Each payload is a different string, so that an exchange of two is seen.
        payload = f"{self.number:0{size}d}"[:size] if size else ""
        self.number += 1
        outcome, displaced = self.same("offer", payload, lane=lane, deadline_ns=self.number)
        assert not displaced or (outcome == "accepted" and self.overflow == model.DROP_OLDEST)

    def poll_one(self) -> bool:
        expected, found = self.model.poll(), self.core.poll()
        if expected is None:
            assert found is None
            return False
        # The deadline is the number of the offer: it is the same message, not only an equal one.
        assert (found.payload, found.lane, found.deadline_ns) == (
            expected.payload,
            expected.lane,
            expected.deadline_ns,
        )
        return True

    @rule(size=SIZES, lane=LANES)
    def offer(self, size: int, lane: str) -> None:
        self.offer_one(size, lane)

    @rule(offers=st.lists(st.tuples(SIZES, LANES), min_size=2, max_size=10))
    def offer_several(self, offers: list[tuple[int, str]]) -> None:
        for size, lane in offers:
            self.offer_one(size, lane)

    @rule()
    def poll(self) -> None:
        self.poll_one()

    @precondition(lambda self: self.model.pending > len(self.model))
    @rule(end=ENDS)
    def finish(self, end: str) -> None:
        self.same("finish", end)

    @rule(count=st.integers(1, 70))
    def a_row_of_control(self, count: int) -> None:
        """One at a time, so that a row gets longer than the lane."""
        for _ in range(count):
            self.offer_one(0, "control")
            if self.poll_one():
                self.same("finish", "handled")

    @rule()
    def clear(self) -> None:
        self.same("clear")

    @rule(chance=st.integers(0, 9))
    def close(self, chance: int) -> None:
        # Seldom: little can happen afterwards.
        if chance == 0:
            self.same("close")

    @invariant()
    def account_balances_and_is_the_same(self) -> None:
        if not hasattr(self, "core"):
            return
        counters = self.core.counters()
        assert counters.imbalance is None
        assert counters.as_dict() == self.model.counters().as_dict()

    @invariant()
    def what_waits_is_the_same(self) -> None:
        if not hasattr(self, "core"):
            return
        assert len(self.core) == len(self.model)
        assert self.core.pending == self.model.pending
        assert self.core.waiting_bytes == self.model.waiting_bytes
        assert self.core.is_closed == self.model.is_closed

    def teardown(self) -> None:
        if hasattr(self, "core"):
            while self.poll_one():
                pass


TestMailboxMachine = MailboxMachine.TestCase
# print_blob: a failure prints what reproduces it. It is not made smaller, which takes minutes; add
# Phase.shrink for that.
TestMailboxMachine.settings = settings(
    phases=[Phase.generate],
    max_examples=200,
    stateful_step_count=30,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
