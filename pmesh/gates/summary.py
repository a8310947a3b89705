"""What the terminal shows in the end: a table of latencies, and what came of the comparison with a saved run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pmesh.gates.objectives import MINIMUM_CALLS
from pmesh.gates.regressions import Comparison, Margin
from pmesh.gates.results import Result

__all__ = ["show_comparison", "show_latencies"]

LATENCIES = ("p50", "p90", "p99", "p99.9", "max")
TOO_FEW = "-"


def show_latencies(terminal: Any, results: Iterable[Result]) -> None:
    """A row for each test that measured something; the attempts that missed an objective stand below theirs."""
    measured = [result for result in results if result.measured]
    if not measured:
        return
    width = max(len(result.name) for result in measured)
    terminal.section("latency of single calls, in microseconds")
    heads = "".join(f" {head:>11}" for head in (*LATENCIES, "calls/s"))
    terminal.write_line(f"{'':<{width}}  {'calls':>9}{heads}")
    for result in measured:
        calls = result.calls_timed()
        why_not = result.why_not()
        outcome = ""
        if result.promise is not None:
            outcome = "NOT JUDGED" if why_not else "MISSED" if result.missed() else "ok"
        cells = " ".join(f"{cell:>11}" for cell in (*(_cell(result, head, calls) for head in LATENCIES), _rate(result)))
        row = f"{result.name:<{width}}  {f'{calls:,}' if calls else '':>9} {cells}  {outcome}"
        terminal.write_line(row.rstrip(), red=outcome not in ("", "ok"))
        for line in () if why_not else result.attempt_lines():
            terminal.write_line(f"{'':<{width}}  {line}")
    if any(0 < result.calls_timed() < MINIMUM_CALLS["p99.9"] for result in measured):
        terminal.write_line(f"{TOO_FEW}: too few calls to tell")


def show_comparison(terminal: Any, comparison: Comparison, margins: Sequence[Margin]) -> None:
    """A line for each figure that was held against a saved run, and one with the outcome of all."""
    failed = comparison.failed
    terminal.section("against the saved run", red=failed, green=not failed)
    for line in comparison.lines:
        text = f"{line.outcome} {line.nodeid}: {line.text}"
        terminal.write_line(text, red=line.failed, yellow=line.outcome == "NEW")
    for problem in comparison.problems:
        terminal.write_line(f"CANNOT JUDGE: {problem}", red=True)
    options = ", ".join(margin.text for margin in margins)
    outcome = "FAILED" if failed else "kept"
    terminal.write_line(f"pmesh: {options}: {outcome}", red=failed, green=not failed, bold=True)


def _cell(result: Result, figure: str, calls: int) -> str:
    value_ns = result.figure(figure)
    if value_ns is None:
        return ""
    return f"{value_ns / 1e3:,.2f}" if calls >= MINIMUM_CALLS[figure] else TOO_FEW


def _rate(result: Result) -> str:
    throughput = result.figure("throughput")
    return "" if throughput is None else f"{throughput:,.0f}"
