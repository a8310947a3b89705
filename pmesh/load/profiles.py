"""The load profiles, and what the reference report measured for each (design, section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pmesh.errors import InvalidArgument, InvalidType

__all__ = ["PROFILES", "Profile", "Reference", "find_profile"]


@dataclass(frozen=True, slots=True)
class Reference:
    """The reference report's figures for a profile; its throughput is a range."""

    throughput_low_per_second: float
    throughput_high_per_second: float
    p50_ns: int
    p95_ns: int
    p99_ns: int
    max_ns: int
    success_rate: float = 0.9955


@dataclass(frozen=True, slots=True)
class Profile:
    """How much load: `rounds` times `messages_per_agent` messages to each of `agents` agents.

    `concurrency` sender tasks share the messages of a round; each message carries a payload of
    `payload_bytes` bytes of its own.

    Raises:
        InvalidArgument: A number is below 1 (for `payload_bytes`: below 0), or the name is empty.
        InvalidType: A number is no int, or the name no str.
    """

    name: str
    agents: int
    messages_per_agent: int
    rounds: int
    concurrency: int
    payload_bytes: int
    reference: Reference | None = None

    def __post_init__(self) -> None:
        name: object = self.name
        if not isinstance(name, str):
            raise InvalidType(f"name is {name!r}; it must be a str")
        if not name:
            raise InvalidArgument("name is ''; it must not be empty")
        for name in ("agents", "messages_per_agent", "rounds", "concurrency", "payload_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise InvalidType(f"{name} is {value!r}; it must be a whole number")
        for name in ("agents", "messages_per_agent", "rounds", "concurrency"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.payload_bytes < 0:
            raise InvalidArgument(f"payload_bytes is {self.payload_bytes}; it must be at least 0")

    @property
    def messages_per_round(self) -> int:
        return self.agents * self.messages_per_agent

    @property
    def messages(self) -> int:
        return self.messages_per_round * self.rounds


_US = 1_000
_MS = 1_000_000

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile(
                "low",
                agents=5,
                messages_per_agent=100,
                rounds=10,
                concurrency=10,
                payload_bytes=100,
                reference=Reference(2_000, 3_000, 75 * _US, 150 * _US, 250 * _US, 1 * _MS),
            ),
            Profile(
                "medium",
                agents=25,
                messages_per_agent=200,
                rounds=10,
                concurrency=20,
                payload_bytes=256,
                reference=Reference(5_000, 8_000, 150 * _US, 500 * _US, 1_500 * _US, 10 * _MS),
            ),
            Profile(
                "high",
                agents=50,
                messages_per_agent=500,
                rounds=10,
                concurrency=50,
                payload_bytes=512,
                reference=Reference(8_000, 12_000, 300 * _US, 2 * _MS, 5 * _MS, 50 * _MS),
            ),
            Profile(
                "extreme",
                agents=100,
                messages_per_agent=1_000,
                rounds=10,
                concurrency=100,
                payload_bytes=1_024,
                reference=Reference(10_000, 15_000, 750 * _US, 5 * _MS, 10 * _MS, 100 * _MS),
            ),
        )
    }
)


def find_profile(profile: Profile | str) -> Profile:
    """The profile itself, or the shipped one of that name.

    Raises:
        InvalidArgument: No profile has that name; the text lists them.
        InvalidType: Neither a profile nor a name.
    """
    if isinstance(profile, Profile):
        return profile
    if not isinstance(profile, str):
        raise InvalidType(f"profile is {profile!r}; it must be a Profile or the name of one")
    try:
        return PROFILES[profile]
    except KeyError:
        raise InvalidArgument(f"no profile is called {profile!r}; there are {', '.join(PROFILES)}") from None
