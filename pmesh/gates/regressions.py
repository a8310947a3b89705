"""The options `--pmesh-p99-fail` and the like: how much worse than a saved run a test may have become."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pmesh.gates.objectives import too_few
from pmesh.gates.results import EXTRA_INFO, Result
from pmesh.scanner import Scanner
from pmesh.slo import HIGHER_IS_BETTER, SHARE
from pmesh.units import observed_text

__all__ = ["Comparison", "Line", "Margin", "compare", "parse_margin"]


@dataclass(frozen=True, slots=True)
class Margin:
    """How much worse a figure may become, as a ratio: 0.1 lets p99 grow by a tenth, and throughput fall by one."""

    figure: str
    ratio: float

    @property
    def option(self) -> str:
        return f"--pmesh-{self.figure.replace('.', '_')}-fail"

    @property
    def text(self) -> str:
        """How it stands on the command line."""
        return f"{self.option}={self.ratio * 100:.6g}%"

    def allowed(self, before: float) -> float:
        return before * (1.0 - self.ratio if self.figure in HIGHER_IS_BETTER else 1.0 + self.ratio)

    def is_kept(self, before: float, after: float) -> bool:
        allowed = self.allowed(before)
        return after >= allowed if self.figure in HIGHER_IS_BETTER else after <= allowed


@dataclass(frozen=True, slots=True)
class Line:
    """What came of one figure of one test: "ok", "REGRESSED", "CANNOT JUDGE" or "NEW"."""

    nodeid: str
    outcome: str
    text: str

    @property
    def failed(self) -> bool:
        return self.outcome in ("REGRESSED", "CANNOT JUDGE")


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of all; `problem` is why nothing at all could be judged by a margin."""

    lines: Sequence[Line]
    problems: Sequence[str]

    @property
    def failed(self) -> bool:
        return bool(self.problems) or any(line.failed for line in self.lines)


def parse_margin(text: str, figure: str) -> Margin:
    """The margin that a text such as `10%` says.

    Raises:
        InvalidArgument: It is no percentage, is nothing, or is all there is of a throughput.
    """
    scanner = Scanner("margin", text, "10%")
    ratio, written = scanner.amount(SHARE)
    scanner.end("a margin is one number with a % sign")
    if not ratio:
        scanner.fail(f"found {written!r}; two runs are never equal, so it must be above 0%", 1)
    if figure in HIGHER_IS_BETTER and ratio >= 1.0:
        scanner.fail(f"found {written!r}; {figure} cannot fall by more than all of it, so it must be below 100%", 1)
    return Margin(figure, ratio)


def compare(
    results: Iterable[Result],
    baselines: Mapping[str, Mapping[str, Mapping[str, Any]]],
    margins: Sequence[Margin],
    unread: Iterable[str] = (),
) -> Comparison:
    """Hold each result against each baseline, by each margin.

    Args:
        baselines: By where they come from, saved benchmarks by the id of their test.
        unread: Names of saved runs that were to be compared with and cannot be read.
    """
    results = [result for result in results if result.passed]
    lines: list[Line] = []
    problems = [f"{name} cannot be read: remove it, or save it again" for name in unread]
    if not baselines:
        problems.append("--benchmark-compare found no saved run to compare with")
    elif not results:
        problems.append("no test that passed measured anything with latency_benchmark")
    else:
        judged: set[str] = set()
        for result in results:
            for source, saved in baselines.items():
                lines.extend(_lines(result, source, saved.get(result.nodeid), margins, judged))
        if not any(line.failed for line in lines):
            problems.extend(
                f"no test has a {margin.figure} to compare, in this run and in a baseline"
                for margin in margins
                if margin.figure not in judged
            )
    return Comparison(lines, problems)


def _lines(
    result: Result,
    source: str,
    saved: Mapping[str, Any] | None,
    margins: Sequence[Margin],
    judged: set[str],
) -> list[Line]:
    nodeid = result.nodeid
    if saved is None:
        return [Line(nodeid, "NEW", f"not in {source}, so nothing was judged: save a run that has it")]
    if result.obstacle is not None:
        return [Line(nodeid, "CANNOT JUDGE", result.obstacle)]
    before = (saved.get("extra_info") or {}).get(EXTRA_INFO)
    before = before if isinstance(before, Mapping) else {}
    if before.get("build", "release") != "release":
        return [Line(nodeid, "CANNOT JUDGE", f"{source} was measured on a {before['build']} build of pmesh")]
    lines = []
    for margin in margins:
        figure = margin.figure
        after_value, before_value = result.figure(figure), _saved_figure(before, figure)
        if after_value is None and before_value is None:
            continue
        why = _why_not(result, before, source, figure)
        if why is not None or before_value is None or after_value is None:
            lines.append(Line(nodeid, "CANNOT JUDGE", str(why)))
            continue
        judged.add(figure)
        kept = margin.is_kept(before_value, after_value)
        lines.append(Line(nodeid, "ok" if kept else "REGRESSED", _change(margin, before_value, after_value, source)))
    return lines


def _why_not(result: Result, saved: Mapping[str, Any], source: str, figure: str) -> str | None:
    """Why `figure` of a test cannot be compared, or None."""
    if result.figure(figure) is None:
        return f"the test does not measure {figure} any more, which {source} has of it"
    if _saved_figure(saved, figure) is None:
        return f"{source} has no {figure} of this test: save it again, measured with latency_benchmark"
    if figure in HIGHER_IS_BETTER:
        return None
    why = too_few([figure], result.calls_timed())
    if why is None and (few := too_few([figure], _saved_calls(saved))):
        return f"in {source} {few}"
    return why


def _saved_calls(saved: Mapping[str, Any]) -> int:
    calls = saved.get("calls")
    return calls if isinstance(calls, int) else 0


def _saved_figure(saved: Mapping[str, Any], figure: str) -> float | None:
    """A figure of a saved test; None where it has none, or what is no measurement and would let anything pass."""
    value = saved.get(figure if figure == "throughput" else f"{figure.replace('.', '_')}_ns")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= sys.float_info.max:
        return None
    return None if figure in HIGHER_IS_BETTER and not value else float(value)


def _change(margin: Margin, before: float, after: float, source: str) -> str:
    figure = margin.figure
    change = f"{after / before - 1:+.1%}" if before else "from nothing"
    sign = "-" if figure in HIGHER_IS_BETTER else "+"
    bound = "at least" if figure in HIGHER_IS_BETTER else "at most"
    return (
        f"{figure} {observed_text(figure, before)} -> {observed_text(figure, after)} ({change}; allowed"
        f" {sign}{margin.ratio * 100:.6g}%, {bound} {observed_text(figure, margin.allowed(before))}; against {source})"
    )
