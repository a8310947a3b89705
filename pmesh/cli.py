"""The command `pmesh`: its commands, options and help. What they do is elsewhere (`pmesh.load`)."""

from __future__ import annotations

from collections.abc import Sequence

import click

import pmesh
from pmesh.errors import InvalidArgument, PmeshError

__all__ = ["main"]

PROFILE_NAMES = ("low", "medium", "high", "extreme")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(pmesh.__version__, prog_name="pmesh")
def commands() -> None:
    """A message bus for Python agents: commands to test and watch it."""


@commands.command(
    epilog="""\b
Examples:
  pmesh load low                        the smallest profile, in milliseconds
  pmesh load all                        all four, with a summary
  pmesh load extreme --loop uvloop      on uvloop (pip install 'pmesh[uvloop]')
  pmesh load high --window 256          more messages in flight than senders
  pmesh load all --json report.json     the figures for machines as well
  pmesh load all --quiet --json - | jq '.profiles[].latency_ns.p99'

\b
Exit codes:
  0    every objective holds
  2    wrong usage; nothing ran
  70   the account of messages does not balance, which is a bug in pmesh
  74   the report could not be written
  99   an objective is missed
  130  interrupted; what was measured until then is reported"""
)
@click.argument("profile", type=click.Choice([*PROFILE_NAMES, "all"]))
@click.option(
    "--window",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="Most messages in flight.  [default: the profile's number of senders]",
)
@click.option(
    "--loop",
    "event_loop",
    type=click.Choice(["asyncio", "uvloop", "auto"]),
    default="asyncio",
    show_default=True,
    help="Event loop to run on. auto takes uvloop where it is installed.",
)
@click.option(
    "--json",
    "json_path",
    metavar="FILE",
    help="Write the figures as JSON too; '-' is stdout, and the tables go to stderr then.",
)
@click.option(
    "--quiet",
    "-q",
    is_flag=True,
    help="No progress bar; with --json -, no tables either.",
)
def load(profile: str, window: int | None, event_loop: str, json_path: str | None, quiet: bool) -> int:
    """Put a load profile on an in-process mesh, and check the result against objectives.

    \b
    PROFILE   agents  messages each  rounds  senders  payload
    low            5            100      10       10    100 B
    medium        25            200      10       20    256 B
    high          50            500      10       50    512 B
    extreme      100          1,000      10      100  1,024 B
    all       one after another

    The loop is closed: each sender waits for a place in the window before it sends again. Times run
    from the moment the mesh accepts a message.
    """
    from pmesh.load import command

    return command.load(
        PROFILE_NAMES if profile == "all" else (profile,),
        window=window,
        event_loop=event_loop,
        json_path=json_path,
        quiet=quiet,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (by default the process's own); returns the exit code."""
    try:
        return int(commands.main(arguments, prog_name="pmesh", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except InvalidArgument as error:
        return _fail(str(error), EXIT_USAGE)
    except PmeshError as error:
        return _fail(str(error), EXIT_FAILED)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", EXIT_INTERRUPTED)


def _fail(text: str, code: int) -> int:
    click.echo(f"pmesh: {text}", err=True)
    return code
