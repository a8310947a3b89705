"""What happened in a simulation, in order, as text that is the same for the same seed."""

from __future__ import annotations

import re
import reprlib
from dataclasses import dataclass

__all__ = ["Event", "name_of", "shown", "trace_text"]

# An address differs from run to run, and says nothing.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")

# An event is a line.
_BREAKS = re.compile(r"\s*\n\s*")

# Events that an error shows; what led to a failure stands at the end.
SHOWN_EVENTS = 100


class _Short(reprlib.Repr):
    def repr_instance(self, x: object, level: int) -> str:
        # Before it is cut: what is left of an address could not be told from the rest.
        try:
            text = _BREAKS.sub(" ", _ADDRESS.sub("", repr(x)))
        except Exception as error:  # noqa: BLE001 - whatever a repr of the user's raises, the trace goes on
            return f"<{type(x).__qualname__}, whose repr raised {type(error).__name__}>"
        if len(text) > self.maxother:
            text = f"{text[: self.maxother // 2 - 2]}...{text[-(self.maxother // 2) + 1 :]}"
        return text


_short = _Short()
_short.maxstring = _short.maxother = 80


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Attributes:
        seconds: Virtual, from the start of the run.
        who: The agent, or what else did it.
        what: In words.
        is_departure: A decision of the seed: without a simulation it would have been otherwise.
    """

    seconds: float
    who: str
    what: str
    is_departure: bool = False

    def __str__(self) -> str:
        return f"{'!' if self.is_departure else ' '} {self.seconds:12.6f}  {self.who:<16} {self.what}"


def shown(value: object) -> str:
    """A short `repr` without addresses; of what cannot be shown, its type."""
    try:
        text = _short.repr(value)
    except Exception as error:  # noqa: BLE001 - whatever a repr of the user's raises, the trace goes on
        text = f"<{type(value).__qualname__}, whose repr raised {type(error).__name__}>"
    return _ADDRESS.sub("", text)


def name_of(function: object) -> str:
    """The name of a function, with its class; of another callable a short `repr`."""
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else shown(function)


def trace_text(events: list[Event]) -> str:
    """The newest events, one a line, and what the seed decided before them; departures are marked."""
    start = max(0, len(events) - SHOWN_EVENTS)
    departures = [number for number, event in enumerate(events[:start]) if event.is_departure]
    lines: list[str] = []
    following = 0
    for number in [*departures[-SHOWN_EVENTS:], *range(start, len(events))]:
        if number > following:
            lines.append(f"  ... {number - following} {'more' if following else 'earlier'} events")
        lines.append(str(events[number]))
        following = number + 1
    return "\n".join(lines)
