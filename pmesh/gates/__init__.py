"""Latency gates for pytest: measure calls, judge them by objectives, compare them with a saved run.

`measuring` is what a test calls, `calls` times a function, `stack` keeps what surrounds it out of its time, `results`
is what a test leaves, `objectives` reads the marker `slo`, `regressions` judges by options such as
`--pmesh-p99-fail`, `summary` is what the terminal shows, and `hooks` is where pytest and pytest-benchmark call all
that. `pmesh.pytest_plugin` is what pytest loads; it imports these when a test or an option asks for them.
"""

from pmesh.gates.measuring import LatencyBenchmark

__all__ = ["LatencyBenchmark"]
