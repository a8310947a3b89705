"""The comparison with peers reports what went wrong, judges what must hold, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import os
import signal
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

import pmesh

pytestmark = pytest.mark.tools

PEERS = Path(__file__).parent.parent / "benchmarks" / "peers"
sys.path.insert(0, str(PEERS))
run, measure, results, gates, entries, subjects, plot, render, processes = map(
    importlib.import_module,
    ("run", "measure", "results", "gates", "entries", "subjects", "plot", "render", "processes"),
)

MACHINE = {"date": "2026-11-24", "processor": "some processor"}
VERSIONS = {"pmesh": "0.1.0", "pykka": "4.5.0"}


def comparison(values: dict[tuple[str, str], list[float]], failures: dict[tuple[str, str], str] | None = None) -> Any:
    rounds = {pair: dict(enumerate(found)) for pair, found in values.items()}
    return results.Comparison("python benchmarks/peers/run.py", MACHINE, VERSIONS, rounds, failures or {})


@pytest.fixture
def release_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pmesh, "BUILD_INFO", {**pmesh.BUILD_INFO, "debug": False, "trace": False, "sanitize": ""})


# A peer in a process of its own.

FAKE = """
import os, signal, subprocess, sys, time
from contextlib import contextmanager

@contextmanager
def prepare():
    def work(count):
        {work}
    yield work

WORK = {{"fake": {{"tell": prepare}}}}
"""


@pytest.fixture
def outcome(tmp_path: Path) -> Any:
    """What comes of a peer whose work is the code that is given."""
    fake = dataclasses.replace(entries.ENTRIES["pykka"], key="fake", module="peer_fake")

    def measured(work: str, *, before: str = "", limit_seconds: float = 30.0) -> Any:
        (tmp_path / "peer_fake.py").write_text(before + FAKE.format(work=work))
        return run.measure_in_child(fake, "tell", 0.01, limit_seconds=limit_seconds, folder=tmp_path)

    return measured


def test_a_rate_is_units_over_the_seconds_that_the_work_says(outcome: Any) -> None:
    assert outcome("return count / 4000")["value"] == pytest.approx(4000)


def test_a_peer_that_cannot_be_imported_is_absent(outcome: Any) -> None:
    found = outcome("return 1.0", before="import no_such_library\n")
    assert found["absent"] == "ModuleNotFoundError: No module named 'no_such_library'"


@pytest.mark.parametrize(
    ("work", "failure"),
    [
        ("raise ValueError('wrong\\nand more')", "ValueError: wrong"),
        ("sys.exit('no more')", "SystemExit: no more"),
        ("os._exit(3)", "ended with exit code 3, without a result"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV, without a result"),
    ],
    ids=["raises", "exits", "leaves", "crashes"],
)
def test_a_peer_that_breaks_has_failed_and_says_why(outcome: Any, work: str, failure: str) -> None:
    assert outcome(work)["failed"] == failure


def test_a_peer_that_loses_messages_has_failed(outcome: Any) -> None:
    found = outcome("import subjects; subjects.require_count(count - 1, count)")
    assert found["failed"] == "RuntimeError: 0 messages were handled, and 1 were sent"


# Starts a process of its own session, whose parent is gone at once: what a daemon does.
DAEMON = """
import os, sys, time
read, write = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(write, str(os.getpid()).encode())
        time.sleep(600)
    os._exit(0)
os.wait()
with open(sys.argv[1], "wb") as file:
    file.write(os.read(read, 20))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="DAEMONS ARE FOUND ON LINUX ONLY: nothing was tested")
class TestNothingIsLeft:
    @pytest.fixture
    def pid_file(self, tmp_path: Path) -> Path:
        (tmp_path / "daemon.py").write_text(DAEMON)
        return tmp_path / "pid"

    def start(self, pid_file: Path) -> str:
        return f"subprocess.run([sys.executable, {str(pid_file.with_name('daemon.py'))!r}, {str(pid_file)!r}])"

    def is_left(self, pid_file: Path) -> bool:
        return Path(f"/proc/{int(pid_file.read_text())}").exists()

    def test_of_a_peer_that_is_done(self, outcome: Any, pid_file: Path) -> None:
        assert outcome(f"{self.start(pid_file)}; return 1.0")["value"] == 1.0
        assert not self.is_left(pid_file)

    def test_of_a_peer_that_hangs(self, outcome: Any, pid_file: Path) -> None:
        for limit in (1.0, 4.0, 16.0):  # on a busy machine the daemon may not be there yet
            found = outcome(f"{self.start(pid_file)}; time.sleep(600)", limit_seconds=limit)
            assert found["failed"] == f"timed out after {limit:g} s"
            if pid_file.exists():
                break
        assert not self.is_left(pid_file)

    def test_after_ctrl_c(self, outcome: Any, pid_file: Path) -> None:
        def interrupt() -> None:
            deadline = time.monotonic() + 30
            while not (pid_file.exists() and pid_file.read_text()) and time.monotonic() < deadline:
                time.sleep(0.005)
            os.kill(os.getpid(), signal.SIGINT)

        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                outcome(f"{self.start(pid_file)}; time.sleep(600)")
        finally:
            interrupting.join()
            signal.signal(signal.SIGINT, before)
        assert not self.is_left(pid_file)


# The work that needs no library beside pmesh.


@pytest.mark.parametrize("entry", ["asyncio", "pmesh"])
def test_the_work_is_there_for_every_subject_that_is_said_to_be_done(entry: str) -> None:
    work = importlib.import_module(entries.ENTRIES[entry].module).WORK[entry]
    assert set(work) == {subject for subject in subjects.SUBJECTS if results.applicable(entry, subject)}


@pytest.mark.parametrize("subject", [key for key in subjects.SUBJECTS if key != "memory"])
@pytest.mark.parametrize("entry", ["asyncio", "pmesh"])
def test_the_work_is_done(entry: str, subject: str) -> None:
    prepare = importlib.import_module(entries.ENTRIES[entry].module).WORK[entry][subject]
    found = asyncio.run(measure.measure(prepare, subjects.SUBJECTS[subject], 0.001, 20))
    assert found.units % subjects.SUBJECTS[subject].step == 0
    assert found.value == pytest.approx(found.units / found.seconds)


@pytest.mark.skipif(sys.platform != "linux", reason="NEEDS /proc: memory was not measured")
def test_an_idle_agent_takes_memory() -> None:
    found = run.measure_in_child(entries.ENTRIES["pmesh"], "memory", 0.01)
    assert 100 < found["value"] < 100_000, found


# The rounds.


def compared(pairs: list[tuple[str, str]], rounds: int, found: Any) -> tuple[Any, list[tuple[str, str]]]:
    measured: list[tuple[str, str]] = []

    def measure_one(entry: Any, subject: str, seconds: float) -> Any:
        measured.append((entry.key, subject))
        return found(entry.key, subject)

    result = comparison({})
    run.compare(result, pairs, rounds, 0.01, measure_one, lambda text: None)
    return result, measured


def test_peers_take_turns_in_both_orders() -> None:
    pairs = [("pmesh", "tell"), ("asyncio", "tell"), ("pykka", "tell")]
    result, measured = compared(pairs, 4, lambda entry, subject: {"value": 2.0})
    orders = ["".join(entry[1] for entry, _ in measured[start : start + 3]) for start in (0, 3, 6, 9)]
    assert orders == ["msy", "ysm", "sym", "mys"]
    assert {pair: len(values) for pair, values in result.values.items()} == dict.fromkeys(pairs, 4)


def test_a_failure_is_final() -> None:
    answers = iter([{"value": 1.0}, {"failed": "broke"}])
    result, measured = compared([("pykka", "tell")], 5, lambda entry, subject: next(answers))
    assert len(measured) == 2
    assert result.failures == {("pykka", "tell"): "broke"}
    assert result.median("pykka", "tell") is None


def test_an_absent_peer_is_asked_for_once_and_named_at_each_subject() -> None:
    pairs = [("pykka", "tell"), ("pykka", "ask"), ("pykka", "ring")]
    result, measured = compared(pairs, 2, lambda entry, subject: {"absent": "ImportError: none"})
    assert len(measured) == 1
    assert result.failures == dict.fromkeys(pairs, "absent: ImportError: none")


def test_a_part_has_pmesh_at_its_subjects() -> None:
    assert run.choose(["janus/ask"]) == [("pmesh", "ask"), ("janus", "ask")]
    # Its handlers are plain functions, and so are those of what it stands beside.
    assert run.choose(["pykka/ask"]) == [("pmesh-plain", "ask"), ("pykka", "ask")]
    assert {entry for entry, _ in run.choose(["/threads"])} == {"pmesh", "pmesh-plain", "asyncio", "janus", "culsans"}
    with pytest.raises(ValueError, match=r"'pika/tell' names nothing.*pykka"):
        run.choose(["pika/tell"])


# What came of it.


def test_a_ratio_is_of_the_rounds_that_have_both() -> None:
    found = comparison({("pmesh", "tell"): [10.0, 20.0, 60.0, 99.0], ("janus", "tell"): [5.0, 5.0, 10.0]})
    assert found.ratio("janus", "tell") == results.Ratio(4.0, 2.0, 6.0, 3)
    assert found.ratio("pykka", "tell") is None


def test_less_memory_is_better() -> None:
    found = comparison({("pmesh-plain", "memory"): [800.0], ("pykka", "memory"): [20_000.0]})
    assert found.ratio("pykka", "memory").median == 25.0


def test_json_keeps_all_of_it() -> None:
    found = comparison({("pmesh", "tell"): [10.0, 20.0], ("pykka", "tell"): [5.0]}, {("ray", "ring"): "timed out"})
    assert results.Comparison.from_document(found.as_document()) == found


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [(8.0, 1.0, "ok"), (7.99, 1.0, "MISSED"), (100.0, 1.0, "ok")],
)
def test_a_gate_holds_from_its_bound_on(ours: float, theirs: float, verdict: str) -> None:
    [judged] = gates.judge(comparison({("pmesh-plain", "tell"): [ours], ("pykka", "tell"): [theirs]}))
    assert judged.verdict == verdict
    assert f"{ours:.2f} x" in str(judged)
    assert "allowed: >= 8" in str(judged)


def test_ahead_means_more_than_level() -> None:
    [judged] = gates.judge(comparison({("pmesh", "tell"): [5.0], ("asyncio", "tell"): [5.0]}))
    assert judged.verdict == "MISSED"
    [judged] = gates.judge(comparison({("pmesh", "threads"): [5.0], ("culsans", "threads"): [5.0]}))
    assert judged.verdict == "ok"


def test_who_failed_decides_what_becomes_of_a_gate() -> None:
    ours, theirs = ("pmesh-plain", "tell"), ("pykka", "tell")
    [judged] = gates.judge(comparison({ours: [9.0]}, {theirs: "absent: ImportError"}))
    assert (judged.verdict, judged.observed) == ("NOT JUDGED", "Pykka: absent: ImportError")
    [judged] = gates.judge(comparison({theirs: [1.0]}, {ours: "ValueError: broke"}))
    assert (judged.verdict, judged.observed) == ("MISSED", "pmesh, plain handlers: ValueError: broke")


def test_every_peer_has_a_gate_at_ask() -> None:
    judged = {gate.entry for gate in gates.GATES if gate.subject == "ask"}
    assert judged == set(entries.ENTRIES) - results.OURS


SAMPLE = comparison(
    {
        ("pmesh", "tell"): [900_000.0, 1_000_000.0, 1_100_000.0],
        ("pmesh-plain", "tell"): [900_000.0, 1_000_000.0, 1_100_000.0],
        ("asyncio", "tell"): [500_000.0] * 3,
        ("pykka", "tell"): [2_000_000.0] * 3,
        ("pmesh", "threads"): [5.0],
    },
    {("ray", "tell"): "timed out after 60 s", ("ray", "ask"): "timed out after 60 s"},
)


def test_the_page_shows_medians_failures_and_what_cannot_be_done() -> None:
    page = render.render(SAMPLE, gates.judge(SAMPLE), {"messages": "some-messages.svg"})
    rows = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1:] for line in page.splitlines() if "|" in line}
    assert rows["pmesh"][0] == "1,000 k"
    assert rows["Ray"] == ["**failed**", "**failed**", "n/a |"]
    assert "| Pykka | 0.50 x<br>0.45–0.55 | not measured | n/a |" in page  # noqa: RUF001
    assert "- Ray (tell to handled; ask, one at a time): timed out after 60 s" in page
    assert "| tell to handled, Pykka | at least 8 x | 0.50 x; 3 rounds, 0.45 to 0.55 | MISSED |" in page
    assert "![How many times as good pmesh is: messages](some-messages.svg)" in page
    assert "some processor" in page
    assert "## What this does not show" in page


def test_the_plot_is_xml_that_names_and_places_every_peer() -> None:
    root = ElementTree.fromstring(plot.draw(SAMPLE)["messages"])
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"asyncio.Queue", "Pykka", "Ray", "2.00 x", "0.50 x", "failed"} <= set(texts)
    [behind, ahead] = sorted(root.iter("{http://www.w3.org/2000/svg}circle"), key=lambda dot: float(dot.get("cx")))
    assert (behind.get("class"), ahead.get("class")) == ("behind", "ahead")
    assert "agents" not in plot.draw(SAMPLE)


# The command.


@pytest.fixture
def command(tmp_path: Path, release_build: None) -> Any:
    """Runs the command with rates that are given instead of measured: code, page and JSON, None where not written."""

    def call(found: Any, *arguments: str) -> Any:
        page, data = tmp_path / "page.md", tmp_path / "data.json"
        before = signal.getsignal(signal.SIGTERM)
        try:
            code = run.main(
                [*arguments, "--output", str(page), "--json", str(data)],
                lambda entry, subject, seconds: found(entry.key, subject),
            )
        finally:
            signal.signal(signal.SIGTERM, before)
        return code, *(path.read_text() if path.exists() else None for path in (page, data))

    return call


def rates(pykka: float) -> Any:
    return lambda entry, subject: {"value": {"pmesh-plain": 100.0, "pykka": pykka}[entry]}


@pytest.mark.parametrize(("pykka", "code"), [(10.0, 0), (50.0, 1)])
def test_the_command_fails_when_a_ratio_is_missed(
    command: Any, capsys: pytest.CaptureFixture[str], pykka: float, code: int
) -> None:
    found, page, data = command(rates(pykka), "--only", "pykka/tell", "--rounds", "2")
    assert found == code
    assert "Pykka" in page
    assert '"rounds"' in data
    assert f"1 ratios, {code} missed, 0 not judged" in capsys.readouterr().out


def test_the_command_fails_when_pmesh_does(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, page, _ = command(
        lambda entry, subject: {"failed": "broke"} if entry == "pmesh" else {"value": 1.0}, "--only", "janus/ring"
    )
    assert code == 1
    assert "- pmesh (ring of 100): broke" in page
    assert "FAILED     pmesh, ring of 100: broke" in capsys.readouterr().out


def test_a_peer_that_fails_is_no_failure_of_the_command(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code, page, _ = command(
        lambda entry, subject: {"value": 1.0} if entry in results.OURS else {"failed": "broke"}, "--only", "pykka/tell"
    )
    assert code == 0
    assert "- Pykka (tell to handled): broke" in page
    assert "1 ratios, 0 missed, 1 not judged" in capsys.readouterr().out


def test_an_interrupted_command_writes_nothing(command: Any, tmp_path: Path) -> None:
    def interrupted(entry: str, subject: str) -> Any:
        if subject == "ask":
            raise KeyboardInterrupt
        return {"value": 1.0}

    assert command(interrupted) == (130, None, None)
    assert list(tmp_path.iterdir()) == []


def test_documents_can_be_written_again_from_the_json(command: Any, tmp_path: Path) -> None:
    _, page, data = command(rates(10.0), "--only", "pykka/tell")
    (tmp_path / "kept.json").write_text(data)
    code, again, _ = command(None, "--from-json", str(tmp_path / "kept.json"))
    assert (code, again) == (0, page)


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    kept = tmp_path / "page.md"
    kept.write_text("before")
    with pytest.raises(FileNotFoundError):
        run.write_whole({kept: "after", tmp_path / "no folder" / "plot.svg": "after"})
    assert kept.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]


@pytest.mark.usefixtures("release_build")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rounds", "0"], "--rounds must be at least 1, not 0"),
        (["--only", "nobody"], "--only 'nobody' names nothing that is measured"),
        (["--only", "pykka/threads"], "--only 'pykka/threads' names nothing that is measured"),
        (["--json", "no-such-folder/peers.json"], "there is no folder no-such-folder for peers.json"),
    ],
)
def test_a_wrong_option_is_refused(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        run.parse(arguments)
    assert error.value.code == 2
    assert says in capsys.readouterr().err


def test_a_debug_build_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pmesh, "BUILD_INFO", {**pmesh.BUILD_INFO, "debug": True})
    with pytest.raises(SystemExit):
        run.parse([])
    assert "a debug build" in capsys.readouterr().err


@pytest.mark.usefixtures("release_build")
def test_a_part_does_not_replace_the_page() -> None:
    assert run.parse(["--only", "pykka"]).output is None
    assert run.parse(["--quick"]).output is None
    assert run.parse([]).output == PEERS.parents[1] / "docs" / "benchmarks.md"
