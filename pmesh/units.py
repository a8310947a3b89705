"""How figures read: durations, sizes, shares and rates in the unit that suits the value."""

from __future__ import annotations

__all__ = ["bytes_text", "duration_text", "observed_text", "percent_text"]


def observed_text(figure: str, value: float | None) -> str:
    """`value` of an objective's figure, such as "queue.p99", in a unit of it; None is "nothing"."""
    if value is None:
        return "nothing"
    if figure == "throughput":
        return f"{value:,.0f}/s"
    if figure == "success":
        return percent_text(value)
    if figure in ("memory_per_agent", "overhead"):
        return bytes_text(value)
    return duration_text(value)


def percent_text(ratio: float) -> str:
    """`ratio` in percent; never rounded up to 100 %."""
    if ratio >= 1.0:
        return f"{ratio * 100:.6g}%"
    return f"{min(ratio * 100, 99.9999):.6g}%"


def duration_text(value_ns: float) -> str:
    """`value_ns` in the unit that leaves one to three digits before the point."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if value_ns >= size:
            value = value_ns / size
            return f"{value:.3g} {unit}" if value < 999.5 else f"{value:,.0f} {unit}"
    return f"{value_ns:.0f} ns"


def bytes_text(value_bytes: float) -> str:
    """`value_bytes` in decimal units."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value_bytes) >= size:
            return f"{value_bytes / size:.1f} {unit}"
    return f"{value_bytes:.0f} B"
