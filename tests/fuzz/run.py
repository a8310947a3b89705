"""Fuzzes what takes data from outside, with atheris: coverage says which inputs lead further.

    python tests/fuzz/run.py                       every target, for a minute each
    python tests/fuzz/run.py histograms 600        one, for ten minutes
    python tests/fuzz/run.py --list                what there is
    python tests/fuzz/histograms.py FILE           one finding again

Each target is a program beside this one; the checks are those of the hypothesis tests, in `tests/fuzz_checks.py`.
Bounded: in time, by the seconds given; one input by 20 s, 1 GB of memory and 64 kB. Exits 0 when nothing was found, 1
when something was (its input is left in `build/fuzz`), and 2 where there is no atheris: it has wheels for CPython 3.11
to 3.14, with a GIL, on Linux.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
FINDINGS = HERE.parents[1] / "build" / "fuzz"

TARGETS = tuple(sorted(path.stem for path in HERE.glob("*.py") if path.stem not in ("run", "harness")))

INPUT_SECONDS = 20
MEMORY_MB = 1_024
INPUT_BYTES = 65_536

# For starting, and for an input under way when the time is over.
SPARE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Figures:
    """What libFuzzer says of a run."""

    executions: int
    coverage: int  # edges of pmesh's bytecode that were reached
    corpus: int  # inputs that reached something new
    peak_mb: int


def figures_in(output: str) -> Figures:
    def last(pattern: str) -> int:
        found = re.findall(pattern, output)
        return int(found[-1]) if found else 0

    return Figures(
        last(r"stat::number_of_executed_units:\s+(\d+)") or last(r"(?m)^#(\d+)"),
        last(r" cov: (\d+)"),
        last(r" corp: (\d+)/"),
        last(r"stat::peak_rss_mb:\s+(\d+)"),
    )


def fuzz(target: str, seconds: int, corpus: Path) -> bool:
    """Run one target; False when it found something."""
    findings = FINDINGS / target
    findings.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, str(HERE / f"{target}.py"), str(corpus)),
        *(f"-max_total_time={seconds}", f"-timeout={INPUT_SECONDS}", f"-rss_limit_mb={MEMORY_MB}"),
        *(f"-max_len={INPUT_BYTES}", "-print_final_stats=1", f"-artifact_prefix={findings}{os.sep}"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=seconds + INPUT_SECONDS + SPARE_SECONDS)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        output += f"\n{target} did not end in time\n"
    found = figures_in(output)
    outcome = "nothing found" if process.returncode == 0 else "FOUND SOMETHING"
    print(
        f"{target}: {found.executions:,} executions, {found.coverage:,} edges, {found.corpus:,} inputs in the corpus,"
        f" {found.peak_mb:,} MB: {outcome}",
        flush=True,
    )
    if process.returncode:
        print(_of_interest(output), flush=True)
    return process.returncode == 0


def _of_interest(output: str) -> str:
    """The exception and the name of the input, without libFuzzer's lines about each new one."""
    lines = [line for line in output.splitlines() if not re.match(r"#\d+\s+(NEW|REDUCE|pulse|INITED|READ)", line)]
    return "\n".join(lines[-60:])


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz what takes data from outside, with atheris.")
    parser.add_argument("target", nargs="?", choices=["all", *TARGETS], default="all", help="which; all by default")
    parser.add_argument("seconds", nargs="?", type=int, default=60, help="for each target; 60 by default")
    parser.add_argument("--corpus", type=Path, metavar="FOLDER", help="begin with the inputs there, and add to them")
    parser.add_argument("--list", action="store_true", help="say what there is, and end")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(TARGETS))
        return 0
    if arguments.seconds < 1:
        parser.error(f"seconds is {arguments.seconds}; it must be at least 1")
    if importlib.util.find_spec("atheris") is None:
        print(
            f"NOTHING WAS FUZZED: there is no atheris for this interpreter ({sys.implementation.name}"
            f" {sys.version.split()[0]} on {sys.platform}). It has wheels for CPython 3.11 to 3.14, with a GIL, on"
            " Linux;"
            " `tox run -e fuzz --discover PYTHON` takes another one. The hypothesis tests make the same checks anywhere"
        )
        return 2
    targets = TARGETS if arguments.target == "all" else (arguments.target,)
    clean = True
    for target in targets:
        if arguments.corpus is not None:
            corpus = arguments.corpus / target
            corpus.mkdir(parents=True, exist_ok=True)
            clean = fuzz(target, arguments.seconds, corpus) and clean
        else:
            with tempfile.TemporaryDirectory(prefix=f"pmesh-fuzz-{target}-") as folder:
                clean = fuzz(target, arguments.seconds, Path(folder)) and clean
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
