"""The plugin in other people's projects: what it costs where it is not used, and beside which plugins it works."""

from __future__ import annotations

import importlib.metadata
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pmesh.gates.measuring import TIMER

if TYPE_CHECKING:
    from plugin_projects import Project

pytest_plugins = ("pytester", "plugin_projects")

ROOT = Path(__file__).parent.parent


@pytest.fixture
def bare(project: Project) -> Project:
    """A project without a conftest, so that nothing but pytest and the plugin imports anything."""
    (project.path / "conftest.py").unlink()
    return project


# Where it is not used.


NOTE_MODULES = """
import sys

def test_it():
    pass

def test_what_was_imported():
    print("modules:", *sorted(sys.modules))
"""


def modules_of(result: pytest.RunResult) -> set[str]:
    [line] = [line for line in result.outlines if "modules:" in line]
    return set(line.partition("modules:")[2].split())


def test_a_run_that_does_not_use_it_imports_nothing_but_the_plugin(
    bare: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    bare.write(NOTE_MODULES)
    without = modules_of(bare.pytester.runpytest_subprocess("-s", "-p", "no:cacheprovider"))
    used = modules_of(bare.pytester.runpytest_subprocess("-s", "-p", "no:cacheprovider", "-p", "pmesh.pytest_plugin"))
    assert "pmesh.pytest_plugin" in used
    assert not [name for name in used if name.startswith("pytest_benchmark")]
    assert {name for name in used - without if name.startswith("pmesh")} == {"pmesh", "pmesh.pytest_plugin"}
    assert {name.partition(".")[0] for name in used - without} == {"pmesh"}


def test_measuring_sync_code_imports_the_core_only_when_it_runs(bare: Project) -> None:
    bare.write("""
    import sys

    seen = ["pmesh._core" in sys.modules]

    def test_before():
        seen.append("pmesh._core" in sys.modules)

    def test_it(latency_benchmark):
        latency_benchmark(len, ())
        assert seen == [False, False]
        assert "pmesh._core" in sys.modules
        assert "pmesh.load" not in sys.modules
    """)
    bare.run_apart().assert_outcomes(passed=2)


def test_without_pytest_benchmark_the_rest_works_and_latency_benchmark_says_what_to_install(project: Project) -> None:
    project.write("""
    import pytest

    def test_mesh(mesh):
        assert mesh.stats().accepted == 0

    @pytest.mark.slo("p99<5ms")
    def test_promise():
        pass

    def test_it(latency_benchmark):
        latency_benchmark(len, ())
    """)
    result = project.run("-p", "no:benchmark", "--strict-markers")
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["latency_benchmark needs pytest-benchmark, *`pip install 'pmesh?benchmark?'` installs it*"]
    )
    result.stdout.fnmatch_lines(
        ["FAILED test_it.py::test_promise - Failed: cannot judge p99<5ms: the test measured nothing*"]
    )
    result = project.run("-p", "no:benchmark", "--pmesh-p99-fail=10%")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --pmesh-p99-fail cannot judge: needs pytest-benchmark, *"])


def test_it_loads_where_pytest_benchmark_is_not_installed(bare: Project) -> None:
    bare.write("def test_it(mesh): pass")
    bare.write(
        """
        import sys

        sys.modules["pytest_benchmark"] = None
        import pytest

        sys.exit(pytest.main(["-p", "no:benchmark", "-p", "pmesh.pytest_plugin", "test_it.py"]))
        """,
        "blocked",
    )
    result = bare.pytester.run(sys.executable, "-c", _autoload_off("blocked"))
    result.assert_outcomes(passed=1)


def _autoload_off(module: str) -> str:
    return f"import os; os.environ['PYTEST_DISABLE_PLUGIN_AUTOLOAD'] = '1'; import {module}"


def test_the_wheel_names_the_plugin_and_the_extra_pins_pytest_benchmark() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"pmesh": "pmesh.pytest_plugin"}
    assert "pytest-benchmark>=5,<6" in project["optional-dependencies"]["benchmark"]


# What it leans on in pytest-benchmark. One of these breaks before anything else does.


def test_pytest_benchmark_is_in_the_pinned_range() -> None:
    assert importlib.metadata.version("pytest-benchmark").split(".")[0] == "5"


def test_pytest_benchmark_registers_its_session_with_the_baselines_by_path(pytestconfig: pytest.Config) -> None:
    session: Any = pytestconfig.pluginmanager.get_plugin("pytest-benchmark")
    assert session.compared_mapping == {}


def test_a_baseline_maps_ids_of_tests_to_what_was_saved(project: Project) -> None:
    project.write("def test_it(latency_benchmark): latency_benchmark(len, ())")
    project.run("--benchmark-save=base")
    project.conftest("""
    def pytest_sessionfinish(session):
        [(path, saved)] = session.config.pluginmanager.get_plugin("pytest-benchmark").compared_mapping.items()
        print("path", path.name, {test: {"extra_info", "stats"} <= set(each) for test, each in saved.items()})
    """)
    result = project.run("-s", "--benchmark-compare")
    result.stdout.fnmatch_lines(["*path 0001_base.json {'test_it.py::test_it': True}"])


def test_pytest_benchmark_finds_saved_runs_by_the_globs_that_it_compares_with(project: Project) -> None:
    project.write("def test_it(latency_benchmark): latency_benchmark(len, ())")
    project.run("--benchmark-save=base")
    project.run("--benchmark-save=base")
    project.conftest("""
    def pytest_sessionfinish(session):
        benchmarks = session.config.pluginmanager.get_plugin("pytest-benchmark")
        both = ["0001_base.json", "0002_base.json"]
        for asked, expected in (("[0-9][0-9][0-9][0-9]_", both), ("*", both), ("0002", both[1:])):
            assert [path.name for path in benchmarks.storage.query(asked)] == expected
        [compared] = benchmarks.compared_mapping
        assert compared.parts[-2:] == benchmarks.storage.query("0002")[0].parts[-2:]
        print("as expected")
    """)
    project.run("-s", "--benchmark-compare").stdout.fnmatch_lines(["*as expected"])


def test_pytest_benchmark_has_the_options_that_say_what_it_does(pytestconfig: pytest.Config) -> None:
    for name in ("compare", "disable", "enable", "quiet", "verbose"):
        assert hasattr(pytestconfig.option, f"benchmark_{name}"), name


def test_the_benchmark_fixture_has_what_is_used_of_it(project: Project) -> None:
    project.write("""
    import inspect

    def test_it(benchmark):
        assert benchmark.disabled is False
        assert benchmark.has_error is False
        assert benchmark.extra_info == {}
        assert {"target", "rounds"} <= set(inspect.signature(benchmark.pedantic).parameters)
        benchmark.pedantic(len, args=((),))
    """)
    project.run().assert_outcomes(passed=1)


def test_pedantic_reads_the_timer_before_and_after_each_round_and_nowhere_else(project: Project) -> None:
    project.write("""
    import pytest

    from pmesh.gates.measuring import CallTimer

    timer = CallTimer()
    moments = iter([0.25, 1.0, 0.5])

    def one_round():
        timer.seconds += next(moments)

    @pytest.mark.benchmark(timer=timer)
    def test_it(benchmark):
        benchmark.pedantic(one_round, rounds=3)
        assert benchmark.stats.stats.data == [0.25, 1.0, 0.5]
    """)
    project.run().assert_outcomes(passed=1)


def test_the_saved_json_goes_through_the_hook_that_adds_percentiles(pytestconfig: pytest.Config) -> None:
    hook = pytestconfig.pluginmanager.hook.pytest_benchmark_update_json
    assert "output_json" in hook.spec.argnames


def test_the_timer_says_in_the_json_what_it_is(project: Project) -> None:
    project.write("def test_it(latency_benchmark): latency_benchmark(len, ())")
    assert project.saved()["test_it"]["options"]["timer"] == repr(TIMER) == "pmesh: time of a call"


# Beside other plugins.


@pytest.fixture
def needs(project: Project) -> Any:
    from plugin_projects import require_package

    return require_package


PROMISE = """
import pytest

@pytest.mark.slo("p99<5s")
def test_promised(latency_benchmark):
    latency_benchmark(len, ())

@pytest.mark.parametrize("turn", range(3))
def test_others(latency_benchmark, mesh, turn):
    latency_benchmark(len, ())
"""


def test_under_xdist_what_is_promised_fails_and_says_so(project: Project, needs: Any) -> None:
    needs("xdist")
    project.write(PROMISE)
    result = project.run_apart("-n", "2")
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["*cannot judge p99<5s: benchmarks are disabled under xdist, *run without -n"])
    result = project.run_apart("-n", "2", "--benchmark-compare", "--pmesh-p99-fail=10%")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --pmesh-p99-fail cannot judge: benchmarks are disabled under xdist, *"])
    project.run_apart("-n", "0").assert_outcomes(passed=4)


def test_under_xdist_a_bad_marker_fails_the_run_and_names_the_test(project: Project, needs: Any) -> None:
    needs("xdist")
    project.write("import pytest\n@pytest.mark.slo('p99<5')\ndef test_it(latency_benchmark): pass")
    result = project.run_apart("-n", "2")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["FAILED test_it.py::test_it - Failed: objective 'p99<5', column 6: *"])


def test_a_test_of_pytest_asyncio_gets_a_clear_error_and_the_rest_works(project: Project, needs: Any) -> None:
    needs("pytest_asyncio")
    project.write("""
    import asyncio

    import pytest

    import pmesh

    @pytest.mark.asyncio
    async def test_other_loop(mesh):
        with pytest.raises(pmesh.WrongLoop, match="spawn\\\\(\\\\) belongs to the event loop of coordinator"):
            await mesh.spawn(lambda payload: payload)

    @pytest.mark.asyncio
    async def test_measured_inside(latency_benchmark):
        with pytest.raises(pmesh.WrongLoop, match="make the test a plain `def`"):
            latency_benchmark(asyncio.sleep, 0)

    @pytest.mark.asyncio
    async def test_own_coordinator():
        async with pmesh.Coordinator() as mesh:
            echo = await mesh.spawn(lambda payload: payload)
            assert await echo.ask(1) == 1

    def test_plain(mesh, latency_benchmark):
        assert latency_benchmark(asyncio.sleep, 0).count == 1_000
    """)
    result = project.run_apart(
        "-W",
        "error",
        "-W",
        "ignore:Benchmark fixture was not used",
        "-o",
        "asyncio_default_fixture_loop_scope=function",
    )
    result.assert_outcomes(passed=4)


def test_a_test_of_anyio_gets_a_clear_error_and_the_rest_works(project: Project, needs: Any) -> None:
    needs("anyio")
    project.write("""
    import asyncio

    import pytest

    import pmesh

    @pytest.fixture
    def anyio_backend():
        return "asyncio"

    @pytest.mark.anyio
    async def test_other_loop(mesh):
        with pytest.raises(pmesh.WrongLoop):
            await mesh.spawn(lambda payload: payload)

    def test_plain(mesh, latency_benchmark):
        assert latency_benchmark(asyncio.sleep, 0).count == 1_000
    """)
    project.run_apart("-p", "no:asyncio").assert_outcomes(passed=2)


def test_ctrl_c_ends_a_measurement_at_once_and_closes_the_mesh_without_draining(project: Project) -> None:
    # The handler never ends: a mesh that drained would wait for it for 30 s.
    project.write("""
    import asyncio
    import signal

    def test_it(latency_benchmark, mesh, pmesh_runner):
        async def forever(payload):
            await asyncio.sleep(3_600)

        async def main():
            stuck = await mesh.spawn(forever, name="stuck")
            asyncio.get_running_loop().call_later(0.05, signal.raise_signal, signal.SIGINT)
            await stuck.ask("never", timeout=3_600)

        latency_benchmark(main)

    def test_that_is_not_reached():
        print("reached")
    """)
    result = project.run_apart("-s", "--benchmark-autosave", timeout=25.0)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in result.stdout.str()
    assert "reached" not in result.stdout.str().replace("not_reached", "")
    assert "Traceback" not in result.stderr.str()


def test_it_works_in_a_project_whose_warnings_are_errors(project: Project) -> None:
    project.write(PROMISE)
    project.run_apart("-p", "no:asyncio", "-W", "error", "--strict-markers", "--strict-config").assert_outcomes(
        passed=4
    )


def test_the_fixtures_are_listed_with_what_they_do(project: Project) -> None:
    text = project.run("--fixtures").stdout.str()
    for name in ("latency_benchmark", "mesh", "mesh_options", "pmesh_runner"):
        assert textwrap.dedent(f"{name} ") in text.replace("[session scope]", "")
    project.run("--help").stdout.fnmatch_lines(
        ["pmesh: latency gates:", "  --pmesh-loop=*", "  --pmesh-p99_9-fail=PERCENT"]
    )
