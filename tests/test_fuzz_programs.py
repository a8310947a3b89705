"""The program that starts the fuzzers says what was found, and where it could not fuzz at all."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FUZZ = Path(__file__).parent / "fuzz"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_run", FUZZ / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fuzz_run", module)
    spec.loader.exec_module(module)
    return module


def call(program: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    code: int = program.main()
    return code


def test_every_program_is_a_target(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(program, monkeypatch, "--list") == 0
    listed = capsys.readouterr().out.split()
    assert listed == ["histograms", "hlog", "objectives", "report_files", "reports"]
    for name in listed:
        assert "harness.fuzz(check" in (FUZZ / f"{name}.py").read_text(encoding="utf-8")


def test_without_atheris_nothing_was_fuzzed_and_that_is_no_success(
    program: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert call(program, monkeypatch, "objectives", "5") == 2
    told = capsys.readouterr().out
    assert told.startswith("NOTHING WAS FUZZED: there is no atheris for this interpreter (cpython 3.")
    assert "CPython 3.11 to 3.14" in told


LOG = """\
INFO: seed corpus: files: 6 min: 33b max: 77b total: 300b rss: 56Mb
#7\tINITED cov: 44 ft: 44 corp: 5/260b exec/s: 0 rss: 56Mb
#26090\tREDUCE cov: 100 ft: 260 corp: 72/3100b lim: 176 exec/s: 1534 rss: 57Mb L: 26/77 MS: 1 EraseBytes-
Done 91201 runs in 61 second(s)
stat::number_of_executed_units: 91201
stat::peak_rss_mb:              57
"""


def test_figures_are_those_that_libfuzzer_ends_with(program: ModuleType) -> None:
    assert program.figures_in(LOG) == program.Figures(91_201, 100, 72, 57)


def test_of_a_run_that_was_killed_the_last_line_counts(program: ModuleType) -> None:
    assert program.figures_in(LOG[: LOG.index("Done")]) == program.Figures(26_090, 100, 72, 0)
