"""That the sanitizers watch: errors planted into a copy of the core are found by the tests of the suite.

It builds the copy, with `PMESH_SANITIZE`; `tox run -e asan` runs this.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from test_packaging import ROOT, build, copy_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RECORDER = "pmesh/_core_recorder.pxi"

# What stands in the recorder, what is planted instead, a test that comes by it, and what is to be said of it.
PLANTED = {
    "an out-of-bounds write": (
        "self._counters + first, 0, <size_t>(self._last() + 1 - first)",
        "self._counters + first, 0, <size_t>HDR_COUNTERS",
        "test_reset_forgets_everything",
        "AddressSanitizer: heap-buffer-overflow",
    ),
    "a signed overflow": (
        "fits = source._count <= INT64_MAX - self._count",
        "fits = source._count + self._count >= 0",
        "test_a_merge_that_would_overflow_is_refused_and_changes_nothing",
        "runtime error: signed integer overflow",
    ),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pmesh and all that is planted in it."""
    project = copy_project(tmp_path_factory.mktemp("planted") / "project")
    source = project / RECORDER
    text = source.read_text()
    for sound, unsound, _, _ in PLANTED.values():
        assert text.count(sound) == 1, f"there is not one {sound!r} in {RECORDER} any more"
        text = text.replace(sound, unsound)
    source.write_text(text)
    wheel = build("wheel", project, project / "dist", PMESH_SANITIZE="address,undefined")
    with zipfile.ZipFile(wheel) as contents:
        contents.extractall(project / "installed")
    return project / "installed"


@pytest.mark.parametrize("error", PLANTED)
def test_an_error_planted_into_the_core_is_found_by_the_tests_of_the_suite(planted: Path, error: str) -> None:
    _, _, test, says = PLANTED[error]
    done = subprocess.run(
        [sys.executable, "-P", ROOT / "tests" / "sanitized.py", ROOT / "tests" / "test_recorder.py", "-k", test],
        env={**os.environ, "PYTHONPATH": str(planted)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0, done.stdout
    assert says in done.stderr, done.stdout + done.stderr
    # With the line of the core that it is in.
    assert "_core" in done.stderr.partition(says)[2]


def test_a_build_without_sanitizers_is_refused() -> None:
    wheel_of_this_run = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = "import sanitized; sanitized.sanitizers_of_the_build = lambda: []; sanitized.main([])"
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=ROOT / "tests", env=wheel_of_this_run, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "has no sanitizers" in done.stderr


@pytest.mark.parametrize("value", ["leak", "address,thread", "address;undefined"])
def test_sanitizers_that_do_not_go_are_refused(tmp_path: Path, value: str) -> None:
    project = copy_project(tmp_path / "project")
    command = [sys.executable, "setup.py", "--quiet", "build_ext"]
    variables = {**os.environ, "PMESH_SANITIZE": value}
    done = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "PMESH_SANITIZE=" in done.stderr
