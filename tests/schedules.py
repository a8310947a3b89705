"""Runs threads that are generators in every order that can matter, and prints the one that goes wrong.

A thread is a generator that yields before each of its atomic steps: what it runs between two yields cannot be
interrupted, and at a yield any other thread may go on. So one schedule, a list of who takes each step, says all about a
run, and running it again gives the same run. `explore` does that depth first: it follows a schedule, goes on to the end
without a switch, then takes the last choice that has an alternative left, and starts from the beginning
("stateless model checking"; Godefroid, "Model Checking for Programming Languages using VeriSoft", POPL 1997; for Rust
and tokio: `loom`, https://github.com/tokio-rs/loom).

Schedules are bounded by preemptions: switches away from a thread that could have gone on. Those away from a thread
that waits or has ended are free. Most faults of concurrency need no more than two (Musuvathi and Qadeer, "Iterative
Context Bounding for Systematic Testing of Multithreaded Programs", PLDI 2007; the tool is CHESS), and the number of
schedules is then polynomial in the number of steps. `explore_states` has no bound: it goes on only from states that it
has not seen, where a state is all shared data, and of each thread where it stands and its local variables.

Steps follow each other as if there were one memory (sequential consistency): reordering by compilers and processors is
not modelled.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

__all__ = ["Failure", "Result", "Steps", "System", "Violation", "Wait", "explore", "explore_states", "parse", "replay"]


class Wait(NamedTuple):
    """Yielded before a step that cannot be taken until `ready()`."""

    label: str
    ready: Callable[[], bool]


Steps = Generator[str | Wait, None, Any]


class Violation(AssertionError):
    """What must always hold does not."""


class System(Protocol):
    """What is explored: made afresh for each schedule."""

    threads: dict[str, Steps]
    running: str  # who takes a step

    def check(self) -> None:
        """Raise `Violation` when what must hold after every step does not."""

    def finish(self) -> None:
        """Raise `Violation` when what must hold once nothing can go on any more does not."""

    def state(self) -> object:
        """All shared data, hashable."""


class Failure(NamedTuple):
    """A schedule that goes wrong, and how."""

    violation: str
    schedule: tuple[str, ...]
    trace: str

    def __str__(self) -> str:
        return f"{self.violation}\n{self.trace}\n  schedule: {write(self.schedule)}"


@dataclass
class Result:
    """What was explored."""

    interleavings: int = 0  # runs, from the beginning to an end or to a state seen before
    steps: int = 0
    longest: int = 0
    states: set[int] = field(default_factory=set)  # hashes
    complete: bool = True
    failure: Failure | None = None


def write(schedule: Iterable[str]) -> str:
    """A schedule in short: `loop:3 thread:12 loop:7`."""
    parts: list[list[Any]] = []
    for name in schedule:
        if parts and parts[-1][0] == name:
            parts[-1][1] += 1
        else:
            parts.append([name, 1])
    return " ".join(f"{name}:{count}" for name, count in parts)


def parse(text: str) -> tuple[str, ...]:
    """The inverse of `write`."""
    schedule: list[str] = []
    for part in text.split():
        name, _, count = part.partition(":")
        schedule += [name] * int(count)
    return tuple(schedule)


class Run:
    """One run of a system, step by step."""

    def __init__(self, make: Callable[[], System]) -> None:
        self.system = make()
        self.pending: dict[str, str | Wait] = {}  # the step that each living thread takes next
        self.schedule: list[str] = []
        self.lines: list[str] | None = None  # the trace, when one is wanted
        for name in self.system.threads:
            self._advance(name)

    def _advance(self, name: str) -> None:
        self.system.running = name
        try:
            self.pending[name] = next(self.system.threads[name])
        except StopIteration:
            del self.pending[name]

    def enabled(self) -> list[str]:
        return [name for name, step in self.pending.items() if step.__class__ is not Wait or step.ready()]

    def step(self, name: str) -> None:
        """Let `name` take its step; raises `Violation`, also for an exception that a thread lets out."""
        if self.lines is not None:
            step = self.pending[name]
            self.lines.append(f"  {len(self.schedule):4} {name:8} {step.label if isinstance(step, Wait) else step}")
        self.schedule.append(name)
        try:
            self._advance(name)
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"{name} raised {error!r}") from error
        self.system.check()

    def state(self) -> int:
        """Hash of all that decides how this can go on."""
        threads = self.system.threads
        return hash((self.system.state(), *(_where(threads[name]) if name in self.pending else 0 for name in threads)))


def _where(thread: Steps) -> tuple[Any, ...]:
    """Where a thread stands, and with which local variables.

    What a frame has besides, such as the iterator of a `for`, must follow from these.
    """
    frames: list[Any] = []
    generator: Any = thread
    while generator is not None:
        frame = generator.gi_frame
        if frame is None:
            break
        frames.append((generator.__qualname__, frame.f_lasti, *map(_plain, frame.f_locals.values())))
        generator = generator.gi_yieldfrom
    return tuple(frames)


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    if value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, dict):
        return tuple((key, _plain(item)) for key, item in value.items())
    return getattr(value, "name", None) or getattr(value, "__qualname__", None) or type(value).__name__


def replay(make: Callable[[], System], schedule: Iterable[str]) -> Failure | None:
    """Follow a schedule, to its end and then on without a switch; what went wrong, with every step in words."""
    run = Run(make)
    run.lines = []
    violation = None
    wanted = list(schedule)
    try:
        run.system.check()
        while enabled := run.enabled():
            at = len(run.schedule)
            name = wanted[at] if at < len(wanted) else (run.schedule[-1] if at else enabled[0])
            if name not in enabled:
                if at < len(wanted):
                    raise ValueError(f"step {at} of the schedule is {name}'s, but only {enabled} can go on")
                name = enabled[0]
            run.step(name)
        run.system.finish()
    except Violation as error:
        violation = str(error)
    if violation is None:
        return None
    return Failure(violation, tuple(run.schedule), "\n".join(run.lines))


class _Choice:
    """At one step of the run: who takes it, and who else is still to be tried there."""

    __slots__ = ("left", "name", "preemptions")

    def __init__(self, name: str, left: list[str], preemptions: int) -> None:
        self.name = name
        self.left = left
        self.preemptions = preemptions  # before this step


def explore(
    make: Callable[[], System], *, preemptions: int = 2, most: int | None = None, count_states: bool = False
) -> Result:
    """Every schedule with at most `preemptions` preemptions, until one goes wrong or there were `most` of them."""
    result = Result()
    path: list[_Choice] = []
    while True:
        run = Run(make)
        last = None
        used = 0
        try:
            while enabled := run.enabled():
                at = len(run.schedule)
                new = at >= len(path) - 1
                if at < len(path):
                    name = path[at].name
                else:
                    name = last if last in enabled else enabled[0]
                    can_switch = last not in enabled or used < preemptions
                    path.append(
                        _Choice(name, [other for other in enabled if other != name] if can_switch else [], used)
                    )
                if last in enabled and name != last:
                    used += 1
                run.step(name)
                last = name
                if count_states and new:
                    result.states.add(run.state())
            run.system.finish()
        except Violation:
            result.failure = replay(make, run.schedule)
        result.interleavings += 1
        result.steps += len(run.schedule)
        result.longest = max(result.longest, len(run.schedule))
        if result.failure is not None:
            return result
        while path and not path[-1].left:
            path.pop()
        if not path:
            return result
        if most is not None and result.interleavings >= most:
            result.complete = False
            return result
        path[-1].name = path[-1].left.pop()


def explore_states(make: Callable[[], System], *, most: int | None = None) -> Result:
    """Every state that any schedule reaches, however often it switches, until one goes wrong."""
    result = Result()
    path: list[_Choice] = []
    while True:
        run = Run(make)
        try:
            while enabled := run.enabled():
                at = len(run.schedule)
                if at < len(path):
                    run.step(path[at].name)
                    if at + 1 < len(path):
                        continue
                else:
                    path.append(_Choice(enabled[0], enabled[1:], 0))
                    run.step(enabled[0])
                state = run.state()
                if state in result.states:
                    break
                result.states.add(state)
            else:
                run.system.finish()
        except Violation:
            result.failure = replay(make, run.schedule)
        result.interleavings += 1
        result.steps += len(run.schedule)
        result.longest = max(result.longest, len(run.schedule))
        if result.failure is not None:
            return result
        while path and not path[-1].left:
            path.pop()
        if not path:
            return result
        if most is not None and len(result.states) >= most:
            result.complete = False
            return result
        path[-1].name = path[-1].left.pop()
