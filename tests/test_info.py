"""`pmesh info`: the parts of a message, the facts beside them, and what is said against both."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import importlib.util
import json
import math
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pmesh
from pmesh import cli
from pmesh.environment import choose_loop
from pmesh.errors import InvalidArgument
from pmesh.info import Facts, Figure, MessageCost, cost, doubts_of, facts, gather_facts, measure_message
from pmesh.info.command import as_document
from pmesh.info.text import render

SHORT_SECONDS = 0.02

# What a test run itself may be, and a machine that is shared with others.
OF_THIS_RUN = {"debug build", "trace build", "debug interpreter", "busy machine", "interrupted", "slow clock"}

LOOPS = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]


async def read() -> Facts:
    return gather_facts()


@pytest.fixture(scope="module")
def here() -> Facts:
    """The facts of this machine, and none of the modes that the tests may run in."""
    found = asyncio.run(read())
    modes = dataclasses.replace(
        found.modes,
        dev_mode=False,
        asyncio_debug=False,
        tracer=False,
        profiler=False,
        monitoring=(),
        perf_support=False,
        tracemalloc=False,
        malloc="",
        gc_enabled=True,
        gc_frozen=0,
    )
    return dataclasses.replace(
        found,
        modes=modes,
        environment=dataclasses.replace(found.environment, gil=True, build={"debug": False, "trace": False}),
        interpreter=dataclasses.replace(found.interpreter, debug=False, free_threaded=False),
        machine=dataclasses.replace(found.machine, cpu_count=4, load_average=(0.5, 0.5, 0.5)),
    )


def cost_of(**parts: Figure) -> MessageCost:
    """A cost as it may be measured, with some parts replaced."""
    figures = {name: parts.get(name, Figure(50.0, 1.0)) for name in cost.PARTS}
    return MessageCost(
        whole_ns=sum(figure.value_ns for figure in figures.values()),
        parts=figures,
        plain_step=Figure(15.0, 1.0),
        coroutine=Figure(80.0, 1.0),
        turn=Figure(4_000.0, 100.0),
        queue=Figure(500.0, 10.0),
        clock_core=Figure(20.0, 1.0),
        clock_python=Figure(40.0, 1.0),
        clock_step_ns=1,
        burst=256,
        rounds=700,
        seconds=1.0,
        processor_share=1.0,
        interruptions=0,
    )


# The measurement.


@pytest.mark.parametrize("loop", LOOPS)
def test_the_parts_of_a_message_sum_up_to_the_whole(loop: str) -> None:
    with asyncio.Runner(loop_factory=choose_loop(loop)) as runner:
        measured = runner.run(measure_message(SHORT_SECONDS))
    assert tuple(measured.parts) == cost.PARTS
    assert sum(part.value_ns for part in measured.parts.values()) == pytest.approx(measured.whole_ns)
    assert all(part.value_ns >= 0 and part.noise_ns >= 0 for part in measured.parts.values())
    assert measured.rounds >= cost.MINIMUM_ROUNDS
    assert measured.queue_ratio == pytest.approx(measured.queue.value_ns / measured.whole_ns)


SAMPLE = st.lists(st.floats(0, 1e9), min_size=7, max_size=7)


@given(st.fixed_dictionaries(dict.fromkeys(("told", "loop", "handled", "unrecorded", "native"), SAMPLE)))
def test_whatever_was_measured_no_part_is_negative_and_none_is_lost(samples: dict[str, list[float]]) -> None:
    parts = cost.split(samples)
    assert min(part.value_ns for part in parts.values()) >= 0
    whole = statistics.median(samples["told"]) + statistics.median(samples["handled"])
    assert sum(part.value_ns for part in parts.values()) == pytest.approx(whole)


def test_each_part_is_the_difference_of_the_workloads_that_differ_in_it() -> None:
    parts = cost.split(
        {"told": [90.0] * 9, "loop": [8.0] * 9, "handled": [170.0] * 9, "unrecorded": [163.0] * 9, "native": [80.0] * 9}
    )
    assert {name: part.value_ns for name, part in parts.items()} == {
        "sender's loop": 8.0,
        "accept": 82.0,
        "dispatch": 80.0,
        "step": 83.0,
        "record": 7.0,
    }


def spin(message: object = None) -> int:
    """Longer than all parts of a message together, also where a coroutine takes microseconds in debug mode."""
    for _ in range(5_000):
        pass
    return 1


def largest_part() -> str:
    measured = asyncio.run(measure_message(SHORT_SECONDS))
    return max(measured.parts, key=lambda name: measured.parts[name].value_ns)


def test_what_makes_the_handler_slow_shows_in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(message: object) -> None:
        spin()

    monkeypatch.setattr(cost, "_take", slow)
    assert largest_part() == "step"


def test_what_makes_accepting_slow_shows_in_accept(monkeypatch: pytest.MonkeyPatch) -> None:
    weighed = functools.partial(pmesh.MailboxPolicy, max_bytes=1_000_000, size=spin)
    monkeypatch.setattr(cost, "MailboxPolicy", weighed)
    assert largest_part() == "accept"


def test_the_noise_is_that_of_the_median_and_not_of_single_rounds() -> None:
    values = [100.0] * 60 + [1e9] * 3
    parts = cost.split(dict.fromkeys(("told", "loop", "handled", "unrecorded", "native"), values))
    assert {part.noise_ns for part in parts.values()} == {0.0}


def test_a_cancelled_measurement_leaves_no_task_behind() -> None:
    async def main() -> set[asyncio.Task[Any]]:
        measuring = asyncio.create_task(measure_message(60.0))
        await asyncio.sleep(0.01)
        measuring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await measuring
        return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]

    assert asyncio.run(main()) == set()


def test_measuring_needs_neither_click_nor_rich(python: Callable[..., str]) -> None:
    code = "import sys, pmesh.info; print({'click', 'rich', 'pmesh.load'} & set(sys.modules))"
    assert python(code) == "set()\n"


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.inf, math.nan])
def test_a_length_that_is_no_time_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidArgument, match="seconds"):
        asyncio.run(measure_message(seconds))


# Facts.


def test_the_gil_is_what_the_interpreter_says_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    found = asyncio.run(read())
    assert not found.environment.gil
    assert "GIL off" in render(found, None, [], terminal=False)


def test_a_system_without_proc_and_sys_tells_what_it_can(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CPUS", "CLOCK_SOURCE", "CPU_INFO", "QUOTA", "QUOTA_V1"):
        monkeypatch.setattr(facts, name, tmp_path / "nothing")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    found = asyncio.run(read())
    machine = found.machine
    assert (machine.virtual, machine.governors, machine.frequency_mhz, machine.cpu_quota) == (None, (), None, None)
    assert found.clock.kernel_source is None
    assert "processor" in render(found, None, [], terminal=False)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    ],
)
def test_a_container_tells_how_much_of_the_processor_it_may_use(
    files: dict[str, str], quota: float | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpu").mkdir()
    for name, content in files.items():
        (tmp_path / name).write_text(f"{content}\n")
    monkeypatch.setattr(facts, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(facts, "QUOTA_V1", tmp_path / "cpu")
    assert asyncio.run(read()).machine.cpu_quota == quota


def test_governor_and_frequency_are_those_of_the_usable_processors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number, governor in enumerate(("performance", "powersave", "schedutil")):
        folder = tmp_path / f"cpu{number}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
        (folder / "scaling_cur_freq").write_text(f"{number + 1}000000\n")
    monkeypatch.setattr(facts, "CPUS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2}, raising=False)
    machine = asyncio.run(read()).machine
    assert machine.governors == ("powersave", "schedutil")
    assert machine.frequency_mhz == 2_000


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ("-Wall -g -O2 -fwrapv -O3", ("-O3",)),
        (
            "-O2 -march=native -flto -fno-omit-frame-pointer",
            ("-O2", "-march=native", "-flto", "-fno-omit-frame-pointer"),
        ),
        ("-O3 -fprofile-use=/home/me/build -g", ("-O3",)),
        ("", ()),
    ],
)
def test_of_the_compilers_options_those_for_speed_are_told_and_no_path(options: str, flags: tuple[str, ...]) -> None:
    assert facts.speed_flags(options) == flags


# What speaks against figures.


def causes(found: Facts, measured: MessageCost | None = None) -> list[str]:
    return [doubt.cause for doubt in doubts_of(found, measured)]


def test_nothing_is_said_against_a_quiet_machine_and_a_release_build(here: Facts) -> None:
    assert causes(here, cost_of()) == []


@pytest.mark.parametrize(
    ("of", "changes", "cause"),
    [
        ("environment", {"build": {"debug": True}}, "debug build"),
        ("environment", {"build": {"trace": True}}, "trace build"),
        ("environment", {"build": {"sanitize": "address,undefined"}}, "sanitize build"),
        ("interpreter", {"debug": True}, "debug interpreter"),
        ("interpreter", {"free_threaded": True}, "GIL of a free-threaded build"),
        ("modes", {"dev_mode": True}, "development mode"),
        ("modes", {"asyncio_debug": True}, "asyncio debug mode"),
        ("modes", {"monitoring": ("coverage",)}, "watched"),
        ("modes", {"perf_support": True}, "watched"),
        ("modes", {"malloc": "pymalloc_debug"}, "checking allocator"),
        ("modes", {"gc_enabled": False}, "garbage collector off"),
        ("modes", {"gc_frozen": 50_000}, "garbage collector frozen"),
        ("machine", {"load_average": (3.2, 0.0, 0.0)}, "busy machine"),
        ("machine", {"cpu_count": 1, "load_average": (0.6, 0.0, 0.0)}, "busy machine"),
    ],
)
def test_each_thing_that_distorts_figures_is_said(of: str, changes: dict[str, Any], cause: str, here: Facts) -> None:
    changed = dataclasses.replace(here, **{of: dataclasses.replace(getattr(here, of), **changes)})
    assert causes(changed) == [cause]


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"processor_share": 0.8, "interruptions": 40}, "interrupted"),
        ({"clock_core": Figure(900.0, 10.0)}, "slow clock"),
    ],
)
def test_what_disturbed_the_measurement_is_said(changes: dict[str, Any], cause: str, here: Facts) -> None:
    assert causes(here, dataclasses.replace(cost_of(), **changes)) == [cause]


def pmesh_info(*arguments: str, before: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """The command in an interpreter of its own, which none of this run's own modes reach.

    But for the GIL's: a run that keeps it off tests that.
    """
    modes = {name for name in os.environ if name.startswith("PYTHON")} - {"PYTHON_GIL"}
    environment = {name: value for name, value in os.environ.items() if name not in modes}
    # Where this run's pmesh is.
    environment["PYTHONPATH"] = str(Path(pmesh.__file__).parent.parent)
    code = f"import sys\n{before}\nfrom pmesh import cli\nsys.exit(cli.main())"
    return subprocess.run(
        [sys.executable, "-P", "-c", code, "info", *arguments],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def warned(before: str = "", **variables: str) -> set[str]:
    done = pmesh_info("--no-measure", "--json", "-", before=before, **variables)
    assert done.returncode == 0, done.stderr
    return {warning["cause"] for warning in json.loads(done.stdout)["warnings"]} - OF_THIS_RUN


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, set()),
        ({"PYTHONDEVMODE": "1"}, {"development mode", "asyncio debug mode"}),
        ({"PYTHONASYNCIODEBUG": "1"}, {"asyncio debug mode"}),
        ({"PYTHONTRACEMALLOC": "1"}, {"watched"}),
        ({"PYTHONMALLOC": "debug"}, {"checking allocator"}),
    ],
)
def test_a_mode_that_the_environment_sets_is_warned_of(variables: dict[str, str], expected: set[str]) -> None:
    assert warned(**variables) == expected


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="no GIL to be turned on: it is always on")
def test_a_gil_that_is_on_where_it_could_be_off_is_warned_of() -> None:
    assert warned(PYTHON_GIL="1") == {"GIL of a free-threaded build"}
    assert warned(PYTHON_GIL="0") == set()


@pytest.mark.parametrize(
    ("before", "cause"),
    [
        ("sys.settrace(lambda *event: None)", "watched"),
        ("sys.setprofile(lambda *event: None)", "watched"),
        ("import gc; gc.disable()", "garbage collector off"),
        ("import gc, asyncio; gc.freeze()", "garbage collector frozen"),
    ],
)
def test_what_was_set_in_the_process_is_warned_of(before: str, cause: str) -> None:
    assert warned(before) == {cause}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring came with 3.12")
def test_a_tool_that_monitors_is_named() -> None:
    done = pmesh_info("--no-measure", before="sys.monitoring.use_tool_id(3, 'probe')")
    assert "probe (sys.monitoring)" in done.stdout


# The output.


def flat(text: str) -> str:
    return " ".join(text.split())


def test_plain_output_names_the_facts_and_all_parts(here: Facts) -> None:
    text = flat(render(here, cost_of(), [], terminal=False))
    for fact in (pmesh.__version__, platform.python_version(), "GIL on", "asyncio", "4 CPUs", "release build"):
        assert fact in text
    for part in cost.PARTS:
        assert re.search(rf"{part} 50 ns 20% #+ ", text), part
    assert "2.00 times a message" in text


def test_plain_output_can_be_pasted_anywhere(here: Facts) -> None:
    exotic = dataclasses.replace(
        here, environment=dataclasses.replace(here.environment, cpu="Prozess\u00f6r\u2122 \x1b[31m 9000 " * 5)
    )
    measured = dataclasses.replace(cost_of(), processor_share=0.5)
    text = render(exotic, measured, doubts_of(exotic, measured), terminal=False)
    assert text.isascii()
    assert re.search(r"[^\n -~]", text) is None
    assert max(map(len, text.splitlines())) <= 80
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_on_a_terminal_it_has_blocks_and_colours(here: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = render(here, cost_of(), [], terminal=True)
    assert "\u2588" in text
    assert "\x1b[" in text


def test_a_part_that_cannot_be_told_from_nothing_is_shown_as_such(here: Facts) -> None:
    text = render(here, cost_of(record=Figure(2.0, 3.0)), [], terminal=False)
    assert re.search(r"^record +below the noise \(3 ns\)$", text, re.MULTILINE)


def test_warnings_stand_in_front_of_what_they_are_about(here: Facts) -> None:
    busy = dataclasses.replace(here, machine=dataclasses.replace(here.machine, load_average=(9.0, 9.0, 9.0)))
    assert render(busy, cost_of(), doubts_of(busy, None), terminal=False).startswith(
        "WARNING: The machine is busy: 9.00"
    )


@pytest.mark.parametrize("arguments", [(), ("--json", "-")])
def test_neither_host_nor_user_nor_path_is_in_the_output(arguments: tuple[str, ...]) -> None:
    done = pmesh_info("--no-measure", *arguments)
    assert done.returncode == 0, done.stderr
    for secret in filter(None, (platform.node(), Path.home().name)):
        assert not re.search(rf"\b{re.escape(secret)}\b", done.stdout), secret
    for path in (sys.prefix, sys.base_prefix, str(Path.home()), str(Path.cwd())):
        assert path not in done.stdout
    assert not re.search(r"(?<![\w.)])/\w+", done.stdout)


def test_the_json_has_all_of_it_and_shares_that_sum_up() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = pmesh_info("--json", "-")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    document = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert document["schema"] == "pmesh.info/1"
    assert document["environment"]["pmesh"] == pmesh.__version__
    parts = document["message"]["parts"]
    assert tuple(parts) == cost.PARTS
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1)
    assert sum(part["value_ns"] for part in parts.values()) == pytest.approx(document["message"]["whole_ns"])
    # Processor time: how long it takes is up to whatever else the machine does.
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 3.0


def test_the_document_of_facts_alone_has_no_message(here: Facts) -> None:
    document = as_document(here, None, [])
    assert document["message"] is None
    assert json.loads(json.dumps(document, allow_nan=False))["machine"]["load_average"] == [0.5, 0.5, 0.5]


def test_json_goes_to_a_file_beside_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "info.json"
    assert cli.main(["info", "--no-measure", "--json", str(path)]) == 0
    assert json.loads(path.read_text())["schema"] == "pmesh.info/1"
    assert "interpreter" in capsys.readouterr().out


def test_the_loop_asked_for_is_the_one_measured_on() -> None:
    for loop in LOOPS:
        done = pmesh_info("--no-measure", "--json", "-", "--loop", loop)
        assert json.loads(done.stdout)["environment"]["event_loop"] == loop


def test_without_uvloop_it_runs_on_asyncio_or_says_what_is_missing() -> None:
    without = "sys.modules['uvloop'] = None"
    done = pmesh_info("--no-measure", "--json", "-", "--loop", "auto", before=without)
    assert json.loads(done.stdout)["environment"]["event_loop"] == "asyncio"
    refused = pmesh_info("--loop", "uvloop", before=without)
    assert refused.returncode == 2
    assert "pmesh[uvloop]" in refused.stderr


def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pmesh.info.command.measure_message", lambda: pytest.fail("measured"))
    assert cli.main(["info", "--json", str(tmp_path)]) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_exit_is_74_when_stdout_takes_nothing() -> None:
    full = "sys.stdout = open('/dev/full', 'w')"
    assert pmesh_info("--no-measure", before=full).returncode == 74
    assert pmesh_info("--no-measure", "--json", "-", before=full).returncode == 74
