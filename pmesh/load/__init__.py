"""The load tester: drive a mesh, measure it, and judge it against objectives.

    report = await pmesh.load.run("extreme")
    print(report.latency_ns.p99, report.missed)

`profiles` says how much load, `driver` makes it, `resources` and `environment` say what it cost and
where, `slo` judges, and `report` is the result and its JSON. `command` and `terminal` are what the
`pmesh load` command adds; nothing here imports them, so `pmesh.load` needs neither click nor rich.
"""

from pmesh.load.driver import Driver, run
from pmesh.load.environment import Environment
from pmesh.load.profiles import PROFILES, Profile, Reference
from pmesh.load.report import Counts, Report, Spread, as_document
from pmesh.load.resources import Resources
from pmesh.slo import DEFAULT_OBJECTIVES, Objective, Verdict

__all__ = [
    "DEFAULT_OBJECTIVES",
    "PROFILES",
    "Counts",
    "Driver",
    "Environment",
    "Objective",
    "Profile",
    "Reference",
    "Report",
    "Resources",
    "Spread",
    "Verdict",
    "as_document",
    "run",
]
