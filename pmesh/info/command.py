"""What `pmesh info` does: read the facts, measure, say what speaks against the figures, show and write it all."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from pmesh.environment import choose_loop
from pmesh.gates.stack import with_room
from pmesh.info.cost import Figure, MessageCost, measure_message
from pmesh.info.doubts import Doubt, doubts_of
from pmesh.info.facts import Facts, gather_facts
from pmesh.info.text import render
from pmesh.outputs import Outputs

__all__ = ["SCHEMA", "as_document", "info"]

SCHEMA = "pmesh.info/1"


def info(event_loop: str, *, measure: bool, json_path: str | None) -> None:
    """Show what this process, interpreter and machine are, and what a message costs here.

    Args:
        event_loop: "asyncio", "uvloop" or "auto".
        measure: Whether to take the second that measuring lasts.
        json_path: Where to write the document; "-" is stdout, which then has nothing else.

    Raises:
        InvalidArgument: The loop cannot be had, or the file not be opened. Nothing was measured.
        OutputFailed: The document could not be written.
        OSError: The text could not be shown.
    """
    new_loop = choose_loop(event_loop)

    async def look() -> tuple[Facts, MessageCost | None]:
        # The load average is that of before: measuring adds to it.
        return gather_facts(), await measure_message() if measure else None

    with Outputs({"json": json_path}) as outputs:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            facts, cost = with_room(lambda: runner.run(look()))
        doubts = doubts_of(facts, cost)
        document = as_document(facts, cost, doubts)
        outputs.write_each({"json": lambda: json.dumps(document, indent=2, allow_nan=False) + "\n"} if outputs else {})
        if not outputs.on_stdout:
            click.echo(render(facts, cost, doubts, terminal=_shows_blocks()), nl=False)


def as_document(facts: Facts, cost: MessageCost | None, doubts: Sequence[Doubt]) -> dict[str, Any]:
    """All of it for JSON, times in nanoseconds; "message" is null where nothing was measured."""
    return {
        "schema": SCHEMA,
        **dataclasses.asdict(facts),
        "message": None if cost is None else _message(cost),
        "warnings": [dataclasses.asdict(doubt) for doubt in doubts],
    }


def _message(cost: MessageCost) -> dict[str, Any]:
    content: dict[str, Any] = {field.name: getattr(cost, field.name) for field in dataclasses.fields(cost)}
    for name, value in content.items():
        if isinstance(value, Figure):
            content[name] = _figure(value)
        elif isinstance(value, Mapping):
            content[name] = {
                part: {**_figure(figure), "share": figure.value_ns / cost.whole_ns} for part, figure in value.items()
            }
    return {**content, "queue_ratio": cost.queue_ratio}


def _figure(figure: Figure) -> dict[str, Any]:
    return {**dataclasses.asdict(figure), "below_noise": figure.below_noise}


def _shows_blocks() -> bool:
    """Whether stdout is a terminal whose encoding has the blocks of the bars."""
    try:
        "\u2588".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return sys.stdout.isatty()
