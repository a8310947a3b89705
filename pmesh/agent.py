"""What an agent is to its author: `Agent`, `@handler`, `Request`, mailbox policy and context.

How a message gets to a handler is `_core`; who starts and stops agents is `coordinator.py`.
"""

from __future__ import annotations

import enum
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, overload

from pmesh._core import AgentRef, Handler, HandlerTable, Kit, Message, Timers, cell_of, timeout_seconds
from pmesh.errors import HandlerDefinitionError, InvalidArgument, InvalidType
from pmesh.lifecycle import StopReason
from pmesh.supervision import Backoff, ChildSupervision, Directives, Strategy, SupervisionPolicy
from pmesh.values import Value

if TYPE_CHECKING:
    from pmesh.coordinator import Coordinator
    from pmesh.supervision import Supervisor

__all__ = ["Agent", "AgentContext", "MailboxPolicy", "Overflow", "Request", "handler"]

Reply = TypeVar("Reply", covariant=True)
Function = TypeVar("Function", bound=Callable[..., object])

_MARK = "__pmesh_lane__"
_TABLE = "__pmesh_table__"

HOOKS = ("on_start", "on_stop", "pre_restart", "post_restart")

# Those of CoDel (RFC 8289): an interval as long as it takes senders to react, and a target of a twentieth of that.
DEFAULT_TARGET_QUEUE_SECONDS = 0.005
DEFAULT_INTERVAL_SECONDS = 0.1


class Overflow(enum.Enum):
    """What happens to a message that finds its mailbox full."""

    REJECT = 0  # it is not accepted: tell returns False
    DROP_NEWEST = 1  # it is accepted and dropped
    DROP_OLDEST = 2  # it takes the place of the oldest, which is dropped
    STOP = 3  # it is not accepted, and the agent fails


class MailboxPolicy(Value):
    """How much mail may wait for an agent, and what happens to more.

    Args:
        capacity: Messages that may wait, in each lane; those in a handler are not counted.
        max_bytes: Bytes of payload that may wait, both lanes together; None for no limit.
        overflow: What happens to a message that finds no room. The control lane always rejects.
        size: Bytes of a payload; by default the length of bytes-like and str payloads, 0 for others.
        adaptive: Lower the limit on waiting normal mail while the agent is overloaded, down to what it handles
            within `target_queue_seconds`, so that more is refused or dropped at once instead of waiting long.
        target_queue_seconds: How long mail may wait under overload. Several times what a handler takes: there is
            always room for one message to wait.
        interval_seconds: The agent is overloaded when no message of so long a time was started within the target,
            so that a burst that is worked off sooner is accepted up to the capacity.
    """

    capacity: int = 1024
    max_bytes: int | None = None
    overflow: Overflow = Overflow.REJECT
    size: Callable[[Any], int] | None = None
    adaptive: bool = False
    target_queue_seconds: float = DEFAULT_TARGET_QUEUE_SECONDS
    interval_seconds: float = DEFAULT_INTERVAL_SECONDS

    def __post_init__(self) -> None:
        _require_count("capacity", self.capacity)
        if self.max_bytes is not None:
            _require_count("max_bytes", self.max_bytes)
        if not isinstance(self.overflow, Overflow):
            raise InvalidType(f"overflow is {self.overflow!r}; it must be one of {', '.join(map(str, Overflow))}")
        if self.size is not None and not callable(self.size):
            raise InvalidType(f"size is {self.size!r}; it must be a function from a payload to its bytes")
        self._check_adaptive()

    def _check_adaptive(self) -> None:
        if not isinstance(self.adaptive, bool):
            raise InvalidType(f"adaptive is {self.adaptive!r}; it must be True or False")
        for name, default in (
            ("target_queue_seconds", DEFAULT_TARGET_QUEUE_SECONDS),
            ("interval_seconds", DEFAULT_INTERVAL_SECONDS),
        ):
            value = getattr(self, name)
            timeout_seconds(value, name)
            if value != default and not self.adaptive:
                raise InvalidArgument(f"{name} is {value}, and adaptive is False; it belongs to adaptive=True")
        if self.target_queue_seconds >= self.interval_seconds:
            raise InvalidArgument(
                f"target_queue_seconds is {self.target_queue_seconds}; it must be less than interval_seconds, which"
                f" is {self.interval_seconds}"
            )
        if self.adaptive and self.overflow is Overflow.STOP:
            raise InvalidArgument(
                f"overflow is {self.overflow} and adaptive is True; an adaptive mailbox is meant to overflow, so it"
                " must be REJECT, DROP_NEWEST or DROP_OLDEST"
            )


def _require_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidType(f"{name} is {value!r}; it must be a whole number of at least 1")
    if not 1 <= value < 2**62:
        raise InvalidArgument(f"{name} is {value}; it must be at least 1 and below 2**62")


class Request(Generic[Reply]):
    """Base of payloads whose `ask` has a static reply type: `class Charge(Request[Charged])`."""

    __slots__ = ()


@overload
def handler(function: Function, /) -> Function: ...
@overload
def handler(*, lane: str = ...) -> Callable[[Function], Function]: ...
def handler(function: Any = None, /, *, lane: str = "normal") -> Any:
    """Mark a method as the handler of the payload type that its one parameter is annotated with.

    The annotation may be a class, a base class, `X | Y`, or any of these as a string. Of several that
    fit a payload the one of its nearest base class is called. A plain `def` handler is faster than an
    `async def` one; what it returns answers an ask.

    Args:
        lane: "normal", or "control" for mail that goes before normal mail.
    """
    if lane not in ("normal", "control"):
        raise InvalidArgument(f"lane is {lane!r}; it must be 'normal' or 'control'")

    def mark(marked: Function) -> Function:
        if not inspect.isfunction(marked):
            raise HandlerDefinitionError(f"@handler marks {marked!r}; it must mark a method of an Agent")
        setattr(marked, _MARK, lane)
        return marked

    if function is None:
        return mark
    return mark(function)


class AgentContext:
    """What an agent's own code knows and can do about itself; `self.context`."""

    __slots__ = ("coordinator", "ref")

    def __init__(self, ref: AgentRef, coordinator: Coordinator) -> None:
        self.ref = ref
        self.coordinator = coordinator

    @property
    def name(self) -> str:
        return self.ref.name

    @property
    def message(self) -> Message | None:
        """The envelope of the message in hand.

        In a handler, and in tasks and timers it started, also after it ended; None elsewhere.
        """
        scope = self.coordinator._dispatcher.scope()
        return None if scope is None else scope[1]

    @property
    def sender(self) -> AgentRef | None:
        """The agent whose handler sent the message in hand; None when none did."""
        message = self.message
        return None if message is None else message.sender

    @property
    def deadline(self) -> float | None:
        """When the message in hand must be answered, in seconds on the loop's clock; None for no limit.

        Fits `asyncio.timeout_at`.
        """
        message = self.message
        return message.deadline_ns / 1e9 if message is not None and message.deadline_ns else None

    @property
    def headers(self) -> Mapping[str, object]:
        """The headers of the message in hand; empty when it has none."""
        message = self.message
        return types.MappingProxyType({}) if message is None or message.headers is None else message.headers

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
        """Start a child, as `Coordinator.spawn` does; it stops before this agent does, and when this one restarts.

        Cancel safety: a cancelled call has started nothing.
        """
        return await self.coordinator._spawn(
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
        """Start a supervisor below this agent, as `Coordinator.supervisor` does.

        Cancel safety: a cancelled call has started nothing.
        """
        rules = ChildSupervision(strategy, intensity, period, directives, backoff, is_supervisor=True)
        return await self.coordinator._spawn_supervisor(name, rules, supervision, self.ref)

    def watch(self, agent: AgentRef | str) -> None:
        """Be told when another agent stops: a `Terminated` comes on the control lane, at once if it has stopped.

        A restart is no end. Watching twice is watching once; the watch outlives restarts of this agent.

        Raises:
            InvalidArgument: The agent is this one.
            UnknownAgent: No living agent has that name.
        """
        self.coordinator._watch(self.ref, agent)

    def unwatch(self, agent: AgentRef | str) -> None:
        """Do not be told any more, also when the notice waits in the mailbox already."""
        self.coordinator._unwatch(self.ref, agent)

    @property
    def timers(self) -> Timers:
        """Messages that this agent sends itself later: `after`, `every`, `cancel`."""
        return self._kit.timers

    def stash(self) -> None:
        """Keep the message in hand for later, when its handler ends; `unstash_all` lets it wait again.

        It goes on counting as pending, its asker goes on waiting and its deadline runs; it leaves the window.
        If its handler raises after all, it has failed and is not kept. Works anywhere in the handler.

        Raises:
            StashFull: The stash holds as many messages as the mailbox has room for.
            InvalidStash: Outside of a handler, or for the second time in one.
        """
        self._kit.stash()

    def unstash_all(self) -> int:
        """Let all that is stashed wait again, in the order in which it came, ahead of newer mail of its lane.

        Returns:
            How many messages.
        """
        return self._kit.unstash_all()

    @property
    def stashed(self) -> int:
        """How many messages are in the stash."""
        return self._kit.depth

    def become(self, behaviour: object) -> None:
        """From the next message on, handle all mail by `behaviour`.

        Args:
            behaviour: A function of one payload, such as a method of this agent; or an object whose class has
                `@handler` methods. None for the agent's own handlers again.

        Raises:
            AgentStopped: The agent has ended, or begun to.
        """
        dispatching_by = self.coordinator._dispatching_by
        self._kit.become(None if behaviour is None else dispatching_by(behaviour_table(behaviour)))

    @property
    def _kit(self) -> Kit:
        return cell_of(self.ref).kit_of(self)

    def stop(self) -> None:
        """Stop this agent once the handler in hand is over; mail that waits becomes dead letters.

        One whose `supervision` says "permanent" is restarted instead, and its mail is kept.
        """
        self.coordinator._stop_soon(self.ref)

    def __repr__(self) -> str:
        return f"<AgentContext of {self.ref.name!r}>"


class Agent:
    """Has state and handles one message at a time; subclass it, and mark handlers with `@handler`.

    Class attributes:
        mailbox: How much mail may wait; `spawn(mailbox=)` overrides it.
        concurrency: How many messages may be handled at a time while handlers wait for I/O; they are
            started in order. `spawn(concurrency=)` overrides it.
        supervision: What becomes of it when a handler raises; `spawn(supervision=)` overrides it.

    `on_start`, `on_stop`, `pre_restart`, `post_restart` and `receive` may be plain functions or coroutines.
    """

    __slots__ = ("__weakref__", "context")

    mailbox: ClassVar[MailboxPolicy] = MailboxPolicy()
    concurrency: ClassVar[int] = 1
    supervision: ClassVar[SupervisionPolicy] = SupervisionPolicy()

    # Set before `on_start`; `__init__` runs before it is there.
    context: AgentContext

    _pmesh_pending: ClassVar[Mapping[str, object] | None] = None
    _pmesh_table: ClassVar[HandlerTable | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._pmesh_table = None
        cls._pmesh_pending = None
        if not isinstance(cls.mailbox, MailboxPolicy):
            raise HandlerDefinitionError(f"{cls.__qualname__}.mailbox is {cls.mailbox!r}; it must be a MailboxPolicy")
        check_concurrency(cls.concurrency, f"{cls.__qualname__}.concurrency")
        if not isinstance(cls.supervision, SupervisionPolicy):
            raise HandlerDefinitionError(
                f"{cls.__qualname__}.supervision is {cls.supervision!r}; it must be a SupervisionPolicy"
            )
        try:
            cls._pmesh_table = build_table(cls, {})
        except NameError:
            # A type that is defined later, or inside a function: the names around the class may help.
            frame: types.FrameType | None = sys._getframe(1)
            while frame is not None and frame.f_code.co_name == "__init_subclass__":
                frame = frame.f_back  # that of a base class, which called this one
            around = {} if frame is None else dict(frame.f_locals)
            try:
                cls._pmesh_table = build_table(cls, around)
            except NameError:
                cls._pmesh_pending = around

    async def on_start(self) -> None:
        """Called before the first message; when it raises, so does `spawn`."""

    async def on_stop(self, reason: StopReason) -> None:
        """Called after the last message; what it raises is logged.

        It may take as long as the coordinator's `drain_timeout`; then it is cancelled, and five seconds later written
        off. The same holds for `pre_restart`.
        """

    async def pre_restart(self, error: BaseException | None) -> None:
        """Called on an instance that is to be replaced because `error` was raised; by default `on_stop`.

        `error` is None for a permanent agent that stopped itself. What this raises is logged.
        """
        await _result(self.on_stop(StopReason.RESTARTED))

    async def post_restart(self, error: BaseException | None) -> None:
        """Called on the new instance, before it handles mail; by default `on_start`.

        When it raises, that is a failure like any other: it counts, and the restart is tried again.
        """
        await _result(self.on_start())

    def receive(self, payload: Any) -> object:
        """Handle what no `@handler` takes; override it, as `def` or `async def`, to catch all.

        What it returns answers an ask.
        """
        raise NotImplementedError


async def _result(returned: Any) -> None:
    """Await what a hook returned, where it is to be awaited: hooks may be plain functions."""
    if inspect.isawaitable(returned):
        await returned


def check_concurrency(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidType(f"{name} is {value!r}; it must be a whole number of at least 1")
    if not 1 <= value <= 1_000_000:
        raise InvalidArgument(f"{name} is {value}; it must be a whole number from 1 to 1,000,000")
    return value


def is_overridden(cls: type[Agent], method: str) -> bool:
    return getattr(cls, method) is not getattr(Agent, method)


def table_of(cls: type[Agent]) -> HandlerTable:
    """The handler table of an agent class; annotations that could not be resolved before must be now."""
    if cls.__dict__.get("_pmesh_table") is None:
        try:
            cls._pmesh_table = build_table(cls, cls._pmesh_pending or {})
        except NameError as error:
            raise _unresolved(cls, error) from None
        cls._pmesh_pending = None
    table = cls._pmesh_table
    assert table is not None
    return table


def _unresolved(cls: type, error: NameError) -> HandlerDefinitionError:
    return HandlerDefinitionError(
        f"a handler of {cls.__qualname__} is annotated with a name that cannot be found: {error}."
        " Define the payload type at module level, or before the agent class"
    )


def build_table(cls: type[Agent], around: Mapping[str, object]) -> HandlerTable:
    """Collect the handlers of `cls` and its bases, and check each.

    Raises:
        HandlerDefinitionError: A handler with a wrong signature, or two for one type in one class.
        NameError: An annotation names something that is not known (yet).
    """
    by_type = _handlers_by_type(cls, around)
    for method in ("receive", *HOOKS):
        if not callable(getattr(cls, method)):
            raise HandlerDefinitionError(
                f"{cls.__qualname__}.{method} is {getattr(cls, method)!r}; it must be a method"
            )
    for hook in HOOKS:
        _require_no_yield(getattr(cls, hook), f"{cls.__qualname__}.{hook}", "a hook is called and awaited")
    return _table(
        by_type,
        _catch_all(cls),
        any(inspect.iscoroutinefunction(getattr(cls, hook)) for hook in HOOKS if is_overridden(cls, hook)),
    )


def _table(by_type: dict[type, Handler], catch_all: Handler | None, has_async_hook: bool = False) -> HandlerTable:
    entries = [*by_type.values(), *([catch_all] if catch_all is not None else [])]
    return HandlerTable(
        _resolver(by_type, catch_all),
        has_control=any(entry.lane == "control" for entry in entries),
        has_async=has_async_hook or any(entry.is_async for entry in entries),
    )


def _handlers_by_type(cls: type, around: Mapping[str, object]) -> dict[type, Handler]:
    """Each payload type that `cls` or a base of it marks a handler for, and that handler."""
    by_type: dict[type, Handler] = {}
    for base in reversed(cls.__mro__):
        here: dict[type, str] = {}
        # A copy, here and below: a thread with a mesh of its own may give the class its table meanwhile.
        attributes = vars(base).copy()
        for name, function in attributes.items():
            lane = _lane_of(function)
            if lane is None:
                continue
            if not inspect.isfunction(function):
                raise HandlerDefinitionError(
                    f"{base.__qualname__}.{name} is a {type(function).__name__}; a handler must be a plain method"
                )
            _require_no_yield(function, f"{base.__qualname__}.{name}", "a handler returns its answer")
            override = getattr(cls, name)
            if override is not function and (hasattr(override, _MARK) or not inspect.isfunction(override)):
                continue  # its own base class takes it, or nobody does
            label = f"{base.__qualname__}.{name}"
            # An override without the decorator handles what the method it overrides did.
            _require_one_parameter(override, f"{cls.__qualname__}.{name}")
            entry = Handler(
                override, label, lane=lane, is_async=inspect.iscoroutinefunction(override), takes_agent=True
            )
            for payload_type in _payload_types(function, label, {**around, **attributes}):
                if payload_type in here:
                    raise HandlerDefinitionError(
                        f"{label} and {base.__qualname__}.{here[payload_type]} both handle"
                        f" {payload_type.__qualname__}; keep one of them"
                    )
                here[payload_type] = name
                by_type[payload_type] = entry
    return by_type


def _lane_of(member: object) -> str | None:
    """The lane of what `@handler` marks, also where something stands around it; None of all else."""
    if isinstance(member, (staticmethod, classmethod)):
        member = member.__func__
    elif isinstance(member, property):
        member = member.fget
    elif isinstance(member, (functools.cached_property, functools.partialmethod, functools.singledispatchmethod)):
        member = member.func
    lane = getattr(member, _MARK, None)
    return lane if isinstance(lane, str) else None  # some objects have every attribute


def _catch_all(cls: type) -> Handler | None:
    """The handler that `receive` is, unless it is only that of `Agent`."""
    receive: Any = getattr(cls, "receive", Agent.receive)
    if receive is Agent.receive:
        return None
    label = f"{cls.__qualname__}.receive"
    _require_one_parameter(receive, label)
    _require_no_yield(receive, label, "a handler returns its answer")
    return Handler(receive, label, is_async=inspect.iscoroutinefunction(receive), takes_agent=True)


def _resolver(by_type: dict[type, Handler], catch_all: Handler | None) -> Callable[[type], Handler | None]:
    """From a payload type to its handler, by the rules of `functools.singledispatch` (ABCs included)."""

    def unhandled(payload: object) -> None:
        return None

    dispatch = functools.singledispatch(unhandled)
    found: dict[Any, Handler] = {}
    for payload_type, entry in by_type.items():
        # A function of its own for each type: singledispatch answers with what was registered.
        def marker(payload: object) -> None:
            return None

        dispatch.register(payload_type, marker)
        found[marker] = entry

    def resolve(payload_type: type) -> Handler | None:
        return found.get(dispatch.dispatch(payload_type), catch_all)

    return resolve


def _payload_types(function: Any, label: str, names: Mapping[str, object]) -> list[type]:
    parameter = _require_one_parameter(function, label)
    annotations = _raw_annotations(function)
    if parameter not in annotations:
        raise HandlerDefinitionError(
            f"{label}({parameter}) has no annotation; annotate {parameter!r} with the payload type it handles"
        )
    # The other annotations need not resolve, so only this one is evaluated, where the handler was defined.
    stand_in = types.FunctionType((lambda: None).__code__, function.__globals__)
    stand_in.__annotations__ = {parameter: annotations[parameter]}
    try:
        hints = typing.get_type_hints(stand_in, localns=dict(names))
    except NameError:
        raise
    except Exception as error:
        raise HandlerDefinitionError(
            f"{label}({parameter}: {annotations[parameter]!r}) has an annotation that cannot be evaluated:"
            f" {type(error).__name__}: {error}; annotate it with a class, or X | Y of classes"
        ) from error
    return _classes(hints[parameter], label, parameter)


def _raw_annotations(function: Any) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(function, format=annotationlib.Format.FORWARDREF)
    return dict(function.__annotations__)


def _classes(annotation: object, label: str, parameter: str) -> list[type]:
    if annotation is None:
        return [type(None)]
    if annotation is Any:
        return [object]
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return [found for part in typing.get_args(annotation) for found in _classes(part, label, parameter)]
    origin = typing.get_origin(annotation)
    if isinstance(origin, type):
        raise HandlerDefinitionError(
            f"{label}({parameter}: {annotation}) cannot be dispatched on: what is inside a payload is not"
            f" looked at; annotate it with {origin.__qualname__}"
        )
    dispatchable = isinstance(annotation, type)
    if isinstance(annotation, type):
        try:
            issubclass(object, annotation)
        except TypeError:
            dispatchable = False  # a TypedDict, or a Protocol that cannot be checked at run time
    if not dispatchable:
        raise HandlerDefinitionError(
            f"{label}({parameter}: {annotation!r}) cannot be dispatched on;"
            " annotate it with a class, or X | Y of classes"
        )
    return [typing.cast(type, annotation)]


def _has_yield(function: object) -> bool:
    while isinstance(function, (functools.partial, types.MethodType)):
        function = function.func if isinstance(function, functools.partial) else function.__func__
    code = getattr(function, "__code__", None)
    return inspect.isfunction(function) and code is not None and _is_generator_code(code)


def _is_generator_code(code: types.CodeType) -> bool:
    """Whether a call makes a generator; what `types.coroutine` marks makes an awaitable one."""
    flags = code.co_flags
    return bool(
        flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR) and not flags & inspect.CO_ITERABLE_COROUTINE
    )


def _require_no_yield(function: object, label: str, instead: str) -> None:
    """Refuse what a call would only make, and run none of its body."""
    if _has_yield(function):
        raise HandlerDefinitionError(f"{label} is a generator, since it has a yield; {instead}")


def _require_one_parameter(function: Callable[..., object], label: str) -> str:
    """The name of the one parameter after self."""
    parameters = _parameters(function)
    takes = [p for p in parameters[1:] if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in takes[1:] if p.default is p.empty]
    required += [p for p in parameters[1:] if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if not takes or required:
        raise HandlerDefinitionError(
            f"{label} must take self and one payload, as in `async def handle(self, message: Payload)`;"
            f" it takes ({', '.join(p.name for p in parameters)})"
        )
    return takes[0].name


def _parameters(function: Callable[..., object]) -> list[inspect.Parameter]:
    if sys.version_info >= (3, 14):
        import annotationlib

        # Annotations may name what is not defined yet.
        signature = inspect.signature(function, annotation_format=annotationlib.Format.FORWARDREF)
    else:
        signature = inspect.signature(function)
    return list(signature.parameters.values())


def function_table(function: Callable[[Any], object], noun: str = "function agent") -> HandlerTable:
    """The table of a function agent: the function takes every payload.

    Args:
        noun: What the function is to be, for the error.

    Raises:
        InvalidType: The function cannot be called with one argument.
    """
    name = getattr(function, "__qualname__", None) or repr(function)
    code = getattr(function, "__code__", None)
    call = getattr(function, "__call__", None)  # noqa: B004 - asks for the method, not whether it is callable
    # inspect takes longer than all the rest of a spawn; most functions do not need it.
    if inspect.isfunction(function) and code is not None and code.co_argcount == 1 and not code.co_kwonlyargcount:
        has_yield = _is_generator_code(code)
    else:
        try:
            inspect.signature(function).bind(None)
        except TypeError:
            raise InvalidType(f"{noun} {name} must be callable with one argument, the payload") from None
        except ValueError:
            pass  # some builtins have no signature; a call will tell
        has_yield = _has_yield(function) or _has_yield(call)
    if has_yield:
        raise InvalidType(f"{noun} {name} is a generator, since it has a yield; it must return its answer")
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
    entry = Handler(function, name, is_async=is_async, takes_agent=False)
    return HandlerTable(lambda payload_type: entry, has_async=is_async)


def behaviour_table(behaviour: object) -> HandlerTable:
    """The table of what an agent becomes: a function of one payload, or an object with `@handler` methods.

    Raises:
        InvalidType: It is neither.
        HandlerDefinitionError: A handler with a wrong signature.
    """
    if isinstance(behaviour, type):
        raise InvalidType(
            f"behaviour is the class {behaviour.__qualname__}; give an instance of it, or a function of one payload"
        )
    cls = type(behaviour)
    if any(hasattr(attribute, _MARK) for base in cls.__mro__ for attribute in vars(base).copy().values()):
        return _bound_table(cls, behaviour)
    if not callable(behaviour):
        raise InvalidType(
            f"behaviour is {behaviour!r}; it must be a function of one payload, an object whose class has @handler"
            " methods, or None for the agent's own handlers"
        )
    return function_table(behaviour, "behaviour")


def _bound_table(cls: type, behaviour: object) -> HandlerTable:
    """The handlers of a class, bound to one object of it when they are first needed."""
    table = table_of(cls) if issubclass(cls, Agent) else _plain_table(cls)
    bound: dict[Handler, Handler] = {}

    def resolve(payload_type: type) -> Handler | None:
        found = table.resolve(payload_type)
        if found is not None and found not in bound:
            method = types.MethodType(found.function, behaviour)
            bound[found] = Handler(method, found.name, lane=found.lane, is_async=found.is_async, takes_agent=False)
        return None if found is None else bound[found]

    return HandlerTable(resolve, has_control=table.has_control, has_async=table.has_async)


def _plain_table(cls: Any) -> HandlerTable:
    """The handler table of a class that is no Agent; kept with the class, since agents may change often."""
    table: HandlerTable | None = cls.__dict__.get(_TABLE)
    if table is None:
        try:
            table = _table(_handlers_by_type(cls, {}), _catch_all(cls))
        except NameError as error:
            raise _unresolved(cls, error) from None
        setattr(cls, _TABLE, table)
    return table
