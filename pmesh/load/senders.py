"""Who sends: closed-loop senders, which wait for a place in the window, and the pacer of an open loop."""

from __future__ import annotations

import asyncio
import operator
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from pmesh import AgentRef
from pmesh._core import tell_intended
from pmesh.errors import AgentStopped, MailboxFull

__all__ = ["CyclingSender", "Pacer", "RoundSender", "arrival_offsets"]


class RoundSender:
    """One of a profile's concurrent senders, for rounds that are known beforehand: the least work a message.

    Args:
        sends: `AgentRef.send` of the receiver of each message of one round, in order.
        payload_bytes: Size of each payload, which is made anew for each message.

    Attributes:
        sent: How many messages it gave to the mesh.
    """

    __slots__ = ("_payload_bytes", "_sends", "sent")

    def __init__(self, sends: Sequence[Callable[[bytes], Awaitable[None]]], payload_bytes: int) -> None:
        self._sends = sends
        self._payload_bytes = payload_bytes
        self.sent = 0

    async def send(self) -> None:
        """Send one round.

        Cancel safety: `sent` counts what the mesh counts; the message in hand was not accepted.
        """
        fill = b"x"
        size = self._payload_bytes
        remaining = iter(self._sends)
        in_hand = 1
        try:
            for send in remaining:
                try:
                    await send(fill * size)
                except (MailboxFull, AgentStopped):
                    # The mesh counted it sent and rejected, and that is what is reported.
                    continue
            in_hand = 0
        finally:
            # Counted from what is left, which costs the loop nothing.
            self.sent += len(self._sends) - operator.length_hint(remaining) - in_hand


class CyclingSender:
    """One of several closed-loop senders that go round the agents, for a number of messages or until cancelled.

    Args:
        targets: The agents, shared and looked at anew for each message: one that stopped may be replaced.
        make_payload: Makes the payload of the message of that number, counted over all senders.
        first: Number of its first message; the next ones are each `step` later.
        limit: Messages of all senders; None to send until cancelled.

    Attributes:
        sent: How many messages it gave to the mesh.
    """

    __slots__ = ("_first", "_limit", "_make_payload", "_step", "_targets", "sent")

    def __init__(
        self,
        targets: Sequence[AgentRef],
        make_payload: Callable[[int], object],
        *,
        first: int,
        step: int,
        limit: int | None,
    ) -> None:
        self._targets = targets
        self._make_payload = make_payload
        self._first = first
        self._step = step
        self._limit = limit
        self.sent = 0

    async def send(self) -> None:
        """Send its share.

        Cancel safety: `sent` counts what the mesh counts; the message in hand was not accepted.
        """
        targets, make_payload, step = self._targets, self._make_payload, self._step
        number = self._first
        limit = self._limit
        count = len(targets)
        while limit is None or number < limit:
            # Shifted by one each lap, or a sender whose step is a multiple of their number would only ever
            # see one of the agents.
            target = targets[(number + number // count) % count]
            refused = False
            try:
                await target.send(make_payload(number))
            except (MailboxFull, AgentStopped):
                refused = True
            # A refusal was counted as well; before anything that may be cancelled.
            self.sent += 1
            number += step
            if refused:
                # It did not wait, and without this nothing else would run.
                await asyncio.sleep(0)


# Messages that a pacer which is behind sends before agents get a turn of the loop.
BURST = 64

# asyncio's shortest sleep is about 1.1 ms and uvloop's timers fire up to 1.2 ms early: a sleep ends
# this long before the next message is due, and the rest is spent yielding to the loop.
YIELD_NS = 2_000_000

# A pacer that is behind goes on after the schedule's end for as long as the schedule was, but at least this long.
LEAST_GRACE_NS = 2_000_000_000


class Pacer:
    """Sends on a schedule and never waits for an answer: the sender of an open loop.

    One task sends for all senders: their schedules are one, since regular ones interleave to a regular one
    and the sum of Poisson processes is a Poisson process. It never sends early.

    Args:
        targets: The agents, in turn; looked at anew for each message.
        make_payload: Makes the payload of the message of that number.
        offsets: When each message is due, in ns from the start, ascending.
        rate_per_second: Of the schedule, to say how many messages are late.
        messages: How many the schedule has, on average where it is random.

    Attributes:
        sent: How many messages it gave to the mesh.
        unsent: How many it gave up, being too far behind; of a random schedule the expected number.
    """

    def __init__(
        self,
        targets: Sequence[AgentRef],
        make_payload: Callable[[int], object],
        offsets: Iterator[int],
        *,
        rate_per_second: float,
        messages: int,
    ) -> None:
        self._targets = targets
        self._make_payload = make_payload
        self._offsets = offsets
        self._rate_per_second = rate_per_second
        self._messages = messages
        self._due_ns: int | None = None
        self.sent = 0
        self.unsent = 0

    def late(self) -> int:
        """How many messages were due by now and are not sent."""
        if self._due_ns is None:
            return 0
        return max(0, round((time.monotonic_ns() - self._due_ns) * self._rate_per_second / 1e9))

    async def send(self) -> None:
        """Send the whole schedule.

        Cancel safety: a cancelled call has sent `sent` messages.
        """
        targets, make_payload, offsets, now = self._targets, self._make_payload, self._offsets, time.monotonic_ns
        count = len(targets)
        number = 0
        start_ns = now()
        schedule_ns = round(self._messages * 1e9 / self._rate_per_second)
        give_up_ns = start_ns + 2 * schedule_ns + LEAST_GRACE_NS
        try:
            for offset_ns in offsets:
                due_ns = self._due_ns = start_ns + offset_ns
                while due_ns > now():
                    wait_ns = due_ns - now() - YIELD_NS
                    await asyncio.sleep(wait_ns / 1e9 if wait_ns > 0 else 0)
                tell_intended(targets[number % count], make_payload(number), due_ns)
                number += 1
                if number % BURST == 0:
                    await asyncio.sleep(0)
                    if now() > give_up_ns:
                        self.unsent = max(0, self._messages - number)
                        break
        finally:
            self.sent += number
            self._due_ns = None


def arrival_offsets(
    rate_per_second: float, arrival: str, *, messages: int | None, duration_ns: int | None, seed: int
) -> Iterator[int]:
    """When each message of an open loop is due, in ns from the start.

    Args:
        arrival: "constant": one every 1/rate. "poisson": exponential gaps of that mean, as independent users make.
        messages: How many at most.
        duration_ns: None are due later.
    """
    generator = random.Random(seed)
    gap_ns = 1e9 / rate_per_second
    number = 0
    offset_ns = 0.0
    while messages is None or number < messages:
        if arrival == "poisson":
            offset_ns += generator.expovariate(1.0) * gap_ns
        else:
            # By multiplication: a sum of a million rounded gaps would be off by more than a gap.
            offset_ns = number * gap_ns
        if duration_ns is not None and offset_ns >= duration_ns:
            return
        yield int(offset_ns)
        number += 1
