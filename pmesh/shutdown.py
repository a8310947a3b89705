"""Coordinated shutdown: what happens, in which order and for how long, when a coordinator ends.

The phases, their order and the one run through them live here. What the phases "drain" and "stop" do with the agents
is in `coordinator.py` and `lives.py`; who is sent a signal is in `signals.py`. After Pekko's CoordinatedShutdown
(https://pekko.apache.org/docs/pekko/current/coordinated-shutdown.html).
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from pmesh._core import timeout_seconds
from pmesh.errors import CoordinatorClosed, InvalidArgument, InvalidType
from pmesh.lives import KILL_GRACE_SECONDS

if TYPE_CHECKING:
    from pmesh.coordinator import Coordinator

__all__ = ["Shutdown"]

logger = logging.getLogger("pmesh")

PHASES = ("before-drain", "drain", "before-stop", "stop", "after-stop")
PHASE_SECONDS = 5.0

# A task that begins when the shutdown has been hastened gets no more than this.
HASTE_SECONDS = 1.0

# The shutdowns that the calling code is a part of, which therefore cannot wait for their end.
_parts_of: contextvars.ContextVar[frozenset[Shutdown]] = contextvars.ContextVar("pmesh.shutdown", default=frozenset())


class Phase:
    """One phase: which phases come before it, and what is to be done in it."""

    __slots__ = ("after", "name", "over", "recover", "skipped", "step", "tasks", "timeout")

    def __init__(self, name: str, after: Iterable[str], timeout: float, recover: bool) -> None:
        self.name = name
        self.after = set(after)
        self.timeout = timeout
        self.recover = recover
        self.tasks: dict[str, Callable[[], object]] = {}
        self.step: Callable[[], Awaitable[None]] | None = None  # the coordinator's own, which bounds itself
        self.skipped = False
        self.over = asyncio.Event()


class Shutdown:
    """How a coordinator ends: named phases, each begun when those that it comes after are over.

    There are five, one after the other, and more may be added:

    - "before-drain": stop taking work from outside; the mesh takes mail as ever.
    - "drain": mail from outside is refused; agents handle what is pending, for `drain_timeout` at most.
    - "before-stop": nothing is pending any more, the agents are there still.
    - "stop": agents stop, newest first.
    - "after-stop": close what agents used.

    Leaving the coordinator runs it, and so do `run` and, where they were asked for, signals. It runs once.
    Everything here belongs to the coordinator's event loop.

    Args:
        steps: What the coordinator itself does in a phase, by the phase's name.
    """

    def __init__(self, coordinator: Coordinator, steps: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        self._coordinator = coordinator
        self._phases: dict[str, Phase] = {}
        self._under_way: list[str] = []
        self._waiting: set[asyncio.Task[object] | None] = set()
        self._requested = False
        self._reason: str | None = None
        # Of the loop that the coordinator is entered in.
        self._request: asyncio.Future[None]
        self._haste: asyncio.Future[None]
        self._over: asyncio.Future[None]
        for name, before in zip(PHASES, ((), *((phase,) for phase in PHASES)), strict=False):
            self._phases[name] = Phase(name, before, PHASE_SECONDS, recover=True)
            self._phases[name].step = steps.get(name)

    # What is to be done.

    def add_phase(
        self,
        name: str,
        *,
        after: str | Iterable[str] = (),
        before: str | Iterable[str] = (),
        timeout: float = PHASE_SECONDS,
        recover: bool = True,
    ) -> None:
        """Add a phase; with neither `after` nor `before` it runs beside all others from the beginning.

        Args:
            after, before: Names of phases that are there already.
            timeout: Seconds for each of its tasks.
            recover: Whether the shutdown goes on as ever when one of its tasks fails or takes too long. Otherwise the
                phases after this one are skipped, "stop" and what comes after that excepted.

        Raises:
            InvalidArgument: A name that is taken, a phase that is not there, or a circle.
            CoordinatorClosed: The shutdown has begun.
        """
        self._check_not_begun(f"phase {name!r}")
        _require_name("name", name)
        if name in self._phases:
            raise InvalidArgument(f"phase {name!r} is there already; phases have names of their own")
        if not isinstance(recover, bool):
            raise InvalidType(f"recover is {recover!r}; it must be True or False")
        seconds = timeout_seconds(timeout, "timeout")
        later, earlier = self._names("after", after), self._names("before", before)
        for successor in earlier:
            for predecessor in later:
                path = self._path(successor, predecessor)
                if path:
                    circle = " -> ".join([*path, name, successor])
                    raise InvalidArgument(
                        f"phase {name!r} cannot come after {predecessor!r} and before {successor!r}: {circle}"
                    )
        self._phases[name] = Phase(name, later, seconds, recover)
        for successor in earlier:
            self._phases[successor].after.add(name)

    def add_task(self, phase: str, name: str, function: Callable[[], object]) -> None:
        """Have `function` called in a phase, in parallel with the phase's other tasks; what it returns is awaited.

        One that fails or takes longer than the phase's timeout is logged by its name. It is cancelled then, and left
        behind when that does not end it within five seconds. A plain function keeps the event loop while it runs.

        Raises:
            InvalidArgument: A phase that is not there, or a name that another task of it has.
            InvalidType: The function cannot be called without arguments.
            CoordinatorClosed: The shutdown has begun.
        """
        self._check_not_begun(f"task {name!r}")
        _require_name("name", name)
        (phase,) = self._names("phase", phase)
        if name in self._phases[phase].tasks:
            raise InvalidArgument(f"phase {phase!r} has a task {name!r} already; tasks of a phase have different names")
        if not callable(function):
            raise InvalidType(f"function is {function!r}; it must be a function without arguments")
        try:
            inspect.signature(function).bind()
        except TypeError:
            raise InvalidType(f"function is {function!r}; it must be callable without arguments") from None
        except (ValueError, NameError):
            pass  # some builtins have no signature, and annotations may name what is not there yet; a call will tell
        self._phases[phase].tasks[name] = function

    def _names(self, argument: str, given: object) -> set[str]:
        """Names of phases, from one or several."""
        names = [given] if isinstance(given, str) else given
        if not isinstance(names, Iterable):
            raise InvalidType(f"{argument} is {given!r}; it must be the name of a phase, or several of them")
        found = set()
        for name in names:
            if not isinstance(name, str):
                raise InvalidType(f"{argument} has {name!r}; the name of a phase is a str")
            if name not in self._phases:
                raise InvalidArgument(
                    f"{argument} names phase {name!r}, which is not there; there are"
                    f" {', '.join(map(repr, self._phases))}"
                )
            found.add(name)
        return found

    def _path(self, first: str, last: str) -> list[str]:
        """Phases from `first` to `last`, each of which comes before the next; empty when there is no such path."""
        if first == last:
            return [first]
        for before in self._phases[last].after:
            path = self._path(first, before)
            if path:
                return [*path, last]
        return []

    def _check_not_begun(self, what: str) -> None:
        if self._requested:
            raise CoordinatorClosed(
                f"the shutdown of coordinator {self._coordinator.name!r} has begun; {what} must be added before"
            )

    # Looking.

    @property
    def requested(self) -> bool:
        """Whether it has begun, or is over."""
        return self._requested

    @property
    def reason(self) -> str | None:
        """What was given to `run`, or the name of the signal; None where nothing was."""
        return self._reason

    @property
    def phase(self) -> str | None:
        """The phase under way, of several the one begun last; None before and after."""
        return self._under_way[-1] if self._under_way else None

    def __repr__(self) -> str:
        status = (self.phase or ("over" if self._over.done() else "beginning")) if self._requested else "not begun"
        return f"<Shutdown of {self._coordinator.name!r}: {status}>"

    # Beginning, hastening, waiting.

    async def run(self, reason: str | None = None) -> None:
        """Shut down, and return when that is over; several calls wait for the one run.

        Called from a handler or a hook of this coordinator, or from a task of this shutdown, it begins and returns at
        once, since the shutdown waits for those.

        Args:
            reason: For logs, and for who asks `reason`. That of the first call counts.

        Cancel safety: a cancelled call hastens the shutdown, waits for its end, and lets the cancellation through; one
        that is cancelled again does not wait.
        """
        self._coordinator._check_loop("shutdown.run", even_closed=True)
        if reason is not None and not isinstance(reason, str):
            raise InvalidType(f"reason is {reason!r}; it must be a str, or None")
        self._begin(reason)
        if self in _parts_of.get() or self._coordinator._is_in_handler():
            return
        try:
            await self._until_over()
        except asyncio.CancelledError:
            if not self._over.done():
                self._hasten()
                await self._until_over()
            raise

    async def wait(self) -> None:
        """Wait until a shutdown that somebody else begins is over; for the body of `async with`.

        Cancel safety: a cancelled call only stops waiting.
        """
        self._coordinator._check_loop("shutdown.wait", even_closed=True)
        await self._until_over()

    def hasten(self) -> None:
        """Shut down at once, whether that has begun or not: agents are killed, and their mail is dead-lettered.

        Shutdown tasks under way are cancelled; those of the phases to come get a second at most.
        """
        self._coordinator._check_loop("shutdown.hasten", even_closed=True)
        if not self._over.done():
            self._begin(None)
            self._hasten()

    def _begin(self, reason: str | None) -> None:
        if not self._requested:
            self._requested = True
            self._reason = reason
            # asyncio.run may have cancelled the task that waits for it, and with that the future, before this one.
            if not self._request.done():
                self._request.set_result(None)
            logger.info("coordinator %r shuts down (%s)", self._coordinator.name, reason or "it is left")

    def _hasten(self) -> None:
        if not self._haste.done():
            self._haste.set_result(None)
            logger.info("coordinator %r: its shutdown is hastened", self._coordinator.name)
            self._coordinator._kill_all()

    @property
    def _hastened(self) -> bool:
        return self._haste.done()

    async def _until_over(self) -> None:
        task = asyncio.current_task()
        self._waiting.add(task)
        try:
            # Many may wait for the one end, and none of them may cancel it for the others.
            await asyncio.shield(self._over)
        finally:
            self._waiting.discard(task)

    # The run, in a task of the coordinator.

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        self._request, self._haste, self._over = (loop.create_future() for _ in range(3))

    async def _carry_out(self) -> None:
        """Wait until the shutdown is asked for, and go through the phases.

        Cancel safety: a cancelled call cancels the tasks under way and leaves the rest undone.
        """
        await self._request
        _parts_of.set(_parts_of.get() | {self})
        async with asyncio.TaskGroup() as group:
            for phase in self._phases.values():
                group.create_task(self._run_phase(phase), name=f"pmesh-{phase.name}")

    def _end(self) -> None:
        """The run is over."""
        if not self._over.done():
            self._over.set_result(None)

    async def _run_phase(self, phase: Phase) -> None:
        for name in phase.after:
            await self._phases[name].over.wait()
        if not phase.skipped:
            self._under_way.append(phase.name)
            try:
                async with asyncio.TaskGroup() as group:
                    running = [
                        group.create_task(self._run_task(phase, name, function))
                        for name, function in phase.tasks.items()
                    ]
                    if phase.step is not None:
                        await phase.step()
            finally:
                self._under_way.remove(phase.name)
            if not phase.recover and not all(task.result() for task in running):
                self._skip_after(phase)
        phase.over.set()

    async def _run_task(self, phase: Phase, name: str, function: Callable[[], object]) -> bool:
        """Call a shutdown task, bounded in time; False when it failed."""
        label = f"coordinator {self._coordinator.name!r}: shutdown task {name!r} of phase {phase.name!r}"
        seconds = min(phase.timeout, HASTE_SECONDS) if self._hastened else phase.timeout
        task = asyncio.get_running_loop().create_task(_call(function), name=f"pmesh-{phase.name}-{name}")
        cut_short = False
        try:
            await asyncio.wait(
                [task] if self._hastened else [task, self._haste],
                timeout=seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not task.done():
                cut_short = True
                task.cancel()
                await asyncio.wait([task], timeout=KILL_GRACE_SECONDS)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            logger.error("%s went on %g s after it was cancelled, and is left behind", label, KILL_GRACE_SECONDS)
        elif cut_short:
            why = "was cut short" if self._hastened else f"did not end within {seconds:g} s, and was cancelled"
            logger.error("%s %s", label, why)
        elif task.cancelled():
            logger.error("%s failed: it was cancelled", label)
        elif task.exception() is not None:
            logger.error("%s failed", label, exc_info=task.exception())
        else:
            return True
        return False

    def _skip_after(self, failed: Phase) -> None:
        """Of what comes after a phase that must not fail, only stopping the agents, and what comes after that."""
        later = {name for name in self._phases if name != failed.name and self._path(failed.name, name)}
        if "stop" in later:
            later -= {name for name in later if self._path("stop", name)}
        for name in later:
            self._phases[name].skipped = True
        logger.error(
            "coordinator %r: phase %r failed; skipped are: %s",
            self._coordinator.name,
            failed.name,
            ", ".join(sorted(later)) or "none",
        )


async def _call(function: Callable[[], object]) -> None:
    returned = function()
    if inspect.isawaitable(returned):
        await returned


def _require_name(argument: str, name: object) -> None:
    if not isinstance(name, str):
        raise InvalidType(f"{argument} is {name!r}; it must be a str")
    if not name:
        raise InvalidArgument(f"{argument} is ''; it must not be empty")
