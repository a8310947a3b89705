"""What repeating a public call leaves behind: objects, blocks of memory, size of the process.

python tests/leftovers.py AgentRef       of each call of AgentRef's, as JSON
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import gc
import itertools
import json
import logging
import os
import sys
from dataclasses import dataclass
from typing import Any

from public_calls import CALLS, OWNERS, Bed, Function, owner_of, settle, with_bed

from pmesh.testing.loop import VirtualTimeLoop

# Of a call: before its first measurement, and in each. Of three measurements the one with the least growth counts, as
# caches fill and lists get longer now and then, and a leak grows in every one. What seems to leak is repeated more
# often: what does not grow with that is none.
WARM_UP = 40
REPEATS = (60, 400, 4_000)
MEASUREMENTS = 3

# Per call: half an object, not quite a block of the interpreter's allocator, which has those of up to 512 bytes, and
# as much of what larger ones are in.
MOST_OBJECTS = 0.5
MOST_BLOCKS = 0.7
MOST_RSS_BYTES = 512.0

# Modules whose objects are counted.
WATCHED = ("pmesh", "asyncio", "_asyncio", "_contextvars", "__main__")


def rss_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def live_objects() -> collections.Counter[type]:
    """Objects that the collector knows, by type; of the core all, of others those that tests of pmesh make."""
    # Twice: what a finaliser lets go of is only seen by the next collection.
    gc.collect()
    gc.collect()
    kinds = collections.Counter(map(type, gc.get_objects()))
    # Of a class with slots for it, `__module__` is a descriptor.
    return collections.Counter(
        {kind: count for kind, count in kinds.items() if str(kind.__module__).startswith(WATCHED)}
    )


@dataclass
class Growth:
    """What a call left behind, on average."""

    objects: dict[str, float]
    blocks: float
    rss_bytes: float

    @property
    def is_leak(self) -> bool:
        return (
            any(count >= MOST_OBJECTS for count in self.objects.values())
            or self.blocks >= MOST_BLOCKS
            or self.rss_bytes >= MOST_RSS_BYTES
        )


Look = tuple[collections.Counter[type], int, int]


def growth_of(looks: list[Look], times: int) -> Growth:
    """The least between two looks, of all that are one after another."""
    pairs = list(itertools.pairwise(looks))
    objects = {kind: min(after[0][kind] - before[0][kind] for before, after in pairs) for kind in looks[-1][0]}
    return Growth(
        {f"{kind.__module__}.{kind.__qualname__}": count / times for kind, count in objects.items() if count > 0},
        min(after[1] - before[1] for before, after in pairs) / times,
        min(after[2] - before[2] for before, after in pairs) / times,
    )


async def measure(function: Function, bed: Bed) -> Growth:
    """What repeating a call leaves behind."""

    async def repeat(count: int) -> Look:
        for _ in range(count):
            await function(bed)
        await settle()
        objects = live_objects()
        return objects, sys.getallocatedblocks(), rss_bytes()

    for times in REPEATS:
        looks = [await repeat(WARM_UP)]
        # Where it comes to the last, twice as many: a process that grows for a while stops to, and a leak does not.
        for _ in range(MEASUREMENTS * (2 if times == REPEATS[-1] else 1)):
            looks.append(await repeat(times))
        growth = growth_of(looks, times)
        if not growth.is_leak:
            break
        looks.clear()
    return growth


async def measure_owner(bed: Bed, owner: str) -> dict[str, Any]:
    return {name: dataclasses.asdict(await measure(CALLS[name], bed)) for name in CALLS if owner_of(name) == owner}


def main(arguments: list[str]) -> None:
    if len(arguments) != 1 or arguments[0] not in OWNERS:
        sys.exit(f"{__doc__}\nthe owners are: {', '.join(OWNERS)}")
    logging.disable()
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        found = runner.run(with_bed(lambda bed: measure_owner(bed, arguments[0])))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
