"""Files that should hold a load report: any bytes, from those of good ones."""

from __future__ import annotations

import atexit
import os
import tempfile
from pathlib import Path

import harness

with harness.instrumented():
    from fuzz_checks import check_report_file
    from fuzz_edits import DOCUMENTS, as_json

FILE = Path(tempfile.gettempdir()) / f"pmesh-fuzz-{os.getpid()}.json"


def check(data: bytes) -> None:
    check_report_file(data, FILE)


if __name__ == "__main__":
    atexit.register(FILE.unlink, missing_ok=True)
    harness.fuzz(check, [b"{}", *map(as_json, DOCUMENTS)])
