"""The fixtures `mesh` and `latency_benchmark`: what they run, what they time, and what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from plugin_projects import Project

pytest_plugins = ("pytester", "plugin_projects")


def test_mesh_is_a_running_coordinator_that_is_closed_after_the_test(project: Project) -> None:
    project.write("""
    seen = []

    def test_it_runs(mesh, pmesh_runner):
        async def main():
            echo = await mesh.spawn(lambda payload: payload, name="echo")
            return await echo.ask("hello")
        assert pmesh_runner.run(main()) == "hello"
        seen.append(mesh)

    def test_it_was_closed_and_this_is_another_one(mesh):
        assert "closed" in repr(seen[0])
        assert mesh is not seen[0]
        assert seen[0].stats().handled == 1
    """)
    project.run().assert_outcomes(passed=2)


def test_a_mesh_whose_account_does_not_balance_fails_the_test(project: Project) -> None:
    project.write("""
    import pmesh

    def test_it(mesh, monkeypatch):
        # Undone after the mesh is closed: the fixture is older than the mesh.
        monkeypatch.setattr(pmesh.Stats, "imbalance", "accepted 1, handled 0")
    """)
    project.conftest("""
    @pytest.fixture(autouse=True)
    def older(monkeypatch):
        pass
    """)
    result = project.run()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*does not balance: accepted 1, handled 0*"])


def test_mesh_options_are_the_coordinators(project: Project) -> None:
    project.write("""
    import pytest

    @pytest.fixture
    def mesh_options():
        return {"name": "shop", "window": 3}

    def test_it(mesh):
        assert mesh.name == "shop"
        assert mesh._window == 3
    """)
    project.run().assert_outcomes(passed=1)


def test_all_tests_share_one_event_loop_and_the_threads_own_is_left_alone(project: Project) -> None:
    project.write("""
    import asyncio

    import pytest

    own = asyncio.new_event_loop()
    asyncio.set_event_loop(own)
    loops = set()

    @pytest.mark.parametrize("turn", [1, 2])
    def test_it(turn, pmesh_runner, latency_benchmark):
        async def note():
            loops.add(asyncio.get_running_loop())
        latency_benchmark(note)
        loops.add(pmesh_runner.get_loop())
        assert len(loops) == 1

    def test_last():
        assert asyncio.get_event_loop_policy().get_event_loop() is own
        own.close()
    """)
    project.run("-W", "ignore::DeprecationWarning").assert_outcomes(passed=3)


def test_the_loop_can_be_uvloop(project: Project) -> None:
    pytest.importorskip("uvloop", reason="uvloop IS NOT INSTALLED: nothing was tested on it")
    project.write("""
    def test_it(mesh, pmesh_runner):
        assert type(pmesh_runner.get_loop()).__module__.startswith("uvloop")
    """)
    project.run("--pmesh-loop=uvloop").assert_outcomes(passed=1)


def test_without_uvloop_the_error_is_one_line_and_names_the_option_that_goes_without(project: Project) -> None:
    project.write("""
    import sys

    sys.modules["uvloop"] = None

    def test_it(mesh): ...
    """)
    result = project.run("--pmesh-loop=uvloop")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["--pmesh-loop=uvloop: uvloop cannot be imported here*, `--pmesh-loop=auto` goes without"]
    )
    result.stdout.no_fnmatch_line("*During handling*")


def test_every_call_is_timed_by_itself(project: Project) -> None:
    project.write("""
    import functools

    import pytest

    made = []

    def sync(n):
        made.append(n)

    async def coroutine(n):
        made.append(n)

    async def two(m, n):
        made.append(n)

    class Called:
        async def __call__(self, n):
            made.append(n)

    @pytest.mark.parametrize(
        "function", [sync, coroutine, lambda n: coroutine(n), functools.partial(two, 0), Called()]
    )
    def test_it(latency_benchmark, function):
        made.clear()
        recorder = latency_benchmark(function, 7, calls=50, warmup=5)
        assert recorder.count == 50
        assert made == [7] * 55
    """)
    project.run().assert_outcomes(passed=5)


def test_a_thousand_calls_are_timed_unless_told_otherwise_and_a_tenth_of_them_goes_ahead(project: Project) -> None:
    project.write("""
    made = []

    def test_it(latency_benchmark):
        assert latency_benchmark(made.append, 1).count == 1_000
        assert len(made) == 1_100
    """)
    project.run().assert_outcomes(passed=1)


def test_without_warm_up_nothing_goes_ahead(project: Project) -> None:
    project.write("""
    made = []

    def test_it(latency_benchmark):
        assert latency_benchmark(made.append, 1, calls=1, warmup=0).count == 1
        assert made == [1]
    """)
    project.run().assert_outcomes(passed=1)


def test_the_time_of_an_async_call_is_that_of_its_awaits_and_not_of_entering_the_loop(project: Project) -> None:
    """Entering the loop costs tens of turns of it: were it in the time, one turn would not be told from ten."""
    project.write("""
    import asyncio
    import time

    async def turns(count):
        for _ in range(count):
            await asyncio.sleep(0)

    def test_it(latency_benchmark, pmesh_runner):
        recorder = latency_benchmark(turns, 1)
        entering = []
        for _ in range(1_000):
            start = time.perf_counter_ns()
            pmesh_runner.run(turns(1))
            entering.append(time.perf_counter_ns() - start)
        assert recorder.percentile(50) < sorted(entering)[500] / 2
    """)
    project.run().assert_outcomes(passed=1)


def test_the_depth_of_the_stack_does_not_change_the_time(project: Project) -> None:
    """Without room on the interpreter's stack some depths take four times as long and more."""
    project.write("""
    import asyncio

    import pytest

    from pmesh.gates.calls import Calls
    from pmesh.gates.stack import with_room

    async def turn():
        await asyncio.sleep(0)

    def deeper(depth, function):
        return deeper(depth - 1, function) if depth else function()

    def test_it(pmesh_runner):
        calls = Calls(turn, (), {}, None, pmesh_runner)
        medians = sorted(
            min(deeper(depth, lambda: with_room(lambda: calls.time(50, 0)))[0].percentile(50) for _ in range(3))
            for depth in range(60)
        )
        assert medians[-1] < 3 * medians[30], medians
    """)
    project.run().assert_outcomes(passed=1)


def test_a_mesh_can_be_asked_and_timed(project: Project) -> None:
    project.write("""
    import pytest

    @pytest.fixture
    def echo(mesh, pmesh_runner):
        return pmesh_runner.run(mesh.spawn(lambda payload: payload, name="echo"))

    def test_it(latency_benchmark, mesh, echo):
        assert latency_benchmark(echo.ask, "hello", timeout=1.0).count == 1_000
        assert mesh.stats().handled == 1_100
    """)
    project.run().assert_outcomes(passed=1)


@pytest.mark.parametrize("kind", ["", "async "], ids=["sync", "async"])
def test_setup_runs_before_each_call_and_gives_its_arguments(project: Project, kind: str) -> None:
    project.write(f"""
    made = []

    {kind}def prepare():
        made.append("setup")
        return (len(made),), {{"name": "x"}}

    {kind}def call(number, *, name):
        made.append((number, name))

    def test_it(latency_benchmark):
        latency_benchmark(call, setup=prepare, calls=2, warmup=1)
        assert made == ["setup", (1, "x"), "setup", (3, "x"), "setup", (5, "x")]
    """)
    project.run().assert_outcomes(passed=1)


def test_setup_is_not_timed(project: Project) -> None:
    project.write("""
    import time

    def test_it(latency_benchmark):
        recorder = latency_benchmark(lambda: None, setup=lambda: time.sleep(0.002), calls=3)
        assert recorder.max < 2_000_000
    """)
    project.run().assert_outcomes(passed=1)


def test_an_error_of_the_code_under_test_goes_through_unchanged(project: Project) -> None:
    project.write("""
    import pytest

    class Broken(Exception):
        pass

    error = Broken("as it was")

    def fail():
        raise error

    async def fail_later():
        raise error

    @pytest.mark.slo("p99<5ms")
    @pytest.mark.parametrize("function", [fail, fail_later])
    def test_it(latency_benchmark, function):
        with pytest.raises(Broken) as caught:
            latency_benchmark(function)
        assert caught.value is error
        raise error
    """)
    result = project.run()
    result.assert_outcomes(failed=2)
    assert "Broken: as it was" in result.stdout.str()
    assert "cannot judge" not in result.stdout.str()


REFUSED = [
    ("latency_benchmark(agen)", "InvalidType", "<function agen .* is a generator function"),
    ("latency_benchmark(lambda: agen())", "InvalidType", "returned <async_generator .* nothing would go through"),
    ("latency_benchmark(lambda: (x for x in 'abc'))", "InvalidType", "returned <generator .* nothing would go through"),
    ("latency_benchmark(Goes())", "InvalidType", "returned <generator .* a function that does"),
    ("latency_benchmark(nothing())", "InvalidType", "<coroutine .*cannot be called.*takes a function"),
    ("latency_benchmark(nothing, calls=0)", "InvalidArgument", "calls is 0; it must be a whole number, 1 or more"),
    ("latency_benchmark(nothing, calls=1.5)", "InvalidArgument", "calls is 1.5; "),
    ("latency_benchmark(nothing, warmup=-1)", "InvalidArgument", "warmup is -1; .*0 or more"),
    ("latency_benchmark(nothing, setup=lambda: 3)", "InvalidType", "setup returned 3; "),
    ("latency_benchmark(nothing, 1, setup=lambda: ((), {}))", "InvalidArgument", "setup returned arguments"),
    ("latency_benchmark.record(after, calls=5)", "InvalidType", "returned None; it must return the LatencyRecorder"),
    ("latency_benchmark.throughput(after, calls=5)", "InvalidType", "returned None; it must return the seconds"),
    ("latency_benchmark.throughput(lambda calls: float('inf'), calls=5)", "InvalidType", "returned inf; "),
    ("latency_benchmark.throughput(lambda calls: 5e-324, calls=5)", "InvalidType", "returned 5e-324; "),
    ("latency_benchmark.throughput(after, calls=5, rounds=0)", "InvalidArgument", "rounds is 0; "),
    ("latency_benchmark(len, ()), latency_benchmark(len, ())", "InvalidArgument", "measured latencies already"),
]


def test_what_cannot_be_measured_is_refused_by_name(project: Project) -> None:
    project.write(f"""
    import pytest

    import pmesh

    async def agen():
        yield 1

    class Goes:
        def __call__(self):
            yield 1

    async def nothing():
        pass

    async def after(calls):
        pass

    @pytest.mark.parametrize("call, error, text", {REFUSED})
    def test_it(latency_benchmark, call, error, text):
        with pytest.raises(getattr(pmesh, error), match=text):
            eval(call, {{**globals(), "latency_benchmark": latency_benchmark}})
    """)
    result = project.run("-W", "error::RuntimeWarning")
    result.assert_outcomes(passed=len(REFUSED), warnings=result.parseoutcomes().get("warnings", 0))


def test_a_function_that_needs_the_loop_at_once_gets_a_hint(project: Project) -> None:
    project.write("""
    import asyncio

    def test_it(latency_benchmark):
        latency_benchmark(lambda: asyncio.get_running_loop().create_future())
    """)
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E  *RuntimeError: no running event loop", "E  *latency_benchmark makes the first call*"]
    )


def test_a_test_that_runs_in_an_event_loop_is_told_so(project: Project) -> None:
    project.write("""
    import asyncio

    async def work():
        pass

    def test_it(latency_benchmark):
        async def main():
            latency_benchmark(work)
        asyncio.run(main())
    """)
    result = project.run("-W", "error::RuntimeWarning")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E  *WrongLoop: latency_benchmark awaits in an event loop of its own*"])


def test_record_takes_the_times_that_only_the_work_can_see(project: Project) -> None:
    project.write("""
    import asyncio

    import pytest
    from samples import recorder_of

    def test_sync(latency_benchmark):
        assert latency_benchmark.record(lambda calls: recorder_of(count=calls), calls=123).count == 123

    def test_async(latency_benchmark, mesh):
        async def work(calls):
            sink = await mesh.spawn(lambda payload: None, name="sink")
            for number in range(calls):
                await sink.send(number)
            while sink.depth:
                await asyncio.sleep(0)
            return mesh.latency
        assert latency_benchmark.record(work, calls=2_000).count == 2_000
    """)
    project.run().assert_outcomes(passed=2)


def test_throughput_is_that_of_the_median_round(project: Project) -> None:
    project.write("""
    def test_it(latency_benchmark):
        seconds = [9.0, 1.0, 4.0, 2.0]  # the first goes ahead
        assert latency_benchmark.throughput(lambda calls: seconds.pop(0), calls=8, rounds=3) == 4.0
        assert not seconds
    """)
    project.run().assert_outcomes(passed=1)


def test_one_test_can_measure_throughput_and_latencies(project: Project) -> None:
    project.write("""
    from samples import recorder_of

    def test_it(latency_benchmark):
        latency_benchmark.throughput(lambda calls: 0.5, calls=100)
        latency_benchmark.record(lambda calls: recorder_of(), calls=1_000)
    """)
    saved = project.saved()["test_it"]
    assert saved["stats"]["rounds"] == 20
    assert saved["stats"]["mean"] == pytest.approx(0.005)
    assert saved["extra_info"]["pmesh"]["throughput"] == pytest.approx(200.0)
    assert saved["extra_info"]["pmesh"]["calls"] == 1_000


def test_pytest_benchmark_shows_the_calls_and_not_rounds_of_them(project: Project) -> None:
    project.write("""
    def test_it(latency_benchmark):
        waits = iter([0.0] * 90 + [0.003] * 10)
        import time
        recorder = latency_benchmark(lambda: time.sleep(next(waits)), calls=100, warmup=0)
        print(recorder.min, recorder.max)
    """)
    saved = project.saved()["test_it"]
    assert saved["stats"]["rounds"] == 100
    assert saved["stats"]["iterations"] == 1
    figures = saved["extra_info"]["pmesh"]
    assert saved["stats"]["max"] == pytest.approx(figures["max_ns"] / 1e9)
    assert saved["stats"]["max"] >= 0.003
    assert saved["stats"]["median"] < 0.003
    assert saved["stats"]["mean"] == pytest.approx(figures["mean_ns"] / 1e9, rel=1e-3)


def test_with_benchmarks_disabled_everything_runs_once(project: Project) -> None:
    project.write("""
    made = []

    def test_calls(latency_benchmark):
        assert latency_benchmark(made.append, 1).count == 1
        assert made == [1]

    def test_throughput(latency_benchmark):
        seconds = [1.0]
        assert latency_benchmark.throughput(lambda calls: seconds.pop(), calls=8) == 8.0
    """)
    result = project.run("--benchmark-disable")
    result.assert_outcomes(passed=2)
    assert "latency of single calls" not in result.stdout.str()


def test_a_profile_shows_the_function_and_its_calls_are_not_timed(project: Project) -> None:
    project.write("""
    made = []

    def profiled():
        made.append(1)

    def test_it(latency_benchmark):
        assert latency_benchmark(profiled, calls=10, warmup=0).count == 10
        assert len(made) == 11
    """)
    result = project.run("--benchmark-cprofile=tottime")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test_it.py:*(profiled)"])


def test_classes_parameters_and_groups_of_pytest_benchmark_work(project: Project) -> None:
    project.write("""
    import pytest

    class TestAll:
        @pytest.mark.parametrize("size", [1, 2])
        @pytest.mark.benchmark(group="sizes")
        def test_it(self, latency_benchmark, size):
            latency_benchmark(range, size)
    """)
    saved = project.saved()
    assert set(saved) == {"test_it[1]", "test_it[2]"}
    assert {each["group"] for each in saved.values()} == {"sizes"}
    assert saved["test_it[2]"]["params"] == {"size": 2}
    assert saved["test_it[2]"]["extra_info"]["pmesh"]["calls"] == 1_000


def test_options_that_leave_out_benchmarks_or_all_else_see_it(project: Project) -> None:
    project.write("""
    def test_measures(latency_benchmark):
        latency_benchmark(len, ())

    def test_does_not():
        pass
    """)
    project.run("--benchmark-skip").assert_outcomes(passed=1, skipped=1)
    project.run("--benchmark-only").assert_outcomes(passed=1, skipped=1)


def test_asking_for_it_too_late_fails_and_says_so(project: Project) -> None:
    project.write("""
    def test_it(request):
        request.getfixturevalue("latency_benchmark")
    """)
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*latency_benchmark must be an argument of the test*"])


def test_the_table_shows_percentiles_and_a_dash_for_what_too_few_calls_cannot_tell(project: Project) -> None:
    project.write("""
    from samples import recorder_of

    def test_few(latency_benchmark):
        latency_benchmark.record(lambda calls: recorder_of(count=999), calls=999)

    def test_some(latency_benchmark):
        latency_benchmark.record(lambda calls: recorder_of(2_000_000), calls=1_000)

    def test_many(latency_benchmark):
        latency_benchmark.record(lambda calls: recorder_of(count=10_000), calls=10_000)
    """)
    for options in ((), ("-q",), ("--benchmark-columns=min",)):
        project.run(*options).stdout.re_match_lines(
            [
                r"=+ latency of single calls, in microseconds =+",
                r" +calls +p50 +p90 +p99 +p99\.9 +max +calls/s",
                r"test_few +999 +1\.00 +1\.00 +- +- +1\.00$",
                r"test_some +1,000 +1\.00 +1\.00 +1\.00 +- +2,000\.00$",
                r"test_many +10,000 +1\.00 +1\.00 +1\.00 +1\.00 +1\.00$",
                r"-: too few calls to tell",
            ]
        )
    assert "latency of single calls" not in project.run("--benchmark-quiet").stdout.str()


def test_the_saved_json_has_percentiles_in_seconds_and_the_histogram(project: Project) -> None:
    project.write("""
    from samples import recorder_of

    def test_it(latency_benchmark):
        latency_benchmark.record(lambda calls: recorder_of(*[6_000_000] * 30), calls=1_000)
    """)
    saved = project.saved()["test_it"]
    from pmesh import LatencyRecorder

    recorder = LatencyRecorder.decode(saved["extra_info"]["pmesh"]["histogram"])
    assert recorder.count == 1_000
    for name, percentile in (("p50", 50), ("p90", 90), ("p99", 99), ("p99_9", 99.9)):
        value_ns = recorder.percentile(percentile)
        assert saved["stats"][name] == pytest.approx(value_ns / 1e9)
        assert saved["extra_info"]["pmesh"][f"{name}_ns"] == value_ns
    assert saved["stats"]["p99"] == pytest.approx(0.006, rel=1e-3)
    assert saved["extra_info"]["pmesh"]["build"] == "release"
