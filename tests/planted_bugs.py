"""Planted bugs: the patches of `tests/mutants`, what they say of themselves, and putting one into a source tree.

Who builds each and runs the tests on it is `tests/mutants/run.py`. A patch is applied by what it replaces and not by
line numbers: it goes on fitting while code around it changes, and fails once it could fit in two places.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PATCHES = Path(__file__).parent / "mutants"

# What a build makes the core from.
CORE_SUFFIXES = (".pyx", ".pxi", ".pxd")


class PatchError(Exception):
    """A patch that cannot be read, or does not fit the tree."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One hunk: text that stands once in a file, and what takes its place."""

    file: str
    line: int  # of the hunk, in the patch
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """One planted bug.

    Attributes:
        description: What is broken, and what a user would see.
        tests: Modules that should catch it, the likeliest first; from the root of the tree.
    """

    name: str
    description: str
    tests: tuple[str, ...]
    edits: tuple[Edit, ...]

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(edit.file for edit in self.edits))

    @property
    def needs_build(self) -> bool:
        return any(file.endswith(CORE_SUFFIXES) for file in self.files)

    def apply(self, root: Path) -> dict[str, str]:
        """The files that it changes below `root`, by name, as they are with the bug in them.

        Raises:
            PatchError: What is to be replaced does not stand in a file, or stands there more than once.
        """
        changed = {file: _read(root, file, self.name) for file in self.files}
        for edit in self.edits:
            found = changed[edit.file].count(edit.before)
            if found != 1:
                raise PatchError(
                    f"{self.name}.patch, line {edit.line}: what it replaces stands {found} times in {edit.file};"
                    " it must stand there once"
                )
            changed[edit.file] = changed[edit.file].replace(edit.before, edit.after)
        return changed


def _read(root: Path, file: str, name: str) -> str:
    try:
        return (root / file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PatchError(f"{name}.patch changes {file}, which is not there") from None


def mutant_names(folder: Path = PATCHES) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.patch"))


def read_mutant(path: Path) -> Mutant:
    """The mutant in the patch file `path`: lines of description, a line `Tests: MODULE...`, a unified diff.

    Raises:
        PatchError: It is none.
    """
    header, tests, edits = [], [], []
    file = ""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.startswith("--- ") and at < len(lines) and lines[at].startswith("+++ b/"):
            file = lines[at].removeprefix("+++ b/").strip()
            at += 1
        elif match := re.match(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@", line):
            if not file:
                raise PatchError(f"{path.name}, line {at}: a hunk of no file")
            length = _hunk_length(lines, at, int(match[1] or 1), int(match[2] or 1), path.name)
            hunk = [" \n" if text == "\n" else text for text in lines[at : at + length]]
            before = "".join(text[1:] for text in hunk if text[0] in " -")
            after = "".join(text[1:] for text in hunk if text[0] in " +")
            edits.append(Edit(file, at, before, after))
            at += length
        elif file:
            raise PatchError(f"{path.name}, line {at}: {line.strip()!r} belongs to no hunk")
        elif line.startswith("Tests:"):
            tests += line.removeprefix("Tests:").split()
        else:
            header.append(line.strip())
    description = " ".join(header).strip()
    for what, found in (("description", description), ("line `Tests:`", tests), ("hunk", edits)):
        if not found:
            raise PatchError(f"{path.name} has no {what}")
    return Mutant(path.stem, description, tuple(tests), tuple(edits))


def _hunk_length(lines: list[str], at: int, before: int, after: int, name: str) -> int:
    """How many lines the hunk has that begins at `at`, with `before` lines of the old text and `after` of the new."""
    length = 0
    while before > 0 or after > 0:
        if at + length >= len(lines) or lines[at + length][0] not in " -+\n":
            raise PatchError(f"{name}, line {at + length}: the hunk ends before its {before} and {after} lines")
        before -= lines[at + length][0] in " -\n"
        after -= lines[at + length][0] in " +\n"
        length += 1
    return length
