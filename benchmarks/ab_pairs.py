"""Runs the workloads in pairs of processes, one of each build, that take turns batch by batch.

Both processes of a pair have one hash seed and one processor, and only one of them runs at any time: what disturbs
the machine disturbs both. Each pair has fresh copies of the two installations. Which pages of memory the file system's
cache gave to a file makes the code in it up to a tenth faster or slower, for as long as the file exists; of one copy
for all pairs, that would be taken for the code's doing.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ab_builds import Problem, Side

WORKER = Path(__file__).with_name("ab_worker.py")

# A batch takes milliseconds; a workload that takes this long hangs.
ANSWER_SECONDS = 60.0

# A batch this long fills the caches again after the other process has had them, and is over before much else happens.
BATCH_SECONDS = 0.004


class Failed(Exception):
    """A workload raised with the pmesh of `side`; its process has closed it."""

    def __init__(self, side: Side, why: str) -> None:
        super().__init__(why)
        self.side = side


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: pairs of processes, and batches of each side in each pair."""

    pairs: int
    batches: int


@dataclass(slots=True)
class Series:
    """What was measured of one workload.

    Attributes:
        calls: In one batch.
        pairs: For each pair of processes the logarithms of after / before of neighbouring batches.
        before_ns: Processor time of a call in each batch of the first side, in nanoseconds.
        after_ns: The same of the second side.
    """

    calls: int = 0
    pairs: list[list[float]] = field(default_factory=list)
    before_ns: list[float] = field(default_factory=list)
    after_ns: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Measured:
    """The series by the workload's name, and for each that has none why not."""

    series: dict[str, Series] = field(default_factory=dict)
    not_before: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


class Worker:
    """A process of one side."""

    def __init__(self, side: Side, *, hash_seed: int, processor: int | None) -> None:
        self.side = side
        self._rest = b""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        # No variable may make the interpreters other than plain, nor lead to another pmesh.
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        # In a session of its own: Ctrl-C goes to the parent alone, which ends its workers.
        self._process = subprocess.Popen(
            [str(side.python), str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=variables | {"PYTHONHASHSEED": str(hash_seed)},
            start_new_session=True,
        )
        if processor is not None:
            os.sched_setaffinity(self._process.pid, {processor})

    def ask(self, command: str) -> dict[str, Any]:
        """Send one command and return the answer.

        Raises:
            Failed: The workload raised.
            Problem: The process ended or hung.
        """
        assert self._process.stdin is not None
        # Where the process has gone, the answer says so.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(command.encode() + b"\n")
            self._process.stdin.flush()
        return self.answer(command)

    def answer(self, command: str) -> dict[str, Any]:
        """The next answer, to `command`; raises as `ask` does."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + ANSWER_SECONDS
        while b"\n" not in self._rest:
            if not select.select([self._process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise Problem(f"{self.side.title}, {command}: no answer within {ANSWER_SECONDS:.0f} s")
            part = os.read(self._process.stdout.fileno(), 65_536)
            if not part:
                raise Problem(f"{self.side.title}, {command}: {self._ended()}")
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise Failed(self.side, found["error"])
        return found

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """The workload `name` set up, and then cleaned up; gives its own number of calls."""
        calls = self.ask(f"open {name}")["opened"]
        try:
            yield calls
        except Failed as error:
            if error.side is not self.side:
                self.ask("close")
            raise
        self.ask("close")

    def _ended(self) -> str:
        code = self._process.wait()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        self._log.seek(0)
        tail = self._log.read().decode(errors="replace").strip().splitlines()[-6:]
        return "\n  ".join([f"the process ended {how}", *tail])

    def close(self) -> None:
        """End the process, wherever it is."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


def measure(
    before: Side,
    after: Side,
    *,
    words: Sequence[str],
    effort: Effort,
    progress: Callable[[int, int], object],
) -> Measured:
    """Run the workloads whose name contains one of `words`, all of them if there are none, in both builds.

    `progress` is called with the number of workloads run and that of all to be run, each counted once for each pair.

    Raises:
        Problem: A process did not start, ended or hung; no workload has such a name; one that had run failed.
    """
    measured = Measured()
    generator = random.Random()
    for number in range(effort.pairs):
        with tempfile.TemporaryDirectory(prefix="pmesh-ab-pair-") as folder, contextlib.ExitStack() as ending:
            workers = {}
            hash_seed = generator.randrange(1, 2**32)
            for side in (before, after) if number % 2 else (after, before):
                copied = side.copied(Path(folder, side.environment.name))
                workers[side] = Worker(copied, hash_seed=hash_seed, processor=_processor(number))
                ending.callback(workers[side].close)
            greetings = {side: _greeting(worker) for side, worker in workers.items()}
            if number == 0:
                _sort(measured, greetings[before], greetings[after], words)
            names = list(measured.series)
            # What ran before a workload left its mark on the heap: not the same mark in each pair.
            generator.shuffle(names)
            for done, name in enumerate(names):
                progress(number * len(names) + done, effort.pairs * len(names))
                try:
                    _run(measured.series[name], name, workers[before], workers[after], effort.batches, number)
                except Failed as error:
                    if number:
                        raise Problem(f"{name} had run, and then failed with {error.side.title}: {error}") from None
                    del measured.series[name]
                    failed_before = error.side is workers[before].side
                    (measured.not_before if failed_before else measured.broken)[name] = str(error)
    return measured


def _processor(number: int) -> int | None:
    if not hasattr(os, "sched_getaffinity"):
        return None
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[number % len(allowed)]


def _greeting(worker: Worker) -> dict[str, Any]:
    found = worker.answer("start")
    environment = worker.side.environment
    if not Path(found["pmesh"]).is_relative_to(environment):
        raise Problem(f"{worker.side.title} loads pmesh from {found['pmesh']}; it must come from {environment}")
    return found


def _sort(measured: Measured, before: dict[str, Any], after: dict[str, Any], words: Sequence[str]) -> None:
    """Put each workload that is asked for where it belongs before anything has run."""
    measured.broken.update(after["failures"])
    missing = "; ".join(f"{file}: {why}" for file, why in before["failures"].items())
    for name in after["workloads"]:
        if not words or any(word.lower() in name.lower() for word in words):
            if name in before["workloads"]:
                measured.series[name] = Series()
            else:
                measured.not_before[name] = missing
    if not measured.series and not measured.not_before:
        there = ", ".join(after["workloads"]) or "; ".join(measured.broken.values()) or "none"
        raise Problem(f"no benchmark has {' or '.join(map(repr, words))} in its name; there are: {there}")


def _run(series: Series, name: str, before: Worker, after: Worker, batches: int, number: int) -> None:
    """Add the batches of one workload in one pair of processes to `series`."""
    ratios = []
    with before.opened(name) as calls, after.opened(name):
        for worker in (before, after):
            warm_up = worker.ask(f"run {calls}")["seconds"]
        # The whole multiple: a workload may want its bursts complete.
        series.calls = series.calls or calls * math.ceil(BATCH_SECONDS / warm_up)
        for batch in range(batches):
            seconds = {}
            for worker in (before, after) if (batch + number) % 2 else (after, before):
                seconds[worker] = worker.ask(f"run {series.calls}")["seconds"]
            ratios.append(math.log(seconds[after] / seconds[before]))
            series.before_ns.append(seconds[before] / series.calls * 1e9)
            series.after_ns.append(seconds[after] / series.calls * 1e9)
    series.pairs.append(ratios)
