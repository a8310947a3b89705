"""How far the load tester's figures can be trusted, each checked beside its target; exits 1 when one is missed.

    python benchmarks/trust.py                  all of them, about a minute
    python benchmarks/trust.py stall cost       those whose name contains one of the words

- percentiles of 20 random distributions against an exact sort of the same samples
- what recording costs: told and handled messages with the recorders on and off, alternately, one build
- an open loop of 100 agents at half of the highest rate that the search finds
- a stall of 200 ms, in an open and in a closed loop
"""

from __future__ import annotations

import asyncio
import functools
import math
import random
import statistics
import sys
import time
from collections.abc import Callable

from targets import ITEMS, Figure, judge_all
from workloads import Sink

import pmesh
import pmesh.load
from pmesh import Agent, Coordinator, LatencyRecorder, handler
from pmesh.load import find_max, make_plan

PERCENTILES = (0, 1, 10, 25, 50, 75, 90, 95, 99, 99.9, 99.99, 100)
SAMPLES = 20_000

STALL_SECONDS = 0.2


def distributions() -> dict[str, Callable[[random.Random], float]]:
    """Twenty of them, in nanoseconds: smooth, heavy-tailed, in lumps and constant."""
    found: dict[str, Callable[[random.Random], float]] = {"constant": lambda r: 123_456.0}
    for median in (300.0, 20e3, 1e6, 50e6):
        for sigma in (0.2, 1.0):
            found[f"log-normal {median:g} {sigma}"] = lambda r, m=median, s=sigma: m * r.lognormvariate(0.0, s)
    for mean in (2e3, 5e5, 1e8):
        found[f"exponential {mean:g}"] = lambda r, m=mean: r.expovariate(1 / m)
    for low, high in ((0.0, 2_047.0), (1e3, 1e9)):
        found[f"uniform {low:g} {high:g}"] = lambda r, a=low, b=high: r.uniform(a, b)
    for alpha in (1.1, 2.5):
        found[f"Pareto {alpha}"] = lambda r, a=alpha: 1e4 * r.paretovariate(a)
    found["two lumps"] = lambda r: r.gauss(5e4, 2e3) if r.random() < 0.97 else r.gauss(2e7, 1e6)
    found["powers of two"] = lambda r: float(2 ** r.randrange(0, 35))
    found["Weibull"] = lambda r: r.weibullvariate(1e6, 0.5)
    found["one in a thousand stalls"] = lambda r: 2e8 if r.random() < 0.001 else r.uniform(8e3, 1.2e4)
    return found


def percentile_figures(_rounds: int) -> list[Figure]:
    """The largest distance of a percentile from the exact one, in buckets of the recorder."""
    worst, where = 0.0, ""
    shapes = distributions()
    for number, (name, draw) in enumerate(shapes.items()):
        generator = random.Random(number)
        samples = [min(max(int(draw(generator)), 0), 59_999_999_999) for _ in range(SAMPLES)]
        recorder = LatencyRecorder()
        for sample in samples:
            recorder.record(sample)
        samples.sort()
        for percentile in PERCENTILES:
            exact = samples[max(math.ceil(percentile * SAMPLES / 100 - 1e-9), 1) - 1]
            width = max(1, 1 << max(exact.bit_length() - 11, 0))
            distance = abs(recorder.percentile(percentile) - exact) / width
            if distance > worst:
                worst, where = distance, f"; p{percentile} of {name}"
    detail = f"{len(shapes)} distributions of {SAMPLES:,} samples, {len(PERCENTILES)} percentiles{where}"
    return [Figure("percentile off an exact sort, at worst", worst, 1.0, False, "bucket", detail)]


async def recording_costs(pairs: int) -> list[float]:
    """Share of the processor time of a message that recording takes, in percent, one for each pair of runs.

    All in one mesh, so that its recorders have their memory: a run of 50,000 messages with them and one without,
    alternately.
    """
    async with Coordinator() as mesh:
        sink = await mesh.spawn(Sink, name="sink")

        async def run(*, records: bool) -> float:
            mesh._dispatcher.records = records
            started = time.process_time()
            item = 0
            while item < ITEMS // 2:
                if sink.tell(item):
                    item += 1
                else:
                    await asyncio.sleep(0)
            while sink.depth:
                await asyncio.sleep(0)
            return time.process_time() - started

        await run(records=True)
        costs = []
        for number in range(pairs):
            seconds = {}
            for records in (True, False) if number % 2 else (False, True):
                seconds[records] = await run(records=records)
            costs.append(100 * (1 - seconds[False] / seconds[True]))
        return costs


def cost_figures(rounds: int) -> list[Figure]:
    costs = asyncio.run(recording_costs(20 * rounds + 1))
    low, _, high = statistics.quantiles(costs)
    detail = f"median of {len(costs)} pairs, quartiles {low:.1f} and {high:.1f}"
    return [Figure("recording, of tell to handled", statistics.median(costs), 3.0, False, "%", detail)]


def open_figures(_rounds: int) -> list[Figure]:
    async def measure(rate: float) -> pmesh.load.Report:
        return await pmesh.load.run("extreme", rate=rate, duration=1.0, warmup=0.3, objectives=[])

    async def search() -> tuple[float, pmesh.load.Report]:
        objective = pmesh.load.parse_objective("p99<5ms")
        found = await find_max(measure, objective, profile="extreme", start_per_second=50_000.0, precision=0.2)
        if found.highest_rate_per_second is None:
            sys.exit("no rate of 100 agents held p99<5ms")
        half = found.highest_rate_per_second / 2
        reports = [
            await pmesh.load.run("extreme", rate=half, duration=2.0, warmup=0.5, objectives=[]) for _ in range(5)
        ]
        reports.sort(key=lambda report: report.latency_ns.p99)
        return found.highest_rate_per_second, reports[2]

    highest, report = asyncio.run(search())
    delay = report.send_delay_ns.p99 / 1e6 if report.send_delay_ns is not None else 0.0
    detail = (
        f"{report.throughput_per_second:,.0f}/s, half of {highest:,.0f}/s; send delay p99 {delay:.2f} ms,"
        " median of 5 runs"
    )
    return [Figure("open loop, 100 agents, half load: p99", report.latency_ns.p99 / 1e6, 1.0, False, "ms", detail)]


class StallsOnce(Agent):
    def __init__(self, at: int) -> None:
        self.left = at

    @handler
    def take(self, payload: bytes) -> None:
        self.left -= 1
        if self.left == 0:
            time.sleep(STALL_SECONDS)


def stall_figures(_rounds: int) -> list[Figure]:
    """One stall among 20,000 messages: what each kind of loop makes of it."""
    agent = functools.partial(StallsOnce, 10_000)
    shape = make_plan("low", agents=1, concurrency=1).profile
    run = functools.partial(pmesh.load.run, shape, agent=agent, messages=20_000, objectives=[])
    opened = asyncio.run(run(rate=20_000))
    closed = asyncio.run(run())
    return [
        Figure(
            "200 ms stall, open loop: p99.9",
            opened.latency_ns.p99_9 / 1e6,
            0.9 * STALL_SECONDS * 1e3,
            True,
            "ms",
            "latency from the intended send time",
        ),
        Figure(
            "200 ms stall, closed loop: p99.9",
            closed.latency_ns.p99_9 / 1e6,
            5.0,
            False,
            "ms",
            f"the same agent, hidden by senders that wait; max {closed.latency_ns.max / 1e6:.0f} ms",
        ),
    ]


MEASUREMENTS: dict[str, Callable[[int], list[Figure]]] = {
    "percentiles": percentile_figures,
    "cost": cost_figures,
    "open": open_figures,
    "stall": stall_figures,
}


if __name__ == "__main__":
    sys.exit(judge_all(MEASUREMENTS, __doc__))
