"""One run of a program in virtual time, in which a seed decides whatever may happen in this order or that.

What is decided: which of the agents that are ready is served next, before every message; when the dispatcher gives
the loop its turn; how late a timer is; when another thread's call arrives; and which faults happen. Callbacks of the
event loop itself keep their order, as asyncio promises.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import weakref
from collections.abc import Callable, Coroutine
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

from pmesh._core import AgentRef, cell_of, timeout_seconds
from pmesh.coordinator import Coordinator
from pmesh.errors import InvalidArgument, InvalidType, WrongLoop
from pmesh.lives import Life
from pmesh.testing.account import assert_account
from pmesh.testing.decisions import Decisions, seed_of
from pmesh.testing.faults import Faults
from pmesh.testing.loop import HORIZON_SECONDS, SECOND_NS, START_NS, Deadlock, VirtualTimeLoop
from pmesh.testing.other_thread import StuckError, call_elsewhere
from pmesh.testing.outcomes import is_about_the_test
from pmesh.testing.simulated_loop import THREAD_PATIENCE_SECONDS, Call, SimulatedLoop
from pmesh.testing.simulated_mesh import SLICE_SECONDS, SimulatedCoordinator
from pmesh.testing.trace import Event, name_of, shown

__all__ = ["Simulation"]

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

# So often one that is not the first of the ready ones is served; and after so many in a row the first is, so that
# every agent that is ready is served within a bounded number of turns.
REORDERED = 0.5
MOST_PASSED_OVER = 16

# So often the dispatcher gives the loop its turn after a message, and a timer is late.
YIELDS = 0.1
LATE = 0.1
MOST_LATE_SECONDS = 0.000_5

# A call of another thread arrives at the next such point with this probability, and before time passes in any case.
ARRIVES = 0.25

# Timers by what sets them.
_TIMERS = {"_set_result_unless_cancelled": "a sleep", "Dispatcher._sweep": "timeouts and timers"}

# Messages and turns of the loop after which a run goes round in circles.
MOST_STEPS = 1_000_000


class Simulation:
    """A run by `seed`; what a test decorated with `simulate` is given.

    Args:
        seed: Decides; the same seed, the same run.
        faults: What goes wrong on purpose; nothing by default.
        traced: Keep a trace; takes several times as long.
        allowed: Numbers of the decisions that may depart from the usual; None for all.
        horizon_seconds: Virtual seconds after which a program that is still busy goes round in circles.

    Attributes:
        random: For the program's own choices. The module `random` is seeded, too, while the simulation runs.
        loop: The event loop, once it runs.
        trace: What happened so far, as `Event`s; empty unless `traced`.
        handled: Messages that handlers began with.
        agents: Names of all agents that were started.
    """

    def __init__(
        self,
        seed: int,
        *,
        faults: Faults | None = None,
        traced: bool = True,
        allowed: AbstractSet[int] | None = None,
        horizon_seconds: float = HORIZON_SECONDS,
    ) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise InvalidType(f"seed is {seed!r}; it must be a whole number")
        if faults is not None and not isinstance(faults, Faults):
            raise InvalidType(f"faults is {faults!r}; it must be a pmesh.testing.Faults")
        self.seed = seed
        self._horizon_seconds = timeout_seconds(horizon_seconds, "horizon_seconds")
        self.faults = faults or Faults()
        # Not the numbers that decide: what the program draws must not change with what is left out.
        self.random = random.Random(f"program {seed}")
        self.trace: list[Event] = []
        self.handled = 0
        self.agents: set[str] = set()
        self.loop: VirtualTimeLoop
        self._decisions = Decisions(seed, allowed)
        self._traced = traced
        self._faults_left = -1 if self.faults.most is None else self.faults.most
        self._meshes: list[SimulatedCoordinator] = []
        self._calls: list[Call] = []
        self._steps = 0
        self._passed_over = 0
        self._failure: BaseException | None = None
        self._errors: list[dict[str, Any]] = []
        self._futures: list[weakref.ref[asyncio.Future[Any]]] = []
        self._most_futures = 64
        self._main: asyncio.Task[Any] | None = None
        self._begun = False
        self._over = False

    # For the program.

    def coordinator(self, name: str = "mesh", **options: Any) -> Coordinator:
        """A `Coordinator` in this simulation, to be entered with `async with`; options as of that class.

        Its account is checked at every step.

        Raises:
            InvalidArgument: `clock`, `chooser` and `slice_seconds` are the simulation's.
        """
        for option in ("clock", "chooser", "slice_seconds"):
            if option in options:
                raise InvalidArgument(f"{option} is the simulation's to choose; leave it out")
        self._check_begun("coordinator")
        mesh = SimulatedCoordinator(self, name, **options)
        self._meshes.append(mesh)
        return mesh

    def in_thread(self, function: Callable[..., Result], *args: Any) -> asyncio.Future[Result]:
        """Have another thread call `function(*args)`, such as `ref.tell`, at some moment from now on.

        The loop stands still meanwhile, so the call must not wait for it. It comes before time passes, unless the run
        ends first. Returns a future of the result; an error that nobody asks it for fails the run.
        """
        if not callable(function):
            raise InvalidType(
                f"function is {function!r}; it must be what the thread is to call, and its arguments come after it, as"
                " in in_thread(ref.tell, payload)"
            )
        self._check_begun("in_thread")
        future: asyncio.Future[Result] = self.loop.create_future()
        self._await_call(Call(future, function, args, self._call_elsewhere))
        return future

    def _check_begun(self, method: str) -> None:
        if not hasattr(self, "loop"):
            raise InvalidArgument(
                f"{method}() of the simulation of seed {self.seed} before it runs: call it in what run() is given"
            )

    def note(self, what: str, *, who: str = "test") -> None:
        """Put something of the program's own into the trace."""
        self.add_event(who, what)

    @property
    def seconds(self) -> float:
        """Virtual seconds since the start of the run."""
        return self.loop.time() - START_NS / SECOND_NS if hasattr(self, "loop") else 0.0

    @property
    def departures(self) -> tuple[int, ...]:
        """Numbers of the decisions that departed from the usual so far."""
        return tuple(self._decisions.departures)

    def run(self, main: Callable[[Simulation], Coroutine[Any, Any, Result]]) -> Result:
        """Run `main(simulation)` to its end; once only.

        Raises:
            Deadlock: Nothing can happen any more, or the program goes round in circles.
            AssertionError: An account does not balance, a ready agent is forgotten, an assertion failed in a handler or
                hook of an agent that nobody asked, something was reported to the event loop's exception handler, or
                nobody asked for the error of a task or of a call in a thread.
            BaseException: Whatever `main` raises.
            WrongLoop: An event loop runs in this thread.
        """
        if self._begun:
            raise InvalidArgument(f"the simulation of seed {self.seed} has run; make a new one for another run")
        running = asyncio._get_running_loop()
        if running is not None:
            raise WrongLoop(
                f"a simulation runs an event loop of its own, and this thread runs {running!r}: call it from code that"
                " is not in an event loop, such as a plain `def` test"
            )
        self._begun = True
        state = random.getstate()
        random.seed(seed_of(self.seed))
        try:
            with asyncio.Runner(loop_factory=self._make_loop) as runner:
                try:
                    result = runner.run(main(self))
                    self._look()
                finally:
                    self._over = True
                    # A program that ends, or fails, before it meets the cancellation of Ctrl-C, hides that from Runner.
                    if runner._interrupt_count:  # type: ignore[attr-defined]
                        raise KeyboardInterrupt
        except BaseException as error:
            for context in self._take_errors():
                error.add_note(f"Besides, {_reported(context)}")
            raise
        finally:
            random.setstate(state)
        self._check_end()
        return result

    def _make_loop(self) -> VirtualTimeLoop:
        self.loop = SimulatedLoop(self, self._horizon_seconds)
        self.loop.set_exception_handler(lambda loop, context: self._errors.append(context))
        return self.loop

    def _check_end(self) -> None:
        if self._failure is not None:
            raise self._failure
        for context in self._take_errors():
            raise AssertionError(_reported(context)) from context.get("exception")
        for mesh in self._meshes:
            if mesh.has_begun:
                assert_account(mesh, pending=0 if mesh.has_ended else None)

    def in_executor(self, executor: Executor | None, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Have an executor make a call; None when the run is over, and nothing is decided any more."""
        if self._over:
            return None
        future = self.loop.create_future()
        self._await_call(Call(future, function, args, lambda call: self._call_executor(call, executor)))
        return future

    def _await_call(self, call: Call) -> None:
        self.keep_in_mind(call.future)
        self._calls.append(call)

    def has_task(self, task: asyncio.Task[Any]) -> None:
        if self._main is None:
            self._main = task
        self.keep_in_mind(task)

    def keep_in_mind(self, future: asyncio.Future[Any]) -> None:
        """Its error, when nobody asks for it, fails the run."""
        self._futures.append(weakref.ref(future))
        if len(self._futures) > self._most_futures:
            self._futures = [ref for ref in self._futures if ref() is not None]
            self._most_futures = 64 + 2 * len(self._futures)

    def _take_errors(self) -> list[dict[str, Any]]:
        """What was reported to the event loop, and what would be: who keeps a future keeps the report back, and cycles,
        which an error makes easily, are found by the garbage collector whenever it comes."""
        for ref in self._futures:
            future: Any = ref()
            if future is not None and future.done() and future._log_traceback:
                kind = "Task" if isinstance(future, asyncio.Task) else "Future"
                error = future.exception()
                self._errors.append({"message": f"{kind} exception was never retrieved", "exception": error})
        self._futures.clear()
        return self._errors

    # Where the dispatcher and the loop ask.

    def choose(self, mesh: SimulatedCoordinator, ready: list[AgentRef]) -> int:
        """Before every message: which of the ready agents is served."""
        if self._over or self._failure is not None:
            return 0
        self._step()
        self._check_account(mesh)
        decisions = self._decisions
        if decisions.happens(YIELDS):
            self.add_event("dispatcher", "gives the loop its turn", True)
            self.block(SLICE_SECONDS)
        self._disturb(mesh)
        if self._calls and decisions.happens(ARRIVES):
            self._call_in_thread(True)
        if len(ready) == 1 or self._passed_over >= MOST_PASSED_OVER or not decisions.happens(REORDERED):
            self._passed_over = 0
            return 0
        self._passed_over += 1
        index = 1 + decisions.pick(len(ready) - 1)
        self.add_event(ready[index].name, f"is served before {ready[0].name}", True)
        return index

    def turn(self, idle: bool) -> bool:
        """Before the loop looks for events, `idle` when time would pass now; whether there is something to do."""
        if self._over:
            return False
        if self._failure is not None:
            failure, self._failure, self._over = self._failure, None, True
            raise failure
        self._step()
        if self._calls and (idle or self._decisions.happens(ARRIVES)):
            self._call_in_thread(not idle)
            return True
        if idle:
            self._look()
        return False

    def lateness(self, callback: object) -> float:
        """Seconds by which a timer is late."""
        if self._over or not self._decisions.happens(LATE):
            return 0.0
        seconds = self._decisions.between(0, MOST_LATE_SECONDS)
        if self._traced:
            what = _TIMERS.get(name_of(callback), name_of(callback))
            whose = self._whose()
            text = f"will be {seconds * 1e6:.0f} us late with {what}{f' of {whose}' if whose else ''}"
            self.add_event("loop", text, True)
        return seconds

    def _whose(self) -> str:
        """The agent, or else the task, that does what is done now."""
        for mesh in self._meshes:
            scope = mesh._dispatcher.scope() if mesh.has_begun else None
            if scope is not None:
                return scope[0].name
        task = asyncio.current_task(self.loop)
        # Its number, if it has no name of its own, differs from run to run.
        return "the test" if task is self._main else ""

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS:
            self._fail(Deadlock(f"still busy after {MOST_STEPS} messages and turns of the loop: it goes in circles"))

    def _fail(self, failure: BaseException) -> None:
        """End the run with `failure`, from within the dispatcher: the loop raises it in its next turn."""
        if self._failure is None and not self._over:
            self._failure = failure
            self.block(SLICE_SECONDS)

    def hear_of(self, error: BaseException) -> None:
        """A handler or hook has raised `error`, of which its supervisor takes care: what is about the test ends it."""
        if is_about_the_test(error):
            self._fail(error)

    def block(self, seconds: float) -> None:
        """Let time pass in which the loop does not turn."""
        try:
            self.loop.advance(seconds)
        except Deadlock as deadlock:
            self._failure = self._failure or deadlock

    def _check_account(self, mesh: SimulatedCoordinator) -> None:
        try:
            totals = mesh.totals()
            if totals.imbalance is not None:
                assert_account(mesh)
        except AssertionError as error:
            self._fail(error)
        else:
            if self._traced:
                mesh.note_refusals(totals.rejected)

    def _look(self) -> None:
        """Nothing runs: every account balances, and no agent that could run has been forgotten."""
        for mesh in self._meshes:
            if not mesh.has_begun:
                continue
            assert_account(mesh)
            if self._traced:
                mesh.note_refusals(mesh.totals().rejected)
            for name in mesh.agents:
                cell = cell_of(mesh.lookup(name))
                if cell.is_forgotten:
                    raise AssertionError(
                        f"a lost wake-up: {len(cell.waiting())} messages wait for agent {name!r}, which could handle"
                        " them, and nothing is going to"
                    )

    def _call_in_thread(self, is_departure: bool) -> None:
        at = self._decisions.choose(len(self._calls))
        call = self._calls.pop(at)
        self.add_event("thread", f"calls {call.text}", is_departure or at > 0)
        try:
            call.make(call)
        except KeyboardInterrupt as interrupt:
            self._fail(interrupt)

    def _call_elsewhere(self, call: Call) -> None:
        try:
            result, error = call_elsewhere(call.function, call.args, THREAD_PATIENCE_SECONDS)
        except StuckError:
            self._fail(
                AssertionError(
                    f"{name_of(call.function)} has not returned after {THREAD_PATIENCE_SECONDS:g} s: what in_thread()"
                    " calls must not wait for the event loop, which stands still meanwhile"
                )
            )
        else:
            if error is None and inspect.isawaitable(result):
                if isinstance(result, Coroutine):
                    result.close()  # it has been said
                error = InvalidType(
                    f"{name_of(call.function)} returned {shown(result)} in a thread, where nothing awaits it: what"
                    " in_thread() calls must be a plain function, such as ref.tell"
                )
            call.end(result, error)

    def _call_executor(self, call: Call, executor: Executor | None) -> None:
        assert isinstance(self.loop, SimulatedLoop)
        work = self.loop.stand_still(executor, call)
        if work.done():
            error = work.exception()
            call.end(None if error is not None else work.result(), error)
        else:
            # It waits for the loop, which therefore goes on; when it ends is not the seed's to decide.
            self.loop.go_on_beside(work, call.future)

    # Faults.

    def _disturb(self, mesh: SimulatedCoordinator) -> None:
        """What may go wrong between two messages."""
        faults = self.faults
        if self._strikes(faults.jumps):
            seconds = self._decisions.between(0, faults.jump_seconds)
            self.add_event("clock", f"jumps forward by {seconds:.6f} s", True)
            self.block(seconds)
        if self._strikes(faults.kills):
            life = self._victim(mesh)
            if life is not None:
                self.add_event(life.name, "is killed", True)
                self.block(SLICE_SECONDS)
                self.loop.call_soon(mesh.begin_kill, life)
        if self._strikes(faults.fills):
            life = self._victim(mesh)
            if life is not None:
                seconds = self._decisions.between(0, faults.stall_seconds)
                self.add_event(life.name, f"has a full mailbox for {seconds:.6f} s", True)
                life.cell.squeeze(1)
                self.loop.call_later(seconds, life.cell.squeeze, life.cell.ref.capacity)

    def _strikes(self, rate: float) -> bool:
        if rate <= 0 or self._faults_left == 0 or not self._decisions.happens(rate):
            return False
        self._faults_left -= 1
        return True

    def _victim(self, mesh: SimulatedCoordinator) -> Life | None:
        lives = [life for life in mesh.victims() if self.faults.concern(life.name)]
        return lives[self._decisions.pick(len(lives))] if lives else None

    def handler_fault(self, name: str, waits: bool) -> tuple[str, float]:
        """What goes wrong in the handler that begins now, and for how many seconds; ("", 0) for nothing."""
        faults = self.faults
        if not self._over and faults.concern(name):
            if self._strikes(faults.raises):
                return ("raises first", 0.0) if self._decisions.between(0, 1) < 0.5 else ("raises at its end", 0.0)
            if self._strikes(faults.stalls):
                return "stalls", self._decisions.between(0, faults.stall_seconds)
            if waits and self._strikes(faults.cancels):
                # Mostly in the next turn, when most handlers still wait.
                late = self._decisions.between(0, faults.stall_seconds) if self._decisions.happens(0.25) else 0.0
                return "is cancelled", late
        return "", 0.0

    # The trace.

    @property
    def is_traced(self) -> bool:
        return self._traced

    def add_event(self, who: str, what: str, is_departure: bool = False) -> None:
        if self._traced:
            self.trace.append(Event(round(self.seconds, 9), who, what, is_departure))


def _reported(context: dict[str, Any]) -> str:
    error = context.get("exception")
    return f"reported to the event loop: {context.get('message')}{'' if error is None else f': {shown(error)}'}"
