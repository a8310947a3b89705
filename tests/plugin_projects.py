"""Somebody else's project, in a folder of its own, whose tests are run with `pmesh.pytest_plugin`.

pytest_plugins = ("pytester", "plugin_projects")

def test_a_promise(project):
    project.write("def test_it(latency_benchmark): ...")
    project.run("--benchmark-quiet").assert_outcomes(passed=1)
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import textwrap
from typing import Any

import pytest

import pmesh

# The installed package is found by its entry point, and pytest refuses to load a plugin under two names.
INSTALLED = any(point.value == "pmesh.pytest_plugin" for point in importlib.metadata.entry_points(group="pytest11"))
PLUGIN = () if INSTALLED else ("-p", "pmesh.pytest_plugin")

# hypothesis is imported by its plugin when a run ends, and compiled anew in each.
OPTIONS = (*PLUGIN, "-p", "no:cacheprovider", "-p", "no:hypothesispytest")

ALONE = ("-p", "no:asyncio", "-p", "no:anyio")

# `cpuinfo`, which pytest-benchmark asks what the machine is, takes a second.
CONFTEST = """
import pmesh
import pytest

pmesh.BUILD_INFO.update(debug=False, trace=False, sanitize="")

@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_generate_machine_info():
    return {}
"""

# Latencies made up: what the gates make of them can be told exactly.
SAMPLES = """
import json
import pathlib

from pmesh import LatencyRecorder

def recorder_of(*values_ns, count=1_000, rest_ns=1_000):
    recorder = LatencyRecorder()
    for value_ns in (*values_ns, *[rest_ns] * (count - len(values_ns))):
        recorder.record(value_ns)
    return recorder
"""


def require_package(name: str) -> None:
    """Skip loudly where `name` is not installed; fail where `CI` is set."""
    if importlib.util.find_spec(name) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed; the dependency group `test` has it")
        pytest.skip(f"{name} IS NOT INSTALLED: nothing was tested with it")


class Project:
    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path
        pytester.makeconftest(CONFTEST)
        self.write(SAMPLES, "samples")

    def write(self, code: str, name: str = "test_it") -> None:
        self.pytester.makepyfile(**{name: textwrap.dedent(code)})

    def conftest(self, code: str) -> None:
        """Add `code` to the project's conftest."""
        self.pytester.makeconftest(CONFTEST + textwrap.dedent(code))

    def run(self, *options: str) -> pytest.RunResult:
        """Run pytest in this process."""
        return self.pytester.runpytest_inprocess(*OPTIONS, *ALONE, "-W", "default", *options)

    def run_apart(self, *options: str, timeout: float = 60.0) -> pytest.RunResult:
        """Run pytest in a process of its own."""
        return self.pytester.runpytest_subprocess(*OPTIONS, *options, timeout=timeout)

    def saved(self, *options: str) -> dict[str, Any]:
        """Run, and return what pytest-benchmark saved: each benchmark by its name."""
        self.run("--benchmark-json", "saved.json", *options)
        saved = json.loads((self.path / "saved.json").read_text(encoding="utf-8"))
        return {benchmark["name"]: benchmark for benchmark in saved["benchmarks"]}


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    # Put back in the end: the project's conftest changes what this process shares with it.
    for variant, off in (("debug", False), ("trace", False), ("sanitize", "")):
        monkeypatch.setitem(pmesh.BUILD_INFO, variant, off)
    # Those of the run that this test is in.
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "300")  # the short summary is cut to the width of the terminal
    return Project(pytester)
