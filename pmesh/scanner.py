"""Reading of one-line texts that people write, such as `p99<5ms`: token by token, and where one went wrong.

What the tokens mean is said by who reads: `slo` for objectives, `load.compare` for limits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from pmesh.errors import InvalidArgument, InvalidType

__all__ = ["Quantity", "Scanner", "Unit"]

_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[^\s<>=!≤≥:]+")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_UNIT = re.compile(r"(?:[^\W\d_]+|%)?(?:\s*/\s*[^\W\d_]+)?")


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit in the one it is counted in: `factor` times 10 to the power of `exponent`."""

    name: str
    exponent: int = 0
    factor: int = 1


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a number and its unit measure.

    Attributes:
        noun: As in "a duration".
        example: A number with a unit, as people write it.
        units: By every way of writing them.
    """

    noun: str
    example: str
    units: Mapping[str, Unit]


class Scanner:
    """A text and how far it has been read; spaces between tokens do not count.

    Args:
        what: What the text should be, for errors: "objective".

    Raises:
        InvalidType: `text` is no str.
    """

    def __init__(self, what: str, text: str, example: str) -> None:
        if not isinstance(text, str):
            raise InvalidType(f"{what} is the {type(text).__name__} {text!r}; it must be a str such as {example!r}")
        self._what = what
        self._text = text
        self._at = 0
        self._skip_space()

    @property
    def column(self) -> int:
        """Column of the next token, from 1; one past the end of the text where nothing is left."""
        return self._at + 1

    def fail(self, problem: str, column: int | None = None) -> NoReturn:
        """Refuse the text because of what stands at `column`, by default the next token."""
        raise InvalidArgument(f"{self._what} {self._text!r}, column {column or self.column}: {problem}")

    def name(self, names: Iterable[str], kind: str, listed: str) -> str:
        """The next word, which must be one of `names` in small letters; `listed` tells people of them."""
        names = tuple(names)
        word = self._peek(_WORD)
        if word.lower() not in names:
            self.fail(f"{self._found(word)}; {kind} is one of {listed}{_suggestion(word.lower(), names)}")
        self._advance(len(word))
        return word.lower()

    def symbol(self, symbols: Iterable[str], expected: str) -> str:
        """The next token, which must be one of `symbols`; the longest that fits."""
        for symbol in sorted(symbols, key=len, reverse=True):
            if self._text.startswith(symbol, self._at):
                self._advance(len(symbol))
                return symbol
        self.fail(f"{self._found()}; {expected}")

    def amount(self, quantity: Quantity) -> tuple[float, str]:
        """The next number and its unit: in what the quantity is counted in, and written without ado."""
        digits = self._peek(_NUMBER)
        if not digits:
            self.fail(
                f"{self._found()}; {quantity.noun} is a number that is not negative, and its unit,"
                f" as in {quantity.example}"
            )
        column = self.column
        self._advance(len(digits))
        written = self._peek(_UNIT)
        unit = quantity.units.get(re.sub(r"\s", "", written))
        if unit is None:
            names = list(dict.fromkeys(unit.name for unit in quantity.units.values()))
            listed = f"one of {', '.join(names)}" if len(names) > 1 else names[0]
            self.fail(
                f"{self._found(written)}; the unit of {quantity.noun} is {listed}, as in {quantity.example}"
                f"{_suggestion(written, names)}"
            )
        self._advance(len(written))
        # The power of ten goes into the text: 99.9 / 100 would not be the float 0.999.
        value = float(f"{digits}e{unit.exponent}") * unit.factor
        if value == float("inf"):
            self.fail("the number is too large", column)
        return value, _plain(digits) + unit.name

    def end(self, hint: str) -> None:
        """Refuse what is left."""
        if self._at < len(self._text):
            self.fail(f"{self._found()} after the end; {hint}")

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        assert match is not None
        self._at = match.end()

    def _advance(self, length: int) -> None:
        self._at += length
        self._skip_space()

    def _peek(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        return match.group() if match else ""

    def _found(self, token: str = "") -> str:
        token = token or self._text[self._at :].split(maxsplit=1)[0] if self._at < len(self._text) else ""
        return f"found {token!r}" if token else "the text ends here"


def _plain(digits: str) -> str:
    """`digits` without zeros that say nothing."""
    whole, _, fraction = digits.partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


def _suggestion(word: str, names: Iterable[str]) -> str:
    # Imported for an error only.
    import difflib

    by_letters = {name.lower(): name for name in names}
    close = difflib.get_close_matches(word.lower(), by_letters, 1)
    return f"; did you mean {by_letters[close[0]]!r}?" if close else ""
