"""The command `pmesh` as a shell sees it: arguments, output, files, signals and exit codes."""

from __future__ import annotations

import dataclasses
import errno
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from load_samples import ENVIRONMENT, report

import pmesh
from pmesh import Coordinator, cli, slo
from pmesh.load import PROFILES, Driver, Objective, as_document
from pmesh.load import command as command_module
from pmesh.load import driver as driver_module
from pmesh.load import plan as plan_module

CERTAIN = (Objective("throughput>=1/s", "throughput", ">=", 1),)
IMPOSSIBLE = (Objective("p99<1ns", "p99", "<", 1),)

COUNTS = (
    "sent",
    "accepted",
    "rejected",
    "handled",
    "failed",
    "expired",
    "dropped",
    "dead",
    "pending",
)
SPREAD = ("count", "min", "mean", "stddev", "p50", "p90", "p95", "p99", "p99_9", "p99_99", "max")

needs_uvloop = pytest.mark.skipif(
    importlib.util.find_spec("uvloop") is None,
    reason="uvloop IS NOT INSTALLED: nothing was tested on it",
)


@pytest.fixture(autouse=True)
def _plain_output(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def judged_by(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Plant the objectives of the command, and skip the measuring of the overhead."""

    def plant(*objectives: Objective) -> None:
        monkeypatch.setattr(slo, "DEFAULT_OBJECTIVES", objectives)
        monkeypatch.setattr(driver_module, "measure_overhead", lambda event_loop: 5_000_000)

    return plant


@pytest.fixture
def certain(judged_by: Callable[..., None]) -> None:
    judged_by(*CERTAIN)


# -P: the installed pmesh, and not the one in the folder the tests run in, which is not built.
PYTHON = (sys.executable, "-P")

WITHOUT_OVERHEAD = """
import sys
from pmesh import cli
from pmesh.load import driver
driver.measure_overhead = lambda event_loop: 5_000_000
sys.exit(cli.main())
"""


def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The command in a process of its own, without the second that measuring the overhead takes."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([*PYTHON, "-c", WITHOUT_OVERHEAD, *arguments], **options)


def start_script(code: str, **options: Any) -> subprocess.Popen[str]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([*PYTHON, "-c", textwrap.dedent(code)], **options)


# Exit codes.


def test_exit_says_whether_all_objectives_hold(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    process = subprocess.run(
        [*PYTHON, "-m", "pmesh", "load", "low", "--json", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    stdout, stderr = process.stdout, process.stderr
    [profile] = json.loads(path.read_text())["profiles"]
    passed = all(verdict["passed"] for verdict in profile["slo"])
    assert process.returncode == (0 if passed else 99), stdout + stderr
    assert "Traceback" not in stderr
    assert len(profile["slo"]) == 7


@pytest.mark.usefixtures("certain")
def test_exit_is_0_when_every_objective_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["load", "low"]) == 0
    assert "All objectives hold (low)." in capsys.readouterr().out


def test_exit_is_99_when_one_is_missed_and_names_it(
    judged_by: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    judged_by(*CERTAIN, *IMPOSSIBLE)
    assert cli.main(["load", "low"]) == 99
    out = capsys.readouterr().out
    assert "Missed: low p99<1ns." in out
    assert re.search(r"✓ +throughput>=1/s", out)
    assert re.search(r"✗ +p99<1ns", out)


@pytest.mark.parametrize(
    ("term", "side"),
    [
        ("handled", "is not handled 5001 + failed 0"),
        ("rejected", "sent 5000 is not accepted 5000 + rejected 1"),
        ("pending", "pending is 1 after the run, and must be 0"),
    ],
)
@pytest.mark.usefixtures("certain")
def test_exit_is_70_when_the_account_does_not_balance_and_names_the_side(
    term: str, side: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Planted:
        def __init__(self, stats: Any) -> None:
            self.__dict__.update(stats.as_dict() | {"imbalance": stats.imbalance})
            self.__dict__[term] += 1

    true_stats = Coordinator.stats
    monkeypatch.setattr(Coordinator, "stats", lambda mesh: Planted(true_stats(mesh)))
    assert cli.main(["load", "all"]) == 70
    out = " ".join(capsys.readouterr().out.split())
    assert "The account does not balance. low: " in out
    assert side in out
    assert "medium" not in out, "figures mean nothing once messages are lost"


def test_exit_is_1_when_the_overhead_cannot_be_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(event_loop: str) -> int:
        raise pmesh.PmeshError("planted")

    monkeypatch.setattr(driver_module, "measure_overhead", fail)
    assert cli.main(["load", "low"]) == 1
    assert capsys.readouterr().err == "pmesh: planted\n"


# Interrupts. The signal is sent from a timer in the middle of a round.

INTERRUPTED = """
    import asyncio, os, signal, sys
    from pmesh import cli
    from pmesh.load import driver

    driver.measure_overhead = lambda event_loop: 5_000_000
    rounds = 0
    start = driver.Meter.start

    def start_and_interrupt(meter):
        global rounds
        rounds += 1
        start(meter)
        if rounds == 2:
            loop = asyncio.get_running_loop()
            loop.call_later(0.002, os.kill, os.getpid(), signal.SIGINT)

    driver.Meter.start = start_and_interrupt
    sys.exit(cli.main(sys.argv[1:] or {arguments!r}))
"""


@pytest.mark.parametrize("event_loop", ["asyncio", pytest.param("uvloop", marks=needs_uvloop)])
def test_ctrl_c_ends_with_130_and_reports_what_was_measured(event_loop: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    arguments = ["load", "all", "--json", str(path), "--loop", event_loop]
    # From `medium` on, whose second round is long enough to be cut short.
    code = INTERRUPTED.replace("rounds == 2", "rounds == 12").format(arguments=arguments)
    process = start_script(code)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stdout + stderr
    assert "Traceback" not in stderr
    assert "not left" not in stderr, "the mesh must be left in good order"
    assert "medium (interrupted)" in stdout
    assert "Interrupted; the figures are of what was handled until then." in stdout
    low, medium = json.loads(path.read_text())["profiles"]
    assert low["counts"]["sent"] == 5_000
    counts = medium["counts"]
    assert 5_000 < counts["sent"] < 50_000
    assert counts["sent"] == counts["accepted"] == counts["handled"]
    assert medium["latency_ns"]["count"] == counts["handled"]


def test_ctrl_c_before_anything_was_measured_says_so_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    code = """
        import os, signal, sys
        from pmesh import cli
        from pmesh.load import driver
        def interrupt(event_loop):
            os.kill(os.getpid(), signal.SIGINT)
            return 0
        driver.measure_overhead = interrupt
        sys.exit(cli.main({arguments!r}))
    """.format(arguments=["load", "low", "--json", str(path)])
    process = start_script(code)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stdout + stderr
    assert stdout.strip() == "Interrupted before anything was measured."
    assert stderr == ""
    assert not path.exists()


def test_a_second_ctrl_c_ends_at_once() -> None:
    code = """
        import os, signal, sys
        from pmesh import cli
        from pmesh.load import driver
        def interrupt_twice(mesh, *rest):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        driver.measure_overhead = lambda event_loop: 0
        driver.Driver._round_senders = interrupt_twice
        sys.exit(cli.main(["load", "low"]))
    """
    process = start_script(code)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stdout + stderr
    assert stderr.strip().splitlines()[-1] == "pmesh: interrupted"
    assert "Traceback" not in stderr


# Streams that take nothing.


def start_in_shell(redirections: str, *arguments: str) -> subprocess.Popen[str]:
    """The command as a shell starts it with `redirections`, such as ">&-"."""
    command = shlex.join([*PYTHON, "-c", WITHOUT_OVERHEAD, *arguments])
    return subprocess.Popen(
        ["/bin/sh", "-c", f"exec {command} {redirections}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


needs_dev_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


@pytest.mark.parametrize("redirections", [">&-", pytest.param(">/dev/full", marks=needs_dev_full)])
@pytest.mark.parametrize("arguments", [["load", "low"], ["load", "low", "--json", "-", "-q"], ["load", "--help"]])
def test_a_stdout_that_takes_nothing_gets_one_line_and_74(arguments: list[str], redirections: str) -> None:
    _, stderr = (process := start_in_shell(redirections, *arguments)).communicate(timeout=60)
    assert process.returncode == 74, stderr
    assert re.fullmatch(r"(pmesh: WARNING: .*\n)?pmesh: .* could not be (shown|written).*\n", stderr)


def test_a_reader_of_the_help_that_has_gone_gets_one_line_and_74() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = start("load", "--help", stdout=writer)
    os.close(writer)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (74, f"pmesh: the output could not be written: {os.strerror(errno.EPIPE)}\n")


@pytest.mark.parametrize("redirections", ["2>&-", pytest.param("2>/dev/full", marks=needs_dev_full)])
@pytest.mark.parametrize(("quiet", "code"), [([], 74), (["--quiet"], 0)])
def test_tables_that_stderr_does_not_take_cost_the_code_and_not_the_json(
    quiet: list[str], code: int, redirections: str
) -> None:
    arguments = ["load", "low", "--no-default-slo", "--json", "-", *quiet]
    stdout, _ = (process := start_in_shell(redirections, *arguments)).communicate(timeout=60)
    assert process.returncode == code
    assert json.loads(stdout)["profiles"][0]["counts"]["handled"] == 5_000


@pytest.mark.parametrize("redirections", ["2>&-", ">&- 2>&-", pytest.param("2>/dev/full", marks=needs_dev_full)])
@pytest.mark.parametrize("arguments", [["load", "--rate", "0"], ["load", "--rate", "0", "--debug"], ["laod"], []])
def test_wrong_usage_is_2_though_nobody_can_be_told(arguments: list[str], redirections: str) -> None:
    (process := start_in_shell(redirections, *arguments)).communicate(timeout=60)
    assert process.returncode == 2


def test_a_report_does_not_get_what_a_closed_stream_would(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    process = start_in_shell(">&- 2>&-", "load", "low", "--json", str(path))
    process.communicate(timeout=60)
    assert process.returncode == 74
    assert json.loads(path.read_text())["profiles"][0]["profile"] == "low"


# What should not happen.


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\n  two\x1b[31m\x00"), "ValueError: one two [31m"),
        (MemoryError(), "MemoryError"),
        (OverflowError("int too large"), "OverflowError: int too large"),
        (OSError(errno.EMFILE, "Too many"), f"OSError: [Errno {errno.EMFILE}] Too many"),
        (BrokenPipeError(errno.EPIPE, "Gone"), f"BrokenPipeError: [Errno {errno.EPIPE}] Gone"),
        (EOFError(), "EOFError"),
        (SystemExit(0), "SystemExit: 0"),
        (SystemExit("bye"), "SystemExit: bye"),
        (GeneratorExit(), "GeneratorExit"),
    ],
)
def test_what_should_not_fail_gets_one_line_and_1(
    error: BaseException, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: object) -> int:
        raise error

    monkeypatch.setattr(command_module, "load", fail)
    assert cli.main(["load"]) == 1
    assert capsys.readouterr() == ("", f"pmesh: {line} (--debug shows where)\n")
    assert cli.main(["load", "--debug"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith(f"\npmesh: {line}\n")


def test_an_agent_that_exits_does_not_choose_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "leaving.py").write_text("import sys\nasync def leave(payload):\n    sys.exit(0)\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})" + WITHOUT_OVERHEAD
    process = subprocess.run(
        [*PYTHON, "-c", code, "load", "low", "--agent", "leaving:leave"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert process.returncode == 1, process.stdout + process.stderr
    assert "pmesh: SystemExit: 0 (--debug shows where)" in process.stderr.splitlines()


def test_an_error_that_quotes_what_was_read_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "no\nsuch\x1b]0;title\x07file"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err[:-1].isprintable()


def test_a_saved_report_is_no_command_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for number, cpu in enumerate(["plain", "\x1b]0;title\x07\x9b2J"]):
        environment = dataclasses.replace(ENVIRONMENT, cpu=cpu)
        document = as_document(environment, [report(environment=environment)])
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(json.dumps(document))
    for command in ("report", "compare"):
        assert cli.main([command, *map(str, paths)]) == 0
        captured = capsys.readouterr()
        assert (captured.out + captured.err).replace("\n", "").isprintable()
        assert "]0;title2J" in captured.out + captured.err


@pytest.mark.parametrize("name", ["load", "report", "compare"])
def test_the_help_names_every_exit_code(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    listed = re.findall(r"^ +(\d+) +\S", capsys.readouterr().out.partition("Exit codes:")[2], re.MULTILINE)
    assert {"0", "1", "2", "74"} <= set(listed)


def test_a_shell_gets_its_completion() -> None:
    process = start(env={**os.environ, "_PMESH_COMPLETE": "bash_complete", "COMP_WORDS": "pmesh l", "COMP_CWORD": "1"})
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (0, "plain,load\n", "")


# The JSON.


@pytest.mark.usefixtures("certain")
def test_the_json_has_the_documented_shape_and_adds_up(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert cli.main(["load", "medium", "--window", "7", "--json", str(path)]) == 0
    document = json.loads(path.read_text())
    assert list(document) == ["schema", "environment", "profiles", "find_max"]
    assert document["schema"] == "pmesh.load/1"
    environment = document["environment"]
    assert list(environment) == [
        *("pmesh", "python", "implementation", "gil", "platform", "cpu", "cpu_count"),
        *("event_loop", "build", "started_at"),
    ]
    assert environment["pmesh"] == pmesh.__version__
    assert environment["build"] == pmesh.BUILD_INFO
    assert environment["event_loop"] == "asyncio"
    assert environment["cpu_count"] >= 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+[+-]\d\d:\d\d", environment["started_at"])

    [profile] = document["profiles"]
    assert set(profile) >= {
        *("profile", "mode", "agents", "messages_per_agent", "rounds", "concurrency", "window"),
        *("payload_bytes", "counts", "success_rate", "duration_ns", "throughput_per_second"),
        *("latency_ns", "queue_ns", "service_ns", "resources", "slo"),
    }
    assert (profile["profile"], profile["mode"], profile["window"]) == ("medium", "closed", 7)
    assert (profile["agents"], profile["messages_per_agent"], profile["rounds"]) == (25, 200, 10)
    assert (profile["concurrency"], profile["payload_bytes"]) == (20, 256)
    counts = profile["counts"]
    assert tuple(counts) == COUNTS
    assert counts["sent"] == counts["accepted"] == counts["handled"] == 50_000
    assert sum(counts.values()) == 150_000
    assert profile["success_rate"] == 1.0
    assert profile["throughput_per_second"] == pytest.approx(50_000e9 / profile["duration_ns"])
    for key in ("latency_ns", "queue_ns", "service_ns"):
        spread = profile[key]
        assert tuple(spread) == SPREAD
        assert spread["count"] == 50_000
        ascending = [spread[name] for name in ("min", "p50", "p90", "p95", "p99", "p99_9", "max")]
        assert ascending == sorted(ascending)
        assert all(type(value) is int for value in ascending)
    assert type(profile["duration_ns"]) is int
    assert list(profile["resources"]) == [
        *("rss_bytes_before", "rss_bytes_peak", "rss_bytes_per_agent"),
        *("cpu_user_seconds", "cpu_system_seconds"),
    ]
    assert profile["slo"] == [
        {
            "objective": "throughput>=1/s",
            "observed": profile["throughput_per_second"],
            "passed": True,
        }
    ]


@pytest.mark.usefixtures("certain")
def test_json_to_stdout_is_nothing_but_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["load", "low", "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["profiles"][0]["profile"] == "low"
    assert "throughput" in captured.err


@pytest.mark.usefixtures("certain")
def test_quiet_json_to_stdout_shows_nothing_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pmesh, "BUILD_INFO", {"debug": False, "trace": False})
    assert cli.main(["load", "low", "--quiet", "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["schema"] == "pmesh.load/1"
    assert captured.err == ""


@pytest.mark.usefixtures("certain")
def test_a_report_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("x" * 100_000)
    assert cli.main(["load", "low", "--json", str(path)]) == 0
    assert json.loads(path.read_text())["schema"] == "pmesh.load/1"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda folder: folder / "missing" / "report.json", os.strerror(errno.ENOENT)),
        (lambda folder: folder, os.strerror(errno.EISDIR)),
        (lambda folder: Path(__file__) / "report.json", os.strerror(errno.ENOTDIR)),
    ],
)
def test_a_file_that_cannot_be_written_is_named_before_the_run(
    make: Callable[[Path], Path],
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Driver, "run", None)
    path = str(make(tmp_path))
    assert cli.main(["load", "low", "--json", path]) == 2
    assert capsys.readouterr() == ("", f"pmesh: cannot write {path!r}: {why}\n")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_without_permission_is_named_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    path = str(tmp_path / "report.json")
    assert cli.main(["load", "low", "--json", path]) == 2
    assert os.strerror(errno.EACCES) in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.usefixtures("certain")
def test_a_full_disk_gets_one_line_and_74(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["load", "low", "--json", "/dev/full"]) == 74
    captured = capsys.readouterr()
    why = os.strerror(errno.ENOSPC)
    assert captured.err.splitlines()[-1] == f"pmesh: cannot write '/dev/full': {why}"
    assert "All objectives hold" in captured.out


@pytest.mark.parametrize("arguments", [["load", "low"], ["load", "low", "--json", "-", "-q"]])
def test_a_reader_that_has_gone_gets_one_line_and_74(arguments: list[str]) -> None:
    process = start(*arguments)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 74, stderr
    assert stderr.splitlines()[-1].startswith("pmesh: ")
    assert "Traceback" not in stderr
    assert "Exception ignored" not in stderr


def test_the_file_is_written_though_nobody_reads_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    process = start("load", "low", "--json", str(path))
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    process.communicate(timeout=60)
    assert process.returncode == 74
    assert json.loads(path.read_text())["profiles"][0]["counts"]["handled"] == 5_000


# Wrong usage.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["load", "huge"], "'huge' is not one of 'low', 'medium', 'high', 'extreme', 'all'"),
        (["load", "low", "--window", "0"], "0 is not in the range 1<=x<=1000000"),
        (["load", "low", "--window", "2000000"], "is not in the range"),
        (["load", "low", "--window", "many"], "'many' is not a valid integer"),
        (["load", "low", "--loop", "trio"], "'trio' is not one of 'asyncio', 'uvloop', 'auto'"),
        (["load", "low", "--jsn", "-"], "--json"),
        (["laod"], "No such command 'laod'"),
        (["load", "low", "high"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_named_and_exits_2(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in " ".join(captured.err.split())


@pytest.fixture
def no_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)


@pytest.mark.usefixtures("certain", "no_uvloop")
def test_a_missing_uvloop_is_named_with_the_way_to_get_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["load", "low", "--loop", "uvloop"]) == 2
    err = capsys.readouterr().err
    assert "pip install 'pmesh[uvloop]'" in err
    assert len(err.splitlines()) == 1


@pytest.mark.usefixtures("certain", "no_uvloop")
def test_auto_goes_without_a_missing_uvloop(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["load", "low", "--loop", "auto"]) == 0
    assert "asyncio loop" in capsys.readouterr().out


@needs_uvloop
@pytest.mark.usefixtures("certain")
@pytest.mark.parametrize("choice", ["uvloop", "auto"])
def test_uvloop_is_used_and_said_to_be(choice: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["load", "low", "--loop", choice, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["environment"]["event_loop"] == "uvloop"


# What people see.


@pytest.mark.usefixtures("certain")
def test_tables_fit_80_columns_and_have_no_escape_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["load", "low"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80
    for figure in (
        *("total", "success", "throughput", "mean", "p50", "p95", "p99", "max"),
        *("duration", "memory per agent", "CPU"),
    ):
        assert re.search(rf"^{figure} +\S", out, re.MULTILINE), figure
    assert "2,000-3,000/s" in out
    assert "99.55%" in out


@pytest.mark.usefixtures("certain")
def test_all_runs_each_profile_and_ends_with_a_summary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan_module, "find_profile", lambda name: _small(PROFILES[name]))
    assert cli.main(["load", "all", "--json", "-"]) == 0
    captured = capsys.readouterr()
    names = [profile["profile"] for profile in json.loads(captured.out)["profiles"]]
    assert names == ["low", "medium", "high", "extreme"]
    summary = captured.err[captured.err.rindex("profile") :]
    assert re.findall(r"^(\w+) +[\d,]+ ", summary, re.MULTILINE) == names
    assert max(map(len, captured.err.splitlines())) <= 80


def _small(profile: Any) -> Any:
    return dataclasses.replace(profile, messages_per_agent=2, rounds=2)


@pytest.mark.usefixtures("certain")
def test_an_output_without_ticks_gets_words(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["load", "low"]) == 0
    stream.seek(0)
    assert re.search(r"^ok +throughput>=1/s", stream.read(), re.MULTILINE)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    pty = pytest.importorskip("pty")
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        pytest.skip(f"NO TERMINAL CAN BE MADE HERE ({error}): the bar was not tested")
    yield ours, theirs
    os.close(ours)


@pytest.mark.parametrize(("arguments", "shown"), [([], True), (["--quiet"], False)])
def test_a_bar_is_drawn_on_a_terminal_unless_quiet(
    arguments: list[str], shown: bool, terminal: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = terminal
    process = start("load", "low", *arguments, stdout=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            chunk = os.read(ours, 65_536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    process.communicate(timeout=60)
    text = seen.decode()
    assert ("5000" in text.partition("reference")[0]) is shown
    assert "throughput" in text


@pytest.mark.usefixtures("certain")
def test_a_debug_build_is_warned_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(pmesh.BUILD_INFO, "debug", True)
    assert cli.main(["load", "low"]) == 0
    assert "WARNING: this is a debug" in capsys.readouterr().err


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert pmesh.__version__ in capsys.readouterr().out


def test_help_has_examples_that_parse(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["load", "--help"]) == 0
    help_text = capsys.readouterr().out
    examples = re.findall(r"^ +pmesh (load .*)$", help_text, re.MULTILINE)
    assert len(examples) >= 5
    for example in examples:
        command = shlex.split(re.split(r"\s{2,}| \|", example)[0])
        cli.commands.commands[command[0]].make_context(command[0], command[1:])


def test_help_has_the_profiles_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["load", "--help"]) == 0
    rows = re.findall(
        r"^ +(\w+) +([\d,]+) +([\d,]+) +(\d+) +(\d+) +([\d,]+) B$",
        capsys.readouterr().out,
        re.MULTILINE,
    )
    assert [(row[0], *(int(cell.replace(",", "")) for cell in row[1:])) for row in rows] == [
        (p.name, p.agents, p.messages_per_agent, p.rounds, p.concurrency, p.payload_bytes) for p in PROFILES.values()
    ]
    assert tuple(PROFILES) == cli.PROFILE_NAMES
