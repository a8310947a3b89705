"""Eight operations, each done so many times and nothing else: what `instructions.py` counts, and profilers look at.

    perf record -g python benchmarks/hot_operations.py "tell: to handled" 2000000
    valgrind --tool=callgrind --callgrind-out-file=cost.out \\
        python benchmarks/hot_operations.py "tell: round a ring" 20000
    callgrind_annotate cost.out

Two runs of different length tell the cost of one from that of the start: subtract and divide. The garbage collector
is off: in which of two runs it has one collection more is not the operation's doing.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from bench_tell import RING, Hop, Link, told
from workloads import IN_FLIGHT, Sink

from pmesh import Coordinator, LatencyRecorder, MailboxPolicy
from pmesh._core import Mailbox

LATENCIES_NS = [round(1.2**power * 1_000) for power in range(60)]

# A profiler slows the program, and must not thereby make its batches shorter.
SLICE_SECONDS = 3600.0


async def offer_and_poll(times: int) -> None:
    mailbox = Mailbox(IN_FLIGHT)
    for item in range(times):
        mailbox.offer(item)
        mailbox.poll()
        mailbox.finish("handled")


async def record(times: int) -> None:
    recorder = LatencyRecorder()
    for value in itertools.islice(itertools.cycle(LATENCIES_NS), times):
        recorder.record(value)


async def tell_accepted(times: int) -> None:
    """Nothing is handled: the loop does not turn before the process ends."""
    async with Coordinator(slice_seconds=SLICE_SECONDS) as mesh:
        sink = await mesh.spawn(Sink, mailbox=MailboxPolicy(capacity=times))
        for item in range(times):
            sink.tell(item)
        os._exit(0)


async def tell_to_handled(times: int) -> None:
    async with Coordinator(slice_seconds=SLICE_SECONDS) as mesh:
        await told(await mesh.spawn(Sink), times)


async def ask_one_at_a_time(times: int) -> None:
    async with Coordinator(slice_seconds=SLICE_SECONDS) as mesh:
        sink = await mesh.spawn(Sink)
        for item in range(times):
            await sink.ask(item)


async def send_through_the_window(times: int) -> None:
    async with Coordinator(window=IN_FLIGHT, slice_seconds=SLICE_SECONDS) as mesh:
        sink = await mesh.spawn(Sink)
        for item in range(times):
            await sink.send(item)


async def round_a_ring(times: int) -> None:
    async with Coordinator(slice_seconds=SLICE_SECONDS) as mesh:
        arrived = asyncio.Event()
        refs = [await mesh.spawn(Hop) for _ in range(RING)]
        for here, following in zip(refs, refs[1:] + refs[:1], strict=True):
            await here.ask(Link(following, arrived))
        refs[0].tell(times)
        await arrived.wait()


async def spawn_and_stop(times: int) -> None:
    async with Coordinator(slice_seconds=SLICE_SECONDS) as mesh:
        for _ in range(times):
            await mesh.stop(await mesh.spawn(Sink))


OPERATIONS: dict[str, Callable[[int], Coroutine[Any, Any, None]]] = {
    "mailbox: offer, poll and finish": offer_and_poll,
    "recorder: record": record,
    "tell: accepted": tell_accepted,
    "tell: to handled": tell_to_handled,
    "ask: one at a time": ask_one_at_a_time,
    "send: to handled": send_through_the_window,
    "tell: round a ring": round_a_ring,
    "spawn: and stop": spawn_and_stop,
}


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in OPERATIONS or not sys.argv[2].isdigit():
        sys.exit(f"{__doc__}\nthe operations are: {', '.join(OPERATIONS)}")
    gc.disable()
    asyncio.run(OPERATIONS[sys.argv[1]](int(sys.argv[2])))
