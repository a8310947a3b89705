"""What is to become of an agent that fails: directives, groups, restart intensity, backoff, and supervisors.

Only the rules live here; who follows them is `recovery.py`. They are those of OTP's supervisors
(https://www.erlang.org/doc/system/sup_princ.html), with Akka's directives by type of exception.
"""

from __future__ import annotations

import collections
import enum
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from pmesh.errors import InvalidArgument, InvalidType
from pmesh.values import Value

if TYPE_CHECKING:
    from pmesh._core import AgentRef
    from pmesh.agent import MailboxPolicy
    from pmesh.coordinator import Coordinator

__all__ = [
    "Backoff",
    "ChildSupervision",
    "Directive",
    "Directives",
    "Restart",
    "RestartWindow",
    "Strategy",
    "SupervisionPolicy",
    "Supervisor",
]

Choice = TypeVar("Choice", bound=enum.Enum)


class Directive(enum.Enum):
    """What happens to an agent whose handler raised."""

    RESTART = "restart"  # a new instance takes over ref and mailbox
    RESUME = "resume"  # the same instance goes on with the next message
    STOP = "stop"
    ESCALATE = "escalate"  # its parent fails with the same error


class Restart(enum.Enum):
    """When an agent is restarted at all. An explicit stop, drain or kill never restarts."""

    PERMANENT = "permanent"  # also when it stops itself
    TRANSIENT = "transient"  # when it fails
    TEMPORARY = "temporary"  # never: it stops when it fails


class Strategy(enum.Enum):
    """Which children are restarted when one is."""

    ONE_FOR_ONE = "one_for_one"  # that one
    ONE_FOR_ALL = "one_for_all"  # all of them
    REST_FOR_ONE = "rest_for_one"  # that one and those started after it


Directives = Mapping[type[BaseException], Directive | str] | Directive | str | None


class Backoff(Value):
    """How long to wait before a restart: `min(max, min * 2**n)`, n being the restarts before in a row.

    Args:
        min_seconds: Before the first restart.
        max_seconds: The longest, before jitter.
        jitter: Up to this share of it is added at random, so that agents which failed together do not return
            together; after the cap, so that those at the cap are spread too.
        reset_seconds: After this long without a failure the count starts anew; by default `max_seconds`.
    """

    min_seconds: float = 0.1
    max_seconds: float = 30.0
    jitter: float = 0.2
    reset_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("min_seconds", "max_seconds"):
            _require_positive(f"backoff's {name}", getattr(self, name))
        if self.min_seconds > self.max_seconds:
            raise InvalidArgument(
                f"backoff's min_seconds is {self.min_seconds}; it must be at most max_seconds, {self.max_seconds}"
            )
        if not _is_number(self.jitter):
            raise InvalidType(f"backoff's jitter is {self.jitter!r}; it must be a share from 0 to 1")
        if not 0 <= self.jitter <= 1:
            raise InvalidArgument(f"backoff's jitter is {self.jitter}; it must be a share from 0 to 1")
        if self.reset_seconds is not None:
            _require_positive("backoff's reset_seconds", self.reset_seconds)

    def seconds(self, restarts: int, share: float) -> float:
        """The wait after `restarts` restarts in a row; `share`, from 0 to 1, is where in the jitter it falls."""
        # 2.0**1024 is more than a float holds.
        doubled = self.min_seconds * 2.0 ** min(restarts, 1000)
        return min(self.max_seconds, doubled) * (1.0 + self.jitter * share)

    @property
    def quiet_seconds(self) -> float:
        """How long without a failure until the count starts anew."""
        return self.max_seconds if self.reset_seconds is None else self.reset_seconds


class SupervisionPolicy(Value):
    """What becomes of one agent when it fails; `Agent.supervision`, which `spawn(supervision=)` overrides.

    Args:
        restart: "permanent", "transient" or "temporary".
        directives: What to do, by type of exception: the entry of the nearest base class counts. Or one directive for
            all. What it does not name is left to the supervisor, and by default is "restart".
        intensity: Most restarts within `period`; one more stops the agent. For agents at the top level: below a
            supervisor, the supervisor's counts for all its children.
        period: Seconds, sliding.
        backoff: How long to wait before a restart; by default there is no wait, or that of the supervisor.
    """

    restart: Restart | str = Restart.TRANSIENT
    directives: Directives = None
    intensity: int = 5
    period: float = 10.0
    backoff: Backoff | None = None

    def __post_init__(self) -> None:
        fields = self.__dict__
        fields["restart"] = _choice("restart", Restart, self.restart)
        fields["directives"] = check_directives(self.directives)
        check_intensity(self.intensity, self.period, self.directives, self.restart is not Restart.TEMPORARY)
        check_backoff(self.backoff)

    def directive(self, error: BaseException | None) -> Directive | None:
        return find_directive(self.directives, error)


class RestartWindow:
    """The restarts of the last `period` seconds, of one agent or of all children of a supervisor."""

    __slots__ = ("_times", "intensity", "period")

    def __init__(self, intensity: int, period: float) -> None:
        self.intensity = intensity
        self.period = period
        self._times: collections.deque[float] = collections.deque()

    def add(self, now: float) -> bool:
        """Count a restart at `now` seconds; False when there are more than `intensity` within the period."""
        while self._times and self._times[0] <= now - self.period:
            self._times.popleft()
        self._times.append(now)
        return len(self._times) <= self.intensity

    def clear(self) -> None:
        """Forget them: what failed is gone."""
        self._times.clear()


class ChildSupervision:
    """How an agent supervises its children."""

    __slots__ = ("backoff", "directives", "is_supervisor", "lost", "strategy", "window")

    def __init__(
        self,
        strategy: Strategy | str = Strategy.ONE_FOR_ONE,
        intensity: int = 5,
        period: float = 10.0,
        directives: Directives = None,
        backoff: Backoff | None = None,
        *,
        is_supervisor: bool = False,
    ) -> None:
        self.strategy = _choice("strategy", Strategy, strategy)
        self.directives = check_directives(directives)
        check_intensity(intensity, period, self.directives, restarts=True)
        self.backoff = check_backoff(backoff)
        self.window = RestartWindow(intensity, period)
        # Of a supervisor, and not of an agent with children: it starts its children again when it is restarted.
        self.is_supervisor = is_supervisor
        self.lost: list[Any] = []  # those children, until they have been started again

    def anew(self) -> ChildSupervision:
        """The same, with no restarts counted: for a new incarnation."""
        window = self.window
        return ChildSupervision(
            self.strategy,
            window.intensity,
            window.period,
            self.directives,
            self.backoff,
            is_supervisor=self.is_supervisor,
        )


class Supervisor:
    """Starts children, and restarts them as its strategy says; made by `Coordinator.supervisor`.

    It is an agent itself: it has a name, a ref, a place in the tree and a life, but it takes no mail.
    """

    __slots__ = ("_coordinator", "ref")

    def __init__(self, ref: AgentRef, coordinator: Coordinator) -> None:
        self.ref = ref
        self._coordinator = coordinator

    @property
    def name(self) -> str:
        return self.ref.name

    @property
    def children(self) -> tuple[str, ...]:
        """Names of the children, in order of start."""
        return self._coordinator._children_of(self.ref)

    async def spawn(
        self,
        factory: Callable[..., Any],
        *args: object,
        name: str | None = None,
        mailbox: MailboxPolicy | None = None,
        concurrency: int | None = None,
        own_recorders: bool = False,
        supervision: SupervisionPolicy | None = None,
        **kwargs: object,
    ) -> AgentRef:
        """Start a child, as `Coordinator.spawn` does.

        When the supervisor is itself restarted it starts its children again, temporary ones excepted: under the same
        names, in the same order, as new incarnations; look them up by name.

        Cancel safety: a cancelled call has started nothing.
        """
        return await self._coordinator._spawn(
            factory, args, kwargs, name, mailbox, concurrency, own_recorders, supervision, self.ref
        )

    async def supervisor(
        self,
        name: str | None = None,
        *,
        strategy: Strategy | str = Strategy.ONE_FOR_ONE,
        intensity: int = 5,
        period: float = 10.0,
        directives: Directives = None,
        backoff: Backoff | None = None,
        supervision: SupervisionPolicy | None = None,
    ) -> Supervisor:
        """Start a supervisor below this one, as `Coordinator.supervisor` does.

        Cancel safety: a cancelled call has started nothing.
        """
        rules = ChildSupervision(strategy, intensity, period, directives, backoff, is_supervisor=True)
        return await self._coordinator._spawn_supervisor(name, rules, supervision, self.ref)

    def __repr__(self) -> str:
        return f"<Supervisor {self.name!r}{'' if self.ref.is_alive else ' (stopped)'}>"


def find_directive(directives: Directives, error: BaseException | None) -> Directive | None:
    """The directive for the nearest base class of the error's; None when nothing is said about it."""
    if isinstance(directives, Directive):
        return directives
    assert isinstance(directives, Mapping)
    for base in type(error).__mro__:
        found = directives.get(base)
        if found is not None:
            assert isinstance(found, Directive)
            return found
    return None


def check_directives(directives: Directives) -> Directives:
    """The same with members of `Directive` in place of their names."""
    if directives is None:
        return MappingProxyType({})
    if isinstance(directives, (Directive, str)):
        return _choice("directive", Directive, directives)
    if not isinstance(directives, Mapping):
        raise InvalidType(
            f"directives is {directives!r}; it must be a mapping from exception classes to"
            f" {_names(Directive)}, or one of these for all"
        )
    checked = {}
    kinds: Mapping[Any, Directive | str] = directives  # what a caller without a type checker may give
    for kind, directive in kinds.items():
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise InvalidType(f"directives has {kind!r}; its keys must be exception classes")
        checked[kind] = _choice(f"the directive for {kind.__qualname__}", Directive, directive)
    return MappingProxyType(checked)


def check_intensity(intensity: object, period: object, directives: Directives, restarts: bool) -> None:
    if isinstance(intensity, bool) or not isinstance(intensity, int):
        raise InvalidType(f"intensity is {intensity!r}; it must be a whole number of restarts")
    if intensity < 0:
        raise InvalidArgument(f"intensity is {intensity}; it must be 1 or more restarts within the period")
    _require_positive("period", period)
    if intensity == 0 and restarts and directives not in (Directive.RESUME, Directive.STOP, Directive.ESCALATE):
        raise InvalidArgument(
            "intensity is 0, so the first restart would be one too many; it must be 1 or more,"
            " or directives must be 'stop', 'resume' or 'escalate', or restart 'temporary'"
        )


def check_backoff(backoff: object) -> Backoff | None:
    if backoff is not None and not isinstance(backoff, Backoff):
        raise InvalidType(f"backoff is {backoff!r}; it must be a pmesh.Backoff, or None for no wait")
    return backoff


def _choice(what: str, kind: type[Choice], value: object) -> Choice:
    if isinstance(value, kind):
        return value
    try:
        return kind(value)
    except ValueError:
        error = InvalidArgument if isinstance(value, str) else InvalidType
        raise error(f"{what} is {value!r}; it must be one of {_names(kind)}") from None


def _names(kind: type[enum.Enum]) -> str:
    return ", ".join(repr(member.value) for member in kind)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _require_positive(name: str, value: object) -> None:
    if not _is_number(value):
        raise InvalidType(f"{name} is {value!r}; it must be a number of seconds above 0")
    assert isinstance(value, (int, float))
    if not (value > 0 and math.isfinite(value)):
        raise InvalidArgument(f"{name} is {value}; it must be a finite number of seconds above 0")
