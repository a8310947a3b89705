"""The A/B runner as it is used: from the command line, on a project that builds in no time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmark_tools import PACKAGE, Project

pytestmark = pytest.mark.tools

SLOWER = PACKAGE.replace("spin(turns)\n", "spin(2 * turns)\n")
QUICK = ("--pairs", "8", "--batches", "3")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clean project; tests that change it put it back."""
    return Project(tmp_path_factory.mktemp("shared"))


@pytest.fixture
def project(shared: Project) -> Project:
    shared.git("reset", "--quiet", "--hard")
    shared.git("clean", "--quiet", "-d", "--force")
    return shared


def test_what_became_slower_is_named_and_makes_the_exit_code_one(project: Project, tmp_path: Path) -> None:
    project.write("pmesh/__init__.py", SLOWER)

    done = project.ab("HEAD", *QUICK, "--json", str(tmp_path / "ab.json"))

    assert done.returncode == 1, done.stderr + done.stdout
    rows = {row["name"]: row["difference"] for row in json.loads((tmp_path / "ab.json").read_text())["rows"]}
    assert rows["spin: more"]["verdict"] == "slower"
    assert 1.5 < rows["spin: more"]["ratio"] < 2.7
    assert rows["spin: alone"]["verdict"] == "no difference"
    assert "SLOWER" in done.stdout


def test_a_slower_benchmark_is_let_through_when_nothing_is_to_fail(project: Project) -> None:
    project.write("pmesh/__init__.py", SLOWER)

    done = project.ab("HEAD", *QUICK, "--only", "more", "--fail-on", "none")

    assert done.returncode == 0, done.stderr + done.stdout
    assert "spin: alone" not in done.stdout


def test_the_tree_compared_with_itself_shows_no_difference(project: Project) -> None:
    done = project.ab("--self-test", "2", *QUICK)

    assert done.returncode == 0, done.stderr + done.stdout
    assert "0 false alarms in 2 comparisons with 4 verdicts" in done.stdout


def test_figures_are_written_for_other_programs(project: Project, tmp_path: Path) -> None:
    outputs = ["--github", str(tmp_path / "github.json"), "--bencher", str(tmp_path / "bencher.json")]

    done = project.ab("HEAD", "--pairs", "2", "--batches", "1", *outputs)

    assert done.returncode == 0, done.stderr + done.stdout
    assert {entry["name"] for entry in json.loads((tmp_path / "github.json").read_text())} == {
        f"{name} ({measure})" for name in ("spin: alone", "spin: more") for measure in ("latency", "ratio")
    }
    assert json.loads((tmp_path / "bencher.json").read_text())["spin: more"]["ratio"]["lower_value"] > 0


def test_a_benchmark_that_the_revision_cannot_run_is_said_to_be_missing_there(project: Project) -> None:
    project.write("pmesh/__init__.py", PACKAGE + "\ndef spin_anew(turns):\n    spin(turns)\n")
    bench = (project.root / "benchmarks" / "bench_spin.py").read_text()
    project.write("benchmarks/bench_anew.py", "from pmesh import spin_anew\n" + bench.replace("spin:", "anew:"))
    project.write("benchmarks/bench_spin.py", bench.replace("timed(pmesh.spin_more)", "timed(pmesh.spin_anew)"))

    done = project.ab("HEAD", "--pairs", "2", "--batches", "1")

    assert done.returncode == 0, done.stderr + done.stdout
    missing = [line for line in done.stdout.splitlines() if "not in HEAD" in line]
    assert [line.split("  ")[0] for line in missing] == ["anew: alone", "anew: more", "spin: more"]
    assert "cannot import name 'spin_anew'" in missing[0]
    assert "has no attribute 'spin_anew'" in missing[2]


def test_a_revision_that_can_run_none_of_the_benchmarks_was_not_compared_with(project: Project) -> None:
    project.write("pmesh/__init__.py", PACKAGE + "\ndef spin_anew(turns):\n    spin(turns)\n")
    bench = (project.root / "benchmarks" / "bench_spin.py").read_text()
    project.write("benchmarks/bench_spin.py", "from pmesh import spin_anew\n" + bench)

    done = project.ab("HEAD", "--pairs", "2", "--batches", "1")

    assert done.returncode == 2, done.stderr + done.stdout
    assert "spin: alone  not in HEAD" in done.stdout


def test_a_benchmark_that_the_working_tree_cannot_run_makes_the_exit_code_two(project: Project) -> None:
    project.write("pmesh/__init__.py", PACKAGE.replace("def spin_more", "def spin_less"))

    done = project.ab("HEAD", "--pairs", "2", "--batches", "1")

    assert done.returncode == 2, done.stderr + done.stdout
    assert "FAILED in the working tree: AttributeError" in done.stdout


def test_a_process_that_dies_ends_the_comparison_and_is_named(project: Project) -> None:
    dying = "import os\n\ndef spin(turns):\n    os.abort()\n\nspin_more = spin\n"
    project.write("pmesh/__init__.py", dying)

    done = project.ab("HEAD", "--only", "alone", "--pairs", "2", "--batches", "1")

    assert done.returncode == 2
    assert "ab.py: the working tree, run 20: the process ended by SIGABRT" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "give a revision to compare with, such as HEAD, or --self-test N"),
        (["HEAD", "--self-test", "1"], "give a revision to compare with, such as HEAD, or --self-test N"),
        (["HEAD", "--pairs", "1"], "--pairs must be at least 2 and --batches at least 1"),
        (["--self-test", "0"], "--self-test must be at least 1"),
        (["nowhere"], "no revision is called 'nowhere'; it must be a commit, a branch or a tag, such as HEAD~1"),
        (["--version"], "unrecognized arguments"),
        (["HEAD", "--only", "swim"], "no benchmark has 'swim' in its name; there are: spin: alone, spin: more"),
    ],
)
def test_a_mistake_in_the_command_is_named_with_what_would_be_right(
    project: Project, arguments: list[str], complaint: str
) -> None:
    done = project.ab(*arguments)

    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_build_that_fails_shows_the_end_of_its_output(project: Project) -> None:
    project.write("backend.py", "def build_wheel(*_, **__):\n    raise SystemExit('no such compiler')\n")
    project.write("pmesh/__init__.py", PACKAGE + "# another wheel\n")

    done = project.ab("HEAD")

    assert done.returncode == 2
    assert "ab.py: building the working tree failed; the end of its output:" in done.stderr
    assert "no such compiler" in done.stderr


def test_what_is_no_git_checkout_is_refused(project: Project, tmp_path: Path) -> None:
    (project.root / ".git").rename(tmp_path / "git")
    try:
        done = project.ab("HEAD")
    finally:
        (tmp_path / "git").rename(project.root / ".git")

    assert done.returncode == 2
    assert "is not a git checkout; there is no revision to compare with" in done.stderr


def test_without_git_the_error_says_so(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    done = project.ab("HEAD")

    assert done.returncode == 2
    assert "git is not installed" in done.stderr


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="THERE IS NO /proc HERE: that processes end was not tested"
)


def has_ended(pid: int) -> bool:
    """Whether a process that was killed is gone, or waits for its parent to notice; within five seconds."""
    for _ in range(1_000):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.005)
    return False


def workers_of(parent: int) -> set[int]:
    """Process ids of the workers that `parent` has running."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, father = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(father) == parent and state != "Z" and b"ab_worker" in (folder / "cmdline").read_bytes():
                found.add(int(folder.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


@contextlib.contextmanager
def started(project: Project, scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A long self-test whose temporary files go to `scratch`."""
    running = subprocess.Popen(
        project.command("--self-test", "100"),
        env=os.environ | {"TMPDIR": str(scratch)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        yield running
    finally:
        running.terminate()
        running.communicate(timeout=20)


@needs_proc
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_the_processes_and_leaves_no_folder(
    project: Project, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    workers: set[int] = set()
    with started(project, tmp_path) as running:
        while len(workers) < 2 and running.poll() is None:
            time.sleep(0.005)
            workers = workers_of(running.pid)
        running.send_signal(number)
        _, complaint = running.communicate(timeout=20)

    assert running.returncode == code, complaint
    assert b"Traceback" not in complaint
    assert list(tmp_path.iterdir()) == []
    assert all(map(has_ended, workers))


@needs_proc
def test_an_interrupt_ends_a_build(project: Project, tmp_path: Path) -> None:
    scratch, building = tmp_path / "scratch", tmp_path / "building"
    scratch.mkdir()
    pause = f"import os, pathlib, time\npathlib.Path({str(building)!r}).write_text(str(os.getpid()))\ntime.sleep(100)\n"
    project.write("backend.py", pause)
    project.write("pmesh/__init__.py", PACKAGE + "# a wheel that is never built\n")
    with started(project, scratch) as running:
        while not (building.exists() and building.read_text()) and running.poll() is None:
            time.sleep(0.005)
        running.send_signal(signal.SIGINT)
        _, complaint = running.communicate(timeout=20)

    assert running.returncode == 130, complaint
    assert list(scratch.iterdir()) == []
    assert has_ended(int(building.read_text()))
