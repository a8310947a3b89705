"""Dead letters: mail that no handler will see. For debugging, never a way of delivery."""

from __future__ import annotations

import collections
import enum
import logging
from collections.abc import Callable, Iterator

from pmesh._core import AgentRef, Tally, type_name
from pmesh.errors import InvalidArgument, InvalidType
from pmesh.values import Value

__all__ = ["DeadLetter", "DeadLetterKind", "DeadLetters"]

logger = logging.getLogger("pmesh.dead_letters")

# How many are logged one by one before only every further LOG_SUMMARY_EVERY are summed up.
LOG_FIRST = 10
LOG_SUMMARY_EVERY = 1_000


class DeadLetterKind(enum.Enum):
    """Why a message reached no handler."""

    STOPPED = "stopped"  # accepted, and its agent stopped first
    UNKNOWN = "unknown"  # sent to a name that no agent has; it was never accepted
    DROPPED = "dropped"  # by an overflow policy
    EXPIRED = "expired"  # its deadline passed while it waited
    UNHANDLED = "unhandled"  # the agent has no handler for its payload


KINDS = {kind.value: kind for kind in DeadLetterKind}
_NUMBERS = {value: number for number, value in enumerate(KINDS)}


class DeadLetter(Value):
    """One message that no handler saw."""

    kind: DeadLetterKind
    payload: object
    receiver: str
    sender: AgentRef | None


class DeadLetters:
    """The newest dead letters of a coordinator, exact counts by kind, and subscription.

    Letters may be added from any thread; subscribers are called in the thread that adds one. That is the event loop's,
    unless other threads drop more than it keeps up with: then theirs.
    """

    def __init__(self, capacity: int = 1_000) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int):
            raise InvalidType(f"dead_letters is {capacity!r}; it must be a whole number of letters to keep")
        if not 0 <= capacity < 2**62:
            raise InvalidArgument(f"dead_letters is {capacity}; it must be 0 or more letters to keep, and below 2**62")
        self._letters: collections.deque[DeadLetter] = collections.deque(maxlen=capacity)
        self._subscribers: list[Callable[[DeadLetter], None]] = []
        self._tally = Tally()

    def add(self, letter: DeadLetter) -> None:
        """Count `letter`, keep it, log it (the first ten, then a summary), and tell subscribers."""
        total = self._tally.add(_NUMBERS[letter.kind._value_])  # `value` is a call of Python
        self._letters.append(letter)
        if total <= LOG_FIRST:
            logger.warning(
                "dead letter (%s): %s to agent %r%s",
                letter.kind.value,
                type_name(letter.payload),
                letter.receiver,
                "; further ones are summed up" if total == LOG_FIRST else "",
            )
        elif total % LOG_SUMMARY_EVERY == 0:
            logger.warning("%d dead letters so far: %s", total, self._summary())
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(letter)
            except Exception:
                logger.exception("a subscriber of dead letters failed")

    def subscribe(self, subscriber: Callable[[DeadLetter], None]) -> Callable[[], None]:
        """Call `subscriber` with each further letter; returns a function that ends the subscription."""
        if not callable(subscriber):
            raise InvalidType(f"subscriber is {subscriber!r}; it must be callable with one DeadLetter")

        # Each subscription is told apart from an equal one by an object of its own.
        def tell(letter: DeadLetter) -> None:
            subscriber(letter)

        self._subscribers.append(tell)

        def unsubscribe() -> None:
            if tell in self._subscribers:
                self._subscribers.remove(tell)

        return unsubscribe

    def log_summary(self) -> None:
        """Log how many there were, if more than have been logged one by one."""
        total = sum(self._tally.counts())
        if total > LOG_FIRST:
            logger.warning("%d dead letters in all: %s", total, self._summary())

    @property
    def counts(self) -> dict[DeadLetterKind, int]:
        """How many there have been, by kind; exact, also for those no longer kept."""
        return dict(zip(DeadLetterKind, self._tally.counts(), strict=False))

    def _summary(self) -> str:
        return ", ".join(f"{count} {kind.value}" for kind, count in self.counts.items() if count)

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(tuple(self._letters))

    def __len__(self) -> int:
        """How many are kept, oldest given up first."""
        return len(self._letters)

    def __repr__(self) -> str:
        return f"<DeadLetters {self._summary() or 'none'}>"
