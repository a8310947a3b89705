"""The plot of `overload.py`: goodput and p99 against the load, as an SVG that stands by itself.

It brings its own background, and the colours of the HTML reports, for light and for dark. The lines differ in dash
and marker too.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from pmesh.load.rendering.axes import Axis, linear_axis, log_axis
from pmesh.units import duration_text

WIDTH, HEIGHT = 860, 400

# The box of each plot: left edge, width; and their common top and height.
BOXES = ((64, 340), (496, 340))
TOP, TALL = 96, 240

STYLE = """
  :root {
    --page: #ffffff; --ink: #1a1d21; --dim: #555c66; --line: #d5d9df;
    --c0: #a84300; --c1: #86397a; --c2: #005ea2;
  }
  @media (prefers-color-scheme: dark) {
    :root {
      --page: #14171b; --ink: #e6e9ed; --dim: #a5adb8; --line: #363c45;
      --c0: #f2a05c; --c1: #e39bd3; --c2: #6cb6f5;
    }
  }
  text { fill: var(--dim); font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
  .title { fill: var(--ink); font-size: 15px; font-weight: 600; }
  .name { fill: var(--ink); }
  .page { fill: var(--page); }
  .grid { stroke: var(--line); }
  .bound { stroke: var(--dim); stroke-dasharray: 2 4; }
  .line { fill: none; stroke-width: 2.5; }
  .s0 { stroke: var(--c0); stroke-dasharray: 8 5; } .m0 { fill: var(--c0); }
  .s1 { stroke: var(--c1); stroke-dasharray: 2 4; } .m1 { fill: var(--c1); }
  .s2 { stroke: var(--c2); } .m2 { fill: var(--c2); }
"""


def draw(
    *,
    loads: Sequence[float],
    goodput: Mapping[str, Sequence[float]],
    p99_ms: Mapping[str, Sequence[float]],
    deadline_ms: float,
) -> str:
    """The SVG: of each mailbox its goodput in percent of the capacity, and the p99 of its queue time, at each load."""
    x = log_like(loads)
    percent = linear_axis(
        [*(value for line in goodput.values() for value in line), 100.0], lambda value: f"{value:g} %"
    )
    # In microseconds: an axis of the reports starts at 1.
    p99_us = {name: [1e3 * value for value in line] for name, line in p99_ms.items()}
    times = log_axis([*(value for line in p99_us.values() for value in line)], lambda us: duration_text(1e3 * us))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
        f' role="img" aria-labelledby="title summary">',
        '<title id="title">Goodput and p99 of the queue time against the load</title>',
        f'<desc id="summary">{html.escape(summary(loads, goodput, p99_ms))}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>',
        *legend(list(goodput)),
        *panel(BOXES[0], "Goodput, % of the capacity", x, percent, loads, goodput, 100.0, ""),
        *panel(BOXES[1], "p99 of the time in the queue", x, times, loads, p99_us, 1e3 * deadline_ms, "deadline"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def log_like(loads: Sequence[float]) -> Axis:
    """An axis on which each of `loads` has the same room, whatever lies between them."""
    ticks = tuple((load, f"{load:g} x", False) for load in loads)
    return Axis(-0.25, len(loads) - 0.75, lambda load: float(loads.index(load)), ticks)


def summary(
    loads: Sequence[float], goodput: Mapping[str, Sequence[float]], p99_ms: Mapping[str, Sequence[float]]
) -> str:
    return "; ".join(
        f"{name}: "
        + ", ".join(
            f"at {load:g} x {good:.0f} % and {wait:.1f} ms"
            for load, good, wait in zip(loads, goodput[name], p99_ms[name], strict=True)
        )
        for name in goodput
    )


def legend(names: Sequence[str]) -> list[str]:
    parts = []
    for style, name in enumerate(names):
        left = BOXES[0][0] + style * 190
        parts += [
            f'<line class="line s{style}" x1="{left}" x2="{left + 40}" y1="28" y2="28"/>',
            marker(style, left + 20, 28),
            f'<text class="name" x="{left + 50}" y="33">{html.escape(name)}</text>',
        ]
    return parts


def marker(style: int, x: float, y: float) -> str:
    """A disc, a square or a diamond."""
    if style == 0:
        return f'<circle class="m0" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
    turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if style == 2 else ""
    return f'<rect class="m{style}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"{turn}/>'


def panel(
    box: tuple[int, int],
    title: str,
    x: Axis,
    y: Axis,
    loads: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    bound: float,
    bound_name: str,
) -> list[str]:
    """One plot, with a dotted line at `bound`."""
    left, wide = box

    def across(load: float) -> float:
        return left + wide * x.place(load)

    def up(value: float) -> float:
        return TOP + TALL * (1 - y.place(value))

    parts = [f'<text class="title" x="{left - 40}" y="{TOP - 20}">{title}</text>']
    for value, text, _ in y.ticks:
        parts.append(f'<line class="grid" x1="{left}" x2="{left + wide}" y1="{up(value):.1f}" y2="{up(value):.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{up(value) + 4.5:.1f}" text-anchor="end">{text}</text>')
    for load, text, _ in x.ticks:
        parts.append(f'<text x="{across(load):.1f}" y="{TOP + TALL + 20}" text-anchor="middle">{text}</text>')
    parts.append(
        f'<text x="{left + wide / 2}" y="{TOP + TALL + 42}" text-anchor="middle">offered load, x the capacity</text>'
    )
    parts.append(f'<line class="bound" x1="{left}" x2="{left + wide}" y1="{up(bound):.1f}" y2="{up(bound):.1f}"/>')
    if bound_name:
        parts.append(f'<text x="{left + 4}" y="{up(bound) - 5:.1f}">{bound_name}</text>')
    for style, values in enumerate(lines.values()):
        points = [(across(load), up(value)) for load, value in zip(loads, values, strict=True)]
        path = " ".join(f"{at:.1f},{height:.1f}" for at, height in points)
        parts.append(f'<polyline class="line s{style}" points="{path}"/>')
        parts += [marker(style, at, height) for at, height in points]
    return parts
