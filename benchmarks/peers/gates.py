"""The ratios that must hold, each judged in the run that measured both sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from entries import ENTRIES
from results import OURS, Comparison, applicable
from subjects import SUBJECTS

Verdict = Literal["ok", "MISSED", "NOT JUDGED"]


@dataclass(frozen=True, slots=True)
class Gate:
    """pmesh at `subject` must be at least `least` times as good as `entry`; `strictly` more than that for "ahead"."""

    subject: str
    entry: str
    least: float
    strictly: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    gate: Gate
    verdict: Verdict
    observed: str

    def __str__(self) -> str:
        gate = self.gate
        bound = f"{'>' if gate.strictly else '>='} {gate.least:g}"
        name = f"{SUBJECTS[gate.subject].title} / {ENTRIES[gate.entry].title}"
        return f"{self.verdict:<10} {name:<46} {self.observed} (allowed: {bound})"


AT_LEAST = {
    ("tell", "pykka"): 8.0,
    ("tell", "xoscar"): 40.0,
    ("ask", "pykka"): 8.0,
    ("ask", "xoscar"): 8.0,
    ("ask", "autogen-core"): 8.0,
    ("threads", "culsans"): 1.0,
    ("threads", "janus"): 3.0,
}

AHEAD_OF = {("tell", "asyncio")} | {
    ("ask", entry) for entry in ENTRIES if entry not in OURS and ("ask", entry) not in AT_LEAST
}

GATES = sorted(
    [Gate(*pair, least) for pair, least in AT_LEAST.items()] + [Gate(*pair, 1.0, strictly=True) for pair in AHEAD_OF],
    key=lambda gate: (list(SUBJECTS).index(gate.subject), list(ENTRIES).index(gate.entry)),
)


def judge(comparison: Comparison) -> list[Judged]:
    """Every gate whose two sides the run was to measure.

    A peer that failed leaves its gate unjudged; that pmesh failed is a miss.
    """
    pairs = comparison.pairs()
    return [
        judged(gate, comparison)
        for gate in GATES
        if applicable(gate.entry, gate.subject)
        and {(gate.entry, gate.subject), (ENTRIES[gate.entry].beside, gate.subject)} <= pairs
    ]


def judged(gate: Gate, comparison: Comparison) -> Judged:
    for entry, verdict in ((ENTRIES[gate.entry].beside, "MISSED"), (gate.entry, "NOT JUDGED")):
        failure = comparison.failures.get((entry, gate.subject))
        if failure is not None:
            return Judged(gate, verdict, f"{ENTRIES[entry].title}: {failure}")
    ratio = comparison.ratio(gate.entry, gate.subject)
    if ratio is None:
        return Judged(gate, "NOT JUDGED", "no round measured both")
    holds = ratio.median > gate.least if gate.strictly else ratio.median >= gate.least
    spread = f"{ratio.rounds} {'round' if ratio.rounds == 1 else 'rounds'}, {ratio.least:.2f} to {ratio.greatest:.2f}"
    return Judged(gate, "ok" if holds else "MISSED", f"{ratio.median:.2f} x; {spread}")
