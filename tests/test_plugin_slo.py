"""The marker `slo`: what it refuses, when it fails a test, and what it then says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from plugin_projects import Project

pytest_plugins = ("pytester", "plugin_projects")


def outcomes(result: pytest.RunResult) -> dict[str, int]:
    return {name: count for name, count in result.parseoutcomes().items() if not name.startswith("warning")}


def test_a_miss_fails_the_test_in_its_call_phase_and_shows_observed_against_allowed(project: Project) -> None:
    project.write("""
    import pytest
    from samples import recorder_of

    @pytest.mark.slo("p50<500us", "p99<5ms", "max<50ms")
    def test_it(latency_benchmark):
        latency_benchmark.record(lambda calls: recorder_of(*[6_000_000] * 20), calls=1_000)
    """)
    project.conftest("""
    def pytest_runtest_logreport(report):
        print("phase", report.when, report.outcome)
    """)
    result = project.run("-s")
    assert outcomes(result) == {"failed": 1}
    result.stdout.fnmatch_lines(["*phase call failed"])
    result.stdout.fnmatch_lines(
        [
            "slo missed: p99 observed 6 ms, allowed < 5 ms",
            "  kept: p50 observed 1 us, allowed < 500 us",
            "  kept: max observed 6 ms, allowed < 50 ms",
            "  attempt 1 of 1, which had a processor *% of the time: p99<5ms: observed 6 ms",
            "test_it *MISSED",
        ]
    )
    assert "Traceback" not in result.stdout.str()


def test_what_keeps_its_objectives_passes_and_real_calls_are_judged(project: Project) -> None:
    project.write("""
    import asyncio

    import pytest

    @pytest.mark.slo("p99<10s", "mean<10s", "throughput>1/s")
    def test_kept(latency_benchmark):
        latency_benchmark(asyncio.sleep, 0)

    @pytest.mark.slo("p99<1ns")
    def test_missed(latency_benchmark):
        latency_benchmark(asyncio.sleep, 0)

    @pytest.mark.slo("throughput>=1G/s".replace("G", "000000M"))
    def test_too_slow(latency_benchmark):
        latency_benchmark.throughput(lambda calls: 1.0, calls=5)
    """)
    result = project.run()
    assert outcomes(result) == {"passed": 1, "failed": 2}
    result.stdout.fnmatch_lines(
        ["FAILED test_it.py::test_too_slow - Failed: slo missed: throughput observed 5/s, allowed >= *"]
    )


CANNOT = [
    ("p99<5ms", 999, "999 calls were timed, and p99 needs 1,000 or more*calls=N*"),
    ("p99.9<5ms", 9_999, "9,999 calls were timed, and p99.9 needs 10,000 or more*"),
    ("p99.99<5ms", 99_999, "99,999 calls were timed, and p99.99 needs 100,000 or more*"),
    ("p50<5ms", 99, "99 calls were timed, and p50 needs 100 or more*"),
    ("max<5ms", 0, "0 calls were timed, and max needs 1 or more*"),
    ("throughput>5/s", 1_000, "the test did not measure throughput"),
]
ENOUGH = [("p99<5ms", 1_000), ("p99.9<5ms", 10_000), ("p99.99<5ms", 100_000), ("p50<5ms", 100), ("max<5ms", 1)]


def test_too_few_calls_are_not_judged_and_enough_are(project: Project) -> None:
    cases = "\n".join(
        f"""
@pytest.mark.slo({objective!r})
def test_{number}(latency_benchmark):
    latency_benchmark.record(lambda calls: recorder_of(count={count}), calls=1)
"""
        for number, (objective, count, *_) in enumerate([*CANNOT, *ENOUGH])
    )
    project.write("import pytest\nfrom samples import recorder_of\n" + cases)
    result = project.run()
    assert outcomes(result) == {"failed": len(CANNOT), "passed": len(ENOUGH)}
    for number, (objective, _, text) in enumerate(CANNOT):
        result.stdout.fnmatch_lines([f"FAILED test_it.py::test_{number} - Failed: cannot judge {objective}: {text}"])


def test_a_test_that_measured_nothing_fails_and_says_so(project: Project) -> None:
    project.write("""
    import unittest

    import pytest

    pytestmark = pytest.mark.slo("p99<5ms")

    def test_without():
        pass

    def test_unused(latency_benchmark):
        pass

    def test_plain(benchmark):
        benchmark(len, ())

    class TestOld(unittest.TestCase):
        def test_unittest(self):
            pass
    """)
    result = project.run()
    assert outcomes(result) == {"failed": 4}
    for name, text in (
        ("test_without", "the test measured nothing: it does not use latency_benchmark"),
        ("test_unused", "the test measured nothing: it has latency_benchmark and did not call it"),
        ("test_plain", "the test measured nothing: it does not use latency_benchmark"),
        ("TestOld::test_unittest", "the test measured nothing: it does not use latency_benchmark"),
    ):
        result.stdout.fnmatch_lines([f"FAILED test_it.py::{name} - Failed: cannot judge p99<5ms: {text}"])


def test_disabled_benchmarks_fail_what_is_promised_and_nothing_else(project: Project) -> None:
    project.write("""
    import pytest

    @pytest.mark.slo("p99<5s")
    def test_promised(latency_benchmark):
        latency_benchmark(len, ())

    def test_not_promised(latency_benchmark):
        latency_benchmark(len, ())
    """)
    result = project.run("--benchmark-disable")
    assert outcomes(result) == {"failed": 1, "passed": 1}
    result.stdout.fnmatch_lines(["*cannot judge p99<5s: benchmarks are disabled by --benchmark-disable"])
    assert outcomes(project.run("--benchmark-skip")) == {"skipped": 2}
    assert outcomes(project.run("--benchmark-disable", "--benchmark-enable")) == {"passed": 2}


@pytest.mark.parametrize("variant", ["debug", "trace", "sanitize"])
def test_a_build_that_is_slow_on_purpose_is_not_judged(project: Project, variant: str) -> None:
    project.write("""
    import pytest

    @pytest.mark.slo("p99<5s")
    def test_it(latency_benchmark):
        latency_benchmark(len, ())
    """)
    project.conftest(f"pmesh.BUILD_INFO[{variant!r}] = True")
    result = project.run()
    assert outcomes(result) == {"failed": 1}
    result.stdout.fnmatch_lines(
        [f"*cannot judge p99<5s: this is a {variant} build of pmesh (*), whose figures say nothing"]
    )


def test_a_failure_of_the_test_itself_is_not_hidden(project: Project) -> None:
    project.write("""
    import unittest

    import pytest

    pytestmark = pytest.mark.slo("p99<1ns")

    def test_fails(latency_benchmark):
        latency_benchmark(len, ())
        assert 1 == 2

    class TestOld(unittest.TestCase):
        def test_unittest(self):
            self.assertEqual(3, 4)

    def test_skips(latency_benchmark):
        pytest.skip("not today")

    @pytest.mark.xfail
    def test_is_expected_to_miss(latency_benchmark):
        latency_benchmark(len, ())

    @pytest.mark.xfail(strict=True)
    @pytest.mark.slo("max<1h")
    def test_is_expected_to_fail(latency_benchmark):
        assert False

    @pytest.mark.skip
    def test_is_skipped(latency_benchmark):
        pass
    """)
    result = project.run()
    assert outcomes(result) == {"failed": 2, "skipped": 2, "xfailed": 2}
    result.stdout.fnmatch_lines(["E  *assert 1 == 2", "E  *AssertionError: 3 != 4"])
    assert "cannot judge" not in result.stdout.str()


ATTEMPTS = """
import pytest
from samples import recorder_of

class TestIt:
    made = {made}

    @pytest.mark.slo("p99<5ms", "max<50ms", attempts={attempts})
    def test_it(self, latency_benchmark):
        recorders = [recorder_of(*[each] * {slow}) for each in self.made]
        latency_benchmark.record(lambda calls: recorders.pop(0), calls=1_000)
        assert len(recorders) == {left}
"""


@pytest.fixture
def no_pause(project: Project) -> None:
    project.conftest("import pmesh.gates.measuring\npmesh.gates.measuring.FIRST_PAUSE_SECONDS = 0.0")


@pytest.mark.usefixtures("no_pause")
def test_a_miss_is_measured_again_and_the_last_attempt_decides(project: Project) -> None:
    project.write(ATTEMPTS.format(made=[60_000_000, 6_000_000, 1_000, 9_000_000], attempts=4, slow=20, left=1))
    saved = project.saved()["test_it"]["extra_info"]["pmesh"]
    assert [attempt["max_ns"] for attempt in saved["attempts"]] == [60_000_000, 6_000_000, 1_000]
    assert saved["max_ns"] == 1_000
    result = project.run()
    assert outcomes(result) == {"passed": 1}
    result.stdout.fnmatch_lines(
        [
            "test_it *ok",
            " *attempt 1 of 3, which had a processor *% of the time: p99<5ms: observed 60 ms, max<50ms: observed 60 ms",
            " *attempt 2 of 3, which had a processor *% of the time: p99<5ms: observed 6 ms",
        ]
    )


@pytest.mark.usefixtures("no_pause")
def test_what_misses_every_time_fails_with_all_attempts(project: Project) -> None:
    # One attempt keeps the p99, the other the maximum: both must hold in one and the same.
    project.write("""
    import pytest
    from samples import recorder_of

    @pytest.mark.slo("p99<5ms", "max<50ms", attempts=3)
    def test_it(latency_benchmark):
        recorders = [recorder_of(60_000_000), recorder_of(*[6_000_000] * 20), recorder_of(60_000_000), recorder_of()]
        latency_benchmark.record(lambda calls: recorders.pop(0), calls=1_000)
    """)
    result = project.run()
    assert outcomes(result) == {"failed": 1}
    result.stdout.fnmatch_lines(
        [f"  attempt {number} of 3, *: {what}*" for number, what in ((1, "max"), (2, "p99"), (3, "max"))]
    )


@pytest.mark.usefixtures("no_pause")
def test_real_calls_are_measured_again_without_another_warm_up(project: Project) -> None:
    project.write("""
    import pytest

    made = []

    @pytest.mark.slo("p99<1ns", attempts=2)
    def test_misses(latency_benchmark):
        latency_benchmark(made.append, 1, warmup=7)

    def test_count():
        assert len(made) == 2_007
    """)
    assert outcomes(project.run()) == {"failed": 1, "passed": 1}


def test_all_markers_of_a_test_count_and_the_closest_attempts(project: Project) -> None:
    project.write("""
    import pytest
    from samples import recorder_of

    pytestmark = pytest.mark.slo("p50<1ns")

    @pytest.mark.slo("p90<1ns", attempts=7)
    class TestIt:
        @pytest.mark.slo("p99<1ns")
        @pytest.mark.slo("max<1ns", attempts=1)
        def test_it(self, latency_benchmark):
            latency_benchmark.record(lambda calls: recorder_of(), calls=1_000)
    """)
    result = project.run()
    assert outcomes(result) == {"failed": 1}
    [missed] = [line for line in result.outlines if line.startswith("slo missed: ")]
    assert {part.split()[0] for part in missed.removeprefix("slo missed: ").split("; ")} == {"p50", "p90", "p99", "max"}
    assert "attempt 1 of 1" in result.stdout.str()


@pytest.mark.parametrize(
    ("marker", "text"),
    [
        ("slo('p99<5')", "*objective 'p99<5', column 6: *the unit of a duration is one of ns, us, ms*"),
        ("slo('p98<5ms')", "*objective 'p98<5ms', column 1: *did you mean 'p9*"),
        ("slo('success>99%')", "objective 'success>99%' is about success, which latency_benchmark does not measure*"),
        ("slo('queue.p99<5ms')", "objective 'queue.p99<5ms' is about queue.p99, which latency_benchmark does not*"),
        ("slo(5)", "objective is the int 5; it must be a str such as 'p99<5ms'"),
        ("slo()", "slo has no objective; it needs one or more, such as @pytest.mark.slo('p99<5ms')"),
        ("slo", "slo has no objective; *"),
        ("slo('p99<5ms', attempts=0)", "attempts is 0; it must be 1 or more"),
        ("slo('p99<5ms', attempts='2')", "attempts is '2'; it must be a whole number, 1 or more"),
        ("slo('p99<5ms', retries=2)", "slo got retries=2; beside objectives it takes attempts"),
    ],
)
def test_a_bad_marker_is_an_error_at_collection_that_names_the_test(project: Project, marker: str, text: str) -> None:
    project.write(f"""
    import pytest

    @pytest.mark.{marker}
    def test_it(latency_benchmark):
        latency_benchmark(len, ())
    """)
    result = project.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: test_it.py::test_it: {text}"])


def test_the_marker_is_known_to_strict_projects(project: Project) -> None:
    project.write("""
    import pytest

    @pytest.mark.slo("p99<5s")
    def test_it(latency_benchmark):
        latency_benchmark(len, ())
    """)
    assert outcomes(project.run("--strict-markers")) == {"passed": 1}
    project.run("--markers").stdout.fnmatch_lines(["@pytest.mark.slo(*objectives, attempts=1): *"])


def test_a_marker_that_comes_after_collection_is_not_passed_over(project: Project) -> None:
    project.write("""
    import pytest

    SLO = pytest.mark.slo("p99<1ns")

    @pytest.fixture
    def late(request):
        request.node.add_marker(SLO)

    def test_by_a_fixture(late, latency_benchmark):
        latency_benchmark(len, "")

    def test_by_itself(request, latency_benchmark):
        latency_benchmark(len, "")
        request.node.add_marker(SLO)

    def test_bad(request, latency_benchmark):
        latency_benchmark(len, "")
        request.node.add_marker(pytest.mark.slo("p99<1"))
    """)
    result = project.run("--benchmark-quiet")
    result.assert_outcomes(failed=3)
    assert result.stdout.str().count("cannot judge a marker slo that was added after collection") >= 2


def test_times_below_zero_are_not_judged(project: Project) -> None:
    project.write("""
    import pytest
    from samples import recorder_of

    @pytest.mark.slo("p99<5ms")
    def test_it(latency_benchmark):
        latency_benchmark.record(lambda calls: recorder_of(-5, -7), calls=1_000)
    """)
    result = project.run("--benchmark-quiet")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*cannot judge p99<5ms: 2 of the times are below zero: *went backwards*"])


def test_what_the_test_does_with_a_recorder_afterwards_changes_no_verdict(project: Project) -> None:
    project.write("""
    import pytest
    from samples import recorder_of

    @pytest.mark.slo("p99<500ns")
    def test_own(latency_benchmark):
        own = recorder_of()
        latency_benchmark.record(lambda calls: own, calls=1_000).reset()
        for _ in range(1_000_000):
            own.record(1)

    @pytest.mark.slo("p99<1ns")
    def test_returned(latency_benchmark):
        recorder = latency_benchmark(len, "")
        for _ in range(1_000_000):
            recorder.record(0)
    """)
    result = project.run("--benchmark-quiet")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*slo missed: p99 observed 1 us, allowed < 500 ns*"])
