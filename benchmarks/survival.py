"""What failing agents cost, and what they do not: each figure beside its target; exits 1 when one is missed.

    python benchmarks/survival.py                  all of them, about two minutes
    python benchmarks/survival.py tree cost        those whose name contains one of the words
    python benchmarks/survival.py --rounds 25      more rounds of the cost, on a noisy machine

- 100 supervised agents at 50,000 messages per second for 30 s, one of them failing every 10 ms
- memory and objects after 10,000 restarts
- what supervision costs a message where nothing fails: handled by a supervisor's child and by an agent that resumes,
  alternately, in processor time
- stopping a tree of 1,111 supervisors and agents
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import statistics
import sys
import time

from targets import Figure, judge_all
from workloads import Sink

from pmesh import Agent, AgentRef, Coordinator, StopReason, SupervisionPolicy, Terminated, handler

AGENTS = 100
MESSAGES_PER_SECOND = 50_000
SECONDS = 30
SECONDS_PER_FAILURE = 0.01
SECONDS_PER_BURST = 0.001

RESTARTS = 10_000

MESSAGES = 20_000


class Injected(Exception):
    pass


class Fallible(Agent):
    """Checks that the numbers of each sender come in order; `last` belongs to the test and outlives instances."""

    def __init__(self, last: dict[int, int], disorder: list[tuple[int, int]]) -> None:
        self.last = last
        self.disorder = disorder

    @handler
    async def take(self, message: tuple) -> None:
        sender, number = message
        if number <= self.last.get(sender, -1):
            self.disorder.append(message)
        self.last[sender] = number

    @handler
    def fail(self, error: Injected) -> None:
        raise error


async def under_fire() -> tuple[Coordinator, int, list[tuple[int, int]], int, float]:
    """The coordinator after the run, failures injected, messages out of order, messages told, seconds."""
    disorder: list[tuple[int, int]] = []
    failures = told = 0
    async with Coordinator() as mesh:
        allowed = int(SECONDS / SECONDS_PER_FAILURE)
        supervisor = await mesh.supervisor("all", intensity=allowed, period=float(SECONDS))
        refs = [await supervisor.spawn(Fallible, {}, disorder) for _ in range(AGENTS)]
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < SECONDS:
            # Ten senders in turn; each tells every agent ever higher numbers.
            for number in range(told, int(elapsed * MESSAGES_PER_SECOND)):
                refs[number % AGENTS].tell((number // AGENTS % 10, number))
                told += 1
            while failures < min(int(elapsed / SECONDS_PER_FAILURE), allowed):
                refs[failures * 37 % AGENTS].tell(Injected())
                failures += 1
            await asyncio.sleep(SECONDS_PER_BURST)
    return mesh, failures, disorder, told, elapsed


def fire_figures(_rounds: int) -> list[Figure]:
    mesh, failures, disorder, told, elapsed = asyncio.run(under_fire())
    stats = mesh.stats()
    lost = abs(stats.accepted - stats.handled - stats.failed) + stats.rejected + (stats.imbalance is not None)
    detail = f"{stats.handled:,} handled, {stats.failed:,} failed of {stats.accepted:,}; {told / elapsed:,.0f}/s"
    return [
        Figure("under fire: neither handled nor failed", lost, 0, False, "", detail),
        Figure("under fire: failed besides those injected", abs(stats.failed - failures), 0, False, ""),
        Figure("under fire: messages out of order", len(disorder), 0, False, ""),
        Figure("under fire: p99 of all agents", mesh.latency.percentile(99) / 1e6, 5.0, False, "ms"),
        Figure("under fire: messages per second", told / elapsed, 0.99 * MESSAGES_PER_SECOND, True, "/s"),
    ]


def rss_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def restart_often() -> tuple[int, int, int]:
    """Bytes and objects that the second half of the restarts left, and the restarts."""
    async with Coordinator() as mesh:
        policy = SupervisionPolicy(intensity=100, period=0.001)
        refs = [await mesh.spawn(Fallible, {}, [], supervision=policy) for _ in range(10)]

        async def restart(times: int) -> tuple[int, int]:
            for _ in range(times // len(refs)):
                for ref in refs:
                    ref.tell(Injected())
                for ref in refs:
                    await ref.ask((0, 0))
            gc.collect()
            return rss_bytes(), len(gc.get_objects())

        await restart(RESTARTS // 10)
        bytes_before, objects_before = await restart(RESTARTS * 4 // 10)
        bytes_after, objects_after = await restart(RESTARTS // 2)
        restarts = sum(mesh.restarts(ref) for ref in refs)
    return bytes_after - bytes_before, objects_after - objects_before, restarts


def leak_figures(_rounds: int) -> list[Figure]:
    grown_bytes, grown_objects, restarts = asyncio.run(restart_often())
    detail = f"{restarts:,} restarts, growth over their second half"
    return [
        Figure("restarts: memory of each", grown_bytes / (RESTARTS // 2), 10.0, False, "bytes", detail),
        Figure("restarts: objects left", grown_objects, 100, False, ""),
    ]


async def handle(ref: AgentRef) -> float:
    """Nanoseconds of processor time of a message told and handled."""
    told = 0
    start = time.thread_time_ns()
    while told < MESSAGES:
        if ref.tell(told):
            told += 1
        else:
            await asyncio.sleep(0)
    while ref.depth:
        await asyncio.sleep(0)
    return (time.thread_time_ns() - start) / MESSAGES


async def supervision_costs(rounds: int) -> list[float]:
    """Supervised over resumed, in percent more, one for each pair of runs."""
    async with Coordinator() as mesh:
        supervisor = await mesh.supervisor(strategy="one_for_all")
        supervised = await supervisor.spawn(Sink)
        resumed = await mesh.spawn(Sink, supervision=SupervisionPolicy(directives="resume"))
        for ref in (supervised, resumed):
            await handle(ref)
        costs = []
        for number in range(rounds):
            times = {}
            for ref in (supervised, resumed) if number % 2 else (resumed, supervised):
                times[ref] = min([await handle(ref) for _ in range(3)])
            costs.append((times[supervised] / times[resumed] - 1) * 100)
        return costs


def cost_figures(rounds: int) -> list[Figure]:
    costs = asyncio.run(supervision_costs(max(4 * rounds, 40)))
    low, _, high = statistics.quantiles(costs, n=4)
    detail = f"quartiles {low:+.1f} to {high:+.1f} %"
    return [Figure("supervision, where nothing fails", statistics.median(costs), 2.0, False, "%", detail)]


class Leaf(Sink):
    async def on_stop(self, reason: StopReason) -> None:
        """Something to wait for, as most agents have."""
        await asyncio.sleep(0)


class Witness(Agent):
    """Watches a tree and notes in which order its agents stop, supervisors as well."""

    def __init__(self, stopped: list[str]) -> None:
        self.stopped = stopped

    @handler
    def watch(self, ref: AgentRef) -> None:
        self.context.watch(ref)

    @handler
    def gone(self, notice: Terminated) -> None:
        self.stopped.append(notice.ref.name)


async def stop_tree() -> tuple[float, int, int]:
    """Seconds to stop it, agents in it, and those that stopped out of order."""
    stopped: list[str] = []
    order: list[str] = []  # in which they are to stop: newest first, children before their parent
    async with Coordinator() as mesh:
        witness = await mesh.spawn(Witness, stopped, name="witness")
        top = await mesh.supervisor("top")
        for i in range(10):
            middle = await top.supervisor(f"{i}")
            for j in range(10):
                lowest = await middle.supervisor(f"{i}.{j}")
                for k in range(10):
                    await lowest.spawn(Leaf, name=f"{i}.{j}.{k}")
        for i in reversed(range(10)):
            for j in reversed(range(10)):
                order += [f"{i}.{j}.{k}" for k in reversed(range(10))] + [f"{i}.{j}"]
            order.append(f"{i}")
        order.append("top")
        for name in order:
            await witness.send(mesh.lookup(name))
        while witness.depth:
            await asyncio.sleep(0)
        agents = len(mesh.agents) - 1
        start = time.perf_counter()
        await mesh.stop("top")
        seconds = time.perf_counter() - start
        assert mesh.agents == ("witness",)
    return seconds, agents, sum(a != b for a, b in zip(stopped, order, strict=True))


def tree_figures(_rounds: int) -> list[Figure]:
    runs = [asyncio.run(stop_tree()) for _ in range(3)]
    return [
        Figure("a tree stops", max(run[0] for run in runs), 1.0, False, "s", f"{runs[0][1]:,} supervisors and agents"),
        Figure("a tree stops: out of order", max(run[2] for run in runs), 0, False, ""),
    ]


if __name__ == "__main__":
    logging.getLogger("pmesh").setLevel(logging.CRITICAL)  # thousands of failures, each with its traceback
    sys.exit(
        judge_all(
            {"fire": fire_figures, "leak": leak_figures, "cost": cost_figures, "tree": tree_figures},
            __doc__,
        )
    )
