"""pytest's way into pmesh: the fixtures `mesh` and `latency_benchmark`, the marker `slo`, the options that gate, and
the seeds of simulated tests.

pytest loads this in every project that has pmesh installed, so it imports nothing but pytest until a test or an option
asks for something: not the core, not asyncio, not pytest-benchmark. What it gives is described in
`docs/benchmarking.md` and `docs/testing.md`; how it measures and judges is in `pmesh.gates`, how it simulates in
`pmesh.testing`.

PYTEST_DONT_REWRITE: pytest would warn whoever has imported this before, and has nothing to explain here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import asyncio

    from pmesh import Coordinator
    from pmesh.gates import LatencyBenchmark
    from pmesh.gates.hooks import Gates
    from pmesh.gates.regressions import Margin
    from pmesh.testing.seeds import Ordered

__all__ = ["mesh", "mesh_options", "pmesh_runner", "pmesh_simulated"]

GATED_FIGURES = ("p50", "p90", "p99", "p99.9", "max", "throughput")
NO_BENCHMARK = (
    "latency_benchmark needs pytest-benchmark, which this run has not loaded: `pip install 'pmesh[benchmark]'` installs"
    " it, and `-p no:benchmark` would keep it out"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pmesh", "pmesh: latency gates")
    group.addoption(
        "--pmesh-loop",
        choices=("asyncio", "uvloop", "auto"),
        default="asyncio",
        help="Event loop of mesh and latency_benchmark; auto takes uvloop where it is installed.",
    )
    for figure in GATED_FIGURES:
        name = figure.replace(".", "_")
        worse = "lower" if figure == "throughput" else "higher"
        group.addoption(
            f"--pmesh-{name}-fail",
            dest=f"pmesh_{name}_fail",
            metavar="PERCENT",
            type=_margin_parser(figure),
            help=f"Fail if the {figure} of a test is {worse} than that of --benchmark-compare by more than this: 10%%.",
        )

    simulations = parser.getgroup("pmesh-simulations", "pmesh: simulations")
    simulations.addoption(
        "--pmesh-seed",
        metavar="N",
        type=int,
        help="Run tests decorated with pmesh.testing.simulate by this seed only, as in the note of one that failed.",
    )
    simulations.addoption(
        "--pmesh-seeds",
        metavar="N|A:B",
        type=_parse_seeds,
        help="Run them by so many seeds, or by those from A up to B, instead of what the decorator says.",
    )


def _parse_seeds(text: str) -> range:
    from pmesh.errors import InvalidArgument
    from pmesh.testing.seeds import parse_seeds

    try:
        return parse_seeds(text)
    except InvalidArgument as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _margin_parser(figure: str) -> Callable[[str], Margin]:
    def parse(text: str) -> Margin:
        from pmesh.errors import InvalidArgument
        from pmesh.gates.regressions import parse_margin

        try:
            return parse_margin(text, figure)
        except InvalidArgument as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "slo(*objectives, attempts=1): objectives such as 'p99<5ms' that what latency_benchmark measures in this test"
        " must meet, in one of so many attempts",
    )
    if config.getoption("pmesh_seed") is not None and config.getoption("pmesh_seeds") is not None:
        raise pytest.UsageError("--pmesh-seed runs one seed and --pmesh-seeds many: give one of them")
    config.pluginmanager.register(_Simulations(), "pmesh-simulations")
    # Which fixtures there are depends on pytest-benchmark, so that its own options see the tests that measure.
    config.pluginmanager.register(_WithBenchmark() if _has_benchmark(config) else _WithoutBenchmark(), "pmesh-fixtures")
    margins = _margins(config)
    if margins:
        _check_margins(config, margins)
        _gates(config)


@pytest.hookimpl(trylast=True)  # after whoever adds markers here
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if next(item.iter_markers("slo"), None) is not None:
            from pmesh.errors import InvalidArgument, InvalidType
            from pmesh.gates.objectives import promise_of

            try:
                promise = promise_of(item)
            except (InvalidArgument, InvalidType) as error:
                if not hasattr(config, "workerinput"):
                    raise pytest.UsageError(f"{item.nodeid}: {error}") from None
                # A worker of xdist dies of a usage error without a word.
                _gates(config).refuse(item.nodeid, str(error))
            else:
                assert promise is not None
                _gates(config).expect(item.nodeid, promise)
        if "latency_benchmark" in getattr(item, "fixturenames", ()) and _has_benchmark(config):
            from pmesh.gates.measuring import TIMER

            _gates(config)
            # The closest marker counts alone, so what it says is repeated.
            marker = item.get_closest_marker("benchmark")
            options = {} if marker is None else marker.kwargs
            item.add_marker(pytest.mark.benchmark(**{**options, "timer": TIMER}), append=False)


@pytest.fixture(scope="session")
def pmesh_runner(pytestconfig: pytest.Config) -> Iterator[asyncio.Runner]:
    """The event loop that `mesh` and `latency_benchmark` share: `pmesh_runner.run(coroutine)`."""
    import asyncio

    name = pytestconfig.getoption("pmesh_loop")
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if name != "asyncio":
        from pmesh.environment import choose_loop
        from pmesh.errors import InvalidArgument

        try:
            factory = choose_loop(name, "--pmesh-loop")
        except InvalidArgument as error:
            raise pytest.fail.Exception(f"--pmesh-loop={name}: {error}", pytrace=False) from None
    # With a factory the runner leaves the thread's own event loop alone, which other plugins may have set.
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner


@pytest.fixture
def mesh_options() -> dict[str, Any]:
    """Keyword arguments of the Coordinator of `mesh`; override this fixture to change them."""
    return {}


@pytest.fixture
def mesh(
    request: pytest.FixtureRequest, pmesh_runner: asyncio.Runner, mesh_options: dict[str, Any]
) -> Iterator[Coordinator]:
    """A running Coordinator in the event loop of `pmesh_runner`; it is closed after the test, and must balance."""
    from pmesh import Coordinator

    mesh = Coordinator(**{"name": request.node.name, **mesh_options})
    pmesh_runner.run(mesh.__aenter__())
    yield mesh
    if request.session.exitstatus == pytest.ExitCode.INTERRUPTED:
        # Whoever pressed Ctrl-C does not want to wait until handlers are over.
        pmesh_runner.run(mesh.__aexit__(KeyboardInterrupt, KeyboardInterrupt(), None))
    else:
        pmesh_runner.run(mesh.close())
    stats = mesh.stats()
    if stats.imbalance is not None:
        pytest.fail(f"the account of {mesh!r} does not balance: {stats.imbalance}; {stats!r}", pytrace=False)


@pytest.fixture
def pmesh_simulated() -> Ordered:
    """The seeds that the command line asks for, and who counts them: for tests that make `Simulation`s themselves."""
    from pmesh.testing.seeds import Ordered

    assert Ordered.current is not None, "the plugin sets it before fixtures are made"
    return Ordered.current


class _Simulations:
    """How much was simulated, in this process and in workers of xdist; a plugin of pytest's."""

    PROPERTY = "pmesh_simulated"

    def __init__(self) -> None:
        self._ordered: Ordered | None = None
        self._around: Ordered | None = None  # of a test that runs pytest in its own process
        self._tests = 0
        self._seeds = 0
        self._seconds = 0.0
        self._handled = 0

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        # Whoever simulates has imported this: a test when it was collected, with its decorator.
        if "pmesh.testing.seeds" in sys.modules or "pmesh_simulated" in getattr(item, "fixturenames", ()):
            from pmesh.testing.seeds import Ordered, Tally

            seed, seeds = item.config.getoption("pmesh_seed"), item.config.getoption("pmesh_seeds")
            self._around = Ordered.current
            self._ordered = Ordered(seeds if seed is None else range(seed, seed + 1), Tally())
            Ordered.current = self._ordered
        yield

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        try:
            yield
        finally:
            if self._ordered is not None:
                from pmesh.testing.seeds import Ordered

                tally = self._ordered.tally
                Ordered.current, self._ordered = self._around, None
                if tally.seeds:
                    item.user_properties.append((self.PROPERTY, (tally.seeds, tally.seconds, tally.handled)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            for name, value in report.user_properties:
                if name == self.PROPERTY:
                    assert isinstance(value, (tuple, list))  # a list where xdist sent it
                    self._tests += 1
                    self._seeds += value[0]
                    self._seconds += value[1]
                    self._handled += value[2]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._tests:
            hours = self._seconds / 3600
            time = f"{hours:,.1f} simulated hours" if hours >= 1 else f"{self._seconds:,.1f} simulated seconds"
            terminalreporter.write_line(
                f"pmesh: {self._tests} simulated tests ran by {self._seeds:,} seeds: {time},"
                f" {self._handled:,} messages handled"
            )


class _WithBenchmark:
    @pytest.fixture
    def latency_benchmark(
        self, request: pytest.FixtureRequest, benchmark: Any, pmesh_runner: asyncio.Runner
    ) -> LatencyBenchmark:
        """Times every call: `latency_benchmark(function, *args, calls=1000)`; also `.record` and `.throughput`."""
        from pmesh.gates.measuring import TIMER

        marker = request.node.get_closest_marker("benchmark")
        if marker is None or marker.kwargs.get("timer") is not TIMER:
            pytest.fail(
                "latency_benchmark must be an argument of the test or of its fixtures: request.getfixturevalue() comes"
                " too late for it to give pytest-benchmark its timer",
                pytrace=False,
            )
        return _gates(request.config).latency_benchmark(request.node, benchmark, pmesh_runner)


class _WithoutBenchmark:
    @pytest.fixture
    def latency_benchmark(self) -> None:
        """Times every call; needs pytest-benchmark, which this run has not loaded."""
        pytest.fail(NO_BENCHMARK, pytrace=False)


def _has_benchmark(config: pytest.Config) -> bool:
    return hasattr(config.option, "benchmark_compare")


def _margins(config: pytest.Config) -> list[Margin]:
    values = (config.getoption(f"pmesh_{figure.replace('.', '_')}_fail") for figure in GATED_FIGURES)
    return [margin for margin in values if margin is not None]


def _check_margins(config: pytest.Config, margins: list[Margin]) -> None:
    """Refuse options that could judge nothing, before any test runs."""
    from pmesh.gates.hooks import why_disabled

    option = margins[0].option
    if not _has_benchmark(config):
        raise pytest.UsageError(f"{option} cannot judge: {NO_BENCHMARK.removeprefix('latency_benchmark ')}")
    if not config.getoption("benchmark_compare"):
        raise pytest.UsageError(f"{option} needs --benchmark-compare, which says what to compare with")
    why = why_disabled(config)
    if why is not None:
        raise pytest.UsageError(f"{option} cannot judge: {why}")


def _gates(config: pytest.Config) -> Gates:
    """The gates of this session; made and registered when first asked for."""
    from pmesh.gates.hooks import Gates

    gates = config.pluginmanager.get_plugin(Gates.NAME)
    if not isinstance(gates, Gates):
        gates = Gates(config, _margins(config))
        config.pluginmanager.register(gates, Gates.NAME)
    return gates
