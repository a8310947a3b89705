"""Interval logs: any tag, comment and times, and a recorder of any values."""

from __future__ import annotations

import harness

with harness.instrumented():
    from fuzz_checks import check_hlog
    from recorder_samples import recorder_of


def check(data: bytes) -> None:
    provider = harness.FuzzedDataProvider(data)
    choices = harness.FuzzedChoices(data[:64])
    start, length = (provider.ConsumeFloat() for _ in range(2))
    tag, comment = (provider.ConsumeUnicode(provider.ConsumeIntInRange(0, 20)) for _ in range(2))
    recorder = recorder_of(provider.ConsumeIntList(provider.ConsumeIntInRange(0, 5), 8))
    if choices.index(2):
        start, length = abs(start) % 1e9, abs(length) % 1e9
    check_hlog(tag, start, length, recorder, comment if choices.index(4) else None)


if __name__ == "__main__":
    harness.fuzz(check)
