"""Figures for github-action-benchmark and Bencher, and the instruction counts' gate."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmark_tools
import export
import instructions
import jsonschema
import pytest
from export import Figure, bencher, from_pytest_benchmark, github

pytestmark = pytest.mark.tools

# https://bencher.dev/docs/reference/bencher-metric-format
BMF_SCHEMA: dict[str, Any] = {
    "type": "object",
    "patternProperties": {
        ".+": {
            "type": "object",
            "patternProperties": {
                ".+": {
                    "type": "object",
                    "properties": {
                        "value": {"type": "number"},
                        "lower_value": {"type": "number"},
                        "upper_value": {"type": "number"},
                    },
                    "required": ["value"],
                    "additionalProperties": False,
                }
            },
        }
    },
}

# What the action's source declares as BenchmarkResult.
GITHUB_SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1},
            "unit": {"type": "string", "minLength": 1},
            "value": {"type": "number"},
            "range": {"type": "string", "pattern": r"^± \d.+$"},
            "extra": {"type": "string"},
        },
        "required": ["name", "unit", "value"],
        "additionalProperties": False,
    },
}

FIGURES = [
    Figure("tell: accepted", "latency", 101.5, "ns", 99.0, 103.0, "20 rounds"),
    Figure("tell: accepted", "p99", 350, "ns"),
    Figure("ask: one at a time", "ratio", 1.0, "x", 1.0, 1.0),
]

SAVED = """
import pytest

def test_added(benchmark):
    benchmark.extra_info["pmesh"] = {"p50_ns": 40, "p99_9_ns": 900, "mean_ns": 44.5, "calls": 7}
    benchmark.pedantic(sum, args=([1, 2],), rounds=5)
"""


def test_both_formats_are_as_their_owners_describe_them() -> None:
    jsonschema.validate(github(FIGURES), GITHUB_SCHEMA)
    jsonschema.validate(bencher(FIGURES), BMF_SCHEMA)


def test_no_figure_is_lost_nor_has_another_ones_name() -> None:
    assert [entry["value"] for entry in github(FIGURES)] == [101.5, 350, 1.0]
    assert len({entry["name"] for entry in github(FIGURES)}) == len(FIGURES)
    assert bencher(FIGURES) == {
        "tell: accepted": {
            "latency": {"value": 101.5, "lower_value": 99.0, "upper_value": 103.0},
            "p99": {"value": 350},
        },
        "ask: one at a time": {"ratio": {"value": 1.0, "lower_value": 1.0, "upper_value": 1.0}},
    }


def test_what_pytest_benchmark_saves_is_converted(tmp_path: Path) -> None:
    (tmp_path / "test_saved.py").write_text(SAVED)
    saved = tmp_path / "run.json"
    command = [
        "pytest",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "--rootdir",
        str(tmp_path),
        f"--benchmark-json={saved}",
    ]
    subprocess.run([*command, str(tmp_path)], cwd=tmp_path, check=True, capture_output=True)

    assert export.main([str(saved), "--github", str(tmp_path / "g"), "--bencher", str(tmp_path / "b")]) == 0

    measures = json.loads((tmp_path / "b").read_text())["test_saved.py::test_added"]
    stats = json.loads(saved.read_text())["benchmarks"][0]["stats"]
    assert measures["latency"]["value"] == pytest.approx(stats["mean"] * 1e9)
    assert {name: measure["value"] for name, measure in measures.items() if name != "latency"} == {
        "p50": 40,
        "p99-9": 900,
    }
    assert len(json.loads((tmp_path / "g").read_text())) == 3


NO_NUMBER = {"fullname": "a", "stats": {"mean": 1, "stddev": 1, "rounds": 1}, "extra_info": {"pmesh": {"p99_ns": "x"}}}


@pytest.mark.parametrize(
    "saved",
    [
        *("[]", "{}", '{"benchmarks": [{}]}', '{"benchmarks": 3}', "no JSON"),
        json.dumps({"benchmarks": [NO_NUMBER]}),
    ],
)
def test_another_file_is_refused_by_name(tmp_path: Path, saved: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.json"
    path.write_text(saved)

    with pytest.raises(SystemExit) as left:
        export.main([str(path), "--bencher", str(tmp_path / "b")])

    assert left.value.code == 2
    assert f"{path}: " in capsys.readouterr().err


def test_an_infinite_figure_is_not_written_as_something_that_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float values"):
        export.write_json(tmp_path / "x", [float("inf")])


def test_what_pytest_benchmark_saved_without_pmesh_has_its_mean_alone() -> None:
    stats = {"mean": 2e-6, "stddev": 5e-6, "rounds": 3}

    [figure] = from_pytest_benchmark({"benchmarks": [{"fullname": "x", "stats": stats, "extra_info": {}}]})

    assert (figure.measure, figure.value, figure.low, figure.high) == ("latency", pytest.approx(2_000), 0.0, 7_000)


def count(instructions_now: float, committed: float | None) -> instructions.Count:
    return instructions.Count("x", instructions_now, committed)


@pytest.mark.parametrize(
    ("now", "committed", "allow_uncounted", "code"),
    [
        (1_029, 1_000, False, 0),
        (1_031, 1_000, False, 1),
        (1_031, 1_000, True, 1),
        (500, 1_000, False, 0),
        (1_000, None, False, 2),
        (1_000, None, True, 0),
    ],
)
def test_three_per_cent_more_instructions_fail(
    now: float, committed: float | None, allow_uncounted: bool, code: int
) -> None:
    assert instructions.exit_code([count(now, committed)], allow_uncounted=allow_uncounted) == code


@pytest.mark.parametrize(
    "text",
    [
        *("no JSON", "[]", "{}", '{"instructions": [1]}'),
        *(f'{{"instructions": {{"x": {count}}}}}' for count in ("NaN", "Infinity", "0", "-5", '"5"', "null")),
    ],
)
def test_committed_counts_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "counts.json"
    assert instructions.read_committed(path) == {}
    path.write_text(text, encoding="utf-8")
    with pytest.raises(instructions.Problem, match=r"counts\.json"):
        instructions.read_committed(path)


def test_the_benchmarks_load_with_a_pmesh_that_has_no_gates(python: Callable[..., str]) -> None:
    code = f"""
import sys
sys.path.append({str(benchmark_tools.BENCHMARKS)!r})
sys.modules["pmesh.gates"] = None  # as in a revision of before
import workloads
print(len(workloads.load_all()) > 20)
"""
    assert python(code).strip() == "True"


def test_a_missing_valgrind_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(instructions.Problem, match="apt-get install valgrind"):
        instructions.count_all(["recorder: record"])


@pytest.mark.parametrize(
    ("by_layout", "layouts", "least"),
    [
        ([102], 1, 102),
        ([104, 102], 2, 102),
        ([104, 105, 108, 104.5], 4, 104),
    ],
)
def test_what_takes_more_is_counted_again_with_other_addresses(
    monkeypatch: pytest.MonkeyPatch, by_layout: list[float], layouts: int, least: float
) -> None:
    asked: list[tuple[list[str], int]] = []

    def count_all(names: list[str], layout: int) -> dict[str, float]:
        asked.append((names, layout))
        return {name: {"x": by_layout[len(asked) - 1], "new": 7.0, "fewer": 3.0}[name] for name in names}

    monkeypatch.setattr(instructions, "count_all", count_all)

    found = instructions.least_counts(["x", "new", "fewer"], {"x": 100.0, "fewer": 5.0})

    assert found == {"x": least, "new": 7.0, "fewer": 3.0}
    assert asked == [(["x", "new", "fewer"], 0), *((["x"], layout) for layout in instructions.LAYOUTS[1:layouts])]


def test_what_is_to_be_committed_is_the_least_of_all_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "count_all", lambda names, layout: dict.fromkeys(names, 100.0 - layout))

    found = instructions.least_counts(["x"], {"x": 500.0}, in_all_layouts=True)

    assert found == {"x": 100.0 - max(instructions.LAYOUTS)}


def test_the_commands_in_the_documentation_have_the_options_that_they_use() -> None:
    parsers = {"bench-ab": importlib.import_module("ab").parse, "bench-instructions": instructions.parse}
    page = (benchmark_tools.BENCHMARKS.parent / "docs" / "regressions.md").read_text(encoding="utf-8")
    shown = [
        (environment, shlex.split(arguments, comments=True))
        for environment, arguments in re.findall(r"^tox run -e (bench-\S+) --(.*)$", page, re.MULTILINE)
    ]

    for environment, arguments in shown:
        parsers[environment](arguments)  # exits where one is not known

    assert {environment for environment, _ in shown} == set(parsers)


def test_every_hot_operation_runs_and_is_counted_in_every_committed_file() -> None:
    for name in instructions.OPERATIONS:
        program = [sys.executable, str(benchmark_tools.BENCHMARKS / "hot_operations.py"), name, "300"]
        subprocess.run(program, check=True, capture_output=True)
    for path in sorted((benchmark_tools.BENCHMARKS / "instructions").glob("*.json")):
        assert list(export.read_json(path)["instructions"]) == list(instructions.OPERATIONS), path
