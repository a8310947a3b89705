"""Measures one peer at one subject, in this process: `python measure.py RESULT MODULE ENTRY SUBJECT SECONDS AGENTS`.

MODULE is the path of a peer's file, without its ending.

Writes to the file RESULT what it found, or why it failed, as JSON. `child.py` starts it and sees that it ends.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import inspect
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from processes import descendants
from subjects import SUBJECTS, Prepare, Subject, Work

from pmesh.gates.stack import with_room

# A trial says how much work fills the time. Of a slow peer it has to be this much as well, or what its senders and
# clients need to get going would be most of it.
TRIAL_SECONDS = 0.02
TRIAL_UNITS = 1000
SLOW_SECONDS = 1.0
STRETCHES = 5

# Where the system under test may still be ending threads or returning memory.
SETTLE_SECONDS = 0.2


@dataclass(frozen=True)
class Measured:
    """`value` is a rate, or bytes; `units` is how many were done, or agents made, in `seconds`."""

    value: float
    units: int
    seconds: float


@asynccontextmanager
async def prepared(prepare: Prepare) -> AsyncIterator[Work]:
    manager = prepare()
    if isinstance(manager, AbstractAsyncContextManager):
        async with manager as work:
            yield work
    else:
        with manager as work:
            yield work


async def seconds_of(work: Work, count: int) -> float:
    result = work(count)
    return await result if inspect.isawaitable(result) else result


async def measure(prepare: Prepare, subject: Subject, seconds: float, agents: int) -> Measured:
    """One figure; `agents` is how many at most are made at once.

    Cancel safety: a cancelled call leaves what the peer leaves; the process is ended.
    """
    async with prepared(prepare) as work:
        if subject.key == "memory":
            return await measure_memory(work, agents)
        most = agents if subject.key == "spawn" else sys.maxsize
        return await measure_rate(work, subject.step, seconds, most)


async def measure_rate(work: Work, step: int, seconds: float, most: int) -> Measured:
    count = min(step, most)
    while True:
        took = await seconds_of(work, count)
        if count >= most or took >= SLOW_SECONDS or (took >= TRIAL_SECONDS and count >= TRIAL_UNITS):
            break
        count = min(count * 4, most)
    stretch = max(count * seconds / STRETCHES / max(took, 1e-9), min(count, TRIAL_UNITS))
    count = min(max(step, int(stretch / step) * step), most)
    units, total = 0, 0.0
    while total < seconds:
        total += await seconds_of(work, count)
        units += count
    return Measured(units / total, units, total)


async def measure_memory(work: Work, agents: int) -> Measured:
    """Growth by `agents` idle agents after a tenth as many, which pay for what is made once."""
    start = time.perf_counter()
    await seconds_of(work, max(1, agents // 10))
    before = await settled_bytes()
    await seconds_of(work, agents)
    after = await settled_bytes()
    return Measured((after - before) / agents, agents, time.perf_counter() - start)


async def settled_bytes() -> int:
    await asyncio.sleep(SETTLE_SECONDS)
    gc.collect()
    # This process and all that its peer has started; daemons are children of the keeper by now.
    return sum(map(own_bytes, descendants(os.getppid())))


def own_bytes(pid: int) -> int:
    """The proportional share of a process: what several hold in common counts once in their sum."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it ended meanwhile
    return 1024 * int(next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1])


def main(result: str, module: str, entry: str, subject: str, seconds: str, agents: str) -> None:
    folder, name = os.path.split(module)
    sys.path.insert(0, folder)
    try:
        prepare: Prepare = importlib.import_module(name).WORK[entry][subject]
    except ImportError as error:
        found: dict[str, object] = {"absent": describe(error)}
    else:
        try:
            found = vars(
                with_room(lambda: asyncio.run(measure(prepare, SUBJECTS[subject], float(seconds), int(agents))))
            )
        except BaseException as error:  # noqa: BLE001  whatever it is, it is reported
            found = {"failed": describe(error)}
    Path(result).write_text(json.dumps(found))


def describe(error: BaseException) -> str:
    """Its type and the first line of what it says."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    # Threads and loops that a peer left behind must not keep the process.
    os._exit(0)
