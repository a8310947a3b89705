"""pmesh: a message bus for Python agents, compiled, accounted for and measured.

import pmesh

async with pmesh.Coordinator("shop") as mesh:
    echo = await mesh.spawn(lambda payload: payload, name="echo")
    print(await echo.ask("hello"))
"""

try:
    from pmesh import _core
except ImportError as error:
    import os

    _sources = os.path.dirname(__file__)
    _where = (
        f" Python found the sources in {_sources}, which are not built: run elsewhere to import an installed pmesh,"
        " or build in place with `pip install -e .`."
        if os.path.exists(os.path.join(_sources, "_core.pyx"))
        else " `pip install` it for this interpreter."
    )
    raise ImportError(
        f"pmesh's compiled core is not there for this interpreter, and there is no slower fallback.{_where} ({error})"
    ) from error

from typing import TYPE_CHECKING as _TYPE_CHECKING

from pmesh._core import AgentRef, Ask, Clock, Counters, LatencyRecorder, Message, Send
from pmesh.agent import Agent, AgentContext, MailboxPolicy, Overflow, Request, handler
from pmesh.coordinator import Coordinator
from pmesh.deadletters import DeadLetter, DeadLetterKind, DeadLetters
from pmesh.errors import (
    AgentStopped,
    AskTimeout,
    CoordinatorClosed,
    ExtraMissing,
    HandlerCancelled,
    HandlerDefinitionError,
    IllegalTransition,
    InvalidArgument,
    InvalidType,
    MailboxFull,
    NameInUse,
    PmeshError,
    StartFailed,
    UnhandledMessage,
    UnknownAgent,
    UsedAfterFork,
    WrongLoop,
)
from pmesh.lifecycle import State, StopReason
from pmesh.stats import Stats

__version__ = "0.1.0"

BUILD_INFO = _core.BUILD_INFO

__all__ = [
    "BUILD_INFO",
    "Agent",
    "AgentContext",
    "AgentRef",
    "AgentStopped",
    "Ask",
    "AskTimeout",
    "Clock",
    "Coordinator",
    "CoordinatorClosed",
    "Counters",
    "DeadLetter",
    "DeadLetterKind",
    "DeadLetters",
    "ExtraMissing",
    "HandlerCancelled",
    "HandlerDefinitionError",
    "IllegalTransition",
    "InvalidArgument",
    "InvalidType",
    "LatencyRecorder",
    "MailboxFull",
    "MailboxPolicy",
    "Message",
    "NameInUse",
    "Overflow",
    "PmeshError",
    "Request",
    "Send",
    "StartFailed",
    "State",
    "Stats",
    "StopReason",
    "UnhandledMessage",
    "UnknownAgent",
    "UsedAfterFork",
    "WrongLoop",
    "handler",
]

if _TYPE_CHECKING:
    from pmesh import load as load
else:

    def __getattr__(name: str) -> object:
        # `pmesh.load.run(...)` after `import pmesh`, which loads the load tester only then.
        if name == "load":
            import importlib

            return importlib.import_module("pmesh.load")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
