"""What makes two load reports not comparable: they were measured elsewhere, or did something else; in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pmesh.environment import Environment, slow_variants
from pmesh.load.report import Report

__all__ = ["difference_text", "environment_differences", "run_differences"]

_ENVIRONMENT_WORDS = {
    "python": "Python version",
    "implementation": "Python implementation",
    "gil": "GIL",
    "platform": "platform",
    "cpu": "processor",
    "cpu_count": "number of CPUs",
    "event_loop": "event loop",
}

_PLAN_WORDS = {
    "window": "messages in flight",
    "rate_per_second": "rate per second",
    "arrival": "arrival",
    "messages": "messages to send",
    "duration_seconds": "seconds to send for",
    "warmup_seconds": "seconds of warm-up",
    "capacity": "capacity of a mailbox",
    "overflow": "overflow policy",
    "agent": "agent class",
    "payload": "payload factory",
    "fail_rate": "injected failures (share of messages)",
    "slow_agents": "agents made slow",
    "slow_ns": "delay of slow agents (ns)",
    "stop_every_seconds": "seconds between agents stopped on purpose",
    "per_agent": "recorders of each agent",
    "seed": "seed",
}

_PROFILE_WORDS = {
    "agents": "agents",
    "messages_per_agent": "messages per agent",
    "rounds": "rounds",
    "concurrency": "senders",
    "payload_bytes": "payload (bytes)",
}

_LOOPS = {
    "closed": "closed loop, whose latency runs from accept",
    "open": "open loop, whose latency runs from the intended send time",
}


def environment_differences(before: Environment, after: Environment) -> tuple[str, ...]:
    """What differs of where two documents come from, and what of it makes figures mean nothing; each in words."""
    warnings = list(_in_words(_ENVIRONMENT_WORDS, before, after))
    for flag in sorted({*before.build, *after.build}):
        old, new = before.build.get(flag), after.build.get(flag)
        if old != new:
            warnings.append(difference_text(f"build flag {flag}", old, new))
    for side, environment in (("first", before), ("second", after)):
        variants = slow_variants(environment.build)
        if variants:
            warnings.append(f"the {side} is of a {' and '.join(variants)} build, whose figures mean nothing")
    return tuple(warnings)


def run_differences(before: Report, after: Report) -> tuple[str, ...]:
    """What the two runs were asked to do differently, and what makes either of them no whole run."""
    warnings = []
    if before.mode != after.mode:
        warnings.append(f"different mode: {_LOOPS[before.mode]}; and {_LOOPS[after.mode]}")
    warnings += _in_words(_PROFILE_WORDS, before.profile, after.profile)
    warnings += _in_words(_PLAN_WORDS, before.plan, after.plan)
    for side, report in (("first", before), ("second", after)):
        if report.interrupted:
            warnings.append(f"the {side} was interrupted")
        if report.aborted is not None:
            warnings.append(f"the {side} was aborted: {report.aborted}")
        if report.unsent:
            warnings.append(f"the {side} gave up {report.unsent:,} messages of its schedule: it was behind")
        warnings += [f"the account of the {side} does not balance: {fault}" for fault in report.faults]
    return tuple(warnings)


def difference_text(word: str, before: object, after: object) -> str:
    """That `word` is one thing before and another after."""
    return f"different {word}: {_told(before)} and {_told(after)}"


def _in_words(words: Mapping[str, str], before: object, after: object) -> Iterator[str]:
    """What differs of the attributes that `words` names."""
    for name, word in words.items():
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            yield difference_text(word, old, new)


def _told(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:,}" if isinstance(value, int | float) else str(value)
