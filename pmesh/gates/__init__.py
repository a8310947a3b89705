"""Latency gates for pytest: measure calls, judge them by objectives, compare them with a saved run.

`measuring` is what a test calls, `results` what it leaves, `objectives` the marker `slo`, `regressions` the options
`--pmesh-p99-fail` and the like, `hooks` where pytest and pytest-benchmark call all that. `pmesh.pytest_plugin` is
what pytest loads, and imports these when a test or an option asks for them.
"""
