"""Explores every interleaving of a foreign thread with the loop in a model of the core, and prints how many there were.

    python tests/interleaving.py                      every scenario, with up to two preemptions
    python tests/interleaving.py --preemptions all    every state that any number of preemptions reaches
    python tests/interleaving.py --faults             how soon each planted fault is found

The explorer is `schedules.py`, the model `core_model.py`; what its threads do stands in `core_scenarios.py`.
"""

from __future__ import annotations

import argparse
import sys
import time

from core_faults import FAULTS
from core_model import Core
from core_scenarios import SCENARIOS
from schedules import Result, explore, explore_states, parse, replay

ROW = "{:<52} {:>6} {:>13} {:>7} {:>9}  {}\n"


def say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def look_at(scenario: str, core: type[Core], preemptions: int | None) -> Result:
    """Explore one scenario; None preemptions for any number of them."""
    build = SCENARIOS[scenario]
    if preemptions is None:
        return explore_states(lambda: build(core))
    return explore(lambda: build(core), preemptions=preemptions, count_states=True)


def scenarios(names: list[str], preemptions: int | None) -> int:
    """Explore `names` and print the table; how many went wrong."""
    bound = "any" if preemptions is None else str(preemptions)
    say(ROW.format("scenario", "bound", "interleavings", "states", "steps", "result"))
    total = Result()
    states = wrong = 0
    started = time.perf_counter()
    for name in names:
        result = look_at(name, Core, preemptions)
        total.interleavings += result.interleavings
        total.steps += result.steps
        states += len(result.states)
        wrong += result.failure is not None
        outcome = "ok" if result.failure is None else "FAILED"
        say(ROW.format(name, bound, result.interleavings, len(result.states), result.steps, outcome))
        if result.failure is not None:
            say(f'{result.failure}\n  again: --scenario "{name}" --replay "SCHEDULE"\n')
    say(
        ROW.format(f"{len(names)} scenarios", bound, total.interleavings, states, total.steps, f"{wrong} failed")
        + f"{time.perf_counter() - started:.1f} s; every step is followed by a check of every invariant\n"
    )
    return wrong


def faults() -> int:
    """Look for each planted fault with as few preemptions as it takes; how many were not found."""
    say(f"{'fault':<108} {'preemptions':>11} {'interleavings':>13}  found by\n")
    missed = 0
    for name, fault in FAULTS.items():
        for preemptions in range(fault.preemptions + 1):
            result = look_at(fault.scenario, fault.core, preemptions)
            if result.failure is not None:
                break
        missed += result.failure is None
        found = "NOT FOUND" if result.failure is None else result.failure.violation
        say(f"{name:<108} {preemptions:>11} {result.interleavings:>13}  {found[:60]}\n")
    say(f"{len(FAULTS)} faults, {missed} not found\n")
    return missed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Explore the interleavings of a foreign thread with the event loop in a model of pmesh's core.",
        epilog="With --preemptions all, an interleaving ends at a state that was seen before.",
    )
    parser.add_argument(
        "--preemptions", default="2", metavar="N", help="at most so many in a schedule, or all (default: 2)"
    )
    parser.add_argument("--scenario", default="", metavar="WORDS", help="only scenarios whose names have these words")
    parser.add_argument("--faults", action="store_true", help="plant each fault and say how soon it is found")
    parser.add_argument("--replay", metavar="SCHEDULE", help="follow one schedule of one scenario, step by step")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    options = parser.parse_args(arguments)
    names = [name for name in SCENARIOS if options.scenario in name]
    if not names:
        parser.error(f"no scenario has {options.scenario!r} in its name; --list names them")
    if options.preemptions != "all" and not options.preemptions.isdigit():
        parser.error(f"--preemptions is {options.preemptions!r}; it must be a number or all")
    if options.list:
        say("".join(f"{name}\n" for name in names))
        return 0
    if options.faults:
        return min(faults(), 1)
    if options.replay:
        name = options.scenario if options.scenario in SCENARIOS else names[0]
        failure = replay(lambda: SCENARIOS[name](Core), parse(options.replay))
        say(f"{name}: {failure or 'nothing goes wrong'}\n")
        return int(failure is not None)
    return min(scenarios(names, None if options.preemptions == "all" else int(options.preemptions)), 1)


if __name__ == "__main__":
    sys.exit(main())
