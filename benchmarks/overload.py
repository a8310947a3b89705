"""What overload does to a fixed mailbox and to an adaptive one: goodput and queue time at 0.5 to 4 times the capacity.

    python benchmarks/overload.py                a minute and a half: a table, and what it shows at twice the capacity
    python benchmarks/overload.py --svg FILE     the same, and as a plot
    python benchmarks/overload.py --quick        a quarter of the time, for a look
    python benchmarks/overload.py --processor-time    for a machine that others use at the same time

One agent takes 50 us of the processor for a message. Its capacity is measured before each load, with its mailbox
never empty. Then messages are told to it on a schedule, whether or not it keeps up, once for each mailbox.

- **goodput**: messages due in the measured time whose handler was over by their deadline, in percent of what the agent
  could have handled. The deadline is also the messages' `ttl`, so that those which waited too long are not handled
  but expire.
- **waited**: from when the schedule wanted a message sent to the start of its handler, of all messages that were
  handled. Those that expired waited longer.

Sender and agent share one thread, so at 4 times the capacity the sender's own work takes part of the agent's time.
Where other processes take the processor away, all that is late is late for that too: the share that this one had, while
the capacity was measured, is shown beside it. With `--processor-time` everything, the coordinator's clock too, goes by
the processor time of this process, which stands still meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from overload_plot import draw

import pmesh
from pmesh import Clock, Coordinator, LatencyRecorder, MailboxPolicy
from pmesh.environment import slow_variants

SERVICE_SECONDS = 50e-6
LOADS = (0.5, 0.9, 1.2, 2.0, 4.0)
LARGE = 10_000

MAILBOXES = {
    f"fixed, {LARGE:,}": MailboxPolicy(LARGE),
    "fixed, 1,024": MailboxPolicy(),
    f"adaptive, {LARGE:,}": MailboxPolicy(LARGE, adaptive=True),
}


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds: `warm_up` fills the queues and is not counted, `measured` is."""

    capacity: float
    warm_up: float
    measured: float
    deadline: float


class Time:
    """What all is timed by: the wall clock, or the processor time of this process."""

    def __init__(self, *, of_processor: bool) -> None:
        self.now = time.process_time if of_processor else time.perf_counter
        self.clock = Clock(virtual=True) if of_processor else None

    def tick(self) -> None:
        """Tell the coordinator's clock what time it is, if it does not know by itself."""
        if self.clock is not None:
            self.clock.set_ns(time.process_time_ns())


class Worker:
    """Handles messages that say when they were due, and keeps the figures of those due in the measured time."""

    def __init__(self, by: Time, deadline: float) -> None:
        self.by = by
        self.deadline = deadline
        self.since = self.until = 0.0
        self.handled = 0
        self.good = 0
        self.waited = LatencyRecorder()

    def work(self, due: float) -> None:
        """Take `SERVICE_SECONDS` for the message that was due at `due`."""
        now = self.by.now
        started = now()
        end = started + SERVICE_SECONDS
        while now() < end:
            pass
        self.by.tick()
        if self.since <= due < self.until:
            self.handled += 1
            self.good += now() <= due + self.deadline
            self.waited.record(max(0, round((started - due) * 1e9)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the messages that were due in the measured time, each as a share of the agent's capacity."""

    mailbox: str
    load: float
    goodput: float
    rejected: float
    expired: float
    limit: int
    waited: LatencyRecorder

    def waited_ms(self, percentile: float) -> float:
        return self.waited.percentile(percentile) / 1e6

    def __str__(self) -> str:
        shares = "".join(f"{100 * share:>9.1f}%" for share in (self.load, self.goodput, self.rejected, self.expired))
        waits = "".join(f"{self.waited_ms(percentile):>10.2f}" for percentile in (50, 99, 100))
        return f"{self.mailbox:<17}{shares}{waits}{self.limit:>9,}"


HEADING = (
    f"{'mailbox':<17}{'offered':>10}{'goodput':>10}{'rejected':>10}{'expired':>10}"
    f"{'p50, ms':>10}{'p99, ms':>10}{'max, ms':>10}{'limit':>9}"
)


async def capacity_per_second(by: Time, seconds: float) -> tuple[float, float]:
    """Messages a second that the agent handles while its mailbox is never empty, and its share of a processor."""
    by.tick()
    async with Coordinator(clock=by.clock) as mesh:
        worker = Worker(by, deadline=0.0)
        agent = await mesh.spawn(worker.work)
        wall_start, processor_start, start = time.perf_counter(), time.process_time(), by.now()
        while by.now() < start + seconds:
            while agent.tell(0.0):
                pass
            await asyncio.sleep(0)
        share = (time.process_time() - processor_start) / (time.perf_counter() - wall_start)
        return agent.counters().handled / (by.now() - start), share


async def offer(by: Time, mailbox: str, load: float, capacity: float, times: Times) -> Outcome:
    """Tell `load` times `capacity` messages a second on a schedule."""
    by.tick()
    async with Coordinator(clock=by.clock) as mesh:
        worker = Worker(by, times.deadline)
        agent = await mesh.spawn(worker.work, mailbox=MAILBOXES[mailbox])
        gap = 1 / (load * capacity)
        start = by.now()
        worker.since = start + times.warm_up
        worker.until = worker.since + times.measured
        due, offered, rejected = start, 0, 0
        limit = agent.capacity
        while due < worker.until:
            now = by.now()
            by.tick()
            while due <= now and due < worker.until:
                accepted = agent.tell(due, ttl=times.deadline)
                if due >= worker.since:
                    offered += 1
                    rejected += not accepted
                due += gap
            limit = agent.limit
            # Processor time only passes where something is done.
            await asyncio.sleep(max(0.0, due - now) if by.clock is None else 0)
    per_capacity = capacity * times.measured
    return Outcome(
        mailbox=mailbox,
        load=load,
        goodput=worker.good / per_capacity,
        rejected=rejected / per_capacity,
        expired=(offered - rejected - worker.handled) / per_capacity,
        limit=limit,
        waited=worker.waited,
    )


async def measure_all(by: Time, times: Times) -> list[Outcome]:
    outcomes = []
    for turn, load in enumerate(LOADS):
        capacity, share = await capacity_per_second(by, times.capacity)
        print(f"\n{load:g} x {capacity:,.0f} messages a second (with {100 * share:.0f} % of a processor)", flush=True)
        print(HEADING)
        # Each mailbox is the first in turn, as a machine that others share is not the same all the time.
        names = list(MAILBOXES)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            outcomes.append(await offer(by, name, load, capacity, times))
            print(outcomes[-1], flush=True)
    return outcomes


def conclusion(outcomes: Sequence[Outcome]) -> str:
    """What the run shows at twice the capacity, in words."""
    lines = (
        f"  {outcome.mailbox + ':':<18} goodput {100 * outcome.goodput:5.1f} % of the capacity,"
        f" p99 of the time in the queue {outcome.waited_ms(99):,.1f} ms"
        for outcome in outcomes
        if outcome.load == 2.0
    )
    return "\n".join(["At twice the capacity:", *lines])


def plot(outcomes: Sequence[Outcome], deadline: float) -> str:
    lines = {name: [outcome for outcome in outcomes if outcome.mailbox == name] for name in MAILBOXES}
    return draw(
        loads=LOADS,
        goodput={name: [100 * outcome.goodput for outcome in line] for name, line in lines.items()},
        p99_ms={name: [outcome.waited_ms(99) for outcome in line] for name, line in lines.items()},
        deadline_ms=1e3 * deadline,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a quarter of the time")
    parser.add_argument("--processor-time", action="store_true", help="go by the processor time of this process")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a plot too")
    parser.add_argument(
        "--deadline", type=float, default=0.1, metavar="SECONDS", help="of each message (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if not 0 < arguments.deadline < 3600:
        parser.error(f"--deadline is {arguments.deadline}; it must be a positive number of seconds below an hour")
    if variants := slow_variants(pmesh.BUILD_INFO):
        parser.error(f"this is a {' and '.join(variants)} build of pmesh; its figures say nothing")
    logging.getLogger("pmesh").setLevel(logging.ERROR)  # each message that expires is a dead letter
    scale = 0.25 if arguments.quick else 1.0
    times = Times(capacity=scale, warm_up=2 * scale, measured=3 * scale, deadline=arguments.deadline)
    print(f"CPython {platform.python_version()}, {platform.machine()}; deadline {1e3 * arguments.deadline:g} ms")
    outcomes = asyncio.run(measure_all(Time(of_processor=arguments.processor_time), times))
    print(f"\n{conclusion(outcomes)}")
    if arguments.svg is not None:
        arguments.svg.write_text(plot(outcomes, arguments.deadline), encoding="utf-8")
        print(f"\nThe plot is in {arguments.svg}")


if __name__ == "__main__":
    sys.exit(main())
