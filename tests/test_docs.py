"""What the documentation shows is true: its code runs, and its commands are commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from pmesh import cli

DOCS = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))


def blocks(language: str) -> list[object]:
    found = []
    for page in DOCS:
        text = page.read_text(encoding="utf-8")
        for number, block in enumerate(re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)):
            found.append(pytest.param(block, id=f"{page.stem}-{number}"))
    return found


@pytest.mark.parametrize("code", blocks("python"))
def test_the_code_runs(code: str, python: Callable[..., str]) -> None:
    assert python(code).strip()


@pytest.mark.parametrize("commands", blocks("sh"))
def test_the_commands_have_the_options_that_they_use(commands: str) -> None:
    for line in commands.splitlines():
        program, name, *arguments = shlex.split(line)
        assert program == "pmesh", line
        command = cli.commands.commands[name]
        assert isinstance(command, click.Command)
        command.make_context(name, arguments)


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_the_files_it_names_are_there(page: Path) -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)+[A-Za-z_.]+\.(?:md|py|toml|json))`", page.read_text(encoding="utf-8")))
    for name in named | set(re.findall(r"`python ([a-z_/]+\.py)`", page.read_text(encoding="utf-8"))):
        assert (page.parent.parent / name).exists(), name
