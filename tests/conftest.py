"""Event loops and coordinators for the tests: in virtual time unless a test asks for all loops.

A test takes `run` (and mostly `mesh`) and is in virtual time; one that names `loop_kind` as well
runs three times: in virtual time, on asyncio's own loop and on uvloop.

    def test_ask_returns_what_the_handler_returns(run, mesh, loop_kind):
        async def main():
            async with mesh() as bus:
                echo = await bus.spawn(lambda payload: payload)
                assert await echo.ask(1) == 1
        run(main)
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from pmesh import BUILD_INFO, Coordinator
from pmesh.testing.loop import VirtualTimeLoop

LOOP_KINDS = ("virtual", "asyncio", "uvloop")

# How long an example takes depends on what else the machine does.
settings.register_profile("pmesh", deadline=None)
settings.load_profile("pmesh")
# For `--hypothesis-profile`, where each test is run several times at once.
settings.register_profile("few", deadline=None, max_examples=10)

# What `--core-only` leaves out: it hardly touches the core, and takes half of the time. The second part depends on the
# interpreter nevertheless, and on what pytest there is for it: `--without-reports` leaves out the first part only.
REPORTS_AND_DOCUMENTATION = (
    "test_bench_exports.py",
    "test_bench_statistics.py",
    "test_benchmark_tools.py",
    "test_checks.py",
    "test_compare.py",
    "test_docs.py",
    "test_document.py",
    "test_drift.py",
    "test_fuzz_programs.py",
    "test_html.py",
    "test_interleaving.py",
    "test_markdown.py",
    "test_mutants.py",
    "test_outputs.py",
    "test_packaging.py",
    "test_peers.py",
    "test_readme.py",
    "test_search.py",
    "test_slo.py",
    "test_tables.py",
    "test_targets.py",
    "test_terminal.py",
    "test_testing_docs.py",
)
PLUGIN_AND_PROGRAMS = (
    "test_cli.py",
    "test_info.py",
    "test_load_driving.py",
    "test_plugin_docs.py",
    "test_plugin_measuring.py",
    "test_plugin_regressions.py",
    "test_plugin_simulation.py",
    "test_plugin_slo.py",
    "test_pytest_plugin.py",
)

# Started with SIGINT ignored, as shells start what runs in the background, programs go on ignoring it: tests of
# Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Real seconds after which a test on a real loop has hung. In virtual time that is a `Deadlock`.
GUARD_SECONDS = 30.0 * int(os.environ.get("PMESH_STRESS", "1")) * (10 if BUILD_INFO["sanitize"] else 1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--core-only", action="store_true", help="Leave out test files that hardly touch the core.")
    parser.addoption(
        "--without-reports",
        action="store_true",
        help="Of these leave out only what does not depend on the interpreter.",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    left_out: tuple[str, ...] = ()
    if config.getoption("core_only") or config.getoption("without_reports"):
        left_out = REPORTS_AND_DOCUMENTATION
    if config.getoption("core_only"):
        left_out += PLUGIN_AND_PROGRAMS
    return True if collection_path.name in left_out else None


def make_loop(kind: str) -> asyncio.AbstractEventLoop:
    if kind == "virtual":
        return VirtualTimeLoop()
    if kind == "asyncio":
        return asyncio.SelectorEventLoop()
    import uvloop

    return uvloop.new_event_loop()


@pytest.fixture(params=LOOP_KINDS)
def loop_kind(request: pytest.FixtureRequest) -> str:
    """Which event loop the test runs on; naming it runs the test on each."""
    kind: str = request.param
    if kind == "uvloop" and importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop IS NOT INSTALLED: nothing was tested on it")
    return kind


class Run:
    """Runs a coroutine function on a loop of its own, as `asyncio.run` does.

    A hang fails. So does whatever was reported to the loop's exception handler: `loop_errors`, where a test takes out
    what it expects. Threads that run the same test share this and `mesh`, but each has its own loop and coordinators.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.loop_errors: list[dict[str, Any]] = []

    def __call__(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
        errors: list[dict[str, Any]] = []
        self.loop_errors = errors
        with asyncio.Runner(loop_factory=lambda: make_loop(self.kind)) as runner:
            runner.get_loop().set_exception_handler(lambda loop, context: errors.append(context))
            result = runner.run(self._guarded(function, args))
        assert not errors, f"reported to the loop's exception handler: {errors}"
        return result

    async def _guarded(self, function: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]) -> Any:
        if self.kind == "virtual":
            return await function(*args)
        async with asyncio.timeout(GUARD_SECONDS):
            return await function(*args)


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Run:
    """`run(coroutine_function, *args)`: its result, from a new event loop of the test's kind."""
    return Run(request.getfixturevalue("loop_kind") if "loop_kind" in request.fixturenames else "virtual")


@pytest.fixture
def mesh() -> Iterator[Callable[..., Coordinator]]:
    """`mesh(**options)` inside of `run`: a Coordinator on that loop's clock.

    When the test is over, the account of each must balance, and nothing be pending in one that
    was left.
    """
    made: list[Coordinator] = []

    def make(name: str = "test", **options: Any) -> Coordinator:
        options.setdefault("clock", getattr(asyncio.get_running_loop(), "clock", None))
        coordinator = Coordinator(name, **options)
        made.append(coordinator)
        return coordinator

    yield make
    for coordinator in made:
        stats = coordinator.stats()
        assert stats.imbalance is None, stats
        if "closed" in repr(coordinator):
            assert stats.pending == 0, stats


@pytest.fixture
def python() -> Callable[..., str]:
    """`python(code)`: the output of `code` in an interpreter of its own, which must end well."""

    def run_code(code: str, *, timeout: float = 60.0) -> str:
        # -P: the installed package, and not the checkout in the current folder.
        command = [sys.executable, "-P", "-c", textwrap.dedent(code)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run_code


@pytest.fixture(scope="session")
def hdrh() -> Any:
    """The module `hdrh.histogram`, where it can be had without turning the GIL on."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("importing hdrh turns the GIL back on, and the thread tests would then show nothing")
    return pytest.importorskip(
        "hdrh.histogram", reason="no hdrh here (no wheel for 3.15 and 3.14t): not compared with HdrHistogram"
    )
