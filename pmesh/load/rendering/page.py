"""The frame of an HTML page that needs nothing else: its head with style and script, its top, its sections."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING

from pmesh.load.rendering.markup import Markup, element

if TYPE_CHECKING:
    from pmesh.load.rendering.findings import Notice

__all__ = ["header", "page", "section", "show_notices"]

# The page may run its own script and style, and fetch nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"

VERDICT_STYLES = {True: "good", False: "bad", None: "open"}


def header(title: str, told: Sequence[str], verdict: str, good: bool | None) -> Markup:
    """The top of a page: what it is, what it was measured on, and the verdict."""
    return element(
        "header",
        element("h1", title),
        *(element("p", line, class_="dim") for line in told),
        element("p", verdict, class_=f"verdict {VERDICT_STYLES[good]}"),
    )


def page(title: str, head: str, parts: Sequence[str]) -> str:
    """A whole document: `head`, then `parts` as its main part."""
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            element("title", title),
            '<link rel="icon" href="data:,">',
            f"<style>\n{_asset('page.css')}</style>",
            "</head>",
            "<body>",
            '<a class="skip" href="#main">Skip to the figures</a>',
            head,
            '<main id="main" tabindex="-1">',
            *parts,
            "</main>",
            f"<script>\n{_asset('page.js')}</script>",
            "</body>",
            "</html>\n",
        )
    )


def _asset(name: str) -> str:
    return resources.files("pmesh.load.rendering").joinpath(name).read_text(encoding="utf-8")


def section(place: str, title: str, *content: str) -> Markup:
    """A part of the page with the id `place` and a heading."""
    return element(
        "section", element("h2", title, id=f"{place}-title"), *content, id=place, aria_labelledby=f"{place}-title"
    )


def show_notices(notices: Sequence[Notice]) -> Markup | str:
    """Each notice in a box of its own."""
    if not notices:
        return ""
    items = (element("li", notice.text, class_="grave" if notice.grave else "mild") for notice in notices)
    return element("ul", *items, class_="notices", aria_label="Notices")
