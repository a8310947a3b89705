"""The mailbox by itself: one suite over the compiled one and its model in plain Python.

What only a compiled list can get wrong (depth, cycles, lifetimes) is tested on the core alone.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import model
import pytest
from model import DROP_NEWEST, DROP_OLDEST, REJECT, STOP

from pmesh import Overflow, _core

POLICIES = {"reject": REJECT, "drop_newest": DROP_NEWEST, "drop_oldest": DROP_OLDEST, "stop": STOP}
Make = Callable[..., Any]


@pytest.fixture(params=["core", "model"])
def make(request: pytest.FixtureRequest) -> Make:
    """The class under test."""
    made: type = _core.Mailbox if request.param == "core" else model.Mailbox
    return made


@pytest.fixture(params=[1, 2, 8, 1024])
def capacity(request: pytest.FixtureRequest) -> int:
    value: int = request.param
    return value


@pytest.fixture(params=POLICIES.values(), ids=POLICIES)
def policy(request: pytest.FixtureRequest) -> int:
    value: int = request.param
    return value


def account(mailbox: Any, **terms: int) -> None:
    """The account has exactly these terms, all others are 0, and it balances."""
    counters = mailbox.counters()
    assert {name: value for name, value in counters.as_dict().items() if value} == terms
    assert counters.imbalance is None


def fill(mailbox: Any, count: int, lane: str = "normal") -> None:
    for number in range(count):
        assert mailbox.offer(number, lane=lane) == ("accepted", [])


def take_all(mailbox: Any) -> list[Any]:
    taken = []
    while (message := mailbox.poll()) is not None:
        taken.append(message.payload)
        mailbox.finish("handled")
    return taken


def test_policies_have_the_values_of_the_public_enum() -> None:
    assert {policy.name.lower(): policy.value for policy in Overflow} == POLICIES


def test_a_new_mailbox_is_empty_open_and_its_account_is_zero(make: Make) -> None:
    mailbox = make()
    assert len(mailbox) == 0
    assert mailbox.pending == 0
    assert mailbox.waiting_bytes == 0
    assert not mailbox.is_closed
    assert mailbox.poll() is None
    account(mailbox)


def test_messages_come_out_in_the_order_they_went_in(make: Make, capacity: int, policy: int) -> None:
    mailbox = make(capacity, overflow=policy)
    fill(mailbox, capacity)
    assert len(mailbox) == capacity
    assert take_all(mailbox) == list(range(capacity))
    account(mailbox, sent=capacity, accepted=capacity, handled=capacity)


def test_a_lane_can_be_emptied_and_filled_again_any_number_of_times(make: Make, capacity: int) -> None:
    mailbox = make(capacity)
    for _ in range(3):
        fill(mailbox, capacity)
        fill(mailbox, capacity, "control")
        assert len(take_all(mailbox)) == 2 * capacity


def test_the_message_carries_payload_lane_and_deadline(make: Make) -> None:
    mailbox = make()
    payload = object()
    mailbox.offer(payload, lane="control", deadline_ns=77)
    message = mailbox.poll()
    assert message.payload is payload
    assert message.lane == "control"
    assert message.deadline_ns == 77


def test_any_object_is_a_payload_none_included(make: Make) -> None:
    mailbox = make()
    for payload in (None, 0, "", b"", [], Ellipsis, type):
        mailbox.offer(payload)
    assert take_all(mailbox) == [None, 0, "", b"", [], Ellipsis, type]


def test_reject_refuses_what_finds_no_room_and_keeps_the_rest(make: Make, capacity: int) -> None:
    mailbox = make(capacity, overflow=REJECT)
    fill(mailbox, capacity)
    assert mailbox.offer("late") == ("full", [])
    account(mailbox, sent=capacity + 1, accepted=capacity, rejected=1, pending=capacity)
    assert take_all(mailbox) == list(range(capacity))
    assert mailbox.offer("again") == ("accepted", [])


def test_drop_newest_accepts_the_newcomer_and_drops_it(make: Make, capacity: int) -> None:
    mailbox = make(capacity, overflow=DROP_NEWEST)
    fill(mailbox, capacity)
    assert mailbox.offer("late") == ("dropped", [])
    account(mailbox, sent=capacity + 1, accepted=capacity + 1, dropped=1, pending=capacity)
    assert take_all(mailbox) == list(range(capacity))


def test_drop_oldest_displaces_the_oldest_and_names_it(make: Make, capacity: int) -> None:
    mailbox = make(capacity, overflow=DROP_OLDEST)
    fill(mailbox, capacity)
    assert mailbox.offer("a") == ("accepted", [0])
    second = 1 if capacity > 1 else "a"
    assert mailbox.offer("b") == ("accepted", [second])
    account(mailbox, sent=capacity + 2, accepted=capacity + 2, dropped=2, pending=capacity)
    assert take_all(mailbox) == [*range(capacity), "a", "b"][2:]


def test_stop_refuses_the_message_that_overflows_and_says_so(make: Make, capacity: int) -> None:
    mailbox = make(capacity, overflow=STOP)
    fill(mailbox, capacity)
    assert mailbox.offer("late") == ("overflow", [])
    account(mailbox, sent=capacity + 1, accepted=capacity, rejected=1, pending=capacity)


def test_capacity_counts_waiting_messages_and_not_those_in_hand(make: Make, capacity: int) -> None:
    mailbox = make(capacity)
    fill(mailbox, capacity)
    for number in range(capacity):
        assert mailbox.poll().payload == number
    assert len(mailbox) == 0
    assert mailbox.pending == capacity
    fill(mailbox, capacity)
    assert mailbox.offer("late") == ("full", [])
    account(mailbox, sent=2 * capacity + 1, accepted=2 * capacity, rejected=1, pending=2 * capacity)


def test_every_end_has_its_own_counter(make: Make) -> None:
    mailbox = make()
    ends = ["handled", "failed", "expired", "dropped", "dead"]
    for count, end in enumerate(ends, 1):
        for _ in range(count):
            mailbox.offer(end)
            mailbox.poll()
            mailbox.finish(end)
    account(mailbox, sent=15, accepted=15, handled=1, failed=2, expired=3, dropped=4, dead=5)


def test_finish_without_a_message_in_hand_is_an_error_and_counts_nothing(make: Make) -> None:
    mailbox = make()
    with pytest.raises(ValueError, match="in hand"):
        mailbox.finish("handled")
    mailbox.offer(1)
    with pytest.raises(ValueError, match="in hand"):
        mailbox.finish("handled")
    account(mailbox, sent=1, accepted=1, pending=1)


# Lanes.


def test_control_goes_before_normal_and_each_lane_keeps_its_order(make: Make) -> None:
    mailbox = make(8)
    for number in range(4):
        mailbox.offer(f"n{number}")
        mailbox.offer(f"c{number}", lane="control")
    assert take_all(mailbox) == ["c0", "c1", "c2", "c3", "n0", "n1", "n2", "n3"]


def test_control_has_a_capacity_of_its_own_and_always_rejects(make: Make, capacity: int, policy: int) -> None:
    mailbox = make(capacity, overflow=policy)
    fill(mailbox, capacity)
    fill(mailbox, capacity, "control")
    assert mailbox.offer("late", lane="control") == ("full", [])
    account(mailbox, sent=2 * capacity + 1, accepted=2 * capacity, rejected=1, pending=2 * capacity)


def test_a_full_control_lane_leaves_the_normal_lane_its_room(make: Make, capacity: int, policy: int) -> None:
    mailbox = make(capacity, overflow=policy)
    fill(mailbox, capacity, "control")
    fill(mailbox, capacity)


def test_drop_oldest_never_displaces_control_mail(make: Make, capacity: int) -> None:
    mailbox = make(capacity, overflow=DROP_OLDEST)
    fill(mailbox, capacity, "control")
    fill(mailbox, capacity)
    for number in range(capacity):
        assert mailbox.offer("new") == ("accepted", [number])
    taken = take_all(mailbox)
    assert [payload for payload in taken if payload != "new"] == list(range(capacity))
    account(mailbox, sent=3 * capacity, accepted=3 * capacity, dropped=capacity, handled=2 * capacity)


def test_after_64_control_messages_in_a_row_one_normal_message_is_served(make: Make) -> None:
    mailbox = make(1024)
    for number in range(200):
        mailbox.offer(f"c{number}", lane="control")
    for number in range(3):
        mailbox.offer(f"n{number}")
    taken = take_all(mailbox)
    assert [place for place, payload in enumerate(taken) if payload[0] == "n"] == [64, 129, 194]
    assert [payload for payload in taken if payload[0] == "c"] == [f"c{number}" for number in range(200)]


def test_a_normal_message_ends_a_row_of_control_messages(make: Make) -> None:
    mailbox = make(1024)
    fill(mailbox, 63, "control")
    take_all(mailbox)
    mailbox.offer("n")
    assert take_all(mailbox) == ["n"]
    mailbox.offer("n")
    for number in range(64):
        mailbox.offer(number, lane="control")
    assert take_all(mailbox)[-1] == "n"


def test_an_unknown_lane_is_an_error_and_counts_nothing(make: Make) -> None:
    mailbox = make()
    with pytest.raises(ValueError, match="lane"):
        mailbox.offer(1, lane="express")
    account(mailbox)


# Bytes.


@pytest.mark.parametrize("lane", ["normal", "control"])
@pytest.mark.parametrize("way", [take_all, lambda mailbox: mailbox.clear()], ids=["taken", "discarded"])
def test_the_bytes_of_a_message_that_left_are_free_again(make: Make, lane: str, way: Callable[[Any], object]) -> None:
    mailbox = make(max_bytes=10)
    for _ in range(3):
        assert mailbox.offer(b"x" * 10, lane=lane) == ("accepted", [])
        assert mailbox.offer(b"x", lane=lane) == ("full", [])
        way(mailbox)


def test_bytes_of_waiting_payloads_are_bounded_by_max_bytes(make: Make) -> None:
    mailbox = make(100, max_bytes=10)
    assert mailbox.offer(b"12345") == ("accepted", [])
    assert mailbox.offer(bytearray(b"1234")) == ("accepted", [])
    assert mailbox.offer("12") == ("full", [])
    assert mailbox.offer("1") == ("accepted", [])
    assert mailbox.waiting_bytes == 10
    assert mailbox.offer(b"") == ("accepted", [])
    mailbox.poll()
    assert mailbox.waiting_bytes == 5
    assert mailbox.offer(memoryview(b"12345")) == ("accepted", [])


def test_payloads_without_a_length_in_bytes_count_nothing(make: Make) -> None:
    mailbox = make(100, max_bytes=1)
    for payload in ([1, 2, 3], {"a": 1}, 10**9, None):
        assert mailbox.offer(payload) == ("accepted", [])
    assert mailbox.waiting_bytes == 0


def test_a_memoryview_counts_its_bytes_and_not_its_items(make: Make) -> None:
    mailbox = make(100, max_bytes=16)
    assert mailbox.offer(memoryview(b"x" * 16).cast("q")) == ("accepted", [])
    assert mailbox.waiting_bytes == 16


def test_without_max_bytes_size_is_not_asked(make: Make) -> None:
    mailbox = make(1, size=lambda payload: 1 / 0)
    assert mailbox.offer(b"x") == ("accepted", [])
    assert mailbox.waiting_bytes == 0


def test_a_message_larger_than_the_whole_budget_is_refused_at_once(make: Make, capacity: int, policy: int) -> None:
    mailbox = make(capacity, max_bytes=10, overflow=policy)
    mailbox.offer(b"waits")
    assert mailbox.offer(b"x" * 11) == ("too_large", [])
    assert mailbox.offer(b"x" * 11, lane="control") == ("too_large", [])
    account(mailbox, sent=3, accepted=1, rejected=2, pending=1)
    assert take_all(mailbox) == [b"waits"]


def test_a_message_of_exactly_the_budget_fits_an_empty_mailbox(make: Make, policy: int) -> None:
    mailbox = make(8, max_bytes=10, overflow=policy)
    assert mailbox.offer(b"x" * 10) == ("accepted", [])


def test_drop_oldest_displaces_as_many_as_the_bytes_need(make: Make) -> None:
    mailbox = make(100, max_bytes=10, overflow=DROP_OLDEST)
    for payload in (b"aa", b"bb", b"cc", b"dddd"):
        mailbox.offer(payload)
    assert mailbox.offer(b"eeeee") == ("accepted", [b"aa", b"bb", b"cc"])
    assert mailbox.waiting_bytes == 9
    account(mailbox, sent=5, accepted=5, dropped=3, pending=2)
    assert take_all(mailbox) == [b"dddd", b"eeeee"]
    assert mailbox.waiting_bytes == 0


def test_drop_oldest_drops_only_the_newcomer_when_displacing_would_not_help(make: Make) -> None:
    mailbox = make(100, max_bytes=10, overflow=DROP_OLDEST)
    mailbox.offer(b"control8", lane="control")
    mailbox.offer(b"n")
    mailbox.offer(b"m")
    assert mailbox.offer(b"four") == ("dropped", [])
    account(mailbox, sent=4, accepted=4, dropped=1, pending=3)
    assert take_all(mailbox) == [b"control8", b"n", b"m"]


def test_both_lanes_share_the_budget_of_bytes(make: Make) -> None:
    mailbox = make(100, max_bytes=10)
    mailbox.offer(b"12345678", lane="control")
    assert mailbox.offer(b"123") == ("full", [])
    assert mailbox.offer(b"123", lane="control") == ("full", [])
    assert mailbox.offer(b"12") == ("accepted", [])


def test_size_measures_the_payload(make: Make) -> None:
    mailbox = make(100, max_bytes=10, size=len)
    assert mailbox.offer([1] * 6) == ("accepted", [])
    assert mailbox.offer([1] * 5) == ("full", [])
    assert mailbox.waiting_bytes == 6


@pytest.mark.parametrize(
    ("size", "error"),
    [
        (lambda payload: -1, ValueError),
        (lambda payload: -(2**63), ValueError),
        (lambda payload: {}[payload], KeyError),
        (lambda payload: "many", TypeError),
        (lambda payload: None, TypeError),
    ],
    ids=["negative", "very negative", "raising", "a string", "None"],
)
def test_a_size_function_that_fails_raises_in_the_sender_and_counts_nothing(
    make: Make, size: Callable[[Any], Any], error: type[Exception]
) -> None:
    mailbox = make(2, max_bytes=10, size=size)
    with pytest.raises(error):
        mailbox.offer(b"x")
    account(mailbox)
    assert len(mailbox) == 0


@pytest.mark.parametrize("size", [2**63 - 1, 2**62])
def test_a_huge_size_is_larger_than_the_budget_also_beside_waiting_mail(make: Make, size: int, policy: int) -> None:
    mailbox = make(8, max_bytes=10, overflow=policy, size=lambda payload: payload)
    mailbox.offer(1)
    assert mailbox.offer(size) == ("too_large", [])
    assert mailbox.waiting_bytes == 1


def test_a_huge_budget_does_not_wrap_round(make: Make) -> None:
    mailbox = make(8, max_bytes=2**62 - 1, size=lambda payload: payload)
    assert mailbox.offer(2**62 - 1) == ("accepted", [])
    assert mailbox.offer(2**62 - 1) == ("full", [])
    assert mailbox.offer(0) == ("accepted", [])


def test_size_may_use_the_mailbox_it_measures_for(make: Make) -> None:
    offered = []

    def size(payload: int) -> int:
        if payload:
            offered.append(mailbox.offer(payload - 1))
        return 1

    mailbox = make(8, max_bytes=3, size=size)
    assert mailbox.offer(4) == ("full", [])
    assert take_all(mailbox) == [0, 1, 2]
    assert mailbox.counters().imbalance is None


# Closing and clearing.


def test_a_closed_mailbox_refuses_mail_and_keeps_what_waits(make: Make, policy: int) -> None:
    mailbox = make(1, overflow=policy)
    mailbox.offer("waits")
    mailbox.close()
    mailbox.close()
    assert mailbox.is_closed
    assert mailbox.offer("late") == ("closed", [])
    assert mailbox.offer("late", lane="control") == ("closed", [])
    assert take_all(mailbox) == ["waits"]
    account(mailbox, sent=3, accepted=1, rejected=2, handled=1)


def test_clear_discards_what_waits_counted_dead_control_first(make: Make) -> None:
    mailbox = make(8, max_bytes=100)
    for payload in ("n0", "n1", "n2"):
        mailbox.offer(payload)
    mailbox.offer("c0", lane="control")
    mailbox.poll()
    mailbox.poll()
    mailbox.offer("c1", lane="control")
    assert mailbox.clear() == ["c1", "n1", "n2"]
    assert len(mailbox) == 0
    assert mailbox.waiting_bytes == 0
    account(mailbox, sent=5, accepted=5, dead=3, pending=2)
    assert mailbox.clear() == []


@pytest.mark.parametrize("lane", ["normal", "control"])
def test_a_cleared_mailbox_takes_mail_again(make: Make, capacity: int, lane: str) -> None:
    mailbox = make(capacity)
    fill(mailbox, capacity, lane)
    assert mailbox.clear() == list(range(capacity))
    fill(mailbox, capacity, lane)
    fill(mailbox, capacity, "control" if lane == "normal" else "normal")
    assert len(take_all(mailbox)) == 2 * capacity


def test_counters_are_a_copy_that_does_not_change(make: Make) -> None:
    mailbox = make()
    before = mailbox.counters()
    mailbox.offer(1)
    assert before.sent == 0
    assert before != mailbox.counters()
    assert mailbox.counters() == mailbox.counters()


# The compiled one: counters, lifetimes, depth.


def test_counters_add_up_and_name_what_does_not_balance() -> None:
    mailbox = _core.Mailbox(1)
    mailbox.offer(1)
    mailbox.offer(2)
    total = _core.Counters()
    total.add(mailbox.counters())
    total.add(mailbox.counters())
    assert total.as_dict() == {name: 2 * value for name, value in mailbox.counters().as_dict().items()}
    total.count_rejected()
    assert (total.sent, total.rejected) == (5, 3)
    assert total.imbalance is None


def test_a_message_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError, match="tell, send and ask"):
        _core.Message()


def test_a_payload_is_let_go_as_soon_as_its_message_is() -> None:
    class Payload:
        pass

    mailbox = _core.Mailbox(1, overflow=DROP_OLDEST)
    payload = Payload()
    gone = weakref.ref(payload)
    mailbox.offer(payload)
    del payload
    assert gone() is not None
    _, displaced = mailbox.offer("next")
    displaced.clear()
    assert gone() is None


@pytest.mark.parametrize("policy", [DROP_NEWEST, REJECT, STOP])
def test_a_payload_that_was_not_kept_is_let_go_at_once(policy: int) -> None:
    class Payload:
        pass

    mailbox = _core.Mailbox(1, overflow=policy)
    mailbox.offer("first")
    payload = Payload()
    gone = weakref.ref(payload)
    mailbox.offer(payload)
    del payload
    assert gone() is None


def test_a_taken_message_does_not_keep_those_behind_it() -> None:
    class Payload:
        pass

    mailbox = _core.Mailbox()
    payload = Payload()
    gone = weakref.ref(payload)
    mailbox.offer("first")
    mailbox.offer(payload)
    del payload
    first = mailbox.poll()
    mailbox.clear()
    assert first.payload == "first"
    assert gone() is None


@pytest.mark.parametrize("lane", ["normal", "control"])
def test_a_mailbox_that_waits_in_itself_is_collected(lane: str) -> None:
    class Payload:
        mailbox: Any

    mailbox = _core.Mailbox()
    payloads = [Payload() for _ in range(10)]
    gone = [weakref.ref(payload) for payload in payloads]
    for payload in payloads:
        payload.mailbox = mailbox
        mailbox.offer(payload, lane=lane)
    del payload, payloads, mailbox
    gc.collect()
    assert [ref() for ref in gone] == [None] * 10


def test_a_payload_whose_end_offers_again_finds_the_mailbox_in_order() -> None:
    mailbox = _core.Mailbox(2, overflow=DROP_OLDEST)

    class Echo:
        def __del__(self) -> None:
            mailbox.offer("from __del__")

    for _ in range(100):
        mailbox.offer(Echo())
    mailbox.clear()
    assert mailbox.counters().imbalance is None


CHAIN = """
    import gc, sys, threading
    from pmesh import _core

    COUNT = 1_000_000

    def chain(lane="normal", payload=None):
        mailbox = _core.Mailbox(COUNT)
        for _ in range(COUNT):
            mailbox.offer(payload, lane=lane)
        assert len(mailbox) == COUNT
        return mailbox

    def dropped(lane):
        mailbox = chain(lane)
        del mailbox

    def cleared(lane):
        mailbox = chain(lane)
        assert len(mailbox.clear()) == COUNT

    def displaced(lane):
        mailbox = _core.Mailbox(COUNT, max_bytes=COUNT, overflow=2, size=lambda payload: payload)
        for _ in range(COUNT):
            mailbox.offer(1)
        assert len(mailbox.offer(COUNT)[1]) == COUNT

    def collected(lane):
        gc.disable()
        holder = []
        mailbox = chain(lane, holder)
        holder.append(mailbox)
        del mailbox, holder
        gc.collect()

    def held(lane):
        # A message in hand outlives the mailbox; it must not keep what is behind it.
        mailbox = chain(lane)
        first = mailbox.poll()
        del mailbox
        del first

    def in_a_thread(lane):
        # A thread's stack is smaller than the main thread's.
        threading.stack_size(256 * 1024)
        thread = threading.Thread(target=dropped, args=(lane,))
        thread.start()
        thread.join()

    {how}({lane!r})
    print("alive")
"""


@pytest.mark.parametrize(
    ("how", "lane"),
    [
        ("dropped", "normal"),
        ("dropped", "control"),
        ("cleared", "normal"),
        ("displaced", "normal"),
        ("collected", "normal"),
        ("held", "normal"),
        ("in_a_thread", "normal"),
    ],
)
def test_a_million_waiting_messages_are_freed_without_a_crash(
    python: Callable[[str], str], how: str, lane: str
) -> None:
    assert python(CHAIN.format(how=how, lane=lane)) == "alive\n"
