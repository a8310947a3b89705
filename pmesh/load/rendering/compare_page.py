"""Two load reports as one HTML page: what changed in figures, and both distributions in one plot per profile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pmesh.load.rendering.figures import percentile_plot
from pmesh.load.rendering.findings import Notice, environment_line
from pmesh.load.rendering.markup import Markup, element, table
from pmesh.load.rendering.page import header, page, section, show_notices
from pmesh.units import duration_text

if TYPE_CHECKING:
    from pmesh.load.compare import Breach, Change, Comparison, ProfileComparison

__all__ = ["compare_page"]


def compare_page(comparison: Comparison, breaches: Sequence[Breach] = ()) -> str:
    """The page of a comparison.

    Args:
        breaches: Limits that are not kept; the verdict of the page.
    """
    told = [
        f"{side}: {environment_line(document.environment)}"
        for side, document in (("before", comparison.before), ("after", comparison.after))
    ]
    verdict, good = _verdict(comparison, breaches)
    notices = [Notice(warning, True) for warning in comparison.warnings]
    notices += [Notice(f"Only the first has {name}.") for name in comparison.only_before]
    notices += [Notice(f"Only the second has {name}.") for name in comparison.only_after]
    notices += [Notice(note) for note in comparison.notes]
    parts: list[str] = [show_notices(notices)]
    parts += [_profile(f"profile-{number}", profile) for number, profile in enumerate(comparison.profiles)]
    return page(f"pmesh compare: {verdict}", header("pmesh load, before and after", told, verdict, good), parts)


def _verdict(comparison: Comparison, breaches: Sequence[Breach]) -> tuple[str, bool | None]:
    if breaches:
        return f"Limits not kept: {'; '.join(map(str, breaches))}.", False
    if not comparison.profiles and not comparison.searches:
        return "The two have no profile in common.", False
    if not comparison.is_comparable:
        return "The two were not measured alike: what changed may come from that.", None
    return "Measured alike.", None


def _profile(place: str, profile: ProfileComparison) -> Markup:
    recorders = {}
    for side, report in (("before", profile.before), ("after", profile.after)):
        recorder = report.recorders.get("latency")
        if recorder is not None:
            recorders[side] = recorder
    p99s = [duration_text(report.latency_ns.p99) for report in (profile.before, profile.after)]
    loops = " and ".join(dict.fromkeys((profile.before.mode, profile.after.mode)))
    plot = percentile_plot(
        f"{place}-percentiles",
        f"Latency by percentile, before and after ({loops} loop)",
        f"p99 {p99s[0]} before, {p99s[1]} after.",
        recorders,
    )
    return section(
        place,
        profile.name,
        show_notices([Notice(warning, True) for warning in profile.warnings]),
        table(
            f"Change of {profile.name}",
            ("figure", "change", "", "before", "after"),
            [_row(change) for change in profile.changes],
        ),
        plot or element("p", "No times, so nothing to plot.", class_="dim"),
    )


def _row(change: Change) -> tuple[str, ...]:
    ratio = change.ratio
    moved = ""
    if change.before != change.after and change.before is not None and change.after is not None:
        moved = element(
            "span", "worse" if change.is_worse else "better", class_="missed" if change.is_worse else "held"
        )
    values = ("-" if value is None else change.text_of(value) for value in (change.before, change.after))
    return (change.name, "" if ratio is None else f"{ratio:+.1%}", change.remark or moved, *values)
