"""pmesh: a message bus for Python agents, compiled, accounted for and measured.

import pmesh

async with pmesh.Coordinator("shop") as mesh:
    echo = await mesh.spawn(lambda payload: payload, name="echo")
    print(await echo.ask("hello"))

PYTEST_DONT_REWRITE: it has a plugin for pytest, which would warn whoever has imported this before.
"""

from importlib.machinery import PathFinder as _PathFinder
from typing import TYPE_CHECKING as _TYPE_CHECKING

# Looked for and not loaded: what finds this package without using it, such as pytest looking for plugins, does not
# pay for the core.
if _PathFinder.find_spec("pmesh._core", __path__) is None:
    import os

    _sources = os.path.dirname(__file__)
    _where = (
        f" Python found the sources in {_sources}, which are not built: run elsewhere to import an installed pmesh,"
        " or build in place with `pip install -e .`."
        if os.path.exists(os.path.join(_sources, "_core.pyx"))
        else " `pip install` it for this interpreter."
    )
    raise ImportError(
        f"pmesh's compiled core is not there for this interpreter, and there is no slower fallback.{_where}",
        name="pmesh._core",
    )

__version__ = "0.1.0"

__all__ = [
    "BUILD_INFO",
    "Agent",
    "AgentContext",
    "AgentRef",
    "AgentStopped",
    "Ask",
    "AskCycle",
    "AskTimeout",
    "Backoff",
    "Clock",
    "Coordinator",
    "CoordinatorClosed",
    "Counters",
    "DeadLetter",
    "DeadLetterKind",
    "DeadLetters",
    "Directive",
    "ExtraMissing",
    "HandlerCancelled",
    "HandlerDefinitionError",
    "IllegalTransition",
    "InvalidArgument",
    "InvalidStash",
    "InvalidType",
    "LatencyRecorder",
    "MailboxFull",
    "MailboxPolicy",
    "Message",
    "NameInUse",
    "Overflow",
    "PmeshError",
    "Request",
    "Restart",
    "Send",
    "Shutdown",
    "Stall",
    "Stalls",
    "StartFailed",
    "StashFull",
    "State",
    "Stats",
    "StopReason",
    "Strategy",
    "SupervisionPolicy",
    "Supervisor",
    "Terminated",
    "Timers",
    "TooManyRestarts",
    "UnhandledMessage",
    "UnknownAgent",
    "UsedAfterFork",
    "WrongLoop",
    "handler",
]

if _TYPE_CHECKING:
    from pmesh import debug as debug
    from pmesh import load as load
    from pmesh import testing as testing
    from pmesh._core import BUILD_INFO, AgentRef, Ask, Clock, Counters, LatencyRecorder, Message, Send, Timers
    from pmesh.agent import Agent, AgentContext, MailboxPolicy, Overflow, Request, handler
    from pmesh.coordinator import Coordinator
    from pmesh.deadletters import DeadLetter, DeadLetterKind, DeadLetters
    from pmesh.errors import (
        AgentStopped,
        AskCycle,
        AskTimeout,
        CoordinatorClosed,
        ExtraMissing,
        HandlerCancelled,
        HandlerDefinitionError,
        IllegalTransition,
        InvalidArgument,
        InvalidStash,
        InvalidType,
        MailboxFull,
        NameInUse,
        PmeshError,
        StartFailed,
        StashFull,
        TooManyRestarts,
        UnhandledMessage,
        UnknownAgent,
        UsedAfterFork,
        WrongLoop,
    )
    from pmesh.lifecycle import State, StopReason
    from pmesh.lives import Terminated
    from pmesh.shutdown import Shutdown
    from pmesh.stalls import Stall, Stalls
    from pmesh.stats import Stats
    from pmesh.supervision import Backoff, Directive, Restart, Strategy, SupervisionPolicy, Supervisor
else:
    # All that is public is loaded when the first of it is asked for.
    _ROOMS = (
        "_core",
        "agent",
        "coordinator",
        "deadletters",
        "errors",
        "lifecycle",
        "lives",
        "shutdown",
        "stalls",
        "stats",
        "supervision",
    )

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name in ("debug", "load", "testing"):
            return import_module(f"pmesh.{name}")
        # Dunders are what tools ask of any module, whether it has them or not.
        if not name.startswith("__"):
            for room in _ROOMS:
                module = import_module(f"pmesh.{room}")
                globals().update({public: getattr(module, public) for public in __all__ if hasattr(module, public)})
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "debug", "load", "testing"})
