"""The command `pmesh`: its commands, options and help. What they do is elsewhere (`pmesh.load`)."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

import pmesh
from pmesh import streams
from pmesh.errors import InvalidArgument, InvalidType, PmeshError

__all__ = ["main"]

PROFILE_NAMES = ("low", "medium", "high", "extreme")

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_OUTPUT = 74
EXIT_INTERRUPTED = 130

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Duration(click.ParamType[Any]):
    """A duration such as 500ms, 10s or 2m; becomes seconds."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from pmesh.slo import parse_duration

        return value if isinstance(value, float) else parse_duration(value, _option(param)) / 1e9


class _Percent(click.ParamType[Any]):
    """A share such as 0.5%; becomes a ratio."""

    name = "PERCENT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from pmesh.slo import parse_share

        return value if isinstance(value, float) else parse_share(value, _option(param))


class _SlowAgents(click.ParamType[Any]):
    """How many agents, and what each of their handlers waits: 1:50ms."""

    name = "N:DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, float]:
        from pmesh.slo import parse_duration

        number, colon, duration = value.partition(":")
        if not (colon and number.strip().isdecimal() and int(number)):
            raise InvalidArgument(f"{_option(param)} {value!r} must be N:DURATION, such as 1:50ms for one slow agent")
        return int(number), parse_duration(duration, _option(param)) / 1e9


class _Objective(click.ParamType[Any]):
    """A service level objective such as p99<5ms."""

    name = "OBJECTIVE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from pmesh.slo import parse_objective

        return parse_objective(value) if isinstance(value, str) else value


def _option(param: click.Parameter | None) -> str:
    return param.opts[-1] if param is not None else "value"


def _outputs(*, json: bool) -> Callable[[_Command], _Command]:
    """The options that say where a report goes."""
    kinds = [
        ("html", "one page with plots, which needs no network"),
        ("markdown", "the report as Markdown"),
        ("csv", "a row for each profile, in ns, bytes and seconds"),
        ("series", "each interval as a row of CSV"),
        ("hlog", "each interval as an HdrHistogram log, tagged by profile"),
    ]
    if json:
        kinds.insert(0, ("json", "the figures for machines"))

    def add(command: _Command) -> _Command:
        for kind, what in reversed(kinds):
            command = click.option(f"--{kind}", f"{kind}_path", metavar="FILE", help=f"Write {what}; '-' is stdout.")(
                command
            )
        return command

    return add


def _debug(command: _Command) -> _Command:
    return click.option("--debug", is_flag=True, help="Show the traceback of an error.")(command)


def _loop(command: _Command) -> _Command:
    return click.option(
        "--loop",
        "event_loop",
        type=click.Choice(["asyncio", "uvloop", "auto"]),
        default="asyncio",
        show_default=True,
        help="Event loop to run on. auto takes uvloop where it is installed.",
    )(command)


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
  pmesh load all --html report.html --json report.json
  pmesh load high --rate 50000 --arrival poisson --warmup 1s
                                        an open loop: latency from the intended send
  pmesh load high --find-max 'p99<5ms'  the highest rate that holds it
  pmesh load --agent shop.billing:Billing --payload shop.billing:an_order --rate 2000
                                        your own agents
  pmesh load medium --rate 20000 --soak 10m
                                        does p99 or memory grow?
  pmesh load low --duration 5s --fail-rate 0.5% --slow-agent 1:50ms
                                        what goes wrong on purpose is accounted for
  pmesh load all --quiet --json - | jq '.profiles[].latency_ns.p99'

\b
Objectives (--slo, --find-max, --abort-on-breach):
  p50 p90 p95 p99 p99.9 p99.99 mean max < DURATION     p99<5ms
  queue.p99 service.p99 response.p99 send_delay.p99    queue.p99<1ms
  success >= PERCENT, throughput >= N/s                success>=99.5%
  memory_per_agent < SIZE, overhead < SIZE             memory_per_agent<3MB

\b
Exit codes:
  0    every objective holds
  1    something failed that should not have
  2    wrong usage; nothing ran
  70   the account of messages does not balance, which is a bug in pmesh
  74   the report could not be written
  99   an objective is missed
  130  interrupted; what was measured until then is reported"""
)
@click.argument("profile", type=click.Choice([*PROFILE_NAMES, "all"]), default="medium")
@click.option("--agents", type=click.IntRange(1), metavar="N", help="Agents, instead of the profile's.")
@click.option("--messages", type=click.IntRange(1), metavar="N", help="Messages in all, instead of the profile's.")
@click.option("--duration", type=_Duration(), help="How long to send, such as 30s.")
@click.option("--concurrency", type=click.IntRange(1), metavar="N", help="Senders of a closed loop.")
@click.option("--payload-bytes", type=click.IntRange(0), metavar="N", help="Size of each payload.")
@click.option(
    "--window",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="Most messages in flight in a closed loop.  [default: the number of senders]",
)
@click.option(
    "--rate",
    type=float,
    metavar="N",
    help="Messages per second in all, sent on a schedule whatever is in flight (an open loop).",
)
@click.option(
    "--arrival",
    type=click.Choice(["constant", "poisson"]),
    default="constant",
    show_default=True,
    help="Gaps between the messages of an open loop: regular, or as independent users make.",
)
@click.option("--warmup", type=_Duration(), help="How long to send before anything is counted.")
@click.option("--agent", metavar="MODULE:NAME", help="Your own agent class or function to put under load.")
@click.option(
    "--payload",
    metavar="MODULE:NAME",
    help="Function that makes a payload; it may take the message's number.",
)
@click.option("--slo", type=_Objective(), multiple=True, help="One more objective, such as 'p99<2ms'; repeats.")
@click.option("--no-default-slo", is_flag=True, help="Leave out the objectives that are always checked.")
@click.option("--abort-on-breach", is_flag=True, help="End at the first second that breaches an objective.")
@click.option("--find-max", type=_Objective(), help="Search the highest rate that holds this objective.")
@click.option("--soak", type=_Duration(), help="Run for this long, and say whether p99 or memory drift.")
@click.option("--fail-rate", type=_Percent(), help="Make this share of handlers raise, such as 0.5%.")
@click.option("--slow-agent", type=_SlowAgents(), help="Make N agents slow, such as 1:50ms.")
@click.option("--stop-agent-every", type=_Duration(), help="Stop an agent and start another one in its place.")
@click.option(
    "--overflow",
    type=click.Choice(["reject", "drop_newest", "drop_oldest", "stop"]),
    default="reject",
    show_default=True,
    help="What a full mailbox does with a message.",
)
@click.option("--capacity", type=click.IntRange(1, 1_000_000), metavar="N", help="Messages a mailbox holds.")
@click.option("--per-agent", is_flag=True, help="Record latencies of each agent; costs memory and some speed.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of arrival times and made-up failures.")
@_loop
@_outputs(json=True)
@click.option("--quiet", "-q", is_flag=True, help="No progress bar; with an output on stdout, no tables either.")
@_debug
def load(profile: str, **options: Any) -> int:
    """Put load on an in-process mesh, and check the result against objectives.

    \b
    PROFILE   agents  messages each  rounds  senders  payload
    low            5            100      10       10    100 B
    medium        25            200      10       20    256 B
    high          50            500      10       50    512 B
    extreme      100          1,000      10      100  1,024 B
    all       one after another

    Without a PROFILE it is medium. Without --rate the loop is closed: each sender waits for a place in the
    window before it sends again, and times run from the moment the mesh accepts a message. A closed loop shows
    what the mesh can take; a stall holds up its senders too, so that it hides what users would have felt. With
    --rate the loop is open.
    """
    from pmesh.load import command

    slow = options["slow_agent"]
    soak = options["soak"]
    if soak is not None and options["duration"] is not None:
        raise InvalidArgument("--soak and --duration both say how long to run; leave one of them out")
    for name in ("soak", "abort_on_breach"):
        if options["find_max"] is not None and options[name]:
            raise InvalidArgument(f"--find-max and --{name.replace('_', '-')} exclude each other")
    changes = {
        name: options[name]
        for name in ("agents", "messages", "concurrency", "payload_bytes", "window", "rate", "arrival", "capacity")
        if options[name] is not None
    }
    changes.update(
        duration=options["duration"] if soak is None else soak,
        warmup=options["warmup"] or 0.0,
        overflow=options["overflow"],
        fail_rate=options["fail_rate"] or 0.0,
        slow_agents=slow[0] if slow else 0,
        slow_seconds=slow[1] if slow else 0.0,
        stop_every=options["stop_agent_every"],
        per_agent=options["per_agent"],
        seed=options["seed"],
    )
    return command.load(
        command.LoadOptions(
            names=PROFILE_NAMES if profile == "all" else (profile,),
            changes=changes,
            agent=options["agent"],
            payload=options["payload"],
            objectives=options["slo"],
            defaults=not options["no_default_slo"],
            abort_on_breach=options["abort_on_breach"],
            soak=soak is not None,
            find_max=options["find_max"],
            event_loop=options["event_loop"],
            paths=_paths(options),
            quiet=options["quiet"],
        )
    )


@commands.command(
    epilog="""\b
Examples:
  pmesh report report.json                      as the run showed it
  pmesh report report.json --html report.html
  pmesh report mon.json tue.json --markdown -   several in one

\b
Exit codes:
  0   the report was shown or written
  1   something failed that should not have
  2   wrong usage, or a file that cannot be read
  74  the report could not be shown or written"""
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@_outputs(json=False)
@_debug
def report(files: tuple[str, ...], **options: Any) -> int:
    """Show what `pmesh load --json` saved: as text, or as any of the other formats."""
    from pmesh.load import reading

    return reading.report(files, _paths(options))


@commands.command(
    epilog="""\b
Examples:
  pmesh compare before.json after.json
  pmesh compare main.json branch.json --fail 'p99:10%' --fail 'throughput:5%'
  pmesh compare before.json after.json --html change.html

\b
Exit codes:
  0   nothing got worse by more than --fail allows
  1   something failed that should not have
  2   wrong usage, or a file that cannot be read
  74  the page could not be written
  99  a figure got worse by more than --fail allows"""
)
@click.argument("before")
@click.argument("after")
@click.option(
    "--fail",
    "limits",
    multiple=True,
    metavar="FIGURE:PERCENT",
    help="Exit 99 when the figure gets worse by more than this, such as 'p99:10%'; repeats.",
)
@click.option("--html", "html_path", metavar="FILE", help="Write a page with both plotted; '-' is stdout.")
@_debug
def compare(before: str, after: str, limits: tuple[str, ...], html_path: str | None, **options: Any) -> int:
    """Hold two reports of `pmesh load --json` side by side.

    What makes the two hard to compare, such as another machine, interpreter or build, is said first.
    """
    from pmesh.load import reading

    return reading.compare(before, after, limits, html_path)


@commands.command(
    epilog="""\b
Examples:
  pmesh info                            facts, and what a message costs: a second
  pmesh info > report.txt               the same as plain text, for a bug report
  pmesh info --loop uvloop
  pmesh info --no-measure               the facts alone, at once
  pmesh info --json - | jq .message.queue_ratio

\b
Exit codes:
  0    done, warnings or not
  1    something failed that should not have
  2    wrong usage; nothing was measured
  74   the output could not be written
  130  interrupted"""
)
@_loop
@click.option("--no-measure", is_flag=True, help="Only what can be read, without the second that measuring takes.")
@click.option("--json", "json_path", metavar="FILE", help="Write it all for machines; '-' is stdout, and then alone.")
@_debug
def info(event_loop: str, no_measure: bool, json_path: str | None, **options: Any) -> None:
    """Say what figures of this machine rest on, and what a message costs here.

    Versions, build, interpreter, GIL, event loop, clock and processor; then the cost of one message, split into
    accept (told and put into a mailbox), dispatch (run queue, taken, handler found, counted), step (the handler's
    coroutine made and run) and record (its times into the recorders), beside an asyncio.Queue on the same machine.
    A report of a speed problem begins with this: it names no host, user or path, and warns of what distorts figures.
    """
    from pmesh.info import command

    command.info(event_loop, measure=not no_measure, json_path=json_path)


def _paths(options: dict[str, Any]) -> dict[str, str | None]:
    return {name.removesuffix("_path"): path for name, path in options.items() if name.endswith("_path")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (by default the process's own); returns the exit code.

    Nothing is raised, and stdout and stderr are left with nothing to write.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if os.environ.get("_PMESH_COMPLETE"):
        # A shell asks what may follow. click answers and exits.
        commands.main(given, prog_name="pmesh")
    streams.replace_closed()
    try:
        code = _run(given)
    except KeyboardInterrupt:
        code = _fail("interrupted", EXIT_INTERRUPTED)
    except BaseException as error:  # noqa: BLE001 - the last resort; SystemExit is one that agents may raise
        code = _fail_by(error, debug="--debug" in given)
    return code if streams.flush() or code else EXIT_OUTPUT


def _run(arguments: list[str]) -> int:
    # `commands.main` would make something else of EOFError and of a reader that has gone.
    try:
        with commands.make_context("pmesh", arguments) as context:
            return int(commands.invoke(context) or 0)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        with contextlib.suppress(OSError, ValueError):
            error.show()
        return error.exit_code


def _fail_by(error: BaseException, *, debug: bool) -> int:
    if debug:
        with contextlib.suppress(OSError, ValueError):
            traceback.print_exception(error)
    if isinstance(error, PmeshError):
        return _fail(str(error), _exit_code(error))
    if isinstance(error, OSError) and _is_of_echo(error):
        return _fail(f"the output could not be written: {error.strerror}", EXIT_OUTPUT)
    text = "".join(traceback.format_exception_only(error))
    return _fail(text if debug else f"{text} (--debug shows where)", EXIT_FAILED)


def _exit_code(error: PmeshError) -> int:
    if isinstance(error, (InvalidArgument, InvalidType)):
        return EXIT_USAGE
    from pmesh.outputs import OutputFailed

    return EXIT_OUTPUT if isinstance(error, OutputFailed) else EXIT_FAILED


def _is_of_echo(error: OSError) -> bool:
    """Whether it was a stream that failed, and not whatever else the system refuses."""
    return any(frame.f_code is click.echo.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))


def _fail(text: str, code: int) -> int:
    """Say why on stderr, in one line and without control characters; returns `code`."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    with contextlib.suppress(OSError, ValueError):
        click.echo(f"pmesh: {line}", err=True)
    return code
