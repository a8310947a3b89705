"""The tools in `benchmarks/`, for their tests: importable, and copied into a tiny project that builds in no time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

TOOLS = ("ab.py", "ab_builds.py", "ab_pairs.py", "ab_report.py", "ab_statistics.py", "ab_worker.py", "export.py")

# What a benchmark's worker takes from the working tree's pmesh.
STACK = "pmesh/gates/stack.py"

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""

# All that pip asks of a backend, so that nothing is downloaded and nothing compiled.
BACKEND = """
import pathlib, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "pmesh-0-py3-none-any.whl"
    info = "pmesh-0.dist-info"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as wheel:
        for file in sorted(pathlib.Path("pmesh").glob("*.py")):
            wheel.write(file, f"pmesh/{file.name}")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: pmesh\\nVersion: 0\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""

PACKAGE = """
def spin(turns):
    for _ in range(turns):
        pass

def spin_more(turns):
    spin(turns)
"""

WORKLOADS = """
import contextlib
from dataclasses import dataclass

WORKLOADS = {}

@dataclass
class Workload:
    name: str
    calls: int
    prepare: object

def workload(name, calls):
    def decorate(prepare):
        WORKLOADS[name] = Workload(name, calls, contextlib.asynccontextmanager(prepare))
    return decorate
"""

BENCH = """
from time import perf_counter

import pmesh
from workloads import workload

def timed(function):
    async def work(calls):
        start = perf_counter()
        for _ in range(calls):
            function(2_000)
        return perf_counter() - start
    return work

@workload("spin: alone", calls=20)
async def alone():
    yield timed(pmesh.spin)

@workload("spin: more", calls=20)
async def more():
    yield timed(pmesh.spin_more)
"""


class Project:
    """A git repository with the A/B tools, a package that is called pmesh, and two workloads."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write(STACK, (BENCHMARKS.parent / STACK).read_text(encoding="utf-8"))
        for name in TOOLS:
            self.write(f"benchmarks/{name}", (BENCHMARKS / name).read_text(encoding="utf-8"))
        self.write("pyproject.toml", PYPROJECT)
        self.write("backend.py", BACKEND)
        self.write("pmesh/__init__.py", PACKAGE)
        self.write("benchmarks/workloads.py", WORKLOADS)
        self.write("benchmarks/bench_spin.py", BENCH)
        self.write(".gitignore", "build/\n__pycache__/\n")
        self.git("init", "--quiet")
        self.commit()

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def git(self, *arguments: str) -> None:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *who, *arguments], cwd=self.root, check=True, capture_output=True)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "x", "--no-verify")

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(self.root / "benchmarks" / "ab.py"), *arguments]

    def ab(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), cwd=self.root, capture_output=True, text=True, check=False)
