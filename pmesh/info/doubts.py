"""What speaks against figures: builds and modes that are slow on purpose, watchers, and a busy machine."""

from __future__ import annotations

from dataclasses import dataclass

from pmesh.environment import slow_variants
from pmesh.info.cost import MessageCost
from pmesh.info.facts import Facts
from pmesh.units import duration_text

__all__ = ["Doubt", "doubts_of"]

# CPython 3.12 freezes a few hundred objects of its own when it starts.
FROZEN_AT_START = 1_000

# A thread that never waits has the processor for all but a few thousandths of a second.
LEAST_PROCESSOR_SHARE = 0.97

# A reading through the vDSO takes 20 to 50 ns, one that is a system call ten times that.
MOST_CLOCK_NS = 150


@dataclass(frozen=True, slots=True)
class Doubt:
    """One thing that speaks against the figures.

    Attributes:
        cause: What it is, for programs.
        text: What it does to the figures and what to do about it, for people.
    """

    cause: str
    text: str


def doubts_of(facts: Facts, cost: MessageCost | None) -> list[Doubt]:
    """All there is to say against `facts` and what was measured; nothing where `cost` is None because nothing was."""
    return [*_of_builds(facts), *_of_modes(facts), *_of_machine(facts), *([] if cost is None else _of_run(cost))]


def _of_builds(facts: Facts) -> list[Doubt]:
    found = [
        Doubt(f"{variant} build", f"This is a {variant} build of pmesh. Its figures mean nothing.")
        for variant in slow_variants(facts.environment.build)
    ]
    if facts.interpreter.debug:
        found.append(Doubt("debug interpreter", "The interpreter is a debug build, which is several times slower."))
    if facts.interpreter.free_threaded and facts.environment.gil:
        found.append(
            Doubt(
                "GIL of a free-threaded build",
                "The GIL is on in a free-threaded build: a module that needs it, or PYTHON_GIL=1, has turned it on.",
            )
        )
    return found


def _of_modes(facts: Facts) -> list[Doubt]:
    modes = facts.modes
    found = []
    if modes.dev_mode:
        found.append(
            Doubt(
                "development mode",
                "Python's development mode is on (-X dev or PYTHONDEVMODE), which checks memory and asyncio.",
            )
        )
    if modes.asyncio_debug:
        found.append(
            Doubt(
                "asyncio debug mode",
                "The event loop is in debug mode (PYTHONASYNCIODEBUG or -X dev), which slows every callback.",
            )
        )
    watchers = [
        *(["a tracer (sys.settrace)"] if modes.tracer else []),
        *(["a profiler (sys.setprofile)"] if modes.profiler else []),
        *(f"{tool} (sys.monitoring)" for tool in modes.monitoring),
        *(["tracemalloc"] if modes.tracemalloc else []),
        *(["perf support (-X perf)"] if modes.perf_support else []),
    ]
    if watchers:
        found.append(Doubt("watched", f"Watching this process takes time of its own: {', '.join(watchers)}."))
    if "debug" in modes.malloc:
        found.append(Doubt("checking allocator", f"PYTHONMALLOC={modes.malloc} checks memory at each allocation."))
    if not modes.gc_enabled:
        found.append(Doubt("garbage collector off", "The garbage collector is off; programs with it on are slower."))
    if modes.gc_frozen > FROZEN_AT_START:
        found.append(
            Doubt(
                "garbage collector frozen",
                f"The garbage collector passes over {modes.gc_frozen:,} objects (gc.freeze);"
                " in other programs it does not.",
            )
        )
    return found


def _of_machine(facts: Facts) -> list[Doubt]:
    machine = facts.machine
    load = machine.load_average[0]
    # This process needs a CPU of its own.
    if load <= max(machine.cpu_count - 1, 0.5):
        return []
    return [
        Doubt(
            "busy machine",
            f"The machine is busy: {load:.2f} processes ran or wanted to in the last minute, on {machine.cpu_count}"
            f" CPU{'s' if machine.cpu_count > 1 else ''}. Close what else runs, and repeat.",
        )
    ]


def _of_run(cost: MessageCost) -> list[Doubt]:
    found = []
    if cost.processor_share < LEAST_PROCESSOR_SHARE:
        found.append(
            Doubt(
                "interrupted",
                f"The measurement had a processor for {cost.processor_share:.0%} of its time only, and was"
                f" interrupted {cost.interruptions:,} times. Close what else runs, and repeat.",
            )
        )
    if cost.clock_core.value_ns > MOST_CLOCK_NS:
        found.append(
            Doubt(
                "slow clock",
                f"A reading of the clock takes {duration_text(cost.clock_core.value_ns)}, and each message takes two."
                " The kernel's clock source is one that programs cannot read by themselves.",
            )
        )
    return found
