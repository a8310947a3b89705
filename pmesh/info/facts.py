"""What can be read of machine, interpreter and process without measuring; nothing that names host, user or path."""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import sys
import sysconfig
import time
import tracemalloc
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pmesh.environment import Environment, describe_environment

__all__ = ["ClockSource", "Facts", "Interpreter", "Machine", "Modes", "gather_facts"]

# Whose versions matter to figures or to those who compare them.
PACKAGES = ("uvloop", "hdrhistogram", "pytest-benchmark", "click", "rich")

# Of the compiler's options, those that change how fast the code is.
SPEED_FLAGS = ("-O", "-m", "-flto", "-fprofile-", "-fno-plt", "-fno-semantic", "-fno-omit-frame", "-fsanitize")

CPUS = Path("/sys/devices/system/cpu")
CLOCK_SOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
CPU_INFO = Path("/proc/cpuinfo")
QUOTA = Path("/sys/fs/cgroup/cpu.max")
QUOTA_V1 = Path("/sys/fs/cgroup/cpu")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """How the interpreter was built.

    Attributes:
        flags: Options of its compiler that matter to speed.
        pgo, lto: Whether it was optimized by a profile, and at link time; None where the build does not tell.
        debug: Whether it has CPython's own checks.
        free_threaded: Whether it can run without GIL.
        jit: Whether its just-in-time compiler is on.
    """

    compiler: str
    flags: tuple[str, ...]
    pgo: bool | None
    lto: bool | None
    debug: bool
    free_threaded: bool
    jit: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """What the process runs on; None stands for what this system does not tell.

    Attributes:
        cpu_count: CPUs of the machine, of which the process may use fewer.
        cpu_quota: How many CPUs' time the container may use.
        virtual: Whether it is a virtual machine.
        governors: Of the frequencies of the CPUs that the process may use.
        frequency_mhz: Of the first of these CPUs, now.
        load_average: Processes that ran or wanted to, over one, five and fifteen minutes.
    """

    cpu_count: int
    cpu_quota: float | None
    virtual: bool | None
    governors: tuple[str, ...]
    frequency_mhz: float | None
    load_average: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class ClockSource:
    """The monotonic clock: the system call behind it, what the kernel reads, and the resolution it claims."""

    implementation: str
    kernel_source: str | None
    resolution_ns: float


@dataclass(frozen=True, slots=True)
class Modes:
    """What is switched on in this process that figures depend on.

    Attributes:
        asyncio_debug: Debug mode of the running event loop.
        tracer, profiler: Whether `sys.settrace` and `sys.setprofile` have set one in this thread.
        monitoring: Names of the tools of `sys.monitoring`.
        perf_support: Whether the interpreter makes its stack readable to perf.
        malloc: Which allocator `PYTHONMALLOC` asks for; "" for the usual one.
        gc_frozen: Objects that the garbage collector passes over since `gc.freeze`.
    """

    dev_mode: bool
    asyncio_debug: bool
    tracer: bool
    profiler: bool
    monitoring: tuple[str, ...]
    perf_support: bool
    tracemalloc: bool
    malloc: str
    gc_enabled: bool
    gc_frozen: int
    gc_thresholds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """All that can be read."""

    environment: Environment
    interpreter: Interpreter
    machine: Machine
    clock: ClockSource
    modes: Modes
    packages: dict[str, str | None]


def gather_facts() -> Facts:
    """The facts of this process and its running event loop, now."""
    return Facts(
        environment=describe_environment(),
        interpreter=_interpreter(),
        machine=_machine(),
        clock=_clock(),
        modes=_modes(),
        packages={name: _version(name) for name in PACKAGES},
    )


def _interpreter() -> Interpreter:
    variable = sysconfig.get_config_var
    configured = variable("CONFIG_ARGS")
    jit = getattr(sys, "_jit", None)
    return Interpreter(
        compiler=platform.python_compiler(),
        flags=speed_flags(f"{variable('CFLAGS') or ''} {variable('PY_CFLAGS_NODIST') or ''}"),
        pgo=None if configured is None else "--enable-optimizations" in configured,
        lto=None if configured is None else "--with-lto" in configured,
        debug=hasattr(sys, "gettotalrefcount"),
        free_threaded=bool(variable("Py_GIL_DISABLED")),
        jit=jit is not None and bool(jit.is_enabled()),
    )


def speed_flags(options: str) -> tuple[str, ...]:
    """Those of a compiler's `options` that matter to speed; of several -O the last, which is the one that counts."""
    found = [option for option in options.split() if option.startswith(SPEED_FLAGS) and "/" not in option]
    levels = [option for option in found if option.startswith("-O")]
    return tuple(dict.fromkeys([*levels[-1:], *(option for option in found if option not in levels)]))


def _machine() -> Machine:
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    governors = {_read(CPUS / f"cpu{number}/cpufreq/scaling_governor") for number in usable}
    return Machine(
        cpu_count=os.cpu_count() or 1,
        cpu_quota=_quota(),
        virtual=_is_virtual(),
        governors=tuple(sorted(governor for governor in governors if governor)),
        frequency_mhz=_frequency_mhz(usable[0]) if usable else None,
        load_average=os.getloadavg(),
    )


def _quota() -> float | None:
    """CPUs' time that the cgroup may use, by either version of cgroups."""
    quota, _, period = (_read(QUOTA) or "").partition(" ")
    if not quota:
        quota, period = (_read(QUOTA_V1 / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period"))
    # "max" and -1 stand for no limit.
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) else None


def _is_virtual() -> bool | None:
    flags = _cpu_info("flags")
    return None if flags is None else "hypervisor" in flags.split()


def _frequency_mhz(cpu: int) -> float | None:
    text = _read(CPUS / f"cpu{cpu}/cpufreq/scaling_cur_freq")
    if text is not None and text.isdecimal():
        return int(text) / 1000
    text = _cpu_info("cpu MHz")
    return None if text is None else float(text)


def _cpu_info(key: str) -> str | None:
    """A value of the first processor in /proc/cpuinfo."""
    for line in (_read(CPU_INFO) or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _clock() -> ClockSource:
    clock = time.get_clock_info("monotonic")
    return ClockSource(clock.implementation, _read(CLOCK_SOURCE), round(clock.resolution * 1e9, 3))


def _modes() -> Modes:
    monitoring = getattr(sys, "monitoring", None)
    tools = [] if monitoring is None else [monitoring.get_tool(number) for number in range(6)]
    is_perf_on = getattr(sys, "is_stack_trampoline_active", None)
    return Modes(
        dev_mode=sys.flags.dev_mode,
        asyncio_debug=asyncio.get_running_loop().get_debug(),
        tracer=sys.gettrace() is not None,
        profiler=sys.getprofile() is not None,
        monitoring=tuple(tool for tool in tools if tool is not None),
        perf_support=is_perf_on is not None and bool(is_perf_on()),
        tracemalloc=tracemalloc.is_tracing(),
        malloc="" if sys.flags.ignore_environment else os.environ.get("PYTHONMALLOC", ""),
        gc_enabled=gc.isenabled(),
        gc_frozen=gc.get_freeze_count(),
        gc_thresholds=gc.get_threshold(),
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None  # another system, or a kernel that does not tell
