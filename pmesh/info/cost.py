"""What a message costs on this machine, measured, and split into the parts of its way.

Each part is the difference between two workloads that differ in it alone. The workloads are short and take turns, in
alternating order, so that a disturbance or a change of frequency meets all of them; what is shown are medians.

| part | from | less |
| --- | --- | --- |
| sender's loop | a `for` loop that does nothing | |
| accept | the same with `tell` | that loop |
| dispatch | the told messages, handled by a function written in C that does nothing, nothing recorded | |
| step | the same by an `async def` handler that does nothing | that function |
| record | the same recorded | not recorded |

What is told and what is handled are timed apart in one workload, the one with all of it. So the parts sum up to it.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import itertools
import math
import resource
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns

from pmesh._core import AgentRef, Clock, timeout_seconds
from pmesh.agent import MailboxPolicy
from pmesh.coordinator import Coordinator

__all__ = ["PARTS", "Figure", "MessageCost", "measure_message", "split"]

PARTS = ("sender's loop", "accept", "dispatch", "step", "record")

# As many as fill the mailbox; what is in flight in the benchmarks.
BURST = 256
QUEUE_ITEMS = 4 * BURST

# Before this many rounds a median says nothing, however little time there is.
MINIMUM_ROUNDS = 7

# Half the width of the normal distribution's central 95 %, in standard deviations.
NORMAL_95 = 1.96

ITEMS = range(BURST)

Samples = Mapping[str, Sequence[float]]
Workload = Callable[[], Awaitable[dict[str, float]]]


@dataclass(frozen=True, slots=True)
class Figure:
    """A median of many rounds, and half the width of its 95 % confidence interval, both in nanoseconds."""

    value_ns: float
    noise_ns: float

    @property
    def below_noise(self) -> bool:
        """Whether the figure cannot be told from nothing."""
        return self.value_ns <= self.noise_ns


@dataclass(frozen=True, slots=True)
class MessageCost:
    """What one message costs, told from a task and handled by an `async def` handler that does nothing.

    Attributes:
        whole_ns: All of it; the parts sum up to this.
        parts: By the names in `PARTS`.
        plain_step: What takes the place of `step` with a plain `def` handler.
        coroutine: A bare coroutine made and awaited, without pmesh: what of `step` is CPython's own.
        turn: One turn of the event loop; `dispatch` holds it once for each burst.
        queue: An item put into and taken out of an `asyncio.Queue` between two tasks.
        clock_core: A reading of the clock within the core; a message takes two, in `accept` and in `dispatch`.
        clock_python: A call of `time.monotonic_ns`.
        clock_step_ns: The smallest step that the clock was seen to make.
        burst: Messages told before any is handled.
        rounds: How often each workload ran.
        seconds: How long it all took.
        processor_share: The share of that time in which the measuring thread had a processor.
        interruptions: How often the kernel took the processor away.
    """

    whole_ns: float
    parts: Mapping[str, Figure]
    plain_step: Figure
    coroutine: Figure
    turn: Figure
    queue: Figure
    clock_core: Figure
    clock_python: Figure
    clock_step_ns: int
    burst: int
    rounds: int
    seconds: float
    processor_share: float
    interruptions: int

    @property
    def queue_ratio(self) -> float:
        """How many times what a message costs an item of the queue costs: comparable between machines."""
        return self.queue.value_ns / self.whole_ns


async def measure_message(seconds: float = 1.0) -> MessageCost:
    """Measure what a message costs on the running event loop, which should have nothing else to do.

    Args:
        seconds: How long to measure; positive and finite. A few rounds are always made.

    Raises:
        InvalidArgument, InvalidType: `seconds` is no such number.

    Cancel safety: a cancelled call leaves nothing behind.
    """
    measure_ns = timeout_seconds(seconds, "seconds") * 1e9
    async with Coordinator("info") as mesh:
        workloads = await _workloads(mesh)
        await _round(workloads, reverse=False)  # makes slots and counters, and fills caches
        gc.collect()
        interruptions = _interruptions()
        start, start_cpu = perf_counter_ns(), time.thread_time_ns()
        rounds: list[dict[str, float]] = []
        while len(rounds) < MINIMUM_ROUNDS or perf_counter_ns() - start < measure_ns:
            rounds.append(await _round(workloads, reverse=len(rounds) % 2 == 1))
        elapsed_ns, cpu_ns = perf_counter_ns() - start, time.thread_time_ns() - start_cpu
        interruptions = _interruptions() - interruptions
    samples = {name: [measured[name] for measured in rounds] for name in rounds[0]}
    parts = split(samples)
    return MessageCost(
        whole_ns=sum(part.value_ns for part in parts.values()),
        parts=parts,
        plain_step=_difference(samples["plain"], samples["native"]),
        coroutine=_difference(samples["coroutine"], samples["loop"]),
        turn=_figure(samples["turn"]),
        queue=_figure(samples["queue"]),
        clock_core=_difference(samples["real clock"], samples["virtual clock"]),
        clock_python=_difference(samples["python clock"], samples["loop"]),
        clock_step_ns=_clock_step_ns(),
        burst=BURST,
        rounds=len(rounds),
        seconds=elapsed_ns / 1e9,
        processor_share=min(cpu_ns / elapsed_ns, 1.0),
        interruptions=interruptions,
    )


def split(samples: Samples) -> dict[str, Figure]:
    """The parts of a message by name, in the order of its way.

    Medians of the five samples sum up by themselves, since each but the last is subtracted again. A sample of less
    work that shows more time is taken for equal, so that no part is negative.
    """
    told, loop = samples["told"], samples["loop"]
    handled, unrecorded, native = samples["handled"], samples["unrecorded"], samples["native"]
    told_ns, handled_ns = statistics.median(told), statistics.median(handled)
    loop_ns = min(statistics.median(loop), told_ns)
    unrecorded_ns = min(statistics.median(unrecorded), handled_ns)
    native_ns = min(statistics.median(native), unrecorded_ns)
    figures = (
        Figure(loop_ns, _noise(loop)),
        Figure(told_ns - loop_ns, _noise(_differences(told, loop))),
        Figure(native_ns, _noise(native)),
        Figure(unrecorded_ns - native_ns, _noise(_differences(unrecorded, native))),
        Figure(handled_ns - unrecorded_ns, _noise(_differences(handled, unrecorded))),
    )
    return dict(zip(PARTS, figures, strict=True))


def _figure(values: Sequence[float]) -> Figure:
    return Figure(statistics.median(values), _noise(values))


def _difference(more: Sequence[float], less: Sequence[float]) -> Figure:
    return Figure(max(statistics.median(more) - statistics.median(less), 0.0), _noise(_differences(more, less)))


def _differences(more: Sequence[float], less: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(more, less, strict=True)]


def _noise(values: Sequence[float]) -> float:
    """Half the 95 % confidence interval of the median, by order statistics: nothing is assumed of the values."""
    ordered = sorted(values)
    low = max(math.floor((len(ordered) - NORMAL_95 * math.sqrt(len(ordered))) / 2), 0)
    return (ordered[len(ordered) - 1 - low] - ordered[low]) / 2


async def _round(workloads: Sequence[Workload], *, reverse: bool) -> dict[str, float]:
    measured: dict[str, float] = {}
    for workload in reversed(workloads) if reverse else workloads:
        measured.update(await workload())
    return measured


async def _workloads(mesh: Coordinator) -> list[Workload]:
    """Each measures one or two things; by name, in nanoseconds for one message, item or turn."""
    policy = MailboxPolicy(capacity=BURST)
    handled = await mesh.spawn(_take, mailbox=policy)
    plain = await mesh.spawn(_take_plainly, mailbox=policy)
    # Of no length, so that it takes what it is given and keeps nothing: the least that a handler can do.
    native = await mesh.spawn(collections.deque[object](maxlen=0).append, mailbox=policy)
    real, virtual = Clock(), Clock(virtual=True)
    # A number of the same size, which costs as much to make.
    virtual.set_ns(real.now_ns())

    async def recorded() -> dict[str, float]:
        told_ns, handled_ns = await _burst(mesh, handled, records=True)
        return {"told": told_ns, "handled": handled_ns}

    def unrecorded(name: str, ref: AgentRef) -> Workload:
        async def work() -> dict[str, float]:
            return {name: (await _burst(mesh, ref, records=False))[1]}

        return work

    return [
        recorded,
        unrecorded("unrecorded", handled),
        unrecorded("plain", plain),
        unrecorded("native", native),
        _loop,
        _turn,
        _coroutine,
        _queue,
        _calls("python clock", time.monotonic_ns),
        _calls("real clock", real.now_ns),
        _calls("virtual clock", virtual.now_ns),
    ]


async def _take(message: object) -> None:
    pass


def _take_plainly(message: object) -> None:
    pass


async def _burst(mesh: Coordinator, ref: AgentRef, *, records: bool) -> tuple[float, float]:
    """Tell a mailbox full of messages, and let them be handled; nanoseconds that each of them took for both."""
    mesh._dispatcher.records = records
    tell = ref.tell
    start = perf_counter_ns()
    for item in ITEMS:
        tell(item)
    told = perf_counter_ns()
    while ref.depth:  # noqa: ASYNC110 - an event, and what sets it, would be measured as well
        await asyncio.sleep(0)
    return (told - start) / BURST, (perf_counter_ns() - told) / BURST


async def _loop() -> dict[str, float]:
    start = perf_counter_ns()
    for _ in ITEMS:
        pass
    return {"loop": (perf_counter_ns() - start) / BURST}


async def _turn() -> dict[str, float]:
    start = perf_counter_ns()
    await asyncio.sleep(0)
    return {"turn": float(perf_counter_ns() - start)}


async def _coroutine() -> dict[str, float]:
    start = perf_counter_ns()
    for item in ITEMS:
        await _take(item)
    return {"coroutine": (perf_counter_ns() - start) / BURST}


async def _queue() -> dict[str, float]:
    queue: asyncio.Queue[int] = asyncio.Queue(BURST)

    async def put() -> None:
        for item in range(QUEUE_ITEMS):
            await queue.put(item)

    async def get() -> None:
        for _ in range(QUEUE_ITEMS):
            await queue.get()

    start = perf_counter_ns()
    await asyncio.gather(put(), get())
    return {"queue": (perf_counter_ns() - start) / QUEUE_ITEMS}


def _calls(name: str, function: Callable[[], int]) -> Workload:
    async def work() -> dict[str, float]:
        start = perf_counter_ns()
        for _ in ITEMS:
            function()
        return {name: (perf_counter_ns() - start) / BURST}

    return work


def _clock_step_ns() -> int:
    """The smallest difference between two readings in a row that is not 0."""
    readings = [time.monotonic_ns() for _ in range(BURST)]
    while readings[-1] == readings[0]:  # a clock so coarse that all were within one step
        readings.append(time.monotonic_ns())
    return min(after - before for before, after in itertools.pairwise(readings) if after > before)


def _interruptions() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
