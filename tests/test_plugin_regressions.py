"""The options `--pmesh-p99-fail` and the like: when a run is worse than a saved one, and when nobody can tell."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from plugin_projects import Project

pytest_plugins = ("pytester", "plugin_projects")

# What is measured is what `figures.json` says, so that a run can be as much slower as a test wants.
TESTS = """
import json
import pathlib

import pytest
from samples import recorder_of

FIGURES = json.loads(pathlib.Path("figures.json").read_text())

@pytest.mark.parametrize("name", sorted(FIGURES["ns"]))
def test_it(latency_benchmark, name):
    value_ns = FIGURES["ns"][name]
    count = FIGURES.get("count", 1_000)
    latency_benchmark.record(lambda calls: recorder_of(rest_ns=value_ns, count=count), calls=count)

@pytest.mark.skipif("rate" not in FIGURES, reason="not asked for")
def test_rate(latency_benchmark):
    latency_benchmark.throughput(lambda calls: calls / FIGURES["rate"], calls=10)
"""


class Runs:
    """Runs of a project whose figures are made up."""

    def __init__(self, project: Project) -> None:
        self.project = project
        project.write(TESTS)

    def _figures(self, count: int, rate: float | None, values_ns: dict[str, int]) -> None:
        figures = {"ns": values_ns, "count": count} | ({} if rate is None else {"rate": rate})
        (self.project.path / "figures.json").write_text(json.dumps(figures), encoding="utf-8")

    def save(self, name: str = "base", *, count: int = 1_000, rate: float | None = None, **values_ns: int) -> None:
        self._figures(count, rate, values_ns)
        assert self.project.run(f"--benchmark-save={name}").ret == 0

    def compare(
        self,
        *options: str,
        against: str | None = "--benchmark-compare",
        count: int = 1_000,
        rate: float | None = None,
        **values_ns: int,
    ) -> pytest.RunResult:
        self._figures(count, rate, values_ns)
        return self.project.run(*([against] if against else []), *options)


@pytest.fixture
def runs(project: Project) -> Runs:
    return Runs(project)


def test_a_regression_fails_the_run_with_a_line_for_each_test(runs: Runs) -> None:
    runs.save(a=1_000, b=1_000)
    result = runs.compare("--pmesh-p99-fail=10%", a=1_050, b=1_200)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert result.parseoutcomes() == {"passed": 2, "skipped": 1}
    result.stdout.fnmatch_lines(
        [
            "=* against the saved run *=",
            "ok test_it.py::test_it?a?: p99 1 us -> 1.05 us (+5.0%; allowed +10%, at most 1.1 us; against *_base.json)",
            "REGRESSED test_it.py::test_it?b?: p99 1 us -> 1.2 us (+20.0%; allowed +10%, at most 1.1 us; against *)",
            "pmesh: --pmesh-p99-fail=10%: FAILED",
        ]
    )


def test_what_stays_within_the_margin_passes_and_the_summary_says_so(runs: Runs) -> None:
    runs.save(a=1_000)
    result = runs.compare("--pmesh-p99-fail=10%", a=1_090)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["pmesh: --pmesh-p99-fail=10%: kept"])


@pytest.mark.parametrize("figure", ["p50", "p90", "p99", "p99_9", "max"])
def test_every_figure_has_its_option(runs: Runs, figure: str) -> None:
    runs.save(count=10_000, a=1_000)
    name = figure.replace("_", ".")
    assert runs.compare(f"--pmesh-{figure}-fail=50%", count=10_000, a=1_400).ret == 0
    result = runs.compare(f"--pmesh-{figure}-fail=50%", count=10_000, a=1_600)
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"REGRESSED *: {name} 1 us -> 1.6 us (+60.0%; allowed +50%, at most 1.5 us; *"])


def test_a_regression_of_throughput_is_a_drop(runs: Runs) -> None:
    runs.save(rate=1_000.0)
    assert runs.compare("--pmesh-throughput-fail=10%", rate=5_000.0).ret == 0
    result = runs.compare("--pmesh-throughput-fail=10%", rate=890.0)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["REGRESSED *: throughput 1,000/s -> 890/s (-11.0%; allowed -10%, at least 900/s; *"])


def test_several_options_are_judged_together(runs: Runs) -> None:
    runs.save(a=1_000, rate=100.0)
    options = ("--pmesh-p50-fail=10%", "--pmesh-throughput-fail=10%")
    result = runs.compare(*options, a=1_000, rate=50.0)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["ok *: p50 *", "REGRESSED *: throughput *", f"pmesh: {', '.join(options)}: FAILED"])


def test_without_an_option_nothing_is_judged(runs: Runs) -> None:
    runs.save(a=1_000)
    result = runs.compare(a=9_000)
    assert result.ret == 0
    assert "against the saved run" not in result.stdout.str()


def test_every_baseline_counts(runs: Runs) -> None:
    runs.save("fast", a=1_000)
    runs.save("slow", a=2_000)
    result = runs.compare("--pmesh-p99-fail=10%", against="--benchmark-compare=000*", a=2_000)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["REGRESSED *0001_fast.json)", "ok *0002_slow.json)"])
    assert runs.compare("--pmesh-p99-fail=10%", against="--benchmark-compare=0002", a=2_000).ret == 0


def test_a_new_test_is_said_loudly_and_does_not_fail_the_run(runs: Runs) -> None:
    runs.save(a=1_000)
    result = runs.compare("--pmesh-p99-fail=10%", a=1_000, b=1_000)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["NEW test_it.py::test_it?b?: not in *0001_base.json, so nothing was judged: *"])


def test_a_run_of_nothing_but_new_tests_is_not_judged_and_fails(runs: Runs) -> None:
    runs.save(a=1_000)
    result = runs.compare("--pmesh-p99-fail=10%", b=1_000)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["CANNOT JUDGE: no test has a p99 to compare, in this run and in a baseline"])


def test_too_few_calls_in_either_run_fail(runs: Runs) -> None:
    runs.save("few", count=999, a=1_000)
    runs.save("enough", count=1_000, a=1_000)
    result = runs.compare("--pmesh-p99-fail=10%", against="--benchmark-compare=0001", a=1_000)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["CANNOT JUDGE *: in *0001_few.json 999 calls were timed, and p99 needs 1,000 or more"])
    result = runs.compare("--pmesh-p99-fail=10%", count=999, a=1_000)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["CANNOT JUDGE *: 999 calls were timed, and p99 needs 1,000 or more"])
    result = runs.compare("--pmesh-p99_9-fail=10%", count=9_999, a=1_000)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["CANNOT JUDGE *: 9,999 calls were timed, and p99.9 needs 10,000 or more"])


def test_a_baseline_that_latency_benchmark_did_not_measure_fails(runs: Runs) -> None:
    project = runs.project
    project.write(
        "import pytest\n@pytest.mark.parametrize('name', ['a'])\ndef test_it(benchmark, name): benchmark(len, ())"
    )
    assert project.run("--benchmark-save=plain", "--benchmark-max-time=0.001").ret == 0
    project.write(TESTS)
    result = runs.compare("--pmesh-p99-fail=10%", a=1_000)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["CANNOT JUDGE test_it.py::test_it?a?: *0001_plain.json has no p99 of this test: save it *"]
    )


@pytest.mark.parametrize("damage", [{"p99_ns": None}, {"p99_ns": "fast"}, {"p99_ns": -1}, None, "text"])
def test_a_damaged_baseline_fails(runs: Runs, damage: object) -> None:
    runs.save(a=1_000)
    [path] = runs.project.path.glob(".benchmarks/*/0001_base.json")
    saved = json.loads(path.read_text(encoding="utf-8"))
    info = saved["benchmarks"][0]["extra_info"]
    info["pmesh"] = info["pmesh"] | damage if isinstance(damage, dict) else damage
    path.write_text(json.dumps(saved), encoding="utf-8")
    result = runs.compare("--pmesh-p99-fail=10%", a=1_000)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["CANNOT JUDGE test_it.py::test_it?a?: *0001_base.json has no p99 of this test: *"])


@pytest.mark.parametrize("pattern", ["", "=*"])
def test_a_newest_baseline_that_cannot_be_read_fails_and_is_named(runs: Runs, pattern: str) -> None:
    runs.save(a=1_000)
    runs.save(a=1_000)
    [path] = runs.project.path.glob(".benchmarks/*/0002_base.json")
    path.write_text(path.read_text(encoding="utf-8")[:100], encoding="utf-8")  # as a full disk leaves it
    result = runs.compare("--pmesh-p99-fail=10%", "-W", "default", a=1_000, against=f"--benchmark-compare{pattern}")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["CANNOT JUDGE: 0002_base.json cannot be read: *", "pmesh: *: FAILED"])


def test_an_older_run_that_cannot_be_read_and_is_not_asked_for_fails_nothing(runs: Runs) -> None:
    runs.save(a=1_000)
    runs.save(a=1_000)
    [path] = runs.project.path.glob(".benchmarks/*/0001_base.json")
    path.write_text("", encoding="utf-8")
    result = runs.compare("--pmesh-p99-fail=10%", "-W", "default", a=1_000)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["ok test_it.py::*0002_base.json)", "pmesh: *: kept"])


def test_no_baseline_fails(runs: Runs) -> None:
    result = runs.compare("--pmesh-p99-fail=10%", "-W", "ignore:Can't compare", a=1_000)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["CANNOT JUDGE: --benchmark-compare found no saved run to compare with"])


def test_a_run_that_measures_nothing_fails(runs: Runs) -> None:
    runs.save(a=1_000)
    runs.project.write("def test_other(): pass", "test_other")
    result = runs.compare("--pmesh-p99-fail=10%", "test_other.py", a=1_000)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["CANNOT JUDGE: no test that passed measured anything with latency_benchmark"])
    assert runs.compare("--pmesh-p99-fail=10%", "--collect-only", a=1_000).ret == 0


def test_a_figure_that_no_test_has_fails(runs: Runs) -> None:
    runs.save(a=1_000)
    result = runs.compare("--pmesh-throughput-fail=10%", a=1_000)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["CANNOT JUDGE: no test has a throughput to compare, *"])


def test_a_debug_build_is_not_compared_nor_compared_with(runs: Runs) -> None:
    project = runs.project
    runs.save("good", a=1_000)
    project.conftest("pmesh.BUILD_INFO['debug'] = True")
    runs.save("bad", a=1_000)
    result = runs.compare("--pmesh-p99-fail=10%", against="--benchmark-compare=0001", a=1_000)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["CANNOT JUDGE test_it.py::test_it?a?: this is a debug build of pmesh *"])
    project.conftest("")
    result = runs.compare("--pmesh-p99-fail=10%", a=1_000)
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["CANNOT JUDGE test_it.py::test_it?a?: *0002_bad.json was measured on a debug build of pmesh"]
    )


def test_what_a_failed_test_measured_is_not_compared(runs: Runs) -> None:
    runs.save(a=1_000)
    runs.project.write(TESTS.replace("calls=count)", "calls=count); assert False"))
    result = runs.compare("--pmesh-p99-fail=10%", a=9_000)
    assert result.parseoutcomes() == {"failed": 1, "skipped": 1}
    assert "REGRESSED" not in result.stdout.str()


def test_the_outcome_is_said_however_quiet_the_run_is(runs: Runs) -> None:
    runs.save(a=1_000)
    for option in ("-q", "-qq", "--benchmark-quiet", "--no-summary"):
        result = runs.compare("--pmesh-p99-fail=10%", option, a=9_000)
        assert result.ret == 1
        assert result.stdout.str().count("pmesh: --pmesh-p99-fail=10%: FAILED") == 1, option


def test_it_goes_with_the_gate_of_pytest_benchmark(runs: Runs) -> None:
    runs.save(a=1_000)
    result = runs.compare("--pmesh-p99-fail=10%", "--benchmark-compare-fail=mean:10%", a=9_000)
    assert result.ret != 0
    result.stdout.fnmatch_lines(["pmesh: --pmesh-p99-fail=10%: FAILED"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--pmesh-p99-fail=10%"], "--pmesh-p99-fail needs --benchmark-compare, which says what to compare with"),
        (
            ["--pmesh-p99_9-fail=10%", "--benchmark-compare", "--benchmark-disable"],
            "--pmesh-p99_9-fail cannot judge: benchmarks are disabled by --benchmark-disable",
        ),
        (["--pmesh-p99-fail=0%"], "*argument --pmesh-p99-fail: margin '0%', column 1: *it must be above 0%"),
        (["--pmesh-p99-fail=-5%"], "*argument --pmesh-p99-fail: margin '-5%', column 1: found '-5%'; a share is *"),
        (["--pmesh-max-fail=10"], "*argument --pmesh-max-fail: margin '10', column 3: *the unit of a share is %*"),
        (["--pmesh-p50-fail=ten"], "*argument --pmesh-p50-fail: margin 'ten', column 1: found 'ten'; *"),
        (["--pmesh-p90-fail=10%5%"], "*argument --pmesh-p90-fail: margin '10%5%', column 4: *one number*"),
        (["--pmesh-p90-fail="], "*argument --pmesh-p90-fail: margin '', column 1: the text ends here; *"),
        (["--pmesh-throughput-fail=100%"], "*argument --pmesh-throughput-fail: margin '100%', column 1: *below 100%"),
    ],
)
def test_an_option_that_could_judge_nothing_is_refused_before_any_test(
    project: Project, options: list[str], text: str
) -> None:
    project.write("def test_it(): print('it ran')")
    result = project.run("-s", *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{text}"])
    assert "it ran" not in result.stdout.str()


def test_a_latency_may_be_allowed_to_double_and_more(runs: Runs) -> None:
    runs.save(a=1_000)
    assert runs.compare("--pmesh-p99-fail=250%", a=3_400).ret == 0
    assert runs.compare("--pmesh-p99-fail=250%", a=3_600).ret == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("p99_ns", float("inf")),
        ("p99_ns", float("nan")),
        pytest.param("p99_ns", 10**400, id="p99_ns-beyond a float"),
        ("p99_ns", True),
        ("p99_ns", "5"),
        ("calls", "many"),
        ("calls", [1]),
        ("throughput", 0),
        ("throughput", float("inf")),
    ],
)
def test_a_saved_figure_that_anything_would_keep_cannot_judge(runs: Runs, key: str, value: object) -> None:
    runs.save(a=1_000, rate=100.0)
    [path] = runs.project.path.glob(".benchmarks/*/*_base.json")
    saved = json.loads(path.read_text(encoding="utf-8"))
    for benchmark in saved["benchmarks"]:
        pmesh = benchmark["extra_info"]["pmesh"]
        pmesh |= {key: value} if key in pmesh else {}
    path.write_text(json.dumps(saved), encoding="utf-8")
    result = runs.compare("--pmesh-p99-fail=10%", "--pmesh-throughput-fail=10%", a=1_000, rate=100.0)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["CANNOT JUDGE test_it.py::*", "pmesh: *: FAILED"])


def test_a_figure_that_a_test_no_longer_measures_cannot_be_judged(project: Project) -> None:
    measures = """
    def test_it(latency_benchmark):
        latency_benchmark(len, "")

    def test_other(latency_benchmark):
        latency_benchmark(len, "")
    """
    project.write(measures)
    assert project.run("--benchmark-save=base").ret == 0
    project.write(measures.replace('(len, "")', ".throughput(lambda calls: 0.01, calls=10)", 1))
    result = project.run("--benchmark-compare", "--pmesh-p99-fail=100000%")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        ["CANNOT JUDGE test_it.py::test_it: the test does not measure p99 any more, which *_base.json has of it"]
    )
