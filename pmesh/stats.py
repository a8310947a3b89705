"""What a coordinator counted: the account of each agent and of all together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pmesh._core import Counters

__all__ = ["AgentStats", "Stats"]


@dataclass(frozen=True, slots=True)
class AgentStats:
    """The account of one agent at one instant, in messages.

    accepted == handled + failed + expired + dropped + dead + pending, and sent == accepted + rejected.
    """

    sent: int = 0
    accepted: int = 0
    rejected: int = 0
    handled: int = 0
    failed: int = 0
    expired: int = 0
    dropped: int = 0
    dead: int = 0
    pending: int = 0

    @classmethod
    def of(cls, counters: Counters) -> AgentStats:
        return cls(**counters.as_dict())


@dataclass(frozen=True, slots=True)
class Stats(AgentStats):
    """The account of a coordinator: the sum over its agents, stopped ones included, and each living one.

    Each agent's terms are read under its lock, so the account balances at every instant, while
    senders in other threads go on.
    """

    agents: Mapping[str, AgentStats] = field(default_factory=lambda: MappingProxyType({}))
    imbalance: str | None = None  # what does not add up, in words; None as long as pmesh is right
