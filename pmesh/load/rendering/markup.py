"""Pieces of an HTML page: escaped text, tables, lists. What a report shows in them is `html` and `plots`."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

__all__ = ["Markup", "definition_list", "element", "table"]


class Markup(str):
    """Text that is HTML already; every other string is escaped where it enters a page."""

    __slots__ = ()


def escaped(text: str) -> str:
    return text if isinstance(text, Markup) else html.escape(text)


def element(name: str, *content: str, **attributes: str) -> Markup:
    """The element `name`; a trailing underscore of an attribute's name is dropped, others become dashes."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for key, value in attributes.items()
    )
    return Markup(f"<{name}{written}>{''.join(map(escaped, content))}</{name}>")


def table(
    caption: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    class_: str = "plain",
) -> Markup:
    """A table in a box of its own that scrolls where it is wider than the page, by keyboard too.

    The first cell of each row is its heading.
    """
    head = "".join(element("th", heading, scope="col") for heading in headings)
    body = "".join(
        f'<tr><th scope="row">{escaped(row[0])}</th>{"".join(element("td", cell) for cell in row[1:])}</tr>'
        for row in rows
    )
    rows_of_table = Markup(f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>")
    inner = element("table", element("caption", caption, class_="unseen"), rows_of_table, class_=class_)
    return element("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)


def definition_list(pairs: Iterable[tuple[str, str]], *, class_: str) -> Markup:
    """Pairs of a name and what it stands for."""
    return element(
        "dl", Markup("".join(f"{element('dt', name)}{element('dd', text)}" for name, text in pairs)), class_=class_
    )
