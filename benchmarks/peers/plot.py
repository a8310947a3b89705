"""The ratios as SVG files of their own: a log axis, a dot for each median, a bar from the least to the greatest.

GitHub shows an SVG as an image, without the page's style: colours are in the file, for light and dark, over a
background of its own so that a page in the other mode cannot make it illegible.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from entries import ENTRIES
from results import OURS, Comparison, Ratio, applicable
from subjects import SUBJECTS, Subject

from pmesh.load.rendering.axes import Axis, log_axis

PLOTS = {
    "messages": ("tell", "ask", "ask100", "fan_in", "ring", "threads"),
    "agents": ("spawn", "memory"),
}

WIDTH = 840
LEFT = 190  # names
RIGHT = 200  # figures
ROW = 22
HEAD = 34  # a subject's title
TOP = 62
BOTTOM = 46

# The axis starts at 1: hundredths are what it is given, so that it reaches down to where a peer is 100 times as good.
HUNDRED = 100.0

STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; fill: #1a1d21; }
.back { fill: #ffffff; } .dim { fill: #555c66; } .halo { paint-order: stroke; stroke: #ffffff; stroke-width: 6px; }
.title { font-size: 16px; font-weight: 600; }
.head { font-weight: 600; } .end { text-anchor: end; } .mid { text-anchor: middle; }
.grid { stroke: #d5d9df; } .even { stroke: #555c66; stroke-dasharray: 4 3; }
.spread { stroke-width: 5; stroke-linecap: round; opacity: .4; }
.ahead { fill: #005ea2; stroke: #005ea2; } .behind { fill: #a84300; stroke: #a84300; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e9ed; } .back { fill: #14171b; } .halo { stroke: #14171b; } .dim { fill: #a5adb8; }
  .grid { stroke: #363c45; } .even { stroke: #a5adb8; }
  .ahead { fill: #6cb6f5; stroke: #6cb6f5; } .behind { fill: #f2a05c; stroke: #f2a05c; }
}
"""


def draw(comparison: Comparison) -> dict[str, str]:
    """A file's text for each of PLOTS that has something to show."""
    measured = {subject for _, subject in comparison.pairs()}
    shown = {key: [SUBJECTS[name] for name in names if name in measured] for key, names in PLOTS.items()}
    return {key: drawing(comparison, subjects) for key, subjects in shown.items() if subjects}


def times(value: float) -> str:
    """A ratio with as many digits as it deserves."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def drawing(comparison: Comparison, subjects: Sequence[Subject]) -> str:
    rows = {
        subject: [
            entry
            for entry in ENTRIES
            if entry not in OURS and applicable(entry, subject.key) and (entry, subject.key) in comparison.pairs()
        ]
        for subject in subjects
    }
    ratios = [
        ratio
        for subject, entries in rows.items()
        for entry in entries
        if (ratio := comparison.ratio(entry, subject.key))
    ]
    ends = [HUNDRED * end for ratio in ratios for end in (ratio.least, ratio.greatest, 1.0)]
    axis = log_axis(ends, lambda value: f"{value / HUNDRED:g} x")
    height = TOP + sum(HEAD + ROW * len(entries) for entries in rows.values()) + BOTTOM
    title = "How many times as good pmesh is"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' role="img" aria-label="{title}; the figures are in the tables">',
        f"<style>{STYLE}</style>",
        '<rect class="back" width="100%" height="100%"/>',
        f'<text class="title" x="16" y="26">{title}</text>',
        '<text class="dim" x="16" y="46">median of the rounds, bar from the least to the greatest;'
        " right of 1 pmesh is ahead, left of it the peer</text>",
    ]
    parts += axis_lines(axis, height)
    y = TOP
    for subject, entries in rows.items():
        parts.append(f'<text class="head" x="16" y="{y + 23}">{html.escape(subject.title)}</text>')
        y += HEAD
        for entry in entries:
            parts.append(f'<text class="end" x="{LEFT - 14}" y="{y + 15}">{html.escape(ENTRIES[entry].title)}</text>')
            parts += row(comparison, entry, subject, axis, y + ROW / 2)
            y += ROW
    return "\n".join([*parts, "</svg>", ""])


def at(axis: Axis, ratio: float) -> str:
    return f"{LEFT + (WIDTH - LEFT - RIGHT) * axis.place(HUNDRED * ratio):.1f}"


def axis_lines(axis: Axis, height: int) -> list[str]:
    parts = []
    for value, text, spare in axis.ticks:
        x = at(axis, value / HUNDRED)
        even = value == HUNDRED
        parts.append(
            f'<line class="{"even" if even else "grid"}" x1="{x}" x2="{x}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        )
        if not spare or even:
            parts.append(f'<text class="dim mid" x="{x}" y="{height - BOTTOM + 20}">{text}</text>')
    return parts


def row(comparison: Comparison, entry: str, subject: Subject, axis: Axis, y: float) -> list[str]:
    found = comparison.ratio(entry, subject.key)
    if found is None:
        failed = (entry, subject.key) in comparison.failures
        text = "failed" if failed else "no figure of pmesh"
        return [f'<text class="dim halo" x="{LEFT}" y="{y + 4:g}">{text}</text>']
    return [
        *dot(found, axis, y),
        f'<text class="end" x="{WIDTH - RIGHT + 80}" y="{y + 4:g}">{times(found.median)} x</text>',
        f'<text class="dim end" x="{WIDTH - 12}" y="{y + 4:g}">{span(found)}</text>',
    ]


def span(ratio: Ratio) -> str:
    return f"{times(ratio.least)}–{times(ratio.greatest)}"  # noqa: RUF001  a range


def dot(ratio: Ratio, axis: Axis, y: float) -> list[str]:
    side = "ahead" if ratio.median >= 1.0 else "behind"
    low, middle, high = (at(axis, value) for value in (ratio.least, ratio.median, ratio.greatest))
    return [
        f'<line class="spread {side}" x1="{low}" x2="{high}" y1="{y:g}" y2="{y:g}"/>',
        f'<circle class="{side}" cx="{middle}" cy="{y:g}" r="5"/>',
    ]
