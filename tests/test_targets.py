"""The figures that pmesh must reach: a rate counts as it is only where the machine is as fast as the target's."""

from __future__ import annotations

import sys
from typing import Any

import benchmark_tools  # noqa: F401 - makes the benchmarks importable
import pytest
import targets

pytestmark = pytest.mark.tools

AS_FAST = float(targets.TARGETS_QUEUE_PER_SECOND)


def load(monkeypatch: pytest.MonkeyPatch, queue_per_second: float, per_second: float) -> list[targets.Figure]:
    """The figures of `pmesh load extreme` on asyncio, as they are when those two rates are measured."""
    found: dict[str, Any] = {
        "throughput_per_second": per_second,
        "latency_ns": {"p99": 250_000},
        "success_rate": 1.0,
    }
    monkeypatch.setattr(targets, "queue_items", lambda: queue_per_second)
    monkeypatch.setattr(targets, "load_extreme", lambda loop: found)
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: None)
    return targets.load_figures(3)


def judged(monkeypatch: pytest.MonkeyPatch, figures: list[targets.Figure]) -> int:
    monkeypatch.setattr(sys, "argv", ["targets.py"])
    return targets.judge_all({"load": lambda rounds: figures}, None)


@pytest.mark.parametrize(
    ("queue_per_second", "per_second", "scaled", "absolute", "code"),
    [
        pytest.param(AS_FAST, 900_000, "ok", "ok", 0, id="just reached"),
        pytest.param(AS_FAST, 899_000, "MISSED", "MISSED", 1, id="just missed"),
        pytest.param(AS_FAST / 2, 500_000, "ok", "below", 0, id="half as fast, and in proportion"),
        pytest.param(AS_FAST / 2, 440_000, "MISSED", "below", 1, id="half as fast, and below proportion"),
        pytest.param(AS_FAST / 2, 900_000, "ok", "ok", 0, id="half as fast, and reached all the same"),
        pytest.param(AS_FAST * 2, 899_000, "MISSED", "MISSED", 1, id="twice as fast"),
        pytest.param(AS_FAST * 2, 1_000_000, "MISSED", "ok", 1, id="twice as fast, and not in proportion"),
    ],
)
def test_the_multiple_of_the_reference_s_rate_is_shown_and_counts_where_the_machine_is_fast_enough(
    queue_per_second: float,
    per_second: float,
    scaled: str,
    absolute: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert judged(monkeypatch, load(monkeypatch, queue_per_second, per_second)) == code

    lines = capsys.readouterr().out.splitlines()
    [in_proportion] = [line for line in lines if "asyncio / asyncio.Queue" in line]
    [as_it_is] = [line for line in lines if "asyncio / the reference's rate" in line]
    assert in_proportion.startswith(scaled)
    assert as_it_is.startswith(absolute)
    assert f"{per_second / 15_000:.2f} x" in as_it_is
    assert "(>= 60)" in as_it_is
    assert f"{queue_per_second:,.0f}/s here" in as_it_is
    assert ("not judged" in as_it_is) == (queue_per_second < AS_FAST)
    assert ("not judged on this machine" in lines[-1]) == (absolute == "below")


def test_a_rate_that_is_not_judged_hides_no_other_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = load(monkeypatch, AS_FAST / 2, 500_000)
    lost = targets.Figure("success", 99.9, 100.0, True, "%")

    assert judged(monkeypatch, figures) == 0
    assert judged(monkeypatch, [*figures, lost]) == 1
