"""Tests of agents in virtual time: event loop, simulation by seeds, faults, probes, the account.

    from pmesh.testing import Probe, Simulation, simulate

    @simulate(seeds=1000)
    async def test_answers_come_in_order(sim: Simulation) -> None:
        async with sim.coordinator() as mesh:
            probe = await Probe.spawn(mesh)

The tutorial is `docs/testing.md`. Nothing here needs pytest; `pmesh.pytest_plugin` adds `--pmesh-seed` to it.

PYTEST_DONT_REWRITE
"""

from pmesh.testing.account import assert_account
from pmesh.testing.faults import Faults, InjectedFault
from pmesh.testing.loop import Deadlock, VirtualTimeLoop
from pmesh.testing.probe import Probe
from pmesh.testing.seeds import NotDeterministic, simulate
from pmesh.testing.simulation import Simulation
from pmesh.testing.trace import Event

__all__ = [
    "Deadlock",
    "Event",
    "Faults",
    "InjectedFault",
    "NotDeterministic",
    "Probe",
    "Simulation",
    "VirtualTimeLoop",
    "assert_account",
    "simulate",
]
