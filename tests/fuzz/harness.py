"""What the fuzz programs have in common: the way to the checks, seeds, and choices made from the fuzzer's bytes.

A program imports pmesh and its checks within `instrumented()`, so that atheris learns which lines its inputs reach.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import atheris

sys.path.append(str(Path(__file__).resolve().parents[1]))

__all__ = ["FuzzedChoices", "FuzzedDataProvider", "fuzz", "instrumented"]

FuzzedDataProvider = atheris.FuzzedDataProvider

LONGEST_TEXT = 40


def instrumented() -> AbstractContextManager[None]:
    return atheris.instrument_imports(include=["pmesh"])


class FuzzedChoices:
    """The `Choices` of `fuzz_edits`, read off what the fuzzer gives."""

    def __init__(self, data: bytes) -> None:
        self._provider = FuzzedDataProvider(data)

    def index(self, count: int) -> int:
        return self._provider.ConsumeIntInRange(0, count - 1)

    def text(self) -> str:
        return self._provider.ConsumeUnicode(self.index(LONGEST_TEXT))

    def integer(self) -> int:
        return self._provider.ConsumeInt(self.index(12))

    def number(self) -> float:
        return self._provider.ConsumeFloat()


def fuzz(check: Callable[[bytes], None], seeds: Iterable[bytes] = ()) -> None:
    """Give `check` inputs until the time that the command line names is over; ends the program.

    The first folder on the command line is the corpus, which gets the seeds. A file instead is one input, to be
    tried again.
    """
    folders = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    if folders and folders[0].is_dir():
        for number, seed in enumerate(seeds):
            (folders[0] / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
