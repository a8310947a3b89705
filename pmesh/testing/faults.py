"""What a simulation may do to agents on purpose."""

from __future__ import annotations

import fnmatch
import math
from dataclasses import dataclass

from pmesh.errors import InvalidArgument, InvalidType

__all__ = ["Faults", "InjectedFault"]

_RATES = ("raises", "stalls", "cancels", "kills", "fills", "jumps")


class InjectedFault(Exception):
    """Raised by a simulation in a handler's place."""


@dataclass(frozen=True, slots=True)
class Faults:
    """How often what goes wrong, each for a message that is handled: a share from 0 to 1.

    Args:
        raises: The handler raises `InjectedFault`, before it has done anything or after it has done all.
        stalls: The handler takes up to `stall_seconds` longer: an `async def` waits first, a plain one blocks the loop.
        cancels: The Task of an `async def` handler is cancelled while it waits.
        kills: Some agent is killed.
        fills: Some mailbox is full as soon as one message waits in it, for up to `stall_seconds`.
        jumps: Time jumps forward by up to `jump_seconds`, as when the machine slept.
        stall_seconds, jump_seconds: The most of each, virtual.
        agents: Which agents raise, stall, are cancelled, killed and filled, by name; `fnmatch` patterns separated by
            spaces. Probes never are.
        most: Faults in one run; None for any number.
    """

    raises: float = 0.0
    stalls: float = 0.0
    cancels: float = 0.0
    kills: float = 0.0
    fills: float = 0.0
    jumps: float = 0.0
    stall_seconds: float = 1.0
    jump_seconds: float = 10.0
    agents: str = "*"
    most: int | None = None

    def __post_init__(self) -> None:
        for name in (*_RATES, "stall_seconds", "jump_seconds"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InvalidType(f"{name} is {value!r}; it must be a number")
        for name in _RATES:
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidArgument(f"{name} is {getattr(self, name)}; it must be a share of the messages, 0 to 1")
        for name in ("stall_seconds", "jump_seconds"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise InvalidArgument(f"{name} is {getattr(self, name)}; it must be a finite number of seconds above 0")
        if not isinstance(self.agents, str):
            raise InvalidType(f"agents is {self.agents!r}; it must be a str of name patterns, such as 'account-* bank'")
        if not self.agents.split():
            raise InvalidArgument("agents is empty; it must be name patterns such as 'account-* bank', or '*' for all")
        if self.most is not None and (isinstance(self.most, bool) or not isinstance(self.most, int)):
            raise InvalidType(f"most is {self.most!r}; it must be a whole number of faults, or None")
        if self.most is not None and self.most < 0:
            raise InvalidArgument(f"most is {self.most}; it must be 0 or more faults, or None")

    def concern(self, name: str) -> bool:
        """Whether the agent of this name may be affected."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.agents.split())
