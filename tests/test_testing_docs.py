"""What `docs/testing.md` shows is true: its tests pass, but for the one whose failure it shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from plugin_projects import Project

pytest_plugins = ("pytester", "plugin_projects")

PAGE = (Path(__file__).parent.parent / "docs" / "testing.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```py\n# (\w+)\.py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))

AUDITS = """

class Bank(Teller):
    @handler
    async def audit(self, message: Audit) -> int:
        return sum([await account.ask(Balance()) for account in (self.source, self.target)])
"""


@pytest.fixture
def shown(project: Project) -> Project:
    """A project of the page's files."""
    assert set(FILES) == {"bank", "test_bank", "test_faults", "test_doubler"}
    for name, code in FILES.items():
        project.write(code, name)
    return project


def test_its_race_is_found_as_it_shows_and_all_else_passes(shown: Project) -> None:
    result = shown.run()
    tests = sum(len(re.findall(r"^(?:async )?def test_", code, re.MULTILINE)) for code in FILES.values())
    result.assert_outcomes(passed=tests - 1, failed=1)
    [text] = re.findall(r"^```text\n\$ pytest test_bank\.py\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    printed = [line.rstrip() for line in result.outlines]
    at = printed.index(text.splitlines()[0])
    assert printed[at : at + len(text.splitlines())] == text.splitlines()


def test_the_mend_that_it_names_mends_it(shown: Project) -> None:
    shown.write(FILES["bank"] + AUDITS, "bank")
    mended = FILES["test_bank"].replace("Teller, Transfer", "Bank, Transfer").replace("spawn(Teller,", "spawn(Bank,")
    shown.write(mended.replace("auditor.ask(Audit())", "teller.ask(Audit())"), "test_bank")
    result = shown.run("test_bank.py")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["pmesh: 1 simulated tests ran by 1,000 seeds: *"])
