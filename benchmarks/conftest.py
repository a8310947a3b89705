"""Ties workloads, thresholds and committed baselines to pytest: parameters, gates, tables, `--update-baseline`.

The fixtures that measure are those of `pmesh.pytest_plugin`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import baselines
import pytest
import thresholds
import workloads
from bounds import ATTEMPTS, Bound, Outcome, judge, missed
from race import Race
from workloads import Workload

import pmesh
import pmesh.load
from pmesh.environment import slow_variants

Measure = Callable[[], Mapping[str, float]]

DEFAULT_BASELINE = baselines.FOLDER / f"{baselines.machine_class()}.json"

THRESHOLDS = pytest.StashKey[thresholds.Thresholds]()
BASELINE = pytest.StashKey[dict[str, Any] | None]()
OUTCOMES = pytest.StashKey[dict[str, dict[str, Outcome]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pmesh benchmarks")
    group.addoption(
        "--update-baseline",
        action="store_true",
        help="write the figures of this run, if all gates hold, as the baseline of this class of machines",
    )
    group.addoption(
        "--baseline",
        type=Path,
        default=DEFAULT_BASELINE,
        metavar="FILE",
        help="the baseline to compare with (default: that of this class of machines, if it exists, %(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    require_release_build(pmesh.BUILD_INFO)
    known = workloads.load_all()
    require_tests(known)
    try:
        text = Path(__file__).with_name("thresholds.toml").read_text(encoding="utf-8")
        config.stash[THRESHOLDS] = thresholds.parse(text, known, pmesh.load.PROFILES)
        config.stash[BASELINE] = baseline_of(
            config.getoption("--baseline"), update=config.getoption("--update-baseline")
        )
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[OUTCOMES] = {"rates": {}, "latencies": {}, "profiles": {}}


def baseline_of(path: Path, *, update: bool) -> dict[str, Any] | None:
    """What to compare with, or None; what cannot be read is refused before a run that is to update it, too.

    Raises:
        UsageError: There is no such file, and it is not that of the machine's class, which need not have one.
        ValueError: It is no baseline.
    """
    baseline = baselines.load(path)
    if baseline is None and path != DEFAULT_BASELINE and not update:
        raise pytest.UsageError(f"--baseline={path}: there is no such file; --update-baseline writes it")
    return None if update else baseline


def require_release_build(build: Mapping[str, object]) -> None:
    """Refuse to judge a build that is slow on purpose.

    Raises:
        UsageError: The core was built with PMESH_DEBUG, PMESH_TRACE or PMESH_SANITIZE: its speed says nothing.
    """
    variants = slow_variants(build)
    if variants:
        switches = " and ".join(f"PMESH_{variant.upper()}" for variant in variants)
        raise pytest.UsageError(
            f"benchmarks do not run on a {' and '.join(variants)} build of pmesh"
            f" ({pmesh.__file__}): its figures would say nothing. Install it without {switches}"
        )


def require_tests(known: Mapping[str, Workload]) -> None:
    """Refuse a workload that no test judges.

    Raises:
        UsageError: Its file lacks a test.
    """
    for workload in known.values():
        module = sys.modules[workload.prepare.__module__]
        for test, needed in (("test_rate", True), ("test_latency", workload.timed_calls > 0)):
            if needed and not hasattr(module, test):
                raise pytest.UsageError(
                    f"nothing judges {workload.name!r}: {module.__name__}.py must import {test} from judged"
                )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "race" not in metafunc.fixturenames:
        return
    timed = "latency_gate" in metafunc.fixturenames
    latencies = metafunc.config.stash[THRESHOLDS].latencies
    parameters = []
    for workload in workloads.WORKLOADS.values():
        if workload.prepare.__module__ != metafunc.module.__name__ or (timed and not workload.timed_calls):
            continue
        group = f"{workload.subject}, single calls" if timed else workload.subject
        marks = [pytest.mark.benchmark(group=group)]
        if timed:
            marks.append(pytest.mark.slo(*latencies[workload.name].objectives, attempts=ATTEMPTS))
        parameters.append(pytest.param(workload, id=workload.name, marks=marks))
    metafunc.parametrize("race", parameters, indirect=True)


@pytest.fixture
def race(request: pytest.FixtureRequest, pmesh_runner: asyncio.Runner) -> Iterator[Race]:
    """The workload that the test is for, set up beside what it is held against."""
    race = Race(request.param)
    try:
        pmesh_runner.run(race.open())
        yield race
    finally:
        pmesh_runner.run(race.close())


@pytest.fixture
def rate_gate(race: Race, benchmark: Any, pytestconfig: pytest.Config) -> Callable[[Measure], None]:
    limits, name = pytestconfig.stash[THRESHOLDS], race.workload.name
    bounds = [
        Bound("against_reference", limits.rates[name].at_least, True, "thresholds.toml"),
        *baselines.rate_bounds(pytestconfig.stash[BASELINE], name, limits.tolerance),
    ]
    return gate(name, bounds, "rates", benchmark, pytestconfig)


@pytest.fixture
def latency_gate(race: Race, benchmark: Any, pytestconfig: pytest.Config) -> Callable[[Measure], None]:
    limits, name = pytestconfig.stash[THRESHOLDS], race.workload.name
    bounds = baselines.time_bounds(pytestconfig.stash[BASELINE], name, limits.tolerance)
    return gate(name, bounds, "latencies", benchmark, pytestconfig)


def gate(
    name: str, bounds: list[Bound], table: str, benchmark: Any, config: pytest.Config
) -> Callable[[Measure], None]:
    """What judges a measurement by `bounds`, shows it in `table`, and saves it."""

    def judge_measure(measure: Measure) -> None:
        outcome = judge(name, measure, lambda figures: missed(bounds, figures))
        show(outcome, table, benchmark, config)
        outcome.require()

    return judge_measure


def show(outcome: Outcome, table: str, benchmark: Any, config: pytest.Config) -> None:
    if benchmark.disabled:
        pytest.fail("benchmarks are disabled (--benchmark-disable, or xdist's -n), so the gates cannot judge")
    config.stash[OUTCOMES][table][outcome.name] = outcome
    benchmark.extra_info["figures"] = dict(outcome.figures)


@pytest.fixture
def shown(benchmark: Any, pytestconfig: pytest.Config) -> Callable[[Outcome], None]:
    """Shows and saves the outcome of a profile."""
    return lambda outcome: show(outcome, "profiles", benchmark, pytestconfig)


@pytest.fixture
def profile_objectives(pytestconfig: pytest.Config) -> Mapping[str, tuple[str, ...]]:
    return pytestconfig.stash[THRESHOLDS].profiles


@pytest.hookimpl(wrapper=True)
def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> Iterator[None]:
    try:
        return (yield)  # pytest-benchmark raises for a gate of its own
    finally:
        outcomes = config.stash[OUTCOMES]
        if outcomes["rates"]:
            show_rates(terminalreporter, outcomes["rates"], config)
        for title, figures in (("latencies", "against the baseline"), ("profiles", "by the reference's figures")):
            show_missed(terminalreporter, f"{title}, {figures}", outcomes[title])
        terminalreporter.write_line(compared_with(config))
        if config.getoption("--update-baseline"):
            update_baseline(terminalreporter, exitstatus, config)


def show_rates(terminal: Any, outcomes: Mapping[str, Outcome], config: pytest.Config) -> None:
    """One line for each workload, and one for each attempt that missed."""
    limits = config.stash[THRESHOLDS].rates
    width = max(map(len, outcomes))
    terminal.section("calls per second, and beside others in the same rounds")
    terminal.write_line(f"{'':<{width}} {'calls/s':>12} {'x reference':>12} {'needed':>8}  x what does the same")
    for name, outcome in outcomes.items():
        figures, beside = outcome.figures, workloads.WORKLOADS[name].beside
        same = ""
        if "against_baseline" in figures:
            same = f"{figures['against_baseline']:.2f} x {beside}"
        elif beside is not None:
            same = f"NOT COMPARED: what {beside!r} needs is not installed"
        terminal.write_line(
            f"{name:<{width}} {figures['per_second']:>12,.0f} {figures['against_reference']:>12.3g}"
            f" {limits[name].at_least:>8.3g}  {same}",
            red=not outcome.passed,
        )
        for missed_text in outcome.missed():
            terminal.write_line(f"{'':<{width}} {missed_text}")
    terminal.write_line(f"reference: {workloads.REFERENCE}")


def show_missed(terminal: Any, title: str, outcomes: Mapping[str, Outcome]) -> None:
    lines = [(outcome, f"{name}: {text}") for name, outcome in outcomes.items() for text in outcome.missed()]
    if lines:
        terminal.section(title)
    for outcome, line in lines:
        terminal.write_line(line, red=not outcome.passed)


def compared_with(config: pytest.Config) -> str:
    path = config.getoption("--baseline")
    baseline = config.stash[BASELINE]
    if baseline is None:
        return f"no baseline of this class of machines was compared with: {path.name}"
    outcomes = config.stash[OUTCOMES]
    new = sorted({name for table in ("rates", "latencies") for name in outcomes[table] if name not in baseline[table]})
    missing = f"; NOT IN IT: {', '.join(new)}" if new else ""
    return f"compared with the baseline {path.name}, of {baseline.get('date', 'no date')}{missing}"


def update_baseline(terminal: Any, exitstatus: int, config: pytest.Config) -> None:
    path = config.getoption("--baseline")
    outcomes = config.stash[OUTCOMES]
    if exitstatus:
        terminal.write_line(f"{path.name} was NOT written: tests failed, or not all were run", red=True)
        return
    document: dict[str, Any] = {
        "machine_class": baselines.machine_class(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "pmesh": pmesh.__version__,
        "python": sys.version.split()[0],
    }
    for table in ("rates", "latencies"):
        document[table] = {
            name: {key: float(f"{value:.4g}") for key, value in outcome.figures.items()}
            for name, outcome in outcomes[table].items()
        }
    baselines.save(path, baselines.merged(baselines.load(path), document, workloads.WORKLOADS))
    measured = len(outcomes["rates"]) + len(outcomes["latencies"])
    terminal.write_line(f"{path.name} written: {measured} measurements of this run")
