"""The life of an agent: its states, the transitions between them, and why it stopped.

Only the table and its check live here; who moves an agent from state to state is `coordinator.py`.
"""

from __future__ import annotations

import enum

from pmesh.errors import IllegalTransition

__all__ = ["TRANSITIONS", "Lifecycle", "State", "StopReason"]


class State(enum.Enum):
    """Where in its life an agent is."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    SUSPENDED = "suspended"
    DRAINING = "draining"
    FAILED = "failed"
    BACKOFF = "backoff"
    STOPPING = "stopping"
    STOPPED = "stopped"


class StopReason(enum.Enum):
    """Why an agent stopped; given to `Agent.on_stop`."""

    STOPPED = "stopped"  # by `stop`
    DRAINED = "drained"  # by `drain`, with all its mail handled
    DRAIN_TIMEOUT = "drain_timeout"  # by `drain`, which ran out of time
    KILLED = "killed"  # by `kill`, or by a cancelled Task
    FAILED = "failed"  # a handler raised and it is not restarted, or its mailbox overflowed under `Overflow.STOP`
    RESTARTED = "restarted"  # it goes on with a new instance, or its parent or its group does
    ESCALATED = "escalated"  # with the parent that it handed its failure to
    SHUTDOWN = "shutdown"  # the coordinator was left


# RUNNING or SUSPENDED to STARTING is a restart with its group, FAILED to RUNNING a resume; SUSPENDED to FAILED is of a
# handler that had begun before.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.NEW: frozenset({State.STARTING}),
    State.STARTING: frozenset({State.RUNNING, State.DRAINING, State.FAILED, State.STOPPING}),
    State.RUNNING: frozenset({State.SUSPENDED, State.DRAINING, State.STOPPING, State.FAILED, State.STARTING}),
    State.SUSPENDED: frozenset({State.RUNNING, State.DRAINING, State.STOPPING, State.FAILED, State.STARTING}),
    State.DRAINING: frozenset({State.STOPPING, State.FAILED}),
    State.FAILED: frozenset({State.RUNNING, State.BACKOFF, State.STARTING, State.STOPPING}),
    State.BACKOFF: frozenset({State.STARTING, State.DRAINING, State.STOPPING}),
    State.STOPPING: frozenset({State.STOPPED}),
    State.STOPPED: frozenset(),
}


# The same by value, to be searched by identity: hashing an enum member is a Python call, and every
# spawn makes two transitions.
_SUCCESSORS: dict[str, tuple[State, ...]] = {state.value: tuple(after) for state, after in TRANSITIONS.items()}


class Lifecycle:
    """The state of one agent; every change is checked against `TRANSITIONS`."""

    __slots__ = ("name", "state")

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = State.NEW

    def move(self, to: State) -> None:
        """Enter state `to`.

        Raises:
            IllegalTransition: `to` does not follow from the current state.
        """
        if to not in _SUCCESSORS[self.state._value_]:
            allowed = ", ".join(sorted(state.name for state in TRANSITIONS[self.state])) or "none"
            raise IllegalTransition(
                f"agent {self.name!r} cannot go from {self.state.name} to {to.name}; allowed: {allowed}"
            )
        self.state = to
