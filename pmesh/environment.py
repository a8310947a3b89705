"""Where figures come from: interpreter, machine, event loop and build, as reports state it."""

from __future__ import annotations

import asyncio
import datetime
import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pmesh
from pmesh._core import BUILD_INFO
from pmesh.errors import InvalidArgument

__all__ = ["Environment", "LoopFactory", "choose_loop", "describe_environment", "slow_variants"]

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@dataclass(frozen=True, slots=True)
class Environment:
    """What a reader must know before comparing two reports."""

    pmesh: str
    python: str
    implementation: str
    gil: bool
    platform: str
    cpu: str
    cpu_count: int
    event_loop: str
    build: Mapping[str, object]
    started_at: str


def slow_variants(build: Mapping[str, object]) -> list[str]:
    """What makes the figures of a build mean nothing, of "debug", "trace" and "sanitize"; none for a release build.

    `build` is a `BUILD_INFO`, also one of an earlier pmesh that did not know all of them.
    """
    return [variant for variant in ("debug", "trace", "sanitize") if build.get(variant)]


def describe_environment() -> Environment:
    """The environment of the running event loop, now."""
    # Read from the loop itself, so that the report cannot claim one that was only asked for.
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    gil_enabled = getattr(sys, "_is_gil_enabled", None)
    return Environment(
        pmesh=pmesh.__version__,
        python=platform.python_version(),
        implementation=platform.python_implementation(),
        gil=True if gil_enabled is None else bool(gil_enabled()),
        platform=platform.platform(),
        cpu=_cpu_model(),
        cpu_count=_cpu_count(),
        event_loop=loop,
        build=dict(BUILD_INFO),
        started_at=datetime.datetime.now().astimezone().isoformat(timespec="milliseconds"),
    )


def choose_loop(name: str, option: str = "--loop") -> LoopFactory:
    """The factory of the event loop `name`, which `option` asks for: asyncio, uvloop, or auto (uvloop where installed).

    Raises:
        InvalidArgument: uvloop was asked for and cannot be imported.
    """
    if name == "asyncio":
        return asyncio.new_event_loop
    try:
        import uvloop
    except ImportError as error:
        if name == "auto":
            return asyncio.new_event_loop
        raise InvalidArgument(
            f"uvloop cannot be imported here ({error});"
            f" `pip install 'pmesh[uvloop]'` installs it, `{option}=auto` goes without"
        ) from None
    factory: LoopFactory = uvloop.new_event_loop
    return factory


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == "model name":
                    return value.strip()
    except OSError:
        pass  # not Linux: what the platform module knows must do
    return platform.processor() or platform.machine()


def _cpu_count() -> int:
    """CPUs that this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
