"""The process that runs workloads in one of the two environments, as `ab_pairs.py` tells it line by line.

    open NAME     set the workload up
    run CALLS     do so many calls; the answer is the seconds of processor time that they took
    close         clean the workload up

Each answer is one line of JSON, on the descriptor that was stdout: what a workload prints goes to stderr.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

STACK = Path(__file__).parents[1] / "pmesh" / "gates" / "stack.py"

# The workloads take their seconds with `time.perf_counter`. Here that is the time of the processor, or whatever else
# runs on the machine would be in it.
time.perf_counter = time.process_time

answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)


def answer(**values: object) -> None:
    print(json.dumps(values), file=answers, flush=True)


def words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def load() -> tuple[dict[str, Any], dict[str, str]]:
    """The workloads, and for each file that cannot be loaded with this pmesh why not."""
    failures = {}
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        try:
            importlib.import_module(path.stem)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            failures[path.name] = words(error)
    return importlib.import_module("workloads").WORKLOADS, failures


async def serve(workload: Any) -> None:
    """Run `workload` until it is to be closed.

    Cancel safety: the workload is cleaned up.
    """
    async with workload.prepare() as work:
        # What is there now stays; a collection between two batches then costs next to nothing.
        gc.collect()
        gc.freeze()
        answer(opened=workload.calls)
        for line in sys.stdin:  # nothing else is to run while this waits
            verb, _, argument = line.strip().partition(" ")
            if verb == "close":
                break
            gc.collect()
            answer(seconds=await work(int(argument)))


def main() -> None:
    import pmesh

    # That of the working tree, as the workloads are: the revision's pmesh may not have it.
    with_room = runpy.run_path(str(STACK))["with_room"]
    workloads, failures = load()
    answer(pmesh=pmesh.__file__, workloads=list(workloads), failures=failures)
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            name = line.strip().partition(" ")[2]
            try:
                with_room(lambda name=name: runner.run(serve(workloads[name])))
            except Exception as error:  # noqa: BLE001 - whatever it is, the other side is told
                answer(error=words(error))
            else:
                answer(closed=name)
            gc.unfreeze()


if __name__ == "__main__":
    main()
