"""Keeps one measurement in a family of processes of its own, and ends all of it.

`python child.py LIMIT_SECONDS ARGUMENTS...` starts `measure.py` with ARGUMENTS and prints its result as one line of
JSON. Whatever happens, nothing that was started is left: the limit, a signal to this process, the end of its parent.
A peer's daemons have sessions of their own, so that a process group would not hold them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from processes import adopt_orphans, end_descendants, end_with_parent

MEASURE = Path(__file__).with_name("measure.py")
LAST_LINES = 5


class Ended(BaseException):
    """A signal asked this process to end."""


def end(number: int, _frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)
    raise Ended


def measured(limit_seconds: float, arguments: list[str], folder: Path) -> dict[str, object]:
    result, output = folder / "result.json", folder / "output.txt"
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    with output.open("wb") as sink:
        command = [sys.executable, str(MEASURE), str(result), *arguments]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, env=environment
        )
        try:
            code = process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            return {"failed": f"timed out after {limit_seconds:g} s", "output": last_lines(output)}
    if result.exists():
        found: dict[str, object] = json.loads(result.read_text())
        return found if "value" in found else found | {"output": last_lines(output)}
    died = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return {"failed": f"{died}, without a result", "output": last_lines(output)}


def last_lines(output: Path) -> str:
    return "\n".join(output.read_text(errors="replace").strip().splitlines()[-LAST_LINES:])


def main(limit_seconds: str, *arguments: str) -> None:
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    end_with_parent()
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as folder:
        try:
            found = measured(float(limit_seconds), list(arguments), Path(folder))
        finally:
            end_descendants()
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Ended:
        sys.exit(1)  # whoever sent the signal knows
