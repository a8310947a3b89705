"""pmesh: a message bus for Python agents, compiled, accounted for and measured.

    import pmesh

    async with pmesh.Coordinator("shop") as mesh:
        echo = await mesh.spawn(lambda payload: payload, name="echo")
        print(await echo.ask("hello"))
"""

try:
    from pmesh import _core
except ImportError as error:
    raise ImportError(
        "pmesh's compiled core is not there for this interpreter. There is no slower fallback;"
        " `pip install .` in a checkout builds it, and needs a C compiler and the Python headers."
        f" ({error})"
    ) from error

from pmesh._core import AgentRef, Ask, Clock, Counters, LatencyRecorder, Message, Send
from pmesh.agent import Agent, AgentContext, MailboxPolicy, Overflow, Request, handler
from pmesh.coordinator import Coordinator
from pmesh.deadletters import DeadLetter, DeadLetterKind, DeadLetters
from pmesh.errors import (
    AgentStopped,
    AskTimeout,
    CoordinatorClosed,
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
