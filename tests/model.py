"""A mailbox in plain Python: the oracle that the compiled one is compared with.

It is written from the design's words (capacity, lanes, policies, account), not from its code,
has the public interface of `pmesh._core.Mailbox`, and does everything in the most obvious way. So does the
limit of an adaptive one, by itself, since a mailbox alone knows no time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

REJECT, DROP_NEWEST, DROP_OLDEST, STOP = range(4)

CONTROL_IN_A_ROW = 64


@dataclasses.dataclass
class Letter:
    """What the model has for a message."""

    payload: Any
    lane: str
    deadline_ns: int
    size_bytes: int


@dataclasses.dataclass
class Account:
    sent: int = 0
    accepted: int = 0
    rejected: int = 0
    handled: int = 0
    failed: int = 0
    expired: int = 0
    dropped: int = 0
    dead: int = 0
    pending: int = 0

    def as_dict(self) -> dict[str, int]:
        return dataclasses.asdict(self)

    @property
    def imbalance(self) -> str | None:
        ended = self.handled + self.failed + self.expired + self.dropped + self.dead
        if self.sent == self.accepted + self.rejected and self.accepted == ended + self.pending:
            return None
        return repr(self)


class Mailbox:
    """Bounded queue of two lanes; see `pmesh._core.Mailbox`."""

    def __init__(
        self,
        capacity: int = 1024,
        *,
        max_bytes: int | None = None,
        overflow: int = REJECT,
        size: Callable[[Any], int] | None = None,
    ) -> None:
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._overflow = overflow
        self._size = size
        self._lanes: dict[str, list[Letter]] = {"normal": [], "control": []}
        self._account = Account()
        self._in_hand = 0
        self._control_run = 0
        self.is_closed = False

    def offer(self, payload: Any, *, lane: str = "normal", deadline_ns: int = 0) -> tuple[str, list[Any]]:
        if lane not in self._lanes:
            raise ValueError(f"lane is {lane!r}")
        letter = Letter(payload, lane, deadline_ns, 0 if self._max_bytes is None else self._weigh(payload))
        account = self._account
        account.sent += 1
        refusal = self._refusal(letter)
        if refusal is not None:
            account.rejected += 1
            return refusal, []
        account.accepted += 1
        displaced: list[Any] = []
        if not self._fits(letter):
            # Only a normal message under a policy that drops gets here. The oldest make room for it
            # where that helps; it is not worth their loss where control mail holds the bytes.
            kept = list(self._lanes["normal"])
            while self._overflow == DROP_OLDEST and kept and not self._fits(letter, kept):
                displaced.append(kept.pop(0).payload)
            if not self._fits(letter, kept):
                account.dropped += 1
                return "dropped", []
            self._lanes["normal"] = kept
            account.dropped += len(displaced)
        self._lanes[lane].append(letter)
        return "accepted", displaced

    def _refusal(self, letter: Letter) -> str | None:
        if self.is_closed:
            return "closed"
        if self._max_bytes is not None and letter.size_bytes > self._max_bytes:
            return "too_large"
        if self._fits(letter):
            return None
        if letter.lane == "control" or self._overflow == REJECT:
            return "full"
        return "overflow" if self._overflow == STOP else None

    def _fits(self, letter: Letter, normal: list[Letter] | None = None) -> bool:
        lanes = dict(self._lanes)
        if normal is not None:
            lanes["normal"] = normal
        held = sum(waiting.size_bytes for lane in lanes.values() for waiting in lane)
        if self._max_bytes is not None and held + letter.size_bytes > self._max_bytes:
            return False
        return len(lanes[letter.lane]) < self._capacity

    def _weigh(self, payload: Any) -> int:
        if self._size is not None:
            size = self._size(payload)
            if size < 0:
                raise ValueError(f"size() returned {size}")
            return size
        if isinstance(payload, memoryview):
            return payload.nbytes
        return len(payload) if isinstance(payload, bytes | bytearray | str) else 0

    def poll(self) -> Letter | None:
        control, normal = self._lanes["control"], self._lanes["normal"]
        if control and (self._control_run < CONTROL_IN_A_ROW or not normal):
            self._control_run += 1
            letter = control.pop(0)
        elif normal:
            self._control_run = 0
            letter = normal.pop(0)
        else:
            return None
        self._in_hand += 1
        return letter

    def finish(self, end: str) -> None:
        if not self._in_hand:
            raise ValueError("nothing is in hand")
        self._in_hand -= 1
        setattr(self._account, end, getattr(self._account, end) + 1)

    def clear(self) -> list[Any]:
        payloads = [letter.payload for lane in ("control", "normal") for letter in self._lanes[lane]]
        self._lanes = {"normal": [], "control": []}
        self._account.dead += len(payloads)
        return payloads

    def close(self) -> None:
        self.is_closed = True

    def counters(self) -> Account:
        return dataclasses.replace(self._account, pending=self.pending)

    def __len__(self) -> int:
        return len(self._lanes["normal"]) + len(self._lanes["control"])

    @property
    def waiting_bytes(self) -> int:
        return sum(letter.size_bytes for lane in self._lanes.values() for letter in lane)

    @property
    def pending(self) -> int:
        return len(self) + self._in_hand


@dataclasses.dataclass
class Limit:
    """How many messages may wait in an adaptive mailbox that rejects, where none expire."""

    capacity: int
    target_ns: int
    interval_ns: int
    waiting: list[int] = dataclasses.field(default_factory=list)  # when each was accepted
    level: float = 0.0
    good_until_ns: int = 0
    bad_since_ns: int | None = None
    started: int = 0

    def __post_init__(self) -> None:
        self.level = float(self.capacity)

    def offer(self, now_ns: int) -> bool:
        if len(self.waiting) >= int(self.level) and self.bad_since_ns is None and self.waiting:
            self._grow(min(now_ns, self.waiting[0] + self.target_ns))
        accepted = len(self.waiting) < int(self.level)
        if accepted:
            self.waiting.append(now_ns)
        return accepted

    def start(self, now_ns: int) -> None:
        accepted_ns = self.waiting.pop(0)
        if now_ns - accepted_ns < self.target_ns or not self.waiting:
            if self.bad_since_ns is not None:
                self.bad_since_ns, self.good_until_ns = None, now_ns
            self._grow(now_ns)
            return
        if self.bad_since_ns is None:
            self._grow(accepted_ns + self.target_ns)
            self.bad_since_ns, self.started = now_ns, 0
            return
        self.started += 1
        elapsed_ns = now_ns - self.bad_since_ns
        if elapsed_ns >= self.interval_ns:
            self.level = min(max(1.0, self.started * self.target_ns / elapsed_ns), float(self.capacity))
            self.bad_since_ns, self.started = now_ns, 0

    def _grow(self, until_ns: int) -> None:
        if until_ns > self.good_until_ns:
            doublings = (until_ns - self.good_until_ns) / self.interval_ns
            self.level = float(self.capacity) if doublings > 64 else self.level * math.exp2(doublings)
            self.level = min(self.level, float(self.capacity))
            self.good_until_ns = until_ns
