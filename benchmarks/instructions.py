"""How many instructions the hot operations take, counted by valgrind's callgrind; exits 1 when one takes 3 % more.

    python benchmarks/instructions.py               against the committed counts of this class of machines
    python benchmarks/instructions.py --reruns 3    and how much three counts of the same differ
    python benchmarks/instructions.py --update      write the counts, to be committed

Counts do not depend on how busy or fast the machine is, so a small change shows. They do depend on the interpreter
and on the compiler: `benchmarks/instructions/` has one file for each class of machines, and a class without one
makes the exit code 2, or 0 with --allow-uncounted. Where names lie in memory moves some by 2 %, since the interpreter's
cache of attributes goes by addresses: what takes more is counted again with other addresses, and the least is judged.
All takes about two minutes.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from export import Figure, add_outputs, read_json, write_json, write_outputs
from hot_operations import OPERATIONS

import pmesh
from pmesh.environment import slow_variants

PROGRAM = Path(__file__).with_name("hot_operations.py")
FOLDER = Path(__file__).with_name("instructions")

# An operation may take this share of instructions more than was committed.
ALLOWED = 0.03

# How many more environment variables a process is given, behind whose names and values all else lies in memory.
LAYOUTS = (0, 1, 2, 8)

# A first part in which everything is set up and used once, and then what is counted. The start of the process is
# the same in both runs but for a few thousand instructions, which must be little beside the difference.
FIRST = 1_000
TIMES = {"recorder: record": 20_000, "mailbox: offer, poll and finish": 10_000}
USUAL_TIMES = 5_000


class Problem(Exception):
    """Why nothing can be counted, in words for whoever asked for it."""


@dataclass(frozen=True, slots=True)
class Count:
    """Instructions of one operation, and what was committed for it; None where nothing was."""

    name: str
    instructions: float
    committed: float | None

    @property
    def change(self) -> float | None:
        return None if self.committed is None else self.instructions / self.committed - 1

    @property
    def is_more(self) -> bool:
        return self.change is not None and self.change > ALLOWED

    @property
    def verdict(self) -> str:
        if self.change is None:
            return "not counted before"
        if self.is_more:
            return "MORE"
        return "fewer: --update" if self.change < -ALLOWED else "ok"


def machine_class() -> str:
    """What counts depend on: processor, interpreter, and how both it and the core were compiled."""
    compiler = platform.python_compiler().split()
    major = compiler[1].partition(".")[0] if len(compiler) > 1 else "unknown"
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    variants = ["pgo"] if "--enable-optimizations" in arguments else []
    variants += ["lto"] if "--with-lto" in arguments else []
    variants += [] if pmesh.BUILD_INFO["gil"] else ["nogil"]
    python = f"cpython{sys.version_info.major}.{sys.version_info.minor}"
    return "-".join([platform.machine(), python, f"{compiler[0].lower()}{major}", *variants])


def read_committed(path: Path) -> dict[str, float]:
    """The counts in `path`; none where there is no such file.

    Raises:
        Problem: It is not what --update writes; anything would keep some of what may stand there instead.
    """
    try:
        counts = read_json(path)["instructions"] if path.exists() else {}
        wrong = {name: count for name, count in counts.items() if not 0 < count < math.inf}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Problem(f"{path} is not what --update writes: {type(error).__name__}: {error}") from None
    if wrong:
        raise Problem(f"{path} has {wrong}; a count is a number above 0")
    return dict(counts)


def least_counts(
    names: Sequence[str], committed: dict[str, float], *, in_all_layouts: bool = False
) -> dict[str, float]:
    """Instructions of one operation each, by name; other layouts are tried for what takes more than it may.

    Raises:
        Problem: As `count_all`.
    """
    found = count_all(names, LAYOUTS[0])
    for layout in LAYOUTS[1:]:
        again = [name for name in names if in_all_layouts or Count(name, found[name], committed.get(name)).is_more]
        if not again:
            break
        for name, instructions in count_all(again, layout).items():
            found[name] = min(found[name], instructions)
    return found


def count_all(names: Sequence[str], layout: int = 0) -> dict[str, float]:
    """Instructions of one operation each, by name.

    Raises:
        Problem: There is no valgrind, a run failed, or this is no release build.
    """
    if shutil.which("valgrind") is None:
        raise Problem("valgrind is not installed; it is in the Debian package valgrind (apt-get install valgrind)")
    variants = slow_variants(pmesh.BUILD_INFO)
    if variants:
        raise Problem(f"this is a {' and '.join(variants)} build of pmesh; its counts say nothing")
    # Writes the compiled modules, or the first of the counted runs would have to make them.
    _run([sys.executable, str(PROGRAM), names[0], "1"])
    lengths = [(name, times) for name in names for times in (FIRST, FIRST + TIMES.get(name, USUAL_TIMES))]
    with ThreadPoolExecutor(os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()) as pool:
        totals = dict(zip(lengths, pool.map(lambda length: _count(*length, layout), lengths), strict=True))
    return {
        name: (totals[name, FIRST + times] - totals[name, FIRST]) / times
        for name in names
        for times in [TIMES.get(name, USUAL_TIMES)]
    }


def _count(name: str, times: int, layout: int) -> int:
    """Instructions of a whole run."""
    with tempfile.TemporaryDirectory(prefix="pmesh-instructions-") as folder:
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        output = _run([*_same_addresses(), *valgrind, sys.executable, str(PROGRAM), name, str(times)], layout)
    found = re.search(r"Collected *: *(\d+)", output)
    if found is None:
        raise Problem(f"valgrind did not say how many instructions {name} took:\n{output}")
    return int(found[1])


def _same_addresses() -> list[str]:
    """What switches address-space randomisation off; it is not to be had in every container."""
    command = ["setarch", platform.machine(), "-R"]
    try:
        done = subprocess.run([*command, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return []
    return [] if done.returncode else command


def _run(command: Sequence[str], layout: int = 0) -> str:
    """What `command` says, in an environment that is the same for everybody but for `layout`."""
    variables = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"}
    variables |= {f"LAYOUT_{number}": "x" * number for number in range(layout)}
    if "PYTHONPATH" in os.environ:
        variables["PYTHONPATH"] = os.environ["PYTHONPATH"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables, check=False
    )
    if done.returncode:
        raise Problem(f"{' '.join(command)} failed with exit code {done.returncode}:\n{done.stdout[-2_000:]}")
    return done.stdout


def table(counts: Sequence[Count], reruns: dict[str, float]) -> str:
    """The counts beside what was committed; `reruns` has for each by how much its counts differ."""
    width = max(len(count.name) for count in counts)
    rerun = f"  {'reruns':>8}" if reruns else ""
    lines = [f"{'instructions of one':<{width}}  {'committed':>10}  {'now':>10}  {'change':>8}{rerun}"]
    for count in counts:
        committed = "" if count.committed is None else f"{count.committed:,.1f}"
        change = "" if count.change is None else f"{count.change:+.2%}"
        rerun = f"  {reruns[count.name]:>8.3%}" if reruns else ""
        lines.append(
            f"{count.name:<{width}}  {committed:>10}  {count.instructions:>10,.1f}  {change:>8}{rerun}  {count.verdict}"
        )
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="operations with a WORD in their name")
    parser.add_argument("--reruns", type=int, default=1, metavar="N", help="count N times, and show how they differ")
    parser.add_argument("--update", action="store_true", help="write what was counted for this class of machines")
    parser.add_argument("--allow-uncounted", action="store_true", help="exit 0 where nothing was committed")
    add_outputs(parser)
    options = parser.parse_args(arguments)
    if options.reruns < 1:
        parser.error("--reruns must be at least 1")
    options.names = [
        name for name in OPERATIONS if not options.only or any(word.lower() in name for word in options.only)
    ]
    if not options.names:
        parser.error(f"no operation has {' or '.join(options.only)} in its name; there are: {', '.join(OPERATIONS)}")
    if options.update and options.only:
        parser.error("--update writes all operations; leave --only out")
    return options


def exit_code(counts: Sequence[Count], *, allow_uncounted: bool) -> int:
    """1 for one that takes more, else 2 for one that was never counted, unless that is allowed."""
    if any(count.is_more for count in counts):
        return 1
    return 2 if any(count.committed is None for count in counts) and not allow_uncounted else 0


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    path = FOLDER / f"{machine_class()}.json"
    try:
        committed = read_committed(path)
        found = [least_counts(options.names, committed, in_all_layouts=options.update) for _ in range(options.reruns)]
    except Problem as problem:
        print(f"instructions.py: {problem}", file=sys.stderr)
        return 2
    counts = [Count(name, found[-1][name], committed.get(name)) for name in options.names]
    spread = {
        name: max(run[name] for run in found) / min(run[name] for run in found) - 1
        for name in options.names
        if options.reruns > 1
    }
    print(table(counts, spread))
    write_outputs(options, [Figure(count.name, "instructions", count.instructions, "instructions") for count in counts])
    if options.update:
        rounded = {name: round(instructions, 1) for name, instructions in found[-1].items()}
        built = {"python": platform.python_version(), "cython": pmesh.BUILD_INFO["cython"]}
        path.parent.mkdir(exist_ok=True)
        write_json(path, {"built_with": built, "instructions": rounded})
        print(f"written to {path.name}; to be committed")
        return 0
    if not committed:
        print(f"no counts are committed for {machine_class()}; --update writes them to {path}")
    return exit_code(counts, allow_uncounted=options.allow_uncounted)


if __name__ == "__main__":
    sys.exit(main())
