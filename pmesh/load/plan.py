"""What a load run is asked to do, put together from a profile and what overrides it, and checked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pmesh.agent import Overflow
from pmesh.errors import InvalidArgument, InvalidType
from pmesh.load.profiles import Profile, find_profile

__all__ = ["ARRIVALS", "MOST_IN_FLIGHT", "Plan", "make_plan"]

ARRIVALS = ("constant", "poisson")

# The window is the capacity of every mailbox too.
MOST_IN_FLIGHT = 1_000_000

# What nobody can send, and what nobody would wait for; in between nothing overflows.
LOWEST_RATE_PER_SECOND = 0.001
HIGHEST_RATE_PER_SECOND = 100_000_000.0
MOST_SECONDS = 10_000_000.0
MOST_AGENTS = 1_000_000
MOST_PAYLOAD_BYTES = 1_000_000_000
MOST_MESSAGES = 1_000_000_000_000

# How long an open loop runs when neither its duration nor its number of messages is given.
OPEN_LOOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run was asked to do: the load, how it is sent, to whom, and what goes wrong on purpose.

    Attributes:
        profile: Agents, senders and payload size; for a closed loop also how many messages. What the
            command line overrides is already in it.
        window: Most messages in flight in a closed loop, and then the capacity of each mailbox as well.
        rate_per_second: Of an open loop, over all senders; None for a closed loop.
        arrival: "constant" or "poisson" gaps between the messages of an open loop.
        messages: How many to send in all; None for the profile's number, or as many as `duration_seconds` takes.
        duration_seconds: When sending ends; None to end with the last message.
        warmup_seconds: Sent to before anything is counted.
        capacity: Of each mailbox; None for the window (closed loop) or pmesh's default (open loop).
        overflow: What a full mailbox does with a message: the name of a `pmesh.Overflow`.
        agent: "module:name" of the agent class, or None for the load tester's own.
        payload: "module:name" of the payload factory, or None for bytes of the profile's size.
        fail_rate: Share of messages whose handler is made to raise, 0.0 to 1.0.
        slow_agents: How many agents are made slow.
        slow_ns: How long each of their handlers waits before it starts.
        stop_every_seconds: How often an agent is stopped, to be replaced by a new one; None for never.
        per_agent: Whether each agent has recorders of its own.
        seed: Of the generators of arrival times and of failures.
    """

    profile: Profile
    window: int
    rate_per_second: float | None = None
    arrival: str = "constant"
    messages: int | None = None
    duration_seconds: float | None = None
    warmup_seconds: float = 0.0
    capacity: int | None = None
    overflow: str = "reject"
    agent: str | None = None
    payload: str | None = None
    fail_rate: float = 0.0
    slow_agents: int = 0
    slow_ns: int = 0
    stop_every_seconds: float | None = None
    per_agent: bool = False
    seed: int = 1

    @property
    def mode(self) -> str:
        """open or closed: whether senders follow a schedule or wait for a place in the window."""
        return "closed" if self.rate_per_second is None else "open"

    @property
    def injects(self) -> bool:
        """Whether anything goes wrong on purpose."""
        return bool(self.fail_rate or self.slow_agents or self.stop_every_seconds)


def make_plan(
    profile: Profile | str,
    *,
    agents: int | None = None,
    messages: int | None = None,
    duration: float | None = None,
    concurrency: int | None = None,
    payload_bytes: int | None = None,
    window: int | None = None,
    rate: float | None = None,
    arrival: str = "constant",
    warmup: float = 0.0,
    capacity: int | None = None,
    overflow: str = "reject",
    agent: str | None = None,
    payload: str | None = None,
    fail_rate: float = 0.0,
    slow_agents: int = 0,
    slow_seconds: float = 0.0,
    stop_every: float | None = None,
    per_agent: bool = False,
    seed: int = 1,
) -> Plan:
    """The plan of a run of `profile` with what is given here in its place.

    Args:
        profile: A profile, or the name of a shipped one: low, medium, high, extreme.
        agents, concurrency, payload_bytes: Instead of the profile's.
        messages: In all, instead of the profile's number.
        duration: Seconds of sending. Without `messages` a closed loop sends for that long; with both, whatever
            ends first. An open loop runs for 10 seconds unless one of the two is given.
        window: Most messages in flight in a closed loop; the profile's concurrency by default.
        rate: Messages per second, over all agents, of an open loop.
        arrival: "constant" or "poisson".
        warmup: Seconds.
        slow_seconds: What each handler of the first `slow_agents` agents waits before it starts.
        stop_every: Seconds between two stops of an agent.

    Raises:
        InvalidArgument: A value that is not allowed, or two that exclude each other.
        InvalidType: A value of the wrong type.
    """
    base = find_profile(profile)
    limits = {"agents": (1, MOST_AGENTS), "concurrency": (1, MOST_AGENTS), "payload_bytes": (0, MOST_PAYLOAD_BYTES)}
    asked = {"agents": agents, "concurrency": concurrency, "payload_bytes": payload_bytes}
    shape: dict[str, Any] = {
        name: _whole(name, value, *limits[name]) for name, value in asked.items() if value is not None
    }
    if messages is not None:
        _whole("messages", messages, 1, MOST_MESSAGES)
    if duration is not None:
        _number("duration", duration, "seconds")
    if warmup != 0:
        _number("warmup", warmup, "seconds")
    if rate is not None:
        _number("rate", rate, "messages per second", LOWEST_RATE_PER_SECOND, HIGHEST_RATE_PER_SECOND)
        for name, value in (("window", window), ("concurrency", concurrency)):
            if value is not None:
                raise InvalidArgument(
                    f"{name} is {value} and rate {rate:g}; an open loop sends on its schedule, whatever is in flight:"
                    " leave one of the two out"
                )
        if messages is None and duration is None:
            duration = OPEN_LOOP_SECONDS
    if arrival not in ARRIVALS:
        raise InvalidArgument(f"arrival is {arrival!r}; it must be one of {', '.join(ARRIVALS)}")
    if arrival != "constant" and rate is None:
        raise InvalidArgument(f"arrival is {arrival!r} without a rate; only an open loop has arrival times")
    if overflow not in [policy.name.lower() for policy in Overflow]:
        names = ", ".join(policy.name.lower() for policy in Overflow)
        raise InvalidArgument(f"overflow is {overflow!r}; it must be one of {names}")
    if capacity is not None:
        _whole("capacity", capacity, 1, MOST_IN_FLIGHT)
    if isinstance(fail_rate, bool) or not isinstance(fail_rate, (int, float)):
        raise InvalidType(f"fail_rate is {fail_rate!r}; it must be a share from 0.0 to 1.0")
    if not 0.0 <= fail_rate <= 1.0:
        raise InvalidArgument(f"fail_rate is {fail_rate!r}; it must be a share from 0.0 to 1.0")
    _whole("slow_agents", slow_agents, 0, shape.get("agents", base.agents))
    if slow_agents or slow_seconds != 0:
        _number("slow_seconds", slow_seconds, "seconds")
    if stop_every is not None:
        _number("stop_every", stop_every, "seconds")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InvalidType(f"seed is {seed!r}; it must be a whole number")
    if not isinstance(per_agent, bool):
        raise InvalidType(f"per_agent is {per_agent!r}; it must be True or False")
    for name, path in (("agent", agent), ("payload", payload)):
        if path is not None and not isinstance(path, str):
            raise InvalidType(f"{name} is {path!r}; in a plan it is the name, as module:name")
    changed = dataclasses.replace(base, **shape) if shape else base
    own = agent is not None or payload is not None
    if shape or rate is not None or messages is not None or duration is not None or own or fail_rate or slow_agents:
        # What the reference measured was something else.
        changed = dataclasses.replace(changed, reference=None)
    if stop_every is not None:
        changed = dataclasses.replace(changed, reference=None)
    return Plan(
        profile=changed,
        window=changed.concurrency if window is None else _whole("window", window, 1, MOST_IN_FLIGHT),
        rate_per_second=rate,
        arrival=arrival,
        messages=messages,
        duration_seconds=duration,
        warmup_seconds=float(warmup),
        capacity=capacity,
        overflow=overflow,
        agent=agent,
        payload=payload,
        fail_rate=float(fail_rate),
        slow_agents=slow_agents,
        slow_ns=round(slow_seconds * 1e9),
        stop_every_seconds=stop_every,
        per_agent=per_agent,
        seed=seed,
    )


def _whole(name: str, value: object, least: int, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidType(f"{name} is {value!r}; it must be a whole number")
    if value < least or (most is not None and value > most):
        allowed = f"at least {least}" if most is None else f"from {least} to {most:,}"
        raise InvalidArgument(f"{name} is {value}; it must be {allowed}")
    return value


def _number(name: str, value: object, unit: str, least: float = 0.0, most: float = MOST_SECONDS) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidType(f"{name} is {value!r}; it must be a number of {unit}")
    # Written so that NaN, for which every comparison is false, is refused too.
    if not (value > 0 and least <= value <= most):
        # An int may be too long to be shown.
        told = f"{value:g}" if isinstance(value, float) or abs(value) < 10**15 else "an int of many digits"
        allowed = f"{unit} from {least:g} to" if least else f"a positive number of {unit}, at most"
        raise InvalidArgument(f"{name} is {told}; it must be {allowed} {most:,.0f}")
