"""Is the working tree slower than a revision? Exits 1 when a benchmark is, and 2 when that cannot be told.

    python benchmarks/ab.py HEAD                      the uncommitted changes
    python benchmarks/ab.py main --only tell ask      some benchmarks, against another branch
    python benchmarks/ab.py --self-test 10            the working tree against itself, ten times: no difference

Both are built as wheels and installed in an environment each. Pairs of processes, one of each, then run the working
tree's benchmarks in turns, batch by batch. What is compared is processor time. A difference is one that is at least
3 % and sure: docs/regressions.md says how sure.

Building takes a minute or two the first time, and nothing as long as the sources stay the same; measuring 25
benchmarks takes about three minutes, with --quick one.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from ab_builds import Problem, Side, install, revision, working_tree
from ab_pairs import Effort, measure
from ab_report import Comparison, as_dict, compare, figures, table
from ab_statistics import FASTER, SLOWER, Rules
from export import add_outputs, write_json, write_outputs

ROOT = Path(__file__).resolve().parents[1]

FULL = Effort(pairs=40, batches=6)
QUICK = Effort(pairs=16, batches=4)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", nargs="?", metavar="REV", help="a commit, branch or tag to compare with")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="benchmarks with a WORD in their name")
    parser.add_argument("--pairs", type=int, metavar="N", help=f"pairs of processes (default {FULL.pairs})")
    parser.add_argument("--batches", type=int, metavar="N", help=f"batches in each (default {FULL.batches})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK.pairs} pairs and {QUICK.batches} batches")
    parser.add_argument("--self-test", type=int, metavar="N", help="the working tree against itself, N times")
    parser.add_argument(
        "--fail-on", choices=["slower", "none"], default="slower", help="what makes the exit code 1 (default slower)"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all of it as JSON")
    add_outputs(parser)
    options = parser.parse_args(arguments)
    if (options.revision is None) == (options.self_test is None):
        parser.error("give a revision to compare with, such as HEAD, or --self-test N")
    default = QUICK if options.quick else FULL
    pairs = default.pairs if options.pairs is None else options.pairs
    batches = default.batches if options.batches is None else options.batches
    if pairs < 2 or batches < 1:
        parser.error("--pairs must be at least 2 and --batches at least 1")
    if options.self_test is not None:
        if options.self_test < 1:
            parser.error("--self-test must be at least 1")
        if options.json or options.github or options.bencher:
            parser.error("--json, --github and --bencher are for a comparison with a revision")
    options.effort = Effort(pairs, batches)
    return options


class ProgressLine:
    """One line on stderr that is written over; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._started = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if self._shown and done:
            left = (time.monotonic() - self._started) / done * (total - done)
            print(f"\r\033[K{done / total:>4.0%}, {left:,.0f} s left", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def run(before: Side, after: Side, options: argparse.Namespace) -> Comparison:
    """One whole comparison, printed."""
    progress = ProgressLine()
    try:
        measured = measure(before, after, words=options.only, effort=options.effort, progress=progress)
    finally:
        progress.clear()
    comparison = compare(before.title, after.title, options.effort, Rules(), measured)
    print(table(comparison), flush=True)
    return comparison


def self_test(options: argparse.Namespace, scratch: Path) -> int:
    """Compare the working tree with itself; 1 when that finds any difference."""
    sources = [working_tree(ROOT, scratch / name) for name in ("a", "b")]
    before, after = install(sources, ROOT / "build" / "ab-wheels", scratch)
    verdicts = alarms = 0
    for number in range(1, options.self_test + 1):
        print(f"\nself-test {number} of {options.self_test}", flush=True)
        comparison = run(before, after, options)
        if comparison.broken:
            return 2
        verdicts += len(comparison.rows)
        alarms += comparison.count(SLOWER) + comparison.count(FASTER)
    print(f"\n{alarms} false alarms in {options.self_test} comparisons with {verdicts} verdicts")
    return 1 if alarms else 0


def against_revision(options: argparse.Namespace, scratch: Path) -> int:
    """Compare with the revision; 1 when something is slower, 2 when something or all could not be compared."""
    sources = [revision(ROOT, options.revision, scratch / "a"), working_tree(ROOT, scratch / "b")]
    comparison = run(*install(sources, ROOT / "build" / "ab-wheels", scratch), options)
    if options.json is not None:
        write_json(options.json, as_dict(comparison))
    write_outputs(options, figures(comparison))
    if comparison.broken or not comparison.rows:
        return 2
    return 1 if comparison.count(SLOWER) and options.fail_on == "slower" else 0


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder that goes however this ends; a Ctrl-C while it goes is not heeded."""

    def terminate(_number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(143)

    signal.signal(signal.SIGTERM, terminate)
    with tempfile.TemporaryDirectory(prefix="pmesh-ab-") as folder:
        try:
            yield Path(folder)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        with scratch_folder() as scratch:
            return (against_revision if options.self_test is None else self_test)(options, scratch)
    except Problem as problem:
        print(f"ab.py: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ab.py: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
