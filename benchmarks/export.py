"""Figures for programs that keep histories of benchmarks; smaller is better in all of them.

    python benchmarks/export.py run.json --github github.json --bencher bencher.json

turns what `pytest --benchmark-json=run.json` saved into

- github-action-benchmark's `customSmallerIsBetter`: a list of objects with name, unit, value, and where known range
  and extra (https://github.com/benchmark-action/github-action-benchmark, "Custom benchmarks");
- Bencher Metric Format (https://bencher.dev/docs/reference/bencher-metric-format): for each benchmark its measures,
  each with value, and where known lower_value and upper_value.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What Bencher's API takes as the name of a benchmark and of a measure.
NAME_CHARACTERS = 1024
MEASURE_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one benchmark.

    Attributes:
        measure: What was measured, in the words of a Bencher slug; "latency" is Bencher's own, in nanoseconds.
        low, high: Where the value may lie; None where that is not known.
    """

    benchmark: str
    measure: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    note: str = ""


def github(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    """As `customSmallerIsBetter`."""
    entries = []
    for figure in figures:
        entry: dict[str, Any] = {
            "name": f"{figure.benchmark} ({figure.measure})",
            "unit": figure.unit,
            "value": figure.value,
        }
        if figure.low is not None and figure.high is not None:
            # The action reads a number of two characters at least behind the sign, and scales it with the value.
            entry["range"] = f"± {max(figure.high - figure.value, figure.value - figure.low):.3f}"
        if figure.note:
            entry["extra"] = figure.note
        entries.append(entry)
    return entries


def bencher(figures: Iterable[Figure]) -> dict[str, dict[str, dict[str, float]]]:
    """As Bencher Metric Format."""
    benchmarks: dict[str, dict[str, dict[str, float]]] = {}
    for figure in figures:
        metric = {"value": figure.value}
        if figure.low is not None and figure.high is not None:
            metric |= {"lower_value": figure.low, "upper_value": figure.high}
        measures = benchmarks.setdefault(figure.benchmark[:NAME_CHARACTERS], {})
        measures[figure.measure[:MEASURE_CHARACTERS]] = metric
    return benchmarks


def from_pytest_benchmark(run: Any) -> list[Figure]:
    """The mean time of a call of each benchmark, and the percentiles that pmesh's plugin saved with it.

    Raises:
        ValueError: `run` is not what pytest-benchmark saves.
    """
    try:
        found = [figure for benchmark in run["benchmarks"] for figure in _of_one(benchmark)]
    except (KeyError, TypeError, AttributeError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{why}; it must be what pytest --benchmark-json saved") from None
    for figure in found:
        if isinstance(figure.value, bool) or not isinstance(figure.value, (int, float)):
            raise ValueError(f"{figure.measure} of {figure.benchmark} is {figure.value!r}; it must be a number")
    return found


def _of_one(benchmark: Mapping[str, Any]) -> Iterator[Figure]:
    name, stats = benchmark["fullname"], benchmark["stats"]
    mean, deviation = stats["mean"] * 1e9, stats["stddev"] * 1e9
    note = f"{stats['rounds']} rounds"
    yield Figure(name, "latency", mean, "ns", max(mean - deviation, 0.0), mean + deviation, note)
    for key, value in benchmark["extra_info"].get("pmesh", {}).items():
        if key.endswith("_ns") and key != "mean_ns":
            yield Figure(name, key.removesuffix("_ns").replace("_", "-"), value, "ns")


def add_outputs(parser: argparse.ArgumentParser) -> None:
    """The options for both formats."""
    parser.add_argument("--github", metavar="FILE", type=Path, help="write github-action-benchmark's JSON")
    parser.add_argument("--bencher", metavar="FILE", type=Path, help="write Bencher Metric Format")


def write_outputs(options: argparse.Namespace, figures: Sequence[Figure]) -> None:
    """Write what the options of `add_outputs` ask for."""
    for path, convert in ((options.github, github), (options.bencher, bencher)):
        if path is not None:
            write_json(path, convert(figures))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN.JSON", help="what pytest --benchmark-json saved")
    add_outputs(parser)
    options = parser.parse_args(arguments)
    if options.github is None and options.bencher is None:
        parser.error("nothing to write; give --github FILE, --bencher FILE, or both")
    try:
        figures = from_pytest_benchmark(read_json(options.run))
        write_outputs(options, figures)
    except (OSError, ValueError) as error:
        parser.error(f"{options.run}: {error}")
    print(f"{len(figures)} figures of {options.run}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
