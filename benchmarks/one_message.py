"""A workload for profilers: messages told to one agent and handled, or a token round a ring, and nothing else.

    perf record -g python benchmarks/one_message.py tell 2000000
    valgrind --tool=callgrind --callgrind-out-file=cost.out python benchmarks/one_message.py ring 20000
    callgrind_annotate cost.out

Two runs of different length tell the cost of a message from that of the start: subtract and divide.
"""

from __future__ import annotations

import asyncio
import sys

from bench_tell import RING, Hop, Link
from workloads import Sink

from pmesh import Coordinator

# A profiler slows the program, and must not thereby make its batches shorter.
SLICE_SECONDS = 1.0


async def tell(messages: int) -> None:
    async with Coordinator(slice_seconds=SLICE_SECONDS) as mesh:
        sink = await mesh.spawn(Sink)
        told = 0
        while told < messages:
            if sink.tell(told):
                told += 1
            else:
                await asyncio.sleep(0)


async def ring(hops: int) -> None:
    async with Coordinator(slice_seconds=SLICE_SECONDS) as mesh:
        arrived = asyncio.Event()
        refs = [await mesh.spawn(Hop) for _ in range(RING)]
        for here, following in zip(refs, refs[1:] + refs[:1], strict=True):
            await here.ask(Link(following, arrived))
        refs[0].tell(hops)
        await arrived.wait()


if __name__ == "__main__":
    workloads = {"tell": tell, "ring": ring}
    if len(sys.argv) != 3 or sys.argv[1] not in workloads or not sys.argv[2].isdigit():
        sys.exit(__doc__)
    asyncio.run(workloads[sys.argv[1]](int(sys.argv[2])))
