"""How `pmesh info` looks: two tables of at most 80 columns, in ASCII and without colours for whoever pastes them."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pmesh.environment import slow_variants
from pmesh.info.cost import Figure, MessageCost
from pmesh.info.doubts import Doubt
from pmesh.info.facts import Facts
from pmesh.streams import CONTROLS
from pmesh.units import duration_text, percent_text

__all__ = ["render"]

COLUMNS = 80
BAR_CELLS = 24


def render(facts: Facts, cost: MessageCost | None, doubts: Sequence[Doubt], *, terminal: bool) -> str:
    """Everything, one below the other, with a line feed at the end.

    Args:
        terminal: Colours and blocks, for a terminal that can show both; else plain ASCII.
    """
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=COLUMNS, highlight=False, markup=False, emoji=False)
    for doubt in doubts:
        console.print(Text(f"WARNING: {doubt.text}", style="bold red"))
    if doubts:
        console.print()
    console.print(_facts_table(facts, cost))
    if cost is not None:
        console.print()
        console.print(Text(_cost_text(cost), style="bold"))
        console.print(_parts_table(cost, block="\u2588" if terminal else "#"))
        console.print()
        console.print(_comparison_table(cost))
    text = "".join(f"{line.rstrip()}\n" for line in shown.getvalue().splitlines())
    # The name of a processor may hold anything.
    return text if terminal else text.encode("ascii", "replace").decode()


def _new_table() -> Table:
    return Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)


def _facts_table(facts: Facts, cost: MessageCost | None) -> Table:
    table = _new_table()
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in (
        ("pmesh", _pmesh_text(facts)),
        ("interpreter", _interpreter_text(facts)),
        ("system", facts.environment.platform),
        ("processor", _processor_text(facts)),
        ("load", _load_text(facts, cost)),
        ("event loop", _loop_text(facts, cost)),
        ("clock", _clock_text(facts, cost)),
        ("collector", _collector_text(facts)),
        ("packages", ", ".join(f"{name} {version or '-'}" for name, version in facts.packages.items())),
    ):
        table.add_row(name, text.translate(CONTROLS))
    return table


def _pmesh_text(facts: Facts) -> str:
    build = facts.environment.build
    kind = " and ".join(slow_variants(build)) or "release"
    return f"{facts.environment.pmesh}, {kind} build, Cython {build.get('cython', 'unknown')}"


def _interpreter_text(facts: Facts) -> str:
    interpreter, environment = facts.interpreter, facts.environment
    return ", ".join(
        [
            f"{environment.implementation} {environment.python}",
            "GIL on" if environment.gil else "GIL off",
            *(["free-threaded"] if interpreter.free_threaded else []),
            *(["debug"] if interpreter.debug else []),
            *(["JIT on"] if interpreter.jit else []),
            f"PGO {_known(interpreter.pgo)}",
            f"LTO {_known(interpreter.lto)}",
            " ".join([interpreter.compiler, *interpreter.flags]),
        ]
    )


def _processor_text(facts: Facts) -> str:
    machine, usable = facts.machine, facts.environment.cpu_count
    quota = machine.cpu_quota
    return ", ".join(
        [
            facts.environment.cpu,
            f"{usable} of {machine.cpu_count} CPUs usable",
            *([] if quota is None else [f"limited to {quota:.3g} CPUs' time"]),
            *(["virtual"] if machine.virtual else []),
            *([f"governor {' and '.join(machine.governors)}"] if machine.governors else []),
            *([] if machine.frequency_mhz is None else [f"{machine.frequency_mhz:,.0f} MHz"]),
        ]
    )


def _load_text(facts: Facts, cost: MessageCost | None) -> str:
    text = "/".join(f"{load:.2f}" for load in facts.machine.load_average) + " in 1/5/15 min"
    if cost is None:
        return text
    return (
        f"{text}; measuring had a processor {percent_text(round(cost.processor_share, 3))} of its time, interrupted"
        f" {cost.interruptions:,} times"
    )


def _loop_text(facts: Facts, cost: MessageCost | None) -> str:
    debug = ", debug mode" if facts.modes.asyncio_debug else ""
    return facts.environment.event_loop + debug + ("" if cost is None else f", a turn takes {_text(cost.turn)}")


def _clock_text(facts: Facts, cost: MessageCost | None) -> str:
    clock = facts.clock
    source = "" if clock.kernel_source is None else f", source {clock.kernel_source}"
    text = f"{clock.implementation}{source}, resolution {clock.resolution_ns:g} ns"
    if cost is None:
        return text
    return (
        f"{text}, seen to step by {cost.clock_step_ns:,} ns; a reading takes {_text(cost.clock_core)} in the core,"
        f" {_text(cost.clock_python)} from Python"
    )


def _collector_text(facts: Facts) -> str:
    modes = facts.modes
    frozen = f", {modes.gc_frozen:,} objects frozen" if modes.gc_frozen else ""
    return f"{'on' if modes.gc_enabled else 'off'}, thresholds {'/'.join(map(str, modes.gc_thresholds))}{frozen}"


def _cost_text(cost: MessageCost) -> str:
    return (
        f"A message takes {duration_text(cost.whole_ns)}: told from a task, {cost.burst} at a time, and handled by an\n"
        f"async def handler that does nothing. Medians of {cost.rounds:,} rounds in {cost.seconds:.1f} s."
    )


def _parts_table(cost: MessageCost, block: str) -> Table:
    table = _new_table()
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="cyan", no_wrap=True)
    for name, part in cost.parts.items():
        share = part.value_ns / cost.whole_ns
        shown = "" if part.below_noise else f"{share:.0%}"
        table.add_row(name, _text(part), shown, block * round(0 if part.below_noise else share * BAR_CELLS))
    return table


def _comparison_table(cost: MessageCost) -> Table:
    table = _new_table()
    table.add_column(style="dim")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_row("put and get of an asyncio.Queue", _text(cost.queue), f"{cost.queue_ratio:.2f} times a message")
    table.add_row("a bare coroutine, made and awaited", _text(cost.coroutine), "CPython's own part of step")
    table.add_row("step of a plain def handler", _text(cost.plain_step), "instead of step")
    return table


def _text(figure: Figure) -> str:
    if figure.below_noise:
        return f"below the noise ({duration_text(figure.noise_ns)})"
    return duration_text(figure.value_ns)


def _known(value: bool | None) -> str:
    return "unknown" if value is None else "yes" if value else "no"
