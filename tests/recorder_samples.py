"""Recorders for the tests: made of values, and compared by all that they hold."""

from __future__ import annotations

from pmesh import LatencyRecorder

HIGHEST_NS = 60_000_000_000


def recorder_of(values: list[int]) -> LatencyRecorder:
    recorder = LatencyRecorder()
    for value in values:
        recorder.record(value)
    return recorder


def state(recorder: LatencyRecorder) -> tuple[object, ...]:
    return (
        recorder.count,
        recorder.min,
        recorder.max,
        recorder.below_range,
        recorder.above_range,
        list(recorder.counts()),
    )
