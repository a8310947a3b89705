"""Load reports that are nearly right, as `fuzz_edits` makes them: read, compared and shown in every format."""

from __future__ import annotations

import harness

with harness.instrumented():
    from fuzz_checks import check_report
    from fuzz_edits import edited


def check(data: bytes) -> None:
    check_report(edited(harness.FuzzedChoices(data)))


if __name__ == "__main__":
    harness.fuzz(check, [bytes(64), bytes(range(128)), b"\xff" * 64])
