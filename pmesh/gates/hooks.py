"""Where pytest and pytest-benchmark call the gates; registered when a test or an option asks for a gate."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import pytest

from pmesh.errors import InvalidArgument, InvalidType
from pmesh.gates.measuring import LatencyBenchmark
from pmesh.gates.objectives import Promise, promise_of
from pmesh.gates.regressions import Comparison, Margin, compare
from pmesh.gates.results import EXTRA_INFO, Result, seconds_of
from pmesh.gates.summary import show_comparison, show_latencies

__all__ = ["Gates", "why_disabled"]

# Under which pytest-benchmark registers its session. That, the attributes `compared_mapping` and `storage.query` of it,
# and `disabled` and `has_error` of its fixture are all that the gates use of pytest-benchmark beyond what it documents.
BENCHMARK_SESSION = "pytest-benchmark"


def why_disabled(config: pytest.Config) -> str | None:
    """Why pytest-benchmark measures nothing in this run, or None."""
    if config.getoption("dist", "no") != "no" or hasattr(config, "workerinput"):
        return "benchmarks are disabled under xdist, whose workers disturb each other: run without -n"
    if config.getoption("benchmark_disable", False) and not config.getoption("benchmark_enable", False):
        return "benchmarks are disabled by --benchmark-disable"
    return None


def build_of(info: Mapping[str, object]) -> str:
    """The variants of a build of pmesh that is slow on purpose, such as "debug"; otherwise "release"."""
    from pmesh.environment import slow_variants

    return " and ".join(slow_variants(info)) or "release"


def _says(item: pytest.Item) -> Promise | None:
    """What the markers of `item` promise now."""
    try:
        return promise_of(item)
    except (InvalidArgument, InvalidType) as error:
        pytest.fail(str(error), pytrace=False)


class Gates:
    """All results of a session and what is demanded of them; a plugin of pytest's."""

    NAME = "pmesh-gates"

    def __init__(self, config: pytest.Config, margins: Sequence[Margin]) -> None:
        self._config = config
        self._margins = margins
        self._promises: dict[str, Promise] = {}
        self._refused: dict[str, str] = {}
        self._results: dict[str, Result] = {}
        self._unread: list[str] = []
        self._comparison: Comparison | None = None

    def expect(self, nodeid: str, promise: Promise) -> None:
        """Judge what the test `nodeid` measures by `promise`."""
        self._promises[nodeid] = promise

    def refuse(self, nodeid: str, why: str) -> None:
        """Fail the test `nodeid`, whose markers are no promise."""
        self._refused[nodeid] = why

    def latency_benchmark(self, node: pytest.Item, benchmark: Any, runner: Any) -> LatencyBenchmark:
        """The fixture's value for one test."""
        import pmesh

        build = build_of(pmesh.BUILD_INFO)
        # The first releases of pytest-benchmark 5 do not notice that they run in a worker of xdist.
        obstacle = why_disabled(self._config)
        if obstacle is None and benchmark.disabled:
            obstacle = "pytest-benchmark has disabled benchmarks"
        if obstacle is None and build != "release":
            obstacle = (
                f"this is a {build} build of pmesh ({os.path.dirname(pmesh.__file__)}), whose figures say nothing"
            )
        result = Result(node.nodeid, node.name, self._promises.get(node.nodeid), obstacle, build, benchmark.disabled)
        self._results[node.nodeid] = result
        return LatencyBenchmark(benchmark, runner, result)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        if item.nodeid in self._refused:
            pytest.fail(self._refused[item.nodeid], pytrace=False)
        outcome = yield  # what the test itself raises goes through
        promise, result = self._promises.get(item.nodeid), self._results.get(item.nodeid)
        if _says(item) != promise:
            pytest.fail(
                "cannot judge a marker slo that was added after collection: measuring has not looked at it. Set it on"
                " the test, its class or module, or in pytest_collection_modifyitems",
                pytrace=False,
            )
        if promise is not None:
            objectives = ", ".join(objective.text for objective in promise.objectives)
            why_not = "the test measured nothing: it does not use latency_benchmark"
            if result is not None:
                why_not = result.why_not() or ""
            if why_not:
                pytest.fail(f"cannot judge {objectives}: {why_not}", pytrace=False)
            if result is not None and result.missed():
                pytest.fail(result.explain(), pytrace=False)
        if result is not None:
            result.passed = True
        return outcome

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_json(self, output_json: dict[str, Any]) -> None:
        for benchmark in output_json["benchmarks"]:
            saved = benchmark["extra_info"].get(EXTRA_INFO)
            if isinstance(saved, Mapping):
                benchmark["stats"].update(seconds_of(saved))

    @pytest.hookimpl(trylast=True)  # after pytest-benchmark has loaded what is to be compared with
    def pytest_sessionstart(self) -> None:
        if not self._margins:
            return
        benchmarks: Any = self._config.pluginmanager.get_plugin(BENCHMARK_SESSION)
        asked = self._config.getoption("benchmark_compare")
        # pytest-benchmark goes on without a file that it cannot read.
        query = getattr(benchmarks.storage, "query", None)
        if query is None:  # not kept in files
            return
        wanted = query("[0-9][0-9][0-9][0-9]_")[-1:] if asked is True else query(asked)
        loaded = {path.parts[-2:] for path in benchmarks.compared_mapping}
        self._unread = [file.name for file in wanted if file.parts[-2:] not in loaded]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not self._margins or self._config.option.collectonly:
            return
        benchmarks: Any = self._config.pluginmanager.get_plugin(BENCHMARK_SESSION)
        baselines = {str(path): saved for path, saved in benchmarks.compared_mapping.items()}
        self._comparison = compare(self._results.values(), baselines, self._margins, self._unread)
        if self._comparison.failed and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(wrapper=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> Generator[None, object, object]:
        try:
            return (yield)  # pytest-benchmark raises for a gate of its own
        finally:
            if not self._is_quiet():
                show_latencies(terminalreporter, self._results.values())
            self._show_comparison(terminalreporter)

    def _is_quiet(self) -> bool:
        getoption = self._config.getoption
        return bool(getoption("benchmark_quiet", False) and not getoption("benchmark_verbose", False))

    def pytest_unconfigure(self, config: pytest.Config) -> None:
        # With --no-summary some versions of pytest show no summary of plugins either, and a gate that fails says so.
        terminal = config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            self._show_comparison(terminal)

    def _show_comparison(self, terminal: Any) -> None:
        if self._comparison is not None:
            show_comparison(terminal, self._comparison, self._margins)
            self._comparison = None
