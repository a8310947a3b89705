"""pmesh beside its peers, each doing the same work the way its own documentation does it.

    python benchmarks/peers/run.py                            all, about twenty minutes; writes docs/benchmarks.md
    python benchmarks/peers/run.py --quick                    one short round, writes nothing
    python benchmarks/peers/run.py --only pykka --only /ask   one peer, and one subject of all
    python benchmarks/peers/run.py --only janus/threads --rounds 11
    python benchmarks/peers/run.py --json peers.json          keeps what was measured
    python benchmarks/peers/run.py --from-json peers.json     writes the documents again, measures nothing

Every measurement has a process of its own. In each round each subject is measured with all peers in turn, in an order
that moves on and turns round from round to round; a ratio is of one round, and the median over the rounds counts.

Exits 1 when a ratio that must hold does not, or pmesh itself fails. A peer that cannot be imported, raises, dies or
takes too long is reported as failed, and not tried again. Ctrl-C ends everything that was started and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entries import ENTRIES, Entry
from gates import judge
from machine import describe_machine
from plot import draw
from render import render
from results import OURS, Comparison, Pair, applicable
from subjects import SUBJECTS

import pmesh
from pmesh.environment import slow_variants

CHILD = Path(__file__).with_name("child.py")
DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks.md"

LIMIT_SECONDS = 60.0
ENDING_SECONDS = 30.0  # what a child may take to end all it started
INTERRUPTED = 130  # as shells report the end by SIGINT

Outcome = dict[str, Any]
Measure = Callable[[Entry, str, float], Outcome]


def measure_in_child(
    entry: Entry, subject: str, seconds: float, *, limit_seconds: float = LIMIT_SECONDS, folder: Path = CHILD.parent
) -> Outcome:
    """Measure in a process of its own: a `value`, or why there is none in `absent` or `failed`.

    An exception, KeyboardInterrupt too, leaves nothing running.
    """
    arguments = [str(folder / entry.module), entry.key, subject, str(seconds), str(entry.agents)]
    command = [sys.executable, str(CHILD), str(limit_seconds), *arguments]
    # A session of its own: Ctrl-C is for this process, which then ends the child.
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | entry.environment,
        start_new_session=True,
    )
    try:
        output, _ = child.communicate(timeout=limit_seconds + ENDING_SECONDS)
    except BaseException:
        child.terminate()
        child.communicate(timeout=ENDING_SECONDS)
        raise
    if child.returncode or not output:
        return {"failed": f"its keeper ended with exit code {child.returncode}"}
    found: Outcome = json.loads(output)
    return found


@dataclass(frozen=True, slots=True)
class Step:
    number: int  # of the round
    entry: Entry
    subject: str

    @property
    def pair(self) -> Pair:
        return self.entry.key, self.subject


def plan(pairs: Iterable[Pair], rounds: int) -> Iterator[Step]:
    """Subject by subject in each round, with the entries in an order that moves on and turns round."""
    wanted = set(pairs)
    for number in range(rounds):
        for subject in SUBJECTS:
            entries = [entry for entry in ENTRIES.values() if (entry.key, subject) in wanted]
            if entries:
                first = number // 2 % len(entries)
                entries = entries[first:] + entries[:first]
            yield from (Step(number, entry, subject) for entry in (reversed(entries) if number % 2 else entries))


def choose(only: Sequence[str]) -> list[Pair]:
    """The pairs that "PEER", "/SUBJECT" and "PEER/SUBJECT" name, and pmesh at each of their subjects.

    Raises:
        ValueError: One names nothing.
    """
    possible = [(entry, subject) for entry in ENTRIES for subject in SUBJECTS if applicable(entry, subject)]
    chosen = set() if only else set(possible)
    for text in only:
        peer, _, subject = text.partition("/")
        named = [pair for pair in possible if peer in ("", pair[0]) and subject in ("", pair[1])]
        if not named:
            raise ValueError(
                f"--only {text!r} names nothing that is measured: it is PEER, /SUBJECT or PEER/SUBJECT,"
                f" with a peer of {', '.join(ENTRIES)}, and a subject of {', '.join(SUBJECTS)}"
            )
        chosen.update(named)
    beside = {(ENTRIES[entry].beside, subject) for entry, subject in chosen}
    return [pair for pair in possible if pair in chosen or pair in beside]


def compare(
    comparison: Comparison,
    pairs: Iterable[Pair],
    rounds: int,
    seconds: float,
    measure: Measure,
    report: Callable[[str], None],
) -> None:
    """Fill `comparison` with `rounds` rounds of `pairs`, and tell `report` how far it is."""
    wanted = list(pairs)
    steps = list(plan(wanted, rounds))
    took: dict[Pair, float] = {}
    for done, step in enumerate(steps, 1):
        if step.pair in comparison.failures:
            continue
        start = time.monotonic()
        found = measure(step.entry, step.subject, seconds)
        took[step.pair] = time.monotonic() - start
        if "value" in found:
            comparison.values.setdefault(step.pair, {})[step.number] = found["value"]
            digits = ",.0f" if found["value"] >= 100 else ".3g"
            text = f"{found['value']:{digits}} {SUBJECTS[step.subject].unit}"
        elif "absent" in found:
            text = f"absent: {found['absent']}"
            comparison.failures |= {pair: text for pair in wanted if pair[0] == step.entry.key}
        else:
            text = comparison.failures[step.pair] = found["failed"]
        left = [later.pair for later in steps[done:] if later.pair not in comparison.failures]
        minutes = sum(took.get(pair, statistics.mean(took.values())) for pair in left) / 60
        where = f"[{done}/{len(steps)}] round {step.number + 1} of {rounds}"
        report(f"{where}, {step.entry.title}, {SUBJECTS[step.subject].title}: {text}; {minutes:.1f} min left")


def write_whole(files: dict[Path, str]) -> None:
    """All of `files`, or none where one cannot be written; never a part of one."""
    made: dict[Path, Path] = {}
    try:
        for path, text in files.items():
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            made[path] = Path(name)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            made[path].chmod(0o644)
        for path in list(made):
            made.pop(path).replace(path)
    finally:
        for left in made.values():
            left.unlink()


def documents(comparison: Comparison, output: Path) -> dict[Path, str]:
    """The Markdown at `output`, and beside it the plots it shows, named after it."""
    plots = draw(comparison)
    names = {key: f"{output.stem}-{key}.svg" for key in plots}
    files = {output.with_name(names[key]): svg for key, svg in plots.items()}
    return files | {output: render(comparison, judge(comparison), names)}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", action="append", default=[], metavar="PEER/SUBJECT", help="measure only these (may be repeated)"
    )
    parser.add_argument("--rounds", type=int, help="rounds (default 5, 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="one round of 0.1 s each, to see that all works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured to FILE")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="measure nothing, take FILE")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the Markdown (default docs/benchmarks.md; none for a part or --quick)",
    )
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {options.rounds}")
    for path in (options.json, options.output):
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"there is no folder {path.parent} for {path.name}")
    if variants := slow_variants(pmesh.BUILD_INFO):
        parser.error(f"this is a {' and '.join(variants)} build of pmesh; its figures say nothing")
    try:
        options.pairs = choose(options.only)
    except ValueError as error:
        parser.error(str(error))
    if options.output is None and not (options.only or options.quick):
        options.output = DOCUMENT
    return options


def main(arguments: Sequence[str] | None = None, measure: Measure = measure_in_child) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if options.from_json:
        comparison = Comparison.from_document(json.loads(options.from_json.read_text()))
    else:
        # pmesh's own need not be installed to be measured: it may be built in place.
        versions = {key: entry.version for key, entry in ENTRIES.items()} | dict.fromkeys(OURS, pmesh.__version__)
        rounds = options.rounds or (1 if options.quick else 5)
        comparison = Comparison(f"python benchmarks/peers/run.py --rounds {rounds}", describe_machine(), versions)
        try:
            compare(
                comparison,
                options.pairs,
                rounds,
                0.1 if options.quick else 0.5,
                measure,
                lambda text: print(text, file=sys.stderr, flush=True),
            )
        except KeyboardInterrupt:
            print("interrupted: everything is ended, nothing was written", file=sys.stderr)
            return INTERRUPTED
    files = documents(comparison, options.output) if options.output else {}
    if options.json:
        files[options.json] = json.dumps(comparison.as_document(), indent=1) + "\n"
    write_whole(files)
    return conclude(comparison)


def conclude(comparison: Comparison) -> int:
    """Print what failed and every gate; 1 when one is missed, or pmesh failed."""
    for (entry, subject), failure in comparison.failures.items():
        print(f"FAILED     {ENTRIES[entry].title}, {SUBJECTS[subject].title}: {failure}")
    results = judge(comparison)
    for result in results:
        print(result)
    missed = [result for result in results if result.verdict == "MISSED"]
    unjudged = [result for result in results if result.verdict == "NOT JUDGED"]
    failed = [pair for pair in comparison.failures if pair[0] in OURS]
    print(f"{len(results)} ratios, {len(missed)} missed, {len(unjudged)} not judged")
    return 1 if missed or failed else 0


if __name__ == "__main__":
    sys.exit(main())
