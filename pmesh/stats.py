"""What a coordinator counted: the account of each agent and of all together."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pmesh._core import Counters

__all__ = ["Stats"]


class Stats(Counters):
    """The account of a coordinator: the sum over its agents, stopped ones included, and each living one.

    Each agent's terms are read under its lock, so the account balances at every instant, while
    senders in other threads go on.
    """

    __slots__ = ("agents",)

    agents: Mapping[str, Counters]

    def __init__(self, agents: dict[str, Counters]) -> None:
        super().__init__()
        self.agents = MappingProxyType(agents)
        for counters in agents.values():
            self.add(counters)

    def __repr__(self) -> str:
        terms = " ".join(f"{name}={value}" for name, value in self.as_dict().items())
        return f"<Stats {terms} agents={len(self.agents)}>"
