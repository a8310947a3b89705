"""Simulated tests under pytest, in other people's projects: seeds from the command line, and the summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pmesh.testing.seeds import Ordered

if TYPE_CHECKING:
    from plugin_projects import Project

pytest_plugins = ("pytester", "plugin_projects")

RACE = """
import asyncio
import pytest
from pmesh.testing import simulate

@pytest.fixture
def names():
    return ["a", "b"]

@pytest.mark.parametrize("pause", [1.0])
@simulate(seeds=40)
async def test_who_is_first(sim, names, pause):
    order = []
    async with sim.coordinator() as mesh:
        refs = [await mesh.spawn(lambda payload, name=name: order.append(name), name=name) for name in names]
        for ref in refs:
            ref.tell(1)
        await asyncio.sleep(pause)
    print("seed", sim.seed)
    assert order == names, f"{order[0]} was first"
"""

PASSES = """
import asyncio
from pmesh.testing import simulate

class TestIt:
    @simulate(seeds=7)
    async def test_one(self, sim):
        await asyncio.sleep(3600)

@simulate
async def test_other(sim):
    async with sim.coordinator() as mesh:
        ref = await mesh.spawn(lambda payload: payload)
        assert await ref.ask(1) == 1
"""


def test_a_failing_seed_is_shown_with_its_trace_and_is_repeated_by_its_number(project: Project) -> None:
    project.write(RACE)
    result = project.run()
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    seed = int(text.partition("Simulation: seed ")[2].partition(" ")[0])
    result.stdout.fnmatch_lines(
        [
            "E*AssertionError: b was first*",
            f"E*Simulation: seed {seed} fails (of 0:40). Again: --pmesh-seed {seed}",
            "E*! *b *is served before a",
            "pmesh: 1 simulated tests ran by *",
        ]
    )
    # Where pmesh's own frames would stand, the test's stand alone.
    assert "seeds.py" not in text
    again = project.run("--pmesh-seed", str(seed))
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines([f"E*Simulation: seed {seed} fails (of {seed}:{seed + 1}). Again: --pmesh-seed {seed}"])

    def shown(output: pytest.RunResult) -> list[str]:
        return [line for line in output.outlines if line.startswith("E") and "Simulation: seed" not in line]

    assert shown(again) == shown(result)


def test_seeds_of_the_command_line_take_the_place_of_the_decorators(project: Project) -> None:
    project.write(PASSES)
    result = project.run()
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["pmesh: 2 simulated tests ran by 107 seeds: 7.0 simulated hours, 100 messages handled"]
    )
    for options, seeds in (
        (("--pmesh-seeds", "20"), 40),
        (("--pmesh-seeds", "100:103"), 6),
        (("--pmesh-seed", "5"), 2),
    ):
        result = project.run(*options)
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines([f"pmesh: 2 simulated tests ran by {seeds} seeds: *"])


def test_seeds_are_counted_in_workers_too(project: Project) -> None:
    project.write(PASSES)
    result = project.run_apart("-n", "2")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(
        ["pmesh: 2 simulated tests ran by 107 seeds: 7.0 simulated hours, 100 messages handled"]
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--pmesh-seeds", "none"), "*seeds is 'none'; it must be how many, such as 1000, or from where to where*"),
        (("--pmesh-seeds", "0"), "*seeds is '0', which is none; it must be at least 1*"),
        (("--pmesh-seeds", "5:5"), "*seeds is '5:5', which is none*"),
        (("--pmesh-seed", "x"), "*--pmesh-seed: invalid int value: 'x'*"),
        (("--pmesh-seed", "1", "--pmesh-seeds", "5"), "*--pmesh-seed runs one seed and --pmesh-seeds many*"),
    ],
)
def test_seeds_that_cannot_be_are_refused_in_a_line(project: Project, options: tuple[str, ...], told: str) -> None:
    project.write(PASSES)
    result = project.run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([told])


EVERYWHERE = """
import unittest
from hypothesis import given, settings, strategies
from pmesh.testing import simulate

SEEDS = set()

class Case(unittest.TestCase):
    @simulate
    async def test_in_a_case(self, sim):
        SEEDS.add(("case", sim.seed))

@settings(max_examples=3, deadline=None, database=None)
@given(strategies.integers())
@simulate
async def test_given(sim, number):
    assert isinstance(number, int)
    SEEDS.add(("given", sim.seed))

@settings(max_examples=3, deadline=None, database=None)
@given(number=strategies.integers())
@simulate
async def test_given_by_name(sim, number, tmp_path_factory):
    SEEDS.add(("given by name", sim.seed))

def test_called_by_another():
    @simulate
    async def inner(sim):
        SEEDS.add(("called", sim.seed))

    inner()

def test_all():
    assert SEEDS == {(name, seed) for name in ("case", "given", "given by name", "called") for seed in (5, 6)}
"""


def test_seeds_of_the_command_line_reach_whoever_calls_a_simulated_test(project: Project) -> None:
    project.write(EVERYWHERE)
    result = project.run("--pmesh-seeds", "5:7")
    result.assert_outcomes(passed=5)
    result.stdout.fnmatch_lines(["pmesh: 4 simulated tests ran by * seeds: *"])


def test_seeds_of_the_command_line_reach_workers(project: Project) -> None:
    project.write(PASSES)
    result = project.run_apart("-n", "2", "--pmesh-seeds", "10:13")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["pmesh: 2 simulated tests ran by 6 seeds: *"])


def test_tests_that_make_simulations_themselves_are_told_the_seeds(project: Project) -> None:
    project.write("""
        def test_it(pmesh_simulated):
            assert pmesh_simulated.seeds == range(5, 7)
            from pmesh.testing import Simulation
            async def main(sim): pass
            for seed in pmesh_simulated.seeds:
                simulation = Simulation(seed)
                simulation.run(main)
                pmesh_simulated.tally.add(simulation)
    """)
    result = project.run("--pmesh-seeds", "5:7")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["pmesh: 1 simulated tests ran by 2 seeds: *"])


def test_a_pytest_inside_a_test_leaves_the_outer_ones_seeds_alone(project: Project, pmesh_simulated: Any) -> None:
    project.write(PASSES)
    project.run("--pmesh-seed", "5").assert_outcomes(passed=2)
    assert Ordered.current is pmesh_simulated


def test_a_skip_is_a_skip(project: Project) -> None:
    project.write("""
        import pytest
        from pmesh.testing import simulate

        @simulate
        async def test_it(sim):
            pytest.skip("not today")
    """)
    project.run().assert_outcomes(skipped=1)


def test_pytest_fail_in_a_simulation_is_a_failure_by_its_seed(project: Project) -> None:
    project.write("""
        import pytest
        from pmesh.testing import simulate

        @simulate
        async def test_it(sim):
            pytest.fail("as I said")
    """)
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*as I said*"])


def test_a_test_whose_time_is_over_is_not_run_again(project: Project) -> None:
    project.write("""
        import pytest
        from pmesh.testing import simulate

        @pytest.mark.timeout(1, method="signal")
        @simulate(seeds=range(3, 5))
        async def test_it(sim):
            print("begins")
            while True:
                pass
    """)
    result = project.run_apart()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Timeout*", "*Simulation: in seed 3. Again: --pmesh-seed 3"])
    assert result.stdout.str().count("\nbegins") == 1


def test_where_nothing_is_simulated_nothing_is_said(project: Project) -> None:
    project.write("def test_it(): pass")
    result = project.run()
    result.assert_outcomes(passed=1)
    assert "simulated tests" not in result.stdout.str()
