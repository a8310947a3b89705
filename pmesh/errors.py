"""Every error that pmesh raises; each derives from `PmeshError`.

Errors about arguments and class definitions also derive from `ValueError` or `TypeError`, those about
time from `TimeoutError`, so that code which knows nothing of pmesh catches them as it would expect.
"""

from __future__ import annotations

__all__ = [
    "AgentStopped",
    "AskCycle",
    "AskTimeout",
    "CoordinatorClosed",
    "ExtraMissing",
    "HandlerCancelled",
    "HandlerDefinitionError",
    "IllegalTransition",
    "InvalidArgument",
    "InvalidStash",
    "InvalidType",
    "MailboxFull",
    "NameInUse",
    "PmeshError",
    "StartFailed",
    "StashFull",
    "TooManyRestarts",
    "UnhandledMessage",
    "UnknownAgent",
    "UsedAfterFork",
    "WrongLoop",
]


class PmeshError(Exception):
    """Base of every error that pmesh raises."""


class InvalidArgument(PmeshError, ValueError):
    """An argument has a value that is not allowed; the text names it, the value and what is allowed."""


class InvalidType(PmeshError, TypeError):
    """An argument has the wrong type; the text names it, what it is and what would be right."""


class HandlerDefinitionError(PmeshError, TypeError):
    """A handler or an agent class is defined in a way that cannot be dispatched."""


class NameInUse(PmeshError, ValueError):
    """An agent of that name is alive in this coordinator."""


class UnknownAgent(PmeshError, LookupError):
    """No agent of that name is alive in this coordinator; the text names close matches."""


class MailboxFull(PmeshError):
    """The message found no room: at once for one larger than the whole budget, else after the timeout."""


class StashFull(MailboxFull):
    """The stash holds as many messages as the mailbox has room for."""


class InvalidStash(PmeshError, RuntimeError):
    """`context.stash()` where there is no message to keep: outside of its handler, or a second time."""


class AgentStopped(PmeshError):
    """The agent does not take mail any more, or stopped before it answered."""


class AskTimeout(PmeshError, TimeoutError):
    """No answer came within the timeout of an ask."""


class AskCycle(PmeshError, RuntimeError):
    """An ask would have waited, directly or through others, on the handler that made it.

    Attributes:
        chain: Names of the agents from the one that asked, each waiting for the next, back to that one.
    """

    def __init__(self, text: str = "", chain: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.chain = chain


class UnhandledMessage(PmeshError, TypeError):
    """The agent has no handler for the payload and no `receive`."""


class HandlerCancelled(PmeshError):
    """The handler that was to answer an ask was cancelled, or raised `CancelledError`."""


class StartFailed(PmeshError):
    """An agent could not be started: it was stopped meanwhile, or the one above it is being restarted."""


class TooManyRestarts(PmeshError):
    """Children needed more restarts than their supervisor allows; what its parent sees when that escalates."""


class IllegalTransition(PmeshError):
    """A lifecycle state does not follow from the one before; see `pmesh.lifecycle.TRANSITIONS`."""


class CoordinatorClosed(PmeshError, RuntimeError):
    """The coordinator has not been entered yet, or has been left."""


class ExtraMissing(PmeshError, ImportError):
    """A package that pmesh needs only for this is not installed; the text says how to install it."""


class WrongLoop(PmeshError, RuntimeError):
    """A coroutine of a coordinator was awaited outside the event loop that the coordinator runs in."""


class UsedAfterFork(PmeshError, RuntimeError):
    """A coordinator or one of its refs was used in a forked child; its loop lives in the parent."""
