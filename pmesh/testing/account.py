"""The account of a coordinator, as a test demands it."""

from __future__ import annotations

from pmesh.coordinator import Coordinator
from pmesh.errors import InvalidType

__all__ = ["assert_account"]


def assert_account(mesh: Coordinator, *, pending: int | None = None) -> None:
    """Fail unless the account of `mesh`, and of each of its agents, balances at this instant.

    Args:
        pending: How many accepted messages may still wait or be in a handler; None for any number.

    Raises:
        AssertionError: It says which side is wrong, and of which agent.
    """
    if not isinstance(mesh, Coordinator):
        raise InvalidType(f"mesh is {mesh!r}; it must be a pmesh.Coordinator")
    stats = mesh.stats()
    wrong = [f"agent {name!r}: {of.imbalance}" for name, of in stats.agents.items() if of.imbalance is not None]
    if stats.imbalance is not None:
        wrong.append(f"all agents together: {stats.imbalance}")
    if wrong:
        raise AssertionError(f"the account of {mesh!r} does not balance: {'; '.join(wrong)}")
    if pending is not None and stats.pending != pending:
        busy = ", ".join(f"{name} has {of.pending}" for name, of in stats.agents.items() if of.pending)
        raise AssertionError(
            f"{stats.pending} messages are pending in {mesh!r} instead of {pending}: {busy or 'in no living agent'}"
        )
