"""Interleavings of the core's model, all of them: nothing goes wrong, and what is planted in it is found."""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import interleaving
import pytest
from core_faults import FAULTS
from core_model import Core
from core_scenarios import SCENARIOS
from schedules import Run, Steps, System, Violation, Wait, explore, explore_states, parse, replay, write

CORE = Path(__file__).parent.parent / "pmesh"


# The explorer.


class Counting:
    """Threads that take so many steps each, and what they did in order."""

    def __init__(self, *lengths: int) -> None:
        self.running = ""
        self.done: list[str] = []
        self.threads = {str(number): self.work(length) for number, length in enumerate(lengths)}

    def work(self, length: int) -> Steps:
        for at in range(length):
            yield f"step {at}"
            self.done.append(self.running)

    def check(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def state(self) -> object:
        return None


def schedules_of(make: Callable[[], System], preemptions: int) -> tuple[int, set[tuple[str, ...]]]:
    """How many runs there were, and the schedules of those that came to an end."""
    seen: list[tuple[str, ...]] = []

    def made() -> System:
        system = make()
        system.finish = lambda: seen.append(tuple(system.done))  # type: ignore[attr-defined,method-assign]
        return system

    return explore(made, preemptions=preemptions).interleavings, set(seen)


@pytest.mark.parametrize("lengths", [(1, 1), (3, 4), (2, 2, 2), (6, 5)])
def test_with_enough_preemptions_every_interleaving_is_run_once(lengths: tuple[int, ...]) -> None:
    count, seen = schedules_of(lambda: Counting(*lengths), preemptions=sum(lengths))
    assert count == len(seen) == math.factorial(sum(lengths)) // math.prod(map(math.factorial, lengths))


@pytest.mark.parametrize("preemptions", [0, 1, 2, 3])
def test_no_schedule_has_more_preemptions_than_the_bound_and_none_below_it_is_left_out(preemptions: int) -> None:
    def count(schedule: tuple[str, ...]) -> int:
        left = {name: schedule.count(name) for name in schedule}
        found = 0
        for this, following in itertools.pairwise(schedule):
            left[this] -= 1
            found += this != following and left[this] > 0
        return found

    _, every = schedules_of(lambda: Counting(4, 4), preemptions=8)
    runs, seen = schedules_of(lambda: Counting(4, 4), preemptions=preemptions)
    assert seen == {schedule for schedule in every if count(schedule) <= preemptions}
    assert runs == len(seen)


def test_states_are_each_gone_on_from_once() -> None:
    result = explore_states(lambda: Counting(3, 4))
    assert len(result.states) == 4 * 5 - 1  # where each of the two stands, but for the beginning
    assert result.interleavings < 35
    assert result.failure is None


class Lost(Counting):
    """Two threads that add one to a number, each reading it in one step and writing it in the next."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.number = 0

    def work(self, length: int) -> Steps:
        yield "read"
        read = self.number
        yield "write"
        self.number = read + 1

    def finish(self) -> None:
        if self.number != 2:
            raise Violation(f"two threads added one, and it is {self.number}")

    def state(self) -> object:
        return self.number


def test_a_lost_update_takes_one_preemption() -> None:
    assert explore(Lost, preemptions=0).failure is None
    failure = explore(Lost, preemptions=1).failure
    assert failure is not None
    assert failure.violation == "two threads added one, and it is 1"
    assert explore_states(Lost).failure is not None


def test_a_failing_schedule_is_printed_step_by_step_and_can_be_run_again() -> None:
    failure = explore(Lost, preemptions=1).failure
    assert failure is not None
    lines = str(failure).splitlines()
    assert lines[0] == failure.violation
    assert [line.split()[1:] for line in lines[1:5]] == [["0", "read"], ["1", "read"], ["1", "write"], ["0", "write"]]
    assert lines[5] == "  schedule: 0:1 1:2 0:1"
    again = replay(Lost, parse("0:1 1:2 0:1"))
    assert again == failure
    assert replay(Lost, parse("0:2 1:2")) is None


def test_a_schedule_is_written_and_read_again() -> None:
    schedule = ("loop", "loop", "thread", "loop")
    assert write(schedule) == "loop:2 thread:1 loop:1"
    assert parse(write(schedule)) == schedule


def test_a_schedule_that_does_not_fit_says_where() -> None:
    with pytest.raises(ValueError, match="step 2 of the schedule is 0's, but only \\['1'\\] can go on"):
        replay(lambda: Counting(2, 2), parse("0:3"))


class Waiting(Counting):
    """One thread waits for what the other one does."""

    def __init__(self) -> None:
        super().__init__(0, 3)
        self.threads["0"] = self.wait()

    def wait(self) -> Steps:
        yield Wait("wait", lambda: len(self.done) == 3)
        self.done.append("over")


def test_a_thread_that_waits_takes_no_step_and_is_left_without_a_preemption() -> None:
    runs, seen = schedules_of(Waiting, preemptions=0)
    assert (runs, seen) == (1, {("1", "1", "1", "over")})


# The core.


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_goes_wrong_with_up_to_two_preemptions(scenario: str) -> None:
    result = explore(lambda: SCENARIOS[scenario](Core), preemptions=2)
    assert result.failure is None, f"{scenario}: {result.failure}"
    assert result.complete
    assert result.interleavings >= 25
    sys.stdout.write(f"{scenario}: {result.interleavings} interleavings, {result.steps} steps\n")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_nothing_goes_wrong_in_any_state_that_any_number_of_preemptions_reaches(scenario: str) -> None:
    result = explore_states(lambda: SCENARIOS[scenario](Core))
    assert result.failure is None, f"{scenario}: {result.failure}"
    assert result.complete
    assert len(result.states) >= 69
    sys.stdout.write(f"{scenario}: {len(result.states)} states, {result.interleavings} interleavings\n")


@pytest.mark.parametrize("name", FAULTS)
def test_it_is_found_when(name: str) -> None:
    fault = FAULTS[name]
    build = SCENARIOS[fault.scenario]
    failure = explore(lambda: build(fault.core), preemptions=fault.preemptions).failure
    assert failure is not None
    assert fault.violation in failure.violation
    assert failure.trace.count("\n") + 1 == len(failure.schedule)
    again = replay(lambda: build(fault.core), parse(write(failure.schedule)))
    assert again == failure
    assert explore_states(lambda: build(fault.core)).failure is not None


def steps_taken() -> set[str]:
    """Labels of all steps that the scenarios take, up to the colon."""
    taken: set[str] = set()
    for build in SCENARIOS.values():

        def made(build: Callable[[type[Core]], Core] = build) -> Core:
            core = build(Core)
            core.threads = {name: watched(thread) for name, thread in core.threads.items()}
            return core

        def watched(thread: Steps) -> Steps:
            for step in thread:
                taken.add((step.label if isinstance(step, Wait) else step).partition(":")[0])
                yield step

        assert explore(made, preemptions=1).failure is None
    return taken


def test_every_step_of_the_model_is_taken_in_some_scenario_and_is_named_after_a_method_of_the_core() -> None:
    source = (Path(__file__).parent / "core_model.py").read_text()
    written = set(re.findall(r'yield f?"([\w.]+)', source))
    taken = steps_taken()
    assert written - taken == set()
    assert len(written) > 25
    # Against renaming: what is mirrored must still be there.
    core = "".join(path.read_text() for path in CORE.glob("_core_*.pxi"))
    for name in written:
        kind, _, method = name.partition(".")
        assert kind == "loop" or re.search(rf"\b(cdef|cpdef|def) [^=\n]*\b{method}\(", core), (
            f"{name} is not in the core"
        )
        assert kind == "loop" or re.search(rf"\bcdef class {kind}\b", core), f"{kind} is not in the core"


# The program.


def test_the_program_prints_what_it_explored(capsys: pytest.CaptureFixture[str]) -> None:
    assert interleaving.main(["--preemptions", "1", "--scenario", "closing of the loop"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["scenario", "bound", "interleavings", "states", "steps", "result"]
    rows = [re.split(r" {2,}", line) for line in lines[1:-2]]
    assert len(rows) == 4
    assert all(row[1] == "1" and row[5] == "ok" for row in rows)
    total = re.split(r" {2,}", lines[-2])
    assert total[0] == "4 scenarios"
    assert total[2:5] == [str(sum(int(row[at]) for row in rows)) for at in (2, 3, 4)]
    assert total[5] == "0 failed"


def test_the_program_prints_the_schedule_of_a_failure_and_says_it_in_its_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "ran returns scheduled as it reads after the lock (the core's own)"
    monkeypatch.setattr(interleaving, "Core", FAULTS[name].core)
    scenario = FAULTS[name].scenario
    assert interleaving.main(["--scenario", scenario]) == 1
    out = capsys.readouterr().out
    assert "a is in the run queue twice" in out
    [schedule] = re.findall(r"^  schedule: (.*)$", out, re.MULTILINE)
    assert interleaving.main(["--scenario", scenario, "--replay", schedule]) == 1
    assert f"{scenario}: a is in the run queue twice" in capsys.readouterr().out
    monkeypatch.undo()
    assert interleaving.main(["--scenario", scenario, "--replay", "loop:1 thread:3"]) == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--scenario", "nonsense"], "no scenario has 'nonsense' in its name"),
        (["--preemptions", "many"], "--preemptions is 'many'; it must be a number or all"),
    ],
)
def test_the_program_says_what_is_wrong_with_its_arguments(
    arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        interleaving.main(arguments)
    assert error in capsys.readouterr().err


def test_a_run_takes_only_steps_that_can_be_taken() -> None:
    run = Run(Waiting)
    assert run.enabled() == ["1"]
