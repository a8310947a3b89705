"""Policies and reports of events: immutable, and equal by their fields, as with a frozen dataclass."""

import copy
import functools
import inspect
import pickle
import sys
from typing import ClassVar

import pytest

from pmesh import Backoff, DeadLetter, DeadLetterKind, InvalidArgument, MailboxPolicy, Overflow, SupervisionPolicy
from pmesh.values import Value


class Point(Value):
    x: int
    y: int = 0
    label: str = "origin"


def test_fields_come_by_position_by_name_and_by_default():
    assert Point(1) == Point(x=1) == Point(1, 0, "origin") == Point(1, label="origin")
    assert (Point(1, label="a").x, Point(1, label="a").y, Point(1, label="a").label) == (1, 0, "a")


@pytest.mark.parametrize(
    ("args", "kwargs", "told"),
    [
        ((), {}, "missing a required argument: 'x'"),
        ((1, 2, "a", 4), {}, "too many positional arguments"),
        ((1,), {"x": 1}, "multiple values for argument 'x'"),
        ((1,), {"z": 1}, "unexpected keyword argument 'z'"),
        ((), {"y": 1, "z": 1}, "missing a required argument: 'x'"),
    ],
)
def test_wrong_arguments_are_told_as_those_of_any_call(args, kwargs, told):
    with pytest.raises(TypeError, match=told):
        Point(*args, **kwargs)


def test_the_signature_is_that_of_the_fields():
    assert str(inspect.signature(Point)) == "(x: int, y: int = 0, label: str = 'origin')"
    assert list(inspect.signature(MailboxPolicy).parameters)[:3] == ["capacity", "max_bytes", "overflow"]


def test_equality_and_hash_go_by_the_fields_and_the_class():
    class Other(Value):
        x: int
        y: int = 0
        label: str = "origin"

    assert Point(1) != Point(2)
    assert Point(1) != Other(1)
    assert Point(1) != (1, 0, "origin")
    assert hash(Point(1)) == hash(Point(1))
    assert len({Point(1), Point(1), Point(2)}) == 2


def test_a_field_can_be_neither_assigned_nor_deleted():
    point = Point(1)
    with pytest.raises(AttributeError, match=r"Point\.x cannot be assigned: it is immutable"):
        point.x = 2
    with pytest.raises(AttributeError, match=r"Point\.x cannot be deleted"):
        del point.x
    with pytest.raises(AttributeError, match="immutable"):
        point.colour = "red"
    assert point == Point(1)


def test_repr_match_copy_and_pickle():
    backoff = Backoff(min_seconds=1.0, max_seconds=2.0)
    assert repr(backoff) == "Backoff(min_seconds=1.0, max_seconds=2.0, jitter=0.2, reset_seconds=None)"
    assert copy.deepcopy(backoff) == pickle.loads(pickle.dumps(backoff)) == copy.copy(backoff) == backoff
    match DeadLetter(DeadLetterKind.EXPIRED, 5, "bank", None):
        case DeadLetter(DeadLetterKind.EXPIRED, payload, receiver="bank"):
            assert payload == 5
        case _:
            pytest.fail("did not match by position and name")


def test_a_changed_copy_is_checked_like_a_new_one():
    replace = copy.replace if sys.version_info >= (3, 13) else lambda value, **changes: value.__replace__(**changes)
    policy = SupervisionPolicy("permanent", intensity=3)
    assert replace(policy, intensity=4) == SupervisionPolicy("permanent", intensity=4)
    with pytest.raises(InvalidArgument, match="capacity is 0"):
        replace(MailboxPolicy(), capacity=0)


class Labelled(MailboxPolicy):
    """A policy with a label, and room for less by default."""

    capacity: int = 8
    label: str = "none"
    made_by: ClassVar[str] = "us"


class Same(MailboxPolicy):
    """Nothing of its own."""


def test_a_subclass_has_the_fields_of_its_base_first():
    assert Same(3, overflow=Overflow.DROP_OLDEST).capacity == 3
    assert Labelled.__match_args__ == (*MailboxPolicy.__match_args__, "label")
    policy = Labelled(max_bytes=5, label="a")
    assert (policy.capacity, policy.max_bytes, policy.label, policy.made_by) == (8, 5, "a", "us")
    assert policy == Labelled(8, 5, label="a") != Labelled(8, 5)
    assert MailboxPolicy(8) != Labelled(8)
    assert copy.copy(policy) == pickle.loads(pickle.dumps(policy)) == policy
    assert list(inspect.signature(Labelled).parameters) == list(Labelled.__match_args__)
    with pytest.raises(InvalidArgument, match="capacity is 0"):
        Same(capacity=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'lable'"):
        Labelled(lable="a")


def test_what_a_value_has_cached_is_no_field():
    class Square(Value):
        side: int

        @functools.cached_property
        def area(self):
            return self.side**2

    square = Square(2)
    assert square.area == 4
    assert square.__replace__(side=3).area == 9
    assert square == Square(2)


def test_a_letter_that_holds_itself_can_be_shown():
    payload = []
    letter = DeadLetter(DeadLetterKind.DROPPED, payload, "bank", None)
    payload.append(letter)
    assert repr(letter).endswith("payload=[...], receiver='bank', sender=None)")
