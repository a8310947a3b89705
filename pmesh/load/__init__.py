"""The load tester: drive a mesh or agents of your own, measure, and judge against objectives.

    report = await pmesh.load.run("extreme")
    report = await pmesh.load.run("medium", agent=Billing, payload=make_order, rate=2_000, duration=30)
    report.require("p99<5ms", "success>=99.5%")

`plan` says what is asked for, `subjects` what is put under load, `senders` send, `recording` watches, `driver` does
it all in order; `resources` says what it cost. `report` is the result and its JSON,
`document` reads that again, `compare` holds two of them side by side. `search` and `drift` draw conclusions.
`markdown`, `html` and `tables` are how a report looks; `command` and `terminal` are what the `pmesh` command adds,
and nothing else imports those, so `pmesh.load` needs neither click nor rich.
"""

from pmesh.environment import Environment
from pmesh.load.driver import Driver, run
from pmesh.load.plan import Plan, make_plan
from pmesh.load.profiles import PROFILES, Profile, Reference
from pmesh.load.report import (
    AgentRow,
    Counts,
    Drift,
    Injected,
    ObjectivesMissed,
    Point,
    Report,
    Search,
    Soak,
    Spread,
    Step,
    as_document,
)
from pmesh.load.resources import Resources
from pmesh.load.search import find_max
from pmesh.load.subjects import InjectedFailure
from pmesh.slo import DEFAULT_OBJECTIVES, Objective, Verdict, parse_objective

__all__ = [
    "DEFAULT_OBJECTIVES",
    "PROFILES",
    "AgentRow",
    "Counts",
    "Drift",
    "Driver",
    "Environment",
    "Injected",
    "InjectedFailure",
    "Objective",
    "ObjectivesMissed",
    "Plan",
    "Point",
    "Profile",
    "Reference",
    "Report",
    "Resources",
    "Search",
    "Soak",
    "Spread",
    "Step",
    "Verdict",
    "as_document",
    "find_max",
    "make_plan",
    "parse_objective",
    "run",
]
