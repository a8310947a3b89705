"""Plants one bug after the other in a copy of the source tree, and shows which test catches it.

    python tests/mutants/run.py                    all of them, about five minutes on two cores
    python tests/mutants/run.py lost-wake          those of these names
    python tests/mutants/run.py --all-tests NAME   every test for each, and how many fail: minutes for each
    python tests/mutants/run.py --tests "tests/test_promises.py --pmesh-seeds 1000"
                                                   what these tests catch by themselves
    python tests/mutants/run.py --list             what there is

Each is a `.patch` beside this file. The modules it names are run first and until a test fails; where none fails, the
whole suite is (not with `--tests`). The core is built without optimisation and, as in a release, without asserts: those
of a debug build would catch some of the bugs, and users do not run one. Exits 0 when every bug is caught, 1 when one
survives, does not fit the tree or does not build, and 2 when the tests fail without any bug.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from planted_bugs import CORE_SUFFIXES, Mutant, PatchError, mutant_names, read_mutant  # noqa: E402 - found by the path

ROOT = HERE.parents[1]

# What tests read, beside the files at the top of the tree.
FOLDERS = ("pmesh", "tests", "benchmarks", "docs", ".ci")
LEFT_OUT = shutil.ignore_patterns("*.so", "*.c", "__pycache__", "*.egg-info")

# Two flags that a build for these takes instead: it is made again for each bug, and runs for seconds.
RELEASE_FLAG, QUICK_FLAG = '"-O3"', '"-O0"'

BUILD_SECONDS = 300.0
WHOLE_SUITE_SECONDS = 1_800.0

# A run has hung when it takes so many times what it takes without a bug, and at least so long. The same holds of one
# test; the slowest of the modules chosen sets the measure.
HUNG_RATIO = 5.0
HUNG_SECONDS = 30.0

CAUGHT = ("caught", "hung", "crashed")


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutant, or of the tests without one."""

    verdict: str  # one of CAUGHT, "survived", or what went wrong
    test: str = ""  # the first that failed, or that ran last
    build_seconds: float = 0.0
    test_seconds: float = 0.0
    failures: int = 0
    detail: str = ""  # output that explains what went wrong


@dataclasses.dataclass(frozen=True, slots=True)
class Times:
    """How long tests took without a bug."""

    by_module: Mapping[str, float]
    slowest: Mapping[str, float]  # test of each module

    def limits(self, tests: Sequence[str]) -> tuple[float, float]:
        """After how many seconds a run of these modules, and a test of them, has hung."""
        whole = sum(self.by_module.get(test, 0.0) for test in tests or self.by_module)
        slowest = max((self.slowest.get(test, 0.0) for test in tests or self.slowest), default=0.0)
        return HUNG_SECONDS + HUNG_RATIO * whole, max(HUNG_SECONDS, HUNG_RATIO * slowest)


class Processes:
    """Runs commands, each in a process group of its own, and ends them all when this program is ended."""

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._lock = threading.Lock()
        self._ended = False

    def run(self, command: Sequence[str], cwd: Path, log: Path, seconds: float, **variables: str) -> int | None:
        """The exit code of a command whose output goes to `log`; None when it ran out of time and was killed."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PMESH_", "PYTHONPATH"))}
        with log.open("wb") as output, self._lock:
            if self._ended:
                raise KeyboardInterrupt
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=inherited | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running.add(process.pid)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with self._lock:
                self._running.discard(process.pid)
                _kill(process.pid)  # what it left behind, too
            process.wait()

    def end(self) -> None:
        with self._lock:
            self._ended = True
            for pid in self._running:
                _kill(pid)


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


class Bench:
    """A source tree without a bug, built, and copies of it with one each."""

    def __init__(self, scratch: Path, processes: Processes) -> None:
        self._scratch = scratch
        self._processes = processes
        self._whole: Times | None = None
        self._whole_lock = threading.Lock()
        self.tree = scratch / "unpatched"

    def build_unpatched(self) -> Outcome:
        self.tree.mkdir()
        for folder in FOLDERS:
            if (ROOT / folder).is_dir():
                shutil.copytree(ROOT / folder, self.tree / folder, ignore=LEFT_OUT)
        for path in ROOT.iterdir():
            if path.is_file():
                shutil.copy2(path, self.tree)
        setup = (self.tree / "setup.py").read_text(encoding="utf-8")
        if setup.count(RELEASE_FLAG) != 1:
            return Outcome("no build", detail=f"setup.py must have {RELEASE_FLAG} once, to be replaced by {QUICK_FLAG}")
        (self.tree / "setup.py").write_text(setup.replace(RELEASE_FLAG, QUICK_FLAG), encoding="utf-8")
        return self._build(self.tree)

    def _build(self, tree: Path) -> Outcome:
        log = tree / "build.log"
        started = time.monotonic()
        command = (sys.executable, "setup.py", "--quiet", "build_ext", "--inplace")
        code = self._processes.run(command, tree, log, BUILD_SECONDS, CFLAGS="-g0 -w")
        seconds = time.monotonic() - started
        if code:
            return Outcome("no build", build_seconds=seconds, detail=_tail(log))
        if code is None:
            return Outcome("no build", build_seconds=seconds, detail=f"it took more than {BUILD_SECONDS:g} s")
        # What is tested must be this tree, whatever is installed.
        program = "import pmesh._core as core; print(core.__file__)"
        log = tree / "import.log"
        self._processes.run((sys.executable, "-P", "-c", program), tree, log, 60.0, PYTHONPATH=str(tree))
        if not log.read_text(errors="replace").startswith(str(tree)):
            return Outcome("no build", build_seconds=seconds, detail=_tail(log))
        return Outcome("built", build_seconds=seconds)

    def times(self, tests: Sequence[str]) -> tuple[Outcome, Times]:
        """Run modules, or all for none, without a bug."""
        name = "tests" if tests else "whole"
        report = self.tree / f"{name}.xml"
        outcome = self._test(
            self.tree, tests, WHOLE_SUITE_SECONDS, 120.0, "--maxfail=1", f"--junitxml={report}", log=f"{name}.log"
        )
        by_module: dict[str, float] = {}
        slowest: dict[str, float] = {}
        if outcome.verdict == "survived":
            for case in ElementTree.parse(report).iter("testcase"):
                # The module, and a class in it where there is one.
                module = re.sub(r"\.[A-Z].*", "", case.get("classname", "")).replace(".", "/") + ".py"
                seconds = float(case.get("time", 0))
                by_module[module] = by_module.get(module, 0.0) + seconds
                slowest[module] = max(slowest.get(module, 0.0), seconds)
        return outcome, Times(by_module, slowest)

    def _whole_times(self) -> Times:
        with self._whole_lock:
            if self._whole is None:
                outcome, self._whole = self.times(())
                if outcome.verdict != "survived":
                    raise UnpatchedFails(outcome)
            return self._whole

    def try_mutant(self, mutant: Mutant, times: Times, *, all_tests: bool, no_others: bool) -> Outcome:
        """Plant a bug, and run the tests of the mutant.

        Args:
            all_tests: Run every test instead, and count those that fail.
            no_others: Do not run the whole suite where none of the mutant's tests fails.
        """
        tree = self._scratch / mutant.name
        shutil.copytree(self.tree, tree, ignore=shutil.ignore_patterns("build", "__pycache__", ".hypothesis"))
        try:
            changed = mutant.apply(tree)
        except PatchError as error:
            return Outcome("does not fit", detail=str(error))
        for file, text in changed.items():
            (tree / file).write_text(text, encoding="utf-8")
        built = Outcome("built")
        if mutant.needs_build:
            for old in (tree / "pmesh").glob("*.so"):
                old.unlink()
            built = self._build(tree)
            if built.verdict != "built":
                return built
        if all_tests:
            outcome = self._test(tree, (), *self._whole_times().limits(()))
        else:
            outcome = self._test(tree, mutant.tests, *times.limits(mutant.tests), "--maxfail=1")
            if outcome.verdict == "survived" and not no_others:
                outcome = self._test(tree, (), *self._whole_times().limits(()), "--maxfail=1")
        shutil.rmtree(tree)
        return dataclasses.replace(outcome, build_seconds=built.build_seconds)

    def _test(
        self, tree: Path, tests: Sequence[str], seconds: float, test_seconds: float, *options: str, log: str = "log"
    ) -> Outcome:
        """Run modules in order, or the whole suite for none."""
        command = (
            *(sys.executable, "-m", "pytest", "-v", "--no-header", "-p", "no:cacheprovider", "--hypothesis-seed=0"),
            *(f"--timeout={test_seconds:g}", *options, *tests),
        )
        output = tree / log
        started = time.monotonic()
        code = self._processes.run(command, tree, output, seconds, PYTHONPATH=str(tree))
        took = time.monotonic() - started
        text = output.read_text(encoding="utf-8", errors="replace")
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+::\S.*?)(?: - .*)?$", text, re.MULTILINE)
        last = re.findall(
            r"^(\S+\.py::.*?)(?: (?:PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS|Fatal Python error|\+\+\+).*)?$",
            text,
            re.MULTILINE,
        )
        started_last = last[-1].strip() if last else "no test"
        if code is None:
            return Outcome("hung", started_last, test_seconds=took)
        if code == 0:
            return Outcome("survived", test_seconds=took)
        if code == 1 and failed:
            return Outcome("caught", failed[0], test_seconds=took, failures=len(dict.fromkeys(failed)))
        if code < 0 or "Fatal Python error" in text or "+++ Timeout +++" in text:
            return Outcome("crashed", started_last, test_seconds=took)
        return Outcome("not tested", test_seconds=took, detail=_tail(output))


class UnpatchedFails(Exception):
    """The tests fail without any bug."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"without any bug: {outcome.verdict} {outcome.test}\n{outcome.detail}".rstrip())


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def table(results: Mapping[Mutant, Outcome]) -> str:
    """Mutants, what became of them, and by which test."""
    width = max(len(mutant.name) for mutant in results)
    rows = [f"{'mutant':{width}}  {'outcome':<12}  {'build':>7}  {'tests':>7}  first test that fails"]
    for mutant, outcome in results.items():
        count = f" (and {outcome.failures - 1} more)" if outcome.failures > 1 else ""
        rows.append(
            f"{mutant.name:{width}}  {outcome.verdict:<12}  {outcome.build_seconds:5.1f} s "
            f" {outcome.test_seconds:5.1f} s  {outcome.test.removeprefix('tests/')}{count}"
        )
    return "\n".join(rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Plant one bug after the other, and show which test catches it.",
        epilog="Exits 0 when every bug is caught, 1 when one is not, 2 when the tests fail without any bug.",
    )
    parser.add_argument("names", nargs="*", metavar="MUTANT", help="which; all by default")
    parser.add_argument("--list", action="store_true", help="say what there is, and end")
    parser.add_argument("--all-tests", action="store_true", help="run every test for each, and count those that fail")
    parser.add_argument(
        "--tests",
        type=shlex.split,
        metavar="ARGUMENTS",
        help="run pytest with these modules and options for each, instead of the tests that it names",
    )
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="N", help="how many at a time")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work there, and leave logs and trees behind")
    arguments = parser.parse_args()
    if arguments.jobs < 1:
        parser.error(f"--jobs is {arguments.jobs}; it must be at least 1")
    if arguments.tests is not None and not any((ROOT / test).is_file() for test in arguments.tests):
        parser.error(f"--tests is {shlex.join(arguments.tests)!r}; it must have a module, as 'tests/test_promises.py'")
    if arguments.tests is not None and arguments.all_tests:
        parser.error("--tests and --all-tests cannot both be given")
    unknown = set(arguments.names) - set(mutant_names())
    if unknown:
        parser.error(f"no mutant is called {', '.join(sorted(unknown))}; there are {', '.join(mutant_names())}")
    return arguments


def run(
    mutants: Sequence[Mutant], scratch: Path, processes: Processes, *, jobs: int, all_tests: bool, no_others: bool
) -> int:
    bench = Bench(scratch, processes)
    started = time.monotonic()
    built = bench.build_unpatched()
    if built.verdict != "built":
        print(f"the tree does not build without any bug:\n{built.detail}")
        return 2
    print(f"built the tree without any bug in {built.build_seconds:.1f} s", flush=True)
    modules = tuple(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    unpatched, times = bench.times(modules)
    if unpatched.verdict != "survived":
        print(UnpatchedFails(unpatched))
        return 2
    print(f"without any bug the tests pass in {unpatched.test_seconds:.1f} s", flush=True)
    results: dict[Mutant, Outcome] = {}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = {
            pool.submit(bench.try_mutant, mutant, times, all_tests=all_tests, no_others=no_others): mutant
            for mutant in mutants
        }
        try:
            for future in concurrent.futures.as_completed(futures):
                mutant, outcome = futures[future], future.result()
                results[mutant] = outcome
                print(
                    f"[{len(results):2}/{len(mutants)}] {mutant.name}: {outcome.verdict}"
                    f"{f' by {outcome.test}' if outcome.test else ''} ({outcome.build_seconds:.1f} s to build,"
                    f" {outcome.test_seconds:.1f} s of tests)",
                    flush=True,
                )
                if outcome.detail:
                    print(outcome.detail, flush=True)
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.end()
            if isinstance(error, UnpatchedFails):
                print(error)
                return 2
            raise
    results = {mutant: results[mutant] for mutant in mutants}
    print(f"\n{table(results)}\n")
    caught = sum(outcome.verdict in CAUGHT for outcome in results.values())
    for mutant, outcome in results.items():
        if outcome.verdict not in CAUGHT:
            print(f"NOT CAUGHT: {mutant.name} ({outcome.verdict}): {mutant.description}")
    print(f"{caught} of {len(results)} caught, in {time.monotonic() - started:.0f} s")
    return 0 if caught == len(results) else 1


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, _interrupt)  # what runs in groups of its own would be left behind
    mutants = []
    for name in arguments.names or mutant_names():
        try:
            mutants.append(read_mutant(HERE / f"{name}.patch"))
        except PatchError as error:
            print(error)
            return 1
    if arguments.list:
        for mutant in mutants:
            kind = "core" if any(file.endswith(CORE_SUFFIXES) for file in mutant.files) else "Python"
            print(f"{mutant.name} ({kind}): {mutant.description}")
        return 0
    if arguments.tests is not None:
        mutants = [dataclasses.replace(mutant, tests=tuple(arguments.tests)) for mutant in mutants]
    processes = Processes()
    options = {
        "jobs": arguments.jobs,
        "all_tests": arguments.all_tests,
        "no_others": arguments.tests is not None,
    }
    try:
        if arguments.keep is not None:
            arguments.keep.mkdir(parents=True)
            return run(mutants, arguments.keep.resolve(), processes, **options)
        with tempfile.TemporaryDirectory(prefix="pmesh-mutants-") as scratch:
            return run(mutants, Path(scratch).resolve(), processes, **options)
    except KeyboardInterrupt:
        return 130
    finally:
        processes.end()


if __name__ == "__main__":
    sys.exit(main())
