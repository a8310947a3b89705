"""What README shows is true: its code runs, its commands are the ones that CI runs, its links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_first_example_runs_and_says_hello(python: Callable[..., str]) -> None:
    printed = python(blocks("python")[0]).splitlines()
    assert printed[0] == "Hello, world!"
    assert "handled=2" in printed[1]
    assert "count=2" in printed[1]


def test_the_other_examples_run(python: Callable[..., str]) -> None:
    code = "\n".join(blocks("python")[1:])
    uses = """
import asyncio
from pmesh import Coordinator

async def main():
    async with Coordinator() as mesh:
        billing = await mesh.spawn(Billing, name="billing")
        print((await billing.ask(Charge("o1", 5))).order)
        print(mesh.tell("billing", Flush()), await mesh.drain(billing))
        await open_shop(mesh)
        print(mesh.agents)

asyncio.run(main())
"""
    assert python(code + uses).splitlines() == ["o1", "True True", "('shop', 'billing', 'invoices')"]


def test_there_is_one_command_to_install_and_one_to_test() -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert [command.rsplit(" && ", 1)[1].split()[0] for command in commands] == [".venv/bin/pmesh", ".venv/bin/tox"]
    assert commands[0].endswith("pmesh load all")


def test_the_commands_name_what_there_is() -> None:
    tox = (README.parent / "tox.ini").read_text(encoding="utf-8")
    [test] = [block for block in blocks("sh") if "tox run" in block]
    label = test.split("tox run -m ")[1].split()[0]
    assert re.search(rf"^    {label} = py311, ", tox, re.MULTILINE)


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`([A-Za-z_/]+\.(?:md|py|toml|ini))`", README.read_text(encoding="utf-8"))))
)
def test_every_file_it_names_is_there(name: str) -> None:
    assert (README.parent / name).exists()
