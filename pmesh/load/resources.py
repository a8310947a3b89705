"""What a run costs: resident memory, processor time, and the memory pmesh itself takes."""

from __future__ import annotations

import asyncio
import functools
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from typing import Self

from pmesh.errors import PmeshError

__all__ = ["Meter", "Resources", "measure_overhead", "resident_bytes"]

SAMPLE_SECONDS = 0.05

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Resources:
    """Memory and processor time of one profile's run, of the whole process."""

    rss_bytes_before: int
    rss_bytes_peak: int
    rss_bytes_per_agent: int
    cpu_user_seconds: float
    cpu_system_seconds: float


def resident_bytes() -> int:
    """Bytes of this process that are in memory now.

    Without a Linux /proc it is the most there ever were, so that growth below an earlier peak stays
    unseen there.
    """
    try:
        with open("/proc/self/statm", "rb", buffering=0) as statm:
            return int(statm.read(128).split()[1]) * _PAGE_BYTES
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


class Meter:
    """Watches memory from entering to leaving, and processor time between `start` and `stop`.

    Memory is sampled on the event loop every 50 ms, about 20 us each time, and whenever `sample` is
    called: a thread would wait for the GIL and then make the loop wait for it.
    """

    def __init__(self) -> None:
        self._before_bytes = 0
        self._peak_bytes = 0
        self._user_seconds = 0.0
        self._system_seconds = 0.0
        self._started: resource.struct_rusage | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._before_bytes = self._peak_bytes = resident_bytes()
        self._tick()
        return self

    def __exit__(self, *exception: object) -> None:
        self.sample()
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self.sample()
        self._timer = self._loop.call_later(SAMPLE_SECONDS, self._tick)

    def sample(self) -> None:
        self._peak_bytes = max(self._peak_bytes, resident_bytes())

    def start(self) -> None:
        self._started = resource.getrusage(resource.RUSAGE_SELF)

    def stop(self) -> None:
        if self._started is not None:
            now = resource.getrusage(resource.RUSAGE_SELF)
            self._user_seconds += now.ru_utime - self._started.ru_utime
            self._system_seconds += now.ru_stime - self._started.ru_stime
            self._started = None

    def result(self, agents: int) -> Resources:
        return Resources(
            rss_bytes_before=self._before_bytes,
            rss_bytes_peak=self._peak_bytes,
            rss_bytes_per_agent=(self._peak_bytes - self._before_bytes) // agents,
            cpu_user_seconds=round(self._user_seconds, 6),
            cpu_system_seconds=round(self._system_seconds, 6),
        )


# Both children start from this process's sys.path, so that they measure the pmesh that runs here,
# and read memory by the same few lines: importing this module to do it would count as overhead.
_PRELUDE = """
import sys
sys.path[:] = sys.argv[1:]
import asyncio
import os
def show_resident_bytes():
    try:
        with open("/proc/self/statm", "rb", buffering=0) as statm:
            print(int(statm.read(128).split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    except OSError:
        import resource
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(peak if sys.platform == "darwin" else peak * 1024)
"""

_BARE = """
show_resident_bytes()
"""

_WITH_COORDINATOR = """
import pmesh
from {module} import new_event_loop
async def main():
    async with pmesh.Coordinator():
        show_resident_bytes()
with asyncio.Runner(loop_factory=new_event_loop) as runner:
    runner.run(main())
"""


@functools.cache
def measure_overhead(event_loop: str) -> int:
    """Bytes that a process with a coordinator and no agents has over one that imported asyncio.

    Runs two short processes, at most once for each event loop ("asyncio" or "uvloop").

    Raises:
        PmeshError: One of them failed; the text ends with what it said.
    """
    return _read_child(_WITH_COORDINATOR.format(module=event_loop)) - _read_child(_BARE)


def _read_child(code: str) -> int:
    # Its own session, so that Ctrl-C reaches only the parent, which ends in good order.
    try:
        child = subprocess.run(
            [sys.executable, "-c", _PRELUDE + code, *sys.path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            start_new_session=True,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PmeshError(f"a process started to measure pmesh's own memory failed: {error}") from error
    if child.returncode:
        last = child.stderr.strip().splitlines()[-1:] or [f"exit status {child.returncode}"]
        raise PmeshError(f"a process started to measure pmesh's own memory failed: {last[0]}")
    return int(child.stdout)
