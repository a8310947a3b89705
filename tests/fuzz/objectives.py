"""Objectives, limits, durations and shares: any text."""

from __future__ import annotations

import harness

with harness.instrumented():
    from fuzz_checks import check_line

SEEDS = ("p99<5ms", " queue.p99.9 >= 1.50 us ", "success>=99.5%", "throughput>50k/s", "overhead<3MiB", "p99:10%", "10m")


def check(data: bytes) -> None:
    check_line(data.decode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    harness.fuzz(check, [seed.encode() for seed in SEEDS])
