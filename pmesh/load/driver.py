"""A load run from start to end: spawn the agents, warm up, send, wait until all is over, report.

All that is not sending (progress, memory, processor time, the series) happens between rounds, when nothing is
in flight, or on a timer a few times a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pmesh import AgentRef, Coordinator, LatencyRecorder, MailboxPolicy, Overflow
from pmesh.environment import Environment, describe_environment
from pmesh.errors import InvalidArgument, InvalidType, PmeshError
from pmesh.load.drift import soak_of
from pmesh.load.plan import Plan, make_plan
from pmesh.load.profiles import Profile
from pmesh.load.recording import Recording
from pmesh.load.report import AgentRow, Counts, Injected, Point, Report, Spread
from pmesh.load.resources import Meter, measure_overhead
from pmesh.load.senders import CyclingSender, Pacer, RoundSender, arrival_offsets
from pmesh.load.subjects import Subject, name_of, one_line, quiet_failures, resolve
from pmesh.slo import Objective, as_objective, default_objectives, judge, split_figure

if TYPE_CHECKING:
    from pmesh import Stats

__all__ = ["Driver", "run"]

Progress = Callable[[float], None]

# How many turns of the loop pass between two looks at the whole account while a round ends.
TURNS_PER_LOOK = 64

# How long a run may take to end after its last send without any message ending. Load agents never wait, so
# only a message that pmesh has lost count of takes that long; handlers of the user's own may; and one who
# has ended the run has seen enough.
SETTLE_SECONDS = 10.0
OWN_SETTLE_SECONDS = 60.0
ENDED_SETTLE_SECONDS = 1.0

# Over how long a breach is judged, and of how many latencies: 20 beyond the 99th percentile.
BREACH_SECONDS = 1.0
BREACH_LATENCIES = 2_000


class Driver:
    """Runs one plan once; `run` is the short way to it.

    Args:
        plan: What to do; `make_plan` makes one.
        agent: An agent class or a function agent to put under load, instead of the load tester's own.
        payload: What makes a payload for it: a function of nothing, or of the message's number.
        objectives: What the report is judged by; by default `pmesh.slo.default_objectives`.
        abort_on_breach: End the run at the first second in which one of the objectives does not hold.
        soak: Fit the drift of p99 and of memory.
        on_progress: Called with how far the run is: messages that are over, or seconds where the plan
            has a duration.

    Raises:
        InvalidArgument: The agent and the payload do not fit together, or the payload factory raises.
        InvalidType: `agent` is not an agent, or `payload` no function.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        agent: Callable[..., Any] | None = None,
        payload: Callable[..., object] | None = None,
        objectives: Iterable[str | Objective] | None = None,
        abort_on_breach: bool = False,
        soak: bool = False,
        on_progress: Progress | None = None,
    ) -> None:
        self.plan = plan
        self._subject = Subject(plan, agent, payload)
        if isinstance(objectives, (str, Objective)):
            objectives = (objectives,)
        if on_progress is not None and not callable(on_progress):
            raise InvalidType(f"on_progress is {on_progress!r}; it must be a function of one number")
        wanted = default_objectives(plan.mode) if objectives is None else objectives
        self._objectives = tuple(map(as_objective, wanted))
        self._abort_on_breach = abort_on_breach
        self._soak = soak
        self._on_progress = on_progress
        self._sending: asyncio.Future[Any] | None = None
        self._stopped = False
        self._aborted: str | None = None
        self._duration_ns = 0
        self._sent = 0
        self._unsent = 0
        self._stops = 0
        self._targets: list[AgentRef] = []
        self._pacer: Pacer | None = None
        self._recent: list[tuple[Point, Mapping[str, LatencyRecorder]]] = []
        self._failure: PmeshError | None = None
        self._unsettled_ns: int | None = None

    def stop(self) -> None:
        """End the run early: senders stop, what is in flight is handled, and `run` returns.

        To be called in the event loop of `run`.
        """
        self._stopped = True
        self._stop_sending()

    def _stop_sending(self) -> None:
        if self._sending is not None:
            self._sending.cancel()

    async def run(self) -> Report:
        """Spawn the agents, send, stop the agents, and report.

        Raises:
            PmeshError: pmesh's own memory could not be measured.
            InvalidArgument: The payload factory raised.

        Cancel safety: a cancelled call leaves nothing running, and its figures are lost; `stop`
        keeps them.
        """
        plan = self.plan
        environment = describe_environment()
        overhead_bytes = await asyncio.to_thread(measure_overhead, environment.event_loop)
        # What earlier runs left behind should neither be counted here nor collected meanwhile.
        gc.collect()
        meter = Meter()
        mesh = Coordinator(f"load-{plan.profile.name}", window=plan.window if plan.mode == "closed" else None)
        recording = Recording(
            mesh,
            self._targets,
            per_agent=plan.per_agent,
            is_open=plan.mode == "open",
            late=lambda: self._pacer.late() if self._pacer is not None else 0,
            on_point=self._on_point,
        )
        # The recording ends after the mesh: what is only handled, or given up, while that is left counts too.
        with meter, quiet_failures(plan), contextlib.ExitStack() as until_closed:
            async with mesh:
                for index in range(plan.profile.agents):
                    self._targets.append(await self._spawn(mesh, index))
                if plan.warmup_seconds:
                    await self._warm_up(mesh)
                received_before = self._subject.received
                failures_before, delays_before = self._subject.failures, self._subject.delays
                until_closed.enter_context(recording)
                await self._measure(mesh, recording, meter)
                rows = recording.rows()
            if self._unsettled_ns is not None:
                self._duration_ns += time.monotonic_ns() - self._unsettled_ns
        stats = mesh.stats()
        counts = Counts.of(stats).since(recording.before)
        received = self._subject.received - received_before
        injected = Injected(
            failures=self._subject.failures - failures_before,
            delays=self._subject.delays - delays_before,
            stops=self._stops,
        )
        faults = find_faults(
            stats,
            counts,
            timed=recording.recorders["response"].count,
            sent=self._sent if self._subject.is_own else None,
            received=received + injected.failures if self._subject.is_own else None,
        )
        return self._report(recording, counts, injected, rows, meter, overhead_bytes, environment, faults)

    async def _spawn(self, mesh: Coordinator, index: int) -> AgentRef:
        plan = self.plan
        factory, args = self._subject.factory(index)
        mailbox = None
        if plan.mode == "closed" or plan.capacity is not None or plan.overflow != "reject":
            default = MailboxPolicy().capacity if plan.mode == "open" else plan.window
            mailbox = MailboxPolicy(
                capacity=default if plan.capacity is None else plan.capacity,
                overflow=Overflow[plan.overflow.upper()],
            )
        name = f"load-{index + 1}"
        try:
            return await mesh.spawn(
                factory,
                *args,
                name=name,
                mailbox=mailbox,
                own_recorders=plan.per_agent,
                supervision=self._subject.supervision,
            )
        except Exception as error:
            if self._subject.is_own:
                raise
            raise InvalidArgument(
                f"agent {plan.agent} raised {type(error).__name__} when it was started: {one_line(error)}"
            ) from error

    # Sending.

    async def _warm_up(self, mesh: Coordinator) -> None:
        """Send as the plan says, with nothing recorded, for as long as it says."""
        await self._send(mesh, limit=None, seconds=self.plan.warmup_seconds)
        await self._settle(mesh)
        self._sent = self._unsent = 0

    async def _measure(self, mesh: Coordinator, recording: Recording, meter: Meter) -> None:
        plan = self.plan
        self._recording = recording
        in_rounds = (
            plan.mode == "closed"
            and plan.messages is None
            and plan.duration_seconds is None
            and self._subject.makes_bytes
            and not plan.stop_every_seconds
        )
        senders = self._round_senders() if in_rounds else []
        for _ in range(plan.profile.rounds if in_rounds else 1):
            if self._stopped or self._aborted:
                break
            meter.start()
            started_ns = time.monotonic_ns()
            if in_rounds:
                await self._until_sent([sender.send() for sender in senders])
                self._sent = sum(sender.sent for sender in senders)
            else:
                limit = plan.messages
                if limit is None and plan.duration_seconds is None:
                    limit = plan.profile.messages
                await self._send(mesh, limit=limit, seconds=plan.duration_seconds, measured=True)
            await self._settle(mesh, recording)
            self._duration_ns += time.monotonic_ns() - started_ns
            meter.stop()
            meter.sample()
            self._show_progress(recording)

    async def _send(
        self, mesh: Coordinator, *, limit: int | None, seconds: float | None, measured: bool = False
    ) -> None:
        """Send `limit` messages, or for `seconds`, whichever ends first."""
        plan = self.plan
        make_payload = self._subject.make_payload
        stopper: asyncio.Task[None] | None = None
        if plan.stop_every_seconds and measured:
            stopper = asyncio.create_task(self._stop_agents(mesh, plan.stop_every_seconds))
        try:
            if plan.rate_per_second is not None:
                duration_ns = None if seconds is None else round(seconds * 1e9)
                offsets = arrival_offsets(
                    plan.rate_per_second, plan.arrival, messages=limit, duration_ns=duration_ns, seed=plan.seed
                )
                timely = math.inf if seconds is None else math.ceil(seconds * plan.rate_per_second)
                self._pacer = Pacer(
                    self._targets,
                    make_payload,
                    offsets,
                    rate_per_second=plan.rate_per_second,
                    messages=int(min(timely, math.inf if limit is None else limit)),
                )
                await self._until_sent([self._pacer.send()])
                self._sent += self._pacer.sent
                self._unsent += self._pacer.unsent
                return
            concurrency = plan.profile.concurrency
            senders = [
                CyclingSender(self._targets, make_payload, first=number, step=concurrency, limit=limit)
                for number in range(concurrency)
            ]
            timer = None
            if seconds is not None:
                timer = asyncio.get_running_loop().call_later(seconds, self._stop_sending)
            try:
                await self._until_sent([sender.send() for sender in senders], timed=timer is not None)
            finally:
                if timer is not None:
                    timer.cancel()
                self._sent += sum(sender.sent for sender in senders)
        finally:
            if stopper is not None:
                stopper.cancel()
                await asyncio.gather(stopper, return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    async def _until_sent(self, sends: Sequence[Any], *, timed: bool = False) -> None:
        """Run the senders to their end, or until `stop`, a breach or the time ends them."""
        tasks = [asyncio.ensure_future(send) for send in sends]
        self._sending = asyncio.gather(*tasks)
        if self._stopped or self._aborted:
            self._sending.cancel()
        try:
            await self._sending
        except asyncio.CancelledError:
            # Ours when somebody ended the run; else that of the caller, who wants no figures.
            task = asyncio.current_task()
            ended = timed or self._stopped or self._aborted is not None or self._failure is not None
            if not ended or (task is not None and task.cancelling()):
                raise
        finally:
            self._sending = None
            for left in tasks:
                left.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _settle(self, mesh: Coordinator, recording: Recording | None = None) -> None:
        """Wait until all that was sent is over; not forever: what is lost, or hangs, stays pending.

        A run that was ended does not wait for handlers that hang: it cancels them.
        """
        turns = 0
        pending = -1
        give_up = math.inf
        self._unsettled_ns = None
        patience = SETTLE_SECONDS if self._subject.is_own else OWN_SETTLE_SECONDS
        patience += 10 * self.plan.slow_ns / 1e9
        while True:
            # The recorders are looked at instead of the account, because that costs less. What ended
            # otherwise than handled or failed does not stand in them.
            if recording is not None and self._subject.is_own and recording.handled >= self._sent:
                return
            if turns % TURNS_PER_LOOK == 0:
                left = mesh.totals().pending
                now = time.monotonic()
                if not left:
                    return
                ended = self._stopped or self._aborted is not None
                if ended:
                    give_up = min(give_up, now + ENDED_SETTLE_SECONDS)
                elif left != pending:
                    pending, give_up = left, now + patience
                if now > give_up:
                    self._unsettled_ns = time.monotonic_ns()
                    for name in mesh.agents if ended else ():
                        await mesh.kill(name)
                    return
            turns += 1
            await asyncio.sleep(0 if turns < 50 * TURNS_PER_LOOK else 0.001)

    async def _stop_agents(self, mesh: Coordinator, seconds: float) -> None:
        """Every so often stop the next agent and spawn another one in its place."""
        for number in itertools.count():
            await asyncio.sleep(seconds)
            index = number % len(self._targets)
            stopped = self._targets[index]
            await mesh.stop(stopped)
            self._stops += 1
            try:
                self._targets[index] = await self._spawn(mesh, index)
            except PmeshError as error:
                self._failure = error
                self._stop_sending()
                return
            # Whatever it had in hand is over.
            self._recording.retire(stopped)

    def _round_senders(self) -> list[RoundSender]:
        """Share a round's messages among the senders, so that each agent gets exactly its number.

        Each sender goes round the agents, and each starts at another one: they move in step, and
        would otherwise all send to the same agent at a time.
        """
        profile = self.plan.profile
        sends = [ref.send for ref in self._targets] * profile.messages_per_agent
        total = len(sends)
        senders = []
        for number in range(profile.concurrency):
            first = total * number // profile.concurrency
            last = total * (number + 1) // profile.concurrency
            share = sends[first:last]
            turn = number % len(share) if share else 0
            senders.append(RoundSender(share[turn:] + share[:turn], profile.payload_bytes))
        return senders

    # Watching.

    def _on_point(self, point: Point, times: Mapping[str, LatencyRecorder]) -> None:
        self._show_progress(self._recording)
        if not self._abort_on_breach or self._aborted is not None:
            return
        self._recent.append((point, times))
        if sum(point.interval_ns for point, _ in self._recent) >= BREACH_SECONDS * 1e9:
            self._aborted = self._find_breach(self._recent)
            self._recent = []
            if self._aborted is not None:
                self._stop_sending()

    def _find_breach(self, recent: Sequence[tuple[Point, Mapping[str, LatencyRecorder]]]) -> str | None:
        """The first objective that does not hold over these intervals, in words.

        Percentiles of too few times are left out, and so is pmesh's own overhead, which does not change.
        """
        points = [point for point, _ in recent]
        sent = sum(point.sent for point in points)
        ended_badly = sum(point.failed for point in points)
        seconds = sum(point.interval_ns for point in points) / 1e9

        def figure(name: str) -> float | None:
            if name == "throughput":
                return sum(point.handled for point in points) / seconds
            if name == "success":
                return 1.0 - min(ended_badly / sent, 1.0) if sent else None
            if name == "memory_per_agent":
                return (points[-1].rss_bytes - self._recording.rss_bytes_before) / self.plan.profile.agents
            if name == "overhead":
                return None
            series, statistic = split_figure(name)
            merged = LatencyRecorder()
            for _, times in recent:
                if series in times:
                    merged.merge(times[series])
            if not merged.count or (statistic.startswith("p") and merged.count < BREACH_LATENCIES):
                return None
            value: float = getattr(Spread.of(merged), statistic.replace(".", "_"))
            return value

        for verdict in judge(figure, self._objectives):
            if verdict.observed is not None and not verdict.passed:
                return f"{verdict} in the second that ended at {points[-1].at_ns / 1e9:.1f} s"
        return None

    def _show_progress(self, recording: Recording) -> None:
        if self._on_progress is not None:
            timed = self.plan.duration_seconds is not None
            self._on_progress(recording.elapsed_seconds if timed else recording.handled)

    # Reporting.

    def _report(
        self,
        recording: Recording,
        counts: Counts,
        injected: Injected,
        agents: tuple[AgentRow, ...],
        meter: Meter,
        overhead_bytes: int,
        environment: Environment,
        faults: Sequence[str],
    ) -> Report:
        recorders = recording.recorders
        series = recording.series()
        spreads = {name: Spread.of(recorder) for name, recorder in recorders.items()}
        report = Report(
            plan=self.plan,
            counts=counts,
            duration_ns=self._duration_ns,
            latency_ns=spreads["latency"],
            response_ns=spreads["response"],
            queue_ns=spreads["queue"],
            service_ns=spreads["service"],
            send_delay_ns=spreads.get("send_delay"),
            unsent=self._unsent,
            injected=injected,
            recorders=recorders,
            series=series,
            agents=agents,
            soak=soak_of(self._duration_ns, series) if self._soak else None,
            resources=meter.result(self.plan.profile.agents),
            overhead_bytes=overhead_bytes,
            environment=environment,
            faults=tuple(faults),
            interrupted=self._stopped,
            aborted=self._aborted,
        )
        return report.judged(self._objectives)


def find_faults(stats: Stats, counts: Counts, *, timed: int, sent: int | None, received: int | None) -> list[str]:
    """What is wrong with the account after a run, one sentence a side; empty when it balances.

    Args:
        stats: The whole account of the coordinator.
        counts: The part of it that was measured.
        timed: How many messages the recorders have the times of.
        sent: What the senders say they sent; None where others sent as well.
        received: What the agents say they received; None where they do not say.
    """
    faults = []
    ended = counts.handled + counts.failed + counts.expired + counts.dropped + counts.dead
    if counts.sent != counts.accepted + counts.rejected:
        faults.append(f"sent {counts.sent} is not accepted {counts.accepted} + rejected {counts.rejected}")
    if counts.accepted != ended + counts.pending:
        faults.append(
            f"accepted {counts.accepted} is not handled {counts.handled} + failed {counts.failed}"
            f" + expired {counts.expired} + dropped {counts.dropped} + dead {counts.dead}"
            f" + pending {counts.pending}"
        )
    if stats.imbalance is not None and not faults:
        faults.append(stats.imbalance)
    if stats.pending:
        faults.append(f"pending is {stats.pending} after the run, and must be 0")
    if counts.handled + counts.failed != timed:
        faults.append(f"the coordinator counted {counts.handled} handled + {counts.failed} failed, and timed {timed}")
    if sent is not None and counts.sent != sent:
        faults.append(f"the coordinator counted {counts.sent} sent, the senders {sent}")
    if received is not None and counts.handled + counts.failed != received:
        faults.append(
            f"the coordinator counted {counts.handled} handled + {counts.failed} failed, the agents {received}"
        )
    return faults


async def run(
    profile: Profile | str = "medium",
    *,
    agent: Callable[..., Any] | str | None = None,
    payload: Callable[..., object] | str | None = None,
    objectives: Iterable[str | Objective] | None = None,
    abort_on_breach: bool = False,
    soak: bool = False,
    on_progress: Progress | None = None,
    **changes: Any,
) -> Report:
    """Put load on a coordinator of its own in the running event loop, and report.

    Args:
        profile: A profile, or the name of a shipped one: low, medium, high, extreme.
        agent: Your own agent class, function agent or `functools.partial` of a class, or "module:name" of one.
        payload: Makes a payload for it: a function of nothing, or of the message's number; or "module:name".
        objectives: What the report is judged by; by default `pmesh.slo.default_objectives`.
        abort_on_breach: End the run at the first second in which one of the objectives does not hold.
        soak: Fit the drift of p99 and of memory over the run.
        on_progress: Called with messages that are over, or with seconds where there is a `duration`.
        **changes: What `make_plan` takes: agents, messages, duration, rate, arrival, warmup, ...

    Returns:
        The report. `report.faults` is empty unless pmesh has lost count of a message.

    Raises:
        InvalidArgument: A value that is not allowed, no such profile, an agent or a payload factory that
            cannot be imported or do not fit together.
        InvalidType: A value of the wrong type.
        PmeshError: pmesh's own memory could not be measured.

    Cancel safety: a cancelled call leaves nothing running, and its figures are lost.
    """
    own_agent = resolve(agent, "agent") if isinstance(agent, str) else agent
    own_payload = resolve(payload, "payload") if isinstance(payload, str) else payload
    plan = make_plan(
        profile,
        agent=None if own_agent is None else name_of(own_agent),
        payload=None if own_payload is None else name_of(own_payload),
        **changes,
    )
    driver = Driver(
        plan,
        agent=own_agent,
        payload=own_payload,
        objectives=objectives,
        abort_on_breach=abort_on_breach,
        soak=soak,
        on_progress=on_progress,
    )
    return await driver.run()
