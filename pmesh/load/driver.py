"""Closed-loop load: sender tasks that keep at most a window of messages in flight.

The sender's loop is part of what is measured and does nothing but build a payload and send it. All
else (progress, memory, processor time) happens between rounds, when nothing is in flight, or on a
timer a few times a second.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import operator
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from pmesh import Agent, AgentRef, Coordinator, MailboxPolicy, handler
from pmesh.errors import AgentStopped, InvalidArgument, InvalidType, MailboxFull
from pmesh.load.environment import Environment, describe_environment
from pmesh.load.profiles import Profile, find_profile
from pmesh.load.report import Counts, Report, Spread
from pmesh.load.resources import Meter, measure_overhead
from pmesh.slo import DEFAULT_OBJECTIVES, Objective, judge

if TYPE_CHECKING:
    from pmesh import LatencyRecorder, Stats

__all__ = ["Driver", "run"]

Progress = Callable[[int], None]

# The window is the capacity of every mailbox too.
MOST_IN_FLIGHT = 1_000_000

# How many turns of the loop pass between two looks at the whole account while a round ends.
TURNS_PER_LOOK = 64

# How long a round may take to end after its last send. Load agents never wait, so only a message
# that pmesh has lost count of takes that long.
SETTLE_NS = 10_000_000_000


class LoadAgent(Agent):
    """Counts what it gets: a second account, which the coordinator's is held against."""

    __slots__ = ("received",)

    def __init__(self, peers: list[LoadAgent]) -> None:
        self.received = 0
        peers.append(self)

    @handler
    async def receive_payload(self, payload: bytes) -> None:
        self.received += 1


class Sender:
    """One of a profile's concurrent senders, and how many messages it gave to the mesh.

    Args:
        sends: `AgentRef.send` of the receiver of each message of one round, in order.
        payload_bytes: Size of each payload, which is made anew for each message.
    """

    __slots__ = ("_payload_bytes", "_sends", "sent")

    def __init__(self, sends: Sequence[Callable[[bytes], Awaitable[None]]], payload_bytes: int) -> None:
        self._sends = sends
        self._payload_bytes = payload_bytes
        self.sent = 0

    async def send_round(self) -> None:
        """Send one round.

        Cancel safety: `sent` counts what the mesh counts; the message in hand was not accepted.
        """
        fill = b"x"
        size = self._payload_bytes
        remaining = iter(self._sends)
        in_hand = 1
        try:
            for send in remaining:
                try:
                    await send(fill * size)
                except (MailboxFull, AgentStopped):
                    # The mesh counted it sent and rejected, and that is what is reported.
                    continue
            in_hand = 0
        finally:
            # Counted from what is left, which costs the loop nothing.
            self.sent += len(self._sends) - operator.length_hint(remaining) - in_hand


class Driver:
    """Runs one profile once; `run` is the short way to it.

    Args:
        profile: A profile, or the name of a shipped one.
        window: Most messages in flight; the profile's concurrency by default.
        objectives: What the report is judged by.
        on_progress: Called with the number of messages handled so far, at the end of each round.

    Raises:
        InvalidArgument: No such profile, or a window outside 1 to 1,000,000.
        InvalidType: `window` is not an int.
    """

    def __init__(
        self,
        profile: Profile | str,
        *,
        window: int | None = None,
        objectives: Iterable[Objective] = DEFAULT_OBJECTIVES,
        on_progress: Progress | None = None,
    ) -> None:
        self.profile = find_profile(profile)
        self.window = self.profile.concurrency if window is None else window
        if isinstance(self.window, bool) or not isinstance(self.window, int):
            raise InvalidType(f"window is {window!r}; it must be a whole number of messages")
        if not 1 <= self.window <= MOST_IN_FLIGHT:
            raise InvalidArgument(f"window is {window}; it must be from 1 to {MOST_IN_FLIGHT:,} messages in flight")
        self._objectives = tuple(objectives)
        self._on_progress = on_progress
        self._sending: asyncio.Future[list[BaseException | None]] | None = None
        self._stopped = False
        self._duration_ns = 0

    def stop(self) -> None:
        """End the run early: senders stop, what is in flight is handled, and `run` returns.

        To be called in the event loop of `run`.
        """
        self._stopped = True
        if self._sending is not None:
            self._sending.cancel()

    async def run(self) -> Report:
        """Spawn the agents, send all rounds, stop the agents, and report.

        Raises:
            PmeshError: pmesh's own memory could not be measured.

        Cancel safety: a cancelled call leaves nothing running, and its figures are lost; `stop`
        keeps them.
        """
        environment = describe_environment()
        overhead_bytes = await asyncio.to_thread(measure_overhead, environment.event_loop)
        # What earlier runs left behind should neither be counted here nor collected meanwhile.
        gc.collect()
        agents: list[LoadAgent] = []
        senders: list[Sender] = []
        meter = Meter()
        mesh = Coordinator(f"load-{self.profile.name}", window=self.window)
        with meter:
            async with mesh:
                refs = await self._spawn_agents(mesh, agents)
                senders += self._make_senders(refs)
                for number in range(1, self.profile.rounds + 1):
                    if self._stopped:
                        break
                    await self._run_round(mesh, senders, refs[0], meter)
                    meter.sample()
                    if self._on_progress is not None:
                        self._on_progress(number * self.profile.messages_per_round)
        sent = sum(sender.sent for sender in senders)
        received = sum(agent.received for agent in agents)
        return self._report(mesh, sent, received, meter, overhead_bytes, environment)

    async def _spawn_agents(self, mesh: Coordinator, agents: list[LoadAgent]) -> list[AgentRef]:
        mailbox = MailboxPolicy(capacity=self.window)
        return [
            await mesh.spawn(LoadAgent, agents, name=f"load-{number}", mailbox=mailbox)
            for number in range(1, self.profile.agents + 1)
        ]

    def _make_senders(self, refs: list[AgentRef]) -> list[Sender]:
        """Share a round's messages among the senders, so that each agent gets exactly its number.

        Each sender goes round the agents, and each starts at another one: they move in step, and
        would otherwise all send to the same agent at a time.
        """
        profile = self.profile
        sends = [ref.send for ref in refs] * profile.messages_per_agent
        total = len(sends)
        senders = []
        for number in range(profile.concurrency):
            first = total * number // profile.concurrency
            last = total * (number + 1) // profile.concurrency
            share = sends[first:last]
            turn = number % len(share) if share else 0
            senders.append(Sender(share[turn:] + share[:turn], profile.payload_bytes))
        return senders

    async def _run_round(self, mesh: Coordinator, senders: list[Sender], some_ref: AgentRef, meter: Meter) -> None:
        handled = mesh.latency_of(some_ref).latency
        meter.start()
        started_ns = time.perf_counter_ns()
        self._sending = asyncio.gather(*(sender.send_round() for sender in senders))
        try:
            await self._sending
        except asyncio.CancelledError:
            # Ours when `stop` asked for it; else that of the caller, who wants no figures.
            task = asyncio.current_task()
            if not self._stopped or (task is not None and task.cancelling()):
                raise
        self._sending = None
        await self._settle(mesh, handled, sum(sender.sent for sender in senders))
        self._duration_ns += time.perf_counter_ns() - started_ns
        meter.stop()

    async def _settle(self, mesh: Coordinator, handled: LatencyRecorder, sent: int) -> None:
        """Wait until all that was sent is over, and not forever: what is lost stays pending."""
        give_up_ns = time.perf_counter_ns() + SETTLE_NS
        turns = 0
        # The recorder is looked at instead of the account, because that costs nothing. What ended
        # otherwise than handled or failed does not stand in it.
        while handled.count < sent:
            await asyncio.sleep(0)
            turns += 1
            if turns % TURNS_PER_LOOK == 0 and (not mesh.stats().pending or time.perf_counter_ns() > give_up_ns):
                return

    def _report(
        self,
        mesh: Coordinator,
        sent: int,
        received: int,
        meter: Meter,
        overhead_bytes: int,
        environment: Environment,
    ) -> Report:
        stats = mesh.stats()
        report = Report(
            profile=self.profile,
            mode="closed",
            window=self.window,
            counts=Counts.of(stats),
            duration_ns=self._duration_ns,
            latency_ns=Spread.of(mesh.latency),
            queue_ns=Spread.of(mesh.queue_time),
            service_ns=Spread.of(mesh.service_time),
            resources=meter.result(self.profile.agents),
            overhead_bytes=overhead_bytes,
            environment=environment,
            faults=tuple(find_faults(stats, sent, received)),
            interrupted=self._stopped,
        )
        return dataclasses.replace(report, slo=judge(report, self._objectives))


def find_faults(stats: Stats, sent: int, received: int) -> list[str]:
    """What is wrong with the account after a run, one sentence a side; empty when it balances.

    Args:
        sent: What the senders say they sent.
        received: What the agents say they received.
    """
    faults = []
    ended = stats.handled + stats.failed + stats.expired + stats.dropped + stats.dead
    if stats.sent != stats.accepted + stats.rejected:
        faults.append(f"sent {stats.sent} is not accepted {stats.accepted} + rejected {stats.rejected}")
    if stats.accepted != ended + stats.pending:
        faults.append(
            f"accepted {stats.accepted} is not handled {stats.handled} + failed {stats.failed}"
            f" + expired {stats.expired} + dropped {stats.dropped} + dead {stats.dead}"
            f" + pending {stats.pending}"
        )
    if stats.imbalance is not None and not faults:
        faults.append(stats.imbalance)
    if stats.pending:
        faults.append(f"pending is {stats.pending} after the run, and must be 0")
    if stats.sent != sent:
        faults.append(f"the coordinator counted {stats.sent} sent, the senders {sent}")
    if stats.handled + stats.failed != received:
        faults.append(f"the coordinator counted {stats.handled} handled + {stats.failed} failed, the agents {received}")
    return faults


async def run(
    profile: Profile | str,
    *,
    window: int | None = None,
    objectives: Iterable[Objective] = DEFAULT_OBJECTIVES,
    on_progress: Progress | None = None,
) -> Report:
    """Put a profile's load on a coordinator of its own in the running event loop, and report.

    Args:
        profile: A profile, or the name of a shipped one: low, medium, high, extreme.
        window: Most messages in flight; the profile's concurrency by default.
        objectives: What the report is judged by.
        on_progress: Called with the number of messages handled so far, at the end of each round.

    Returns:
        The report. `report.faults` is empty unless pmesh has lost count of a message.

    Raises:
        InvalidArgument: No such profile, or a window outside 1 to 1,000,000.
        PmeshError: pmesh's own memory could not be measured.

    Cancel safety: a cancelled call leaves nothing running, and its figures are lost.
    """
    driver = Driver(profile, window=window, objectives=objectives, on_progress=on_progress)
    return await driver.run()
