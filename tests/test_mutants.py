"""The planted bugs of `tests/mutants` fit the source, and the program that plants them tells caught from not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from planted_bugs import PATCHES, PatchError, mutant_names, read_mutant

ROOT = Path(__file__).resolve().parents[1]

# The kinds of bugs that the suite is known to catch; a new patch needs no entry here.
AT_LEAST = 16


@pytest.mark.parametrize("name", mutant_names())
def test_a_planted_bug_fits_the_source_and_says_what_a_user_would_see(name: str) -> None:
    mutant = read_mutant(PATCHES / f"{name}.patch")
    for file, text in mutant.apply(ROOT).items():
        assert file.startswith("pmesh/")
        assert text != (ROOT / file).read_text(encoding="utf-8")
    assert "A user " in mutant.description
    assert mutant.tests
    for test in mutant.tests:
        assert (ROOT / test).is_file()


def test_there_are_enough_planted_bugs_and_no_two_are_the_same() -> None:
    edits = [read_mutant(PATCHES / f"{name}.patch").edits for name in mutant_names()]
    assert (
        len({tuple((edit.file, edit.before, edit.after) for edit in mutant) for mutant in edits})
        == len(edits)
        >= AT_LEAST
    )


HEADER = "It counts wrong. A user sees one too few.\nTests: tests/test_count.py\n"
FIX = "--- a/pmesh/count.py\n+++ b/pmesh/count.py\n@@ -1,2 +1,2 @@\n def count(things):\n-    return len(things)\n"


def patch(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "planted.patch"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no description"),
        ("Tests: x\n", "has no description"),
        ("It is broken.\n" + FIX + "+    return 0\n", "has no line `Tests:`"),
        (HEADER, "has no hunk"),
        (HEADER + FIX, r"line 7: the hunk ends before its 0 and 1 lines"),
        (HEADER + FIX + "?\n", r"line 7: the hunk ends before its 0 and 1 lines"),
        (HEADER + FIX + "+    return 0\nmore\n", r"line 9: 'more' belongs to no hunk"),
        (HEADER + "@@ -1 +1 @@\n-a\n+b\n", r"line 3: a hunk of no file"),
    ],
)
def test_a_patch_that_is_none_says_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PatchError, match=message):
        read_mutant(patch(tmp_path, text))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"changes pmesh/count\.py, which is not there"),
        ("def count(things):\n    return 1\n", r"line 5: what it replaces stands 0 times in pmesh/count\.py"),
        (2 * "def count(things):\n    return len(things)\n", r"line 5: what it replaces stands 2 times"),
    ],
)
def test_a_patch_that_fits_nowhere_or_twice_is_refused(tmp_path: Path, source: str | None, message: str) -> None:
    mutant = read_mutant(patch(tmp_path, HEADER + FIX + "+    return 0\n"))
    (tmp_path / "pmesh").mkdir()
    if source is not None:
        (tmp_path / "pmesh" / "count.py").write_text(source)
    with pytest.raises(PatchError, match=message):
        mutant.apply(tmp_path)


def test_a_patch_fits_wherever_its_lines_have_moved(tmp_path: Path) -> None:
    mutant = read_mutant(patch(tmp_path, HEADER + FIX + "+    return 0\n"))
    assert not mutant.needs_build
    (tmp_path / "pmesh").mkdir()
    source = "\n\nimport x\n\n\ndef count(things):\n    return len(things)\n\n\nrest = 1\n"
    (tmp_path / "pmesh" / "count.py").write_text(source)
    assert mutant.apply(tmp_path) == {"pmesh/count.py": source.replace("len(things)", "0")}


# The program, on a package that needs no compiler.

SETUP = """
import pathlib, sys
flags = ["-O3"]
if "cannot be compiled" in pathlib.Path("pmesh/_core.pyx").read_text():
    sys.exit("error: it cannot be compiled")
"""

TESTS = """
import os, time
from pmesh.count import count

def test_nothing_is_counted_as_nothing():
    assert count([]) == 0

def test_each_is_counted_once():
    assert count([1, 2]) == 2
"""


class Project:
    """A tree with the program, a package that is called pmesh, and mutants as they are asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("pmesh/__init__.py", "")
        self.write("pmesh/_core.py", "")
        self.write("pmesh/pytest_plugin.py", "")  # where pmesh is installed, pytest loads it from here
        self.write("pmesh/_core.pyx", "pass\n")
        self.write("pmesh/count.py", "import os, time\n\n\ndef count(things):\n    return len(things)\n")
        self.write("setup.py", SETUP)
        self.write("tests/test_count.py", TESTS)
        self.write(
            "tests/test_other.py", "from pmesh.count import count\n\ndef test_more():\n    assert count('abc') == 3\n"
        )
        for name in ("planted_bugs.py", "mutants/run.py"):
            self.write(f"tests/{name}", (ROOT / "tests" / name).read_text(encoding="utf-8"))

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def plant(self, name: str, replacement: str) -> None:
        self.write(f"tests/mutants/{name}.patch", HEADER + FIX + f"+    {replacement}\n")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(self.root / "tests" / "mutants" / "run.py"), *arguments],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def rows(output: str) -> dict[str, list[str]]:
    """The cells of the table, by name of the mutant."""
    lines = output[output.index("mutant  ") :].splitlines()
    return {line.split()[0]: line.split() for line in lines[1 : lines.index("")]}


@pytest.mark.tools
def test_bugs_that_fail_crash_or_hang_a_test_are_caught(project: Project) -> None:
    project.plant("one-off", "return len(things) - (1 if len(things) > 1 else 0)")
    project.plant("elsewhere", "return len(things) - len(set(things) & {'a'})")
    project.plant("crash", "return os.abort()")
    project.plant("endless", "return time.sleep(1_000)")
    done = project.run("--jobs", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("4 of 4 caught, in ")
    found = rows(done.stdout)
    assert found["one-off"][1] == "caught"
    assert found["one-off"][-1] == "test_count.py::test_each_is_counted_once"
    # Only the whole suite finds that one.
    assert found["elsewhere"][-1] == "test_other.py::test_more"
    assert found["crash"][1] == "crashed"
    assert found["endless"][1] in ("caught", "hung")
    assert found["crash"][-1] == found["endless"][-1] == "test_count.py::test_nothing_is_counted_as_nothing"


@pytest.mark.tools
def test_all_tests_are_counted_when_asked_for(project: Project) -> None:
    project.plant("one-off", "return len(things) + 1")
    done = project.run("--all-tests", "one-off")
    assert done.returncode == 0, done.stdout
    assert "test_count.py::test_nothing_is_counted_as_nothing (and 2 more)" in done.stdout


@pytest.mark.tools
def test_chosen_tests_are_run_alone_with_their_options(project: Project) -> None:
    project.plant("one-off", "return len(things) + 1")
    project.plant("elsewhere", "return len(things) - len(set(things) & {'a'})")
    done = project.run("--tests", "tests/test_count.py -k 'once or nothing'")
    assert (done.returncode, done.stderr) == (1, "")
    found = rows(done.stdout)
    assert found["one-off"][1] == "caught"
    assert found["elsewhere"][1] == "survived", "the module that catches it was not asked for"
    assert done.stdout.splitlines()[-1].startswith("1 of 2 caught, in ")
    refused = project.run("--tests", "-k once")
    assert refused.returncode == 2
    assert "--tests is '-k once'; it must have a module, as 'tests/test_promises.py'" in refused.stderr


@pytest.mark.tools
def test_a_bug_that_survives_is_named_and_fails(project: Project) -> None:
    project.plant("one-off", "return len(things) + 1")
    project.plant("harmless", "return sum(1 for thing in things)")
    done = project.run()
    assert done.returncode == 1
    assert rows(done.stdout)["harmless"][1] == "survived"
    assert "NOT CAUGHT: harmless (survived): It counts wrong. A user sees one too few." in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 of 2 caught, in ")


@pytest.mark.tools
def test_a_patch_that_does_not_fit_and_one_that_does_not_build_fail(project: Project) -> None:
    project.plant("one-off", "return len(things) + 1")
    fitting = (project.root / "tests/mutants/one-off.patch").read_text()
    project.write("tests/mutants/misfit.patch", fitting.replace("-    return len(things)", "-    return size(things)"))
    core = "--- a/pmesh/_core.pyx\n+++ b/pmesh/_core.pyx\n@@ -1 +1 @@\n-pass\n+cannot be compiled\n"
    project.write("tests/mutants/uncompiled.patch", HEADER + core)
    done = project.run()
    assert done.returncode == 1
    assert "misfit.patch, line 5: what it replaces stands 0 times in pmesh/count.py" in done.stdout
    assert "error: it cannot be compiled" in done.stdout
    assert rows(done.stdout)["one-off"][1] == "caught"
    assert done.stdout.splitlines()[-1].startswith("1 of 3 caught, in ")


@pytest.mark.tools
def test_tests_that_fail_without_a_bug_prove_nothing(project: Project) -> None:
    project.plant("one-off", "return len(things) + 1")
    project.write("pmesh/count.py", "def count(things):\n    return len(things)\n\n\ncount = bool\n")
    done = project.run()
    assert done.returncode == 2
    assert "without any bug: caught tests/test_count.py::test_each_is_counted_once" in done.stdout
    assert "of 1 caught" not in done.stdout


@pytest.mark.tools
def test_an_unknown_mutant_is_refused_with_those_there_are(project: Project) -> None:
    project.plant("one-off", "return 0")
    done = project.run("one-on")
    assert done.returncode == 2
    assert "no mutant is called one-on; there are one-off" in done.stderr
    listed = project.run("--list")
    assert (listed.returncode, listed.stdout) == (0, "one-off (Python): It counts wrong. A user sees one too few.\n")
