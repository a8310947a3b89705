"""Line plots as SVG for the HTML report: lines, marks, labels that keep apart, and the data behind them as a table.

Places are percentages of the plot's box and only the lines are stretched (`preserveAspectRatio="none"` with strokes
that do not scale), so that one drawing fits a phone and a wide screen with text of the same size. Colours, dashes and
text sizes are in `page.css`; moving along a plot by pointer or keyboard is `page.js`, which reads the table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pmesh.load.rendering.axes import Axis
from pmesh.load.rendering.markup import Markup, element, escaped

__all__ = [
    "Line",
    "Mark",
    "Plot",
    "Rule",
    "condense",
    "figure",
]

T = TypeVar("T")

# Units of the stretched drawing in each direction: finer than any screen.
GRID = 2000

# Height of a plot's box in page.css, and how far apart two labels must be to be read, both in CSS pixels.
HEIGHT_PIXELS = 260
LABEL_PIXELS = 15

LINE_STYLES = 5


@dataclass(frozen=True, slots=True)
class Line:
    """Values at each x, None where there is none; `style` chooses colour and dash.

    Attributes:
        spans: Least and greatest of what each value stands for; empty where it stands for itself.
    """

    name: str
    values: Sequence[float | None]
    style: int
    spans: Sequence[tuple[float, float] | None] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """A straight line across the plot at a value, such as an objective's bound."""

    name: str
    value: float
    vertical: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """A point that means something by itself: `kind` "held" is a disc, "missed" a hollow square, "bound" a bar."""

    x: float
    y: float
    kind: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Plot:
    """What one figure shows.

    Attributes:
        id: Unique in its page.
        summary: What a reader should take from it, for those who do not see it.
        x_name: Heading of `x_texts` in the table.
        value_text: How values of the lines are written.
    """

    id: str
    title: str
    summary: str
    x: Axis
    y: Axis
    x_name: str
    xs: Sequence[float]
    x_texts: Sequence[str]
    lines: Sequence[Line]
    value_text: Callable[[float], str]
    rules: Sequence[Rule] = ()
    marks: Sequence[Mark] = ()


def condense(xs: Sequence[float], lines: Sequence[Line], most: int) -> tuple[list[float], list[Line]]:
    """`lines` with at most `most` values each, which hide no peak.

    Where there are more, values of a stretch become their median, with the least and the greatest beside it. A stretch
    stands at its last x.
    """
    if len(xs) <= most:
        return list(xs), list(lines)
    stretches = [slice(len(xs) * number // most, len(xs) * (number + 1) // most) for number in range(most)]
    condensed = []
    for line in lines:
        known = [sorted(value for value in line.values[stretch] if value is not None) for stretch in stretches]
        condensed.append(
            dataclasses.replace(
                line,
                values=[values[len(values) // 2] if values else None for values in known],
                spans=[(values[0], values[-1]) if values else None for values in known],
            )
        )
    return [xs[stretch][-1] for stretch in stretches], condensed


def figure(plot: Plot) -> Markup:
    """The plot with its caption, a legend for where labels have no room, a read-out, and its data as a table."""
    legend = element(
        "ul",
        *(element("li", Markup(_swatch(line.style)), line.name) for line in plot.lines),
        class_="legend",
        aria_hidden="true",
    )
    return element(
        "figure",
        element("figcaption", plot.title, id=f"{plot.id}-title"),
        legend if len(plot.lines) > 1 else "",
        element("div", Markup(_drawing(plot)), class_="plot"),
        Markup('<output class="readout" aria-hidden="true"></output>'),
        element("details", element("summary", f"Data: {plot.title}"), Markup(_data_table(plot))),
        class_="plotted",
        id=plot.id,
    )


def _swatch(style: int) -> str:
    return (
        f'<svg class="swatch" width="26" height="8"><line class="l{style % LINE_STYLES}" x2="26" y1="4" y2="4"/></svg>'
    )


def _percent(place: float) -> str:
    return f"{100 * place:.4g}%"


def _drawing(plot: Plot) -> str:
    parts = [
        f'<svg class="area" role="img" tabindex="0" aria-label="{escaped(plot.title)}. {escaped(plot.summary)}">',
        '<rect class="frame" width="100%" height="100%"/>',
    ]
    for value, text, spare in plot.x.ticks:
        at, spared = _percent(plot.x.place(value)), " spare" if spare else ""
        parts.append(f'<line class="grid{spared}" x1="{at}" x2="{at}" y2="100%"/>')
        parts.append(f'<text class="tick x{spared}" x="{at}" y="100%" dy="18">{escaped(text)}</text>')
    for value, text, _ in plot.y.ticks:
        at = _percent(1 - plot.y.place(value))
        parts.append(f'<line class="grid" x2="100%" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="tick y" y="{at}" dx="-8" dy="4">{escaped(text)}</text>')
    parts += _rules(plot)
    paths = "".join(_paths(plot, line) for line in plot.lines)
    parts.append(
        f'<svg viewBox="0 0 {GRID} {GRID}" preserveAspectRatio="none" width="100%" height="100%"'
        f' overflow="visible">{paths}</svg>'
    )
    parts += _marks(plot)
    parts += _labels(plot)
    parts.append('<line class="cursor" y2="100%" visibility="hidden"/></svg>')
    return "".join(parts)


def _paths(plot: Plot, line: Line) -> str:
    """The line through its values, over the band of what they stand for; a value between two gaps is a dot."""
    style = line.style % LINE_STYLES
    drawn = []
    for band in _runs(plot.xs, line.spans) if line.spans else []:
        upper = [_at(plot, x, high) for x, (_, high) in band]
        lower = [_at(plot, x, low) for x, (low, _) in reversed(band)]
        drawn.append(f'<path class="b{style}" d="M{"L".join(upper + lower)}z"/>')
    runs = _runs(plot.xs, line.values)
    long = "".join(f"M{'L'.join(_at(plot, x, value) for x, value in run)}" for run in runs if len(run) > 1)
    dots = "".join(f"M{_at(plot, *run[0])}h0" for run in runs if len(run) == 1)
    drawn += [f'<path class="l{style}" d="{long}"/>'] if long else []
    drawn += [f'<path class="l{style} dots" d="{dots}"/>'] if dots else []
    return "".join(drawn)


def _runs(xs: Sequence[float], values: Sequence[T | None]) -> list[list[tuple[float, T]]]:
    """What stands between gaps."""
    runs: list[list[tuple[float, T]]] = []
    after_gap = True
    for x, value in zip(xs, values, strict=True):
        if value is not None:
            if after_gap:
                runs.append([])
            runs[-1].append((x, value))
        after_gap = value is None
    return runs


def _at(plot: Plot, x: float, y: float) -> str:
    return f"{round(GRID * plot.x.place(x))} {round(GRID * (1 - plot.y.place(y)))}"


def _rules(plot: Plot) -> list[str]:
    drawn = []
    row = 0
    for rule in plot.rules:
        if not rule.vertical:
            at = _percent(1 - plot.y.place(rule.value))
            drawn.append(f'<line class="rule" x2="100%" y1="{at}" y2="{at}"/>')
            continue
        place = plot.x.place(rule.value)
        side = "end" if place > 0.5 else "start"
        row += 1
        drawn.append(f'<line class="rule" x1="{_percent(place)}" x2="{_percent(place)}" y2="100%"/>')
        drawn.append(
            f'<text class="label halo" x="{_percent(place)}" y="{row * LABEL_PIXELS}"'
            f' dx="{-5 if side == "end" else 5}" text-anchor="{side}">{escaped(rule.name)}</text>'
        )
    return drawn


def _marks(plot: Plot) -> list[str]:
    drawn = []
    for mark in plot.marks:
        place = plot.x.place(mark.x)
        x, y = _percent(place), _percent(1 - plot.y.place(mark.y))
        if mark.kind == "held":
            drawn.append(f'<circle class="held" cx="{x}" cy="{y}" r="5"/>')
        elif mark.kind == "missed":
            drawn.append(f'<rect class="missed" x="{x}" y="{y}" width="10" height="10" transform="translate(-5 -5)"/>')
        else:
            drawn.append(f'<rect class="bound" x="{x}" y="{y}" width="18" height="3" transform="translate(-9 -1)"/>')
        if mark.name:
            side = "end" if place > 0.75 else "middle" if place > 0.1 else "start"
            spare = "" if mark.kind == "bound" else " spare"
            drawn.append(
                f'<text class="label halo{spare}" x="{x}" y="{y}" dy="-7" text-anchor="{side}">'
                f"{escaped(mark.name)}</text>"
            )
    return drawn


def _labels(plot: Plot) -> list[str]:
    """Names at the right end of lines and of level rules, moved apart where they would touch."""
    wanted = []
    for line in plot.lines:
        last = next((value for value in reversed(line.values) if value is not None), None)
        if last is not None and len(plot.lines) > 1:
            wanted.append((1 - plot.y.place(last), line.name, f"t{line.style % LINE_STYLES}"))
    wanted += [(1 - plot.y.place(rule.value), rule.name, "tr") for rule in plot.rules if not rule.vertical]
    wanted.sort()
    places = spread_apart([place for place, _, _ in wanted])
    return [
        f'<text class="label end {style}" x="100%" y="{_percent(place)}" dx="6" dy="4">{escaped(name)}</text>'
        for place, (_, name, style) in zip(places, wanted, strict=True)
    ]


def spread_apart(places: Sequence[float]) -> list[float]:
    """`places` (ascending, 0.0 to 1.0 of a plot's height), moved as little as lets labels there be read."""
    gap = LABEL_PIXELS / HEIGHT_PIXELS
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else place)
    limit = 1.0
    for number in reversed(range(len(moved))):
        moved[number] = min(moved[number], limit)
        limit = moved[number] - gap
    return moved


def _data_table(plot: Plot) -> str:
    """What is drawn, as a table; `data-x` is where each row stands, for the read-out."""
    head = "".join(
        f'<th scope="col">{escaped(name)}</th>' for name in (plot.x_name, *(line.name for line in plot.lines))
    )
    rows = []
    for number, (x, text) in enumerate(zip(plot.xs, plot.x_texts, strict=True)):
        cells = "".join(f"<td>{escaped(_value_text(plot, line, number))}</td>" for line in plot.lines)
        rows.append(f'<tr data-x="{plot.x.place(x):.4f}"><th scope="row">{escaped(text)}</th>{cells}</tr>')
    return (
        f'<div class="scroll tall" tabindex="0" role="region" aria-label="Data: {escaped(plot.title)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _value_text(plot: Plot, line: Line, number: int) -> str:
    value = line.values[number]
    if value is None:
        return ""
    span = line.spans[number] if line.spans else None
    text = plot.value_text(value)
    if span is None or span[0] == span[1]:
        return text
    return f"{text} ({plot.value_text(span[0])} to {plot.value_text(span[1])})"
