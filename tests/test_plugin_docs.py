"""What `docs/benchmarking.md` and README show of the plugin is true: their tests pass, and the commands run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pmesh.gates.objectives import FIGURES, MINIMUM_CALLS
from pmesh.pytest_plugin import GATED_FIGURES

if TYPE_CHECKING:
    from plugin_projects import Project

pytest_plugins = ("pytester", "plugin_projects")

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "benchmarking.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, page: str = PAGE) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


@pytest.fixture
def shown(project: Project) -> Project:
    """A project of the page's examples."""
    for number, block in enumerate(blocks("py")):
        project.write(block, f"test_example_{number}")
    return project


def test_its_tests_pass_as_they_stand(shown: Project) -> None:
    shown.run("--strict-markers").assert_outcomes(passed=PAGE.count("\ndef test_"))


@pytest.mark.parametrize("example", blocks("py", README))
def test_the_examples_in_readme_pass(project: Project, example: str) -> None:
    project.write(example)
    project.run("--strict-markers").assert_outcomes(passed=1)


def test_its_commands_run_in_their_order(shown: Project) -> None:
    commands = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    assert commands.pop(0) == ["pip", "install", "pmesh[benchmark]"]
    results = []
    for program, *options in commands:
        assert program == "pytest"
        results.append(shown.run(*options))
    assert results[0].ret == 0
    # The margins are too small for a busy machine; that they were judged is what matters.
    results[1].stdout.fnmatch_lines(["pmesh: --pmesh-p99-fail=10%, --pmesh-throughput-fail=20%: *"])
    assert "CANNOT JUDGE" not in results[1].stdout.str()


def test_what_it_reads_back_is_what_was_measured(shown: Project) -> None:
    shown.run("--benchmark-json=saved.json")
    namespace: dict[str, object] = {}
    [code] = [block for block in blocks("py") if "def read(" in block]
    exec(code, namespace)
    read = namespace["read"]
    assert callable(read)
    assert read(shown.path / "saved.json").count == 1_000


def test_it_names_every_figure_option_and_minimum() -> None:
    objectives = PAGE.partition("## Objectives")[2].partition("## ")[0]
    for figure in FIGURES:
        assert f"`{figure}`" in objectives
    for figure in GATED_FIGURES:
        assert f"`--pmesh-{figure.replace('.', '_')}-fail`" in PAGE
    [row] = [line for line in PAGE.splitlines() if line.startswith("| too few calls")]
    needed = {figure: f"{calls:,}" for figure, calls in MINIMUM_CALLS.items() if figure != "max"}
    for figure, calls in needed.items():
        assert re.search(rf"{re.escape(figure)}\b[^\d]* {calls}|{re.escape(figure)}, .* need {calls}", row), figure
