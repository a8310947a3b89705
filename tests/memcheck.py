"""Every public call of pmesh under valgrind's memcheck: fails when it finds an error in the core.

    python tests/memcheck.py [TIMES]        each call so often, by default twice

Memory comes from malloc, or valgrind would see the interpreter's arenas and not what is taken from them. An error is
the core's when the core is in the stack that it happened in, that the memory was allocated in, or that an uninitialised
value came from. Of the interpreter's own there are some that are none (see FALSE_ORIGINS).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pmesh
from pmesh import _core

CALLS = Path(__file__).with_name("public_calls.py")

# Where the values come from that CPython computes with and does not use: before 3.12 the int 0 has a digit that nobody
# wrote, which is multiplied by its size, which is 0. All that is looked up by the product is "uninitialised" then.
FALSE_ORIGINS = ("_PyLong_New",)


@dataclass(frozen=True)
class Finding:
    """One error that valgrind reports."""

    kind: str
    text: str
    stacks: tuple[tuple[tuple[str, str], ...], ...]  # function and file of the object, innermost first

    @property
    def is_false(self) -> bool:
        """Whether it is an uninitialised value of an origin that is known to be harmless."""
        return self.kind.startswith("Uninit") and any(
            function in FALSE_ORIGINS for stack in self.stacks[1:] for function, _ in stack
        )

    def is_of(self, library: str) -> bool:
        """Whether `library` had a part in it."""
        return not self.is_false and any(path == library for stack in self.stacks for _, path in stack)

    def __str__(self) -> str:
        stacks = "\n    which came from\n".join(
            "\n".join(f"    {function} ({Path(path).name})" for function, path in stack) for stack in self.stacks
        )
        return f"{self.kind}: {self.text}\n{stacks}"


def findings_in(report: str) -> Iterator[Finding]:
    """What stands in valgrind's XML."""
    for error in ElementTree.fromstring(report).iter("error"):
        stacks = tuple(
            tuple((frame.findtext("fn", "?"), frame.findtext("obj", "?")) for frame in stack.iter("frame"))
            for stack in error.findall("stack")
        )
        text = error.findtext("what") or error.findtext("xwhat/text", "")
        yield Finding(error.findtext("kind", "?"), text, stacks)


def run(times: int) -> list[Finding]:
    """All that valgrind finds in a run of all calls."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        sys.exit("valgrind is not installed; it is in the Debian package valgrind (apt-get install valgrind)")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [valgrind, "--tool=memcheck", "--track-origins=yes", "--leak-check=full", "--num-callers=40"]
        command += ["--show-leak-kinds=definite,indirect", "--xml=yes", f"--xml-file={report}"]
        done = subprocess.run(
            [*command, sys.executable, str(CALLS), str(times)],
            env={**os.environ, "PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            check=False,
        )
        print(done.stdout, end="")
        if done.returncode:
            sys.exit(f"the calls failed with {done.returncode}:\n{done.stderr}")
        return list(findings_in(report.read_text(encoding="utf-8", errors="replace")))


def main(arguments: list[str]) -> int:
    if pmesh.BUILD_INFO["sanitize"]:
        sys.exit("this build of pmesh has sanitizers, which do not run under valgrind")
    findings = run(int(arguments[0]) if arguments else 2)
    library = os.path.realpath(_core.__file__)
    ours = [finding for finding in findings if finding.is_of(library)]
    for finding in ours:
        print(finding)
    false = sum(finding.is_false for finding in findings)
    print(
        f"{len(ours)} errors in {Path(library).name};"
        f" {len(findings) - len(ours) - false} of the interpreter and its modules, {false} known to be none"
    )
    return 1 if ours else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
