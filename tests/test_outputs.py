"""Where reports go: one file has one report, and an output that fails costs no other."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from load_samples import ENVIRONMENT, point, report

from pmesh.errors import InvalidArgument
from pmesh.load import outputs as outputs_module
from pmesh.load.outputs import FORMATS, ReportOutputs
from pmesh.load.report import Report
from pmesh.outputs import OutputFailed


def named(name: str) -> Report:
    made = report(series=(point(1),))
    profile = dataclasses.replace(made.profile, name=name)
    return dataclasses.replace(made, plan=dataclasses.replace(made.plan, profile=profile))


def symlink(path: Path, other: Path) -> None:
    other.symlink_to(path)


def hard_link(path: Path, other: Path) -> None:
    path.touch()
    os.link(path, other)


def nothing(path: Path, other: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("name", "make"),
    [("b", symlink), ("b", hard_link), ("./a", nothing), ("a", nothing)],
)
def test_two_outputs_to_one_file_are_refused_by_whatever_names(
    name: str, make: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    make(tmp_path / "a", tmp_path / "b")
    other = f"{tmp_path}/{name}"
    with (
        pytest.raises(InvalidArgument, match=r"^--json and --html would both write '"),
        ReportOutputs({"json": str(tmp_path / "a"), "html": other}),
    ):
        pytest.fail("entered")


def test_a_file_made_for_a_refused_pair_is_removed(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument), ReportOutputs({"json": f"{tmp_path}/a", "html": f"{tmp_path}/./a"}):
        pytest.fail("entered")
    assert list(tmp_path.iterdir()) == []


def test_two_outputs_to_stdout_are_refused() -> None:
    with (
        pytest.raises(InvalidArgument, match=r"^--json and --csv would both write stdout$"),
        ReportOutputs({"json": "-", "html": None, "csv": "-"}),
    ):
        pytest.fail("entered")


def test_the_file_behind_stdout_is_stdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    with path.open("w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with ReportOutputs({"json": str(path)}) as outputs:
            assert outputs.on_stdout, "the tables must go elsewhere"
            outputs.write_each({"json": lambda: "{}\n"})
        with (
            pytest.raises(InvalidArgument, match="--json and --csv would both write stdout"),
            ReportOutputs({"json": "-", "csv": str(path)}),
        ):
            pytest.fail("entered")
    assert path.read_text() == "{}\n"


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="needs /dev/null")
def test_any_number_of_outputs_may_go_to_dev_null() -> None:
    with ReportOutputs({"json": "/dev/null", "csv": "/dev/null"}) as outputs:
        outputs.write_each({"json": lambda: "{}", "csv": lambda: "a"})


def test_a_format_that_fails_costs_no_other_and_all_failures_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> str:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(outputs_module, "FORMATS", FORMATS | {"json": fail, "html": fail})
    paths = {kind: str(tmp_path / kind) for kind in ("json", "markdown", "html", "csv")}
    with (
        pytest.raises(OutputFailed) as caught,
        ReportOutputs(paths) as outputs,
    ):
        outputs.write(ENVIRONMENT, [report()])
    assert str(caught.value) == (
        "the JSON could not be made: ZeroDivisionError: planted; the HTML could not be made: ZeroDivisionError: planted"
    )
    assert isinstance(caught.value.__cause__, ZeroDivisionError), "where it failed is part of the traceback"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["csv", "markdown"]
    assert (tmp_path / "csv").read_text().startswith("profile,")


def test_a_report_whose_making_fails_leaves_what_the_file_held(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_text("before")

    def fail() -> str:
        raise MemoryError

    with pytest.raises(OutputFailed), ReportOutputs({"html": str(path)}) as outputs:
        outputs.write_each({"html": fail})
    assert path.read_text() == "before"


ROOM_BYTES = 100_000


@contextlib.contextmanager
def little_room() -> Iterator[None]:
    """A file of this process may have `ROOM_BYTES`: a disk that is full. What pytest writes to may have more."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("before", ["before", "b" * (ROOM_BYTES - 1), ""])
def test_a_full_disk_leaves_what_the_file_held(before: str, tmp_path: Path) -> None:
    path, made = tmp_path / "report", tmp_path / "made"
    path.write_text(before)
    with (
        pytest.raises(
            OutputFailed, match=f"^cannot write '.*report': {os.strerror(errno.EFBIG)}; cannot write '.*made'"
        ),
        ReportOutputs({"html": str(path), "json": str(made)}) as outputs,
        little_room(),
    ):
        outputs.write_each({"html": lambda: "x" * (ROOM_BYTES + 1), "json": lambda: "x" * (ROOM_BYTES + 1)})
    assert path.read_text() == before
    assert not made.exists(), "half a report"


def reserves_nothing(descriptor: int, offset: int, size: int) -> None:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@pytest.mark.parametrize("reserves", [True, False])
@pytest.mark.parametrize("after", ["", "a", "a" * 10_000, "a" * 30_000])
def test_a_report_takes_the_place_of_one_of_any_length(
    after: str, reserves: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not reserves:
        monkeypatch.setattr(os, "posix_fallocate", reserves_nothing)
    path = tmp_path / "report"
    path.write_text("b" * 20_000)
    with ReportOutputs({"html": str(path)}) as outputs:
        assert path.stat().st_size == 20_000, "opening it is no reason to lose it"
        outputs.write_each({"html": lambda: after})
    assert path.read_text() == after


@pytest.mark.parametrize(
    ("name", "tag"),
    [("low", "low"), ("a, b\n\x1b", "a__b__"), ("shop.billing:Billing", "shop.billing:Billing")],
)
def test_every_profile_has_a_tag_in_the_hlog(name: str, tag: str, tmp_path: Path) -> None:
    path = tmp_path / "report.hlog"
    with ReportOutputs({"hlog": str(path)}) as outputs:
        outputs.write(ENVIRONMENT, [named(name)])
    assert re.findall(r"^Tag=(.*?),", path.read_text(), re.MULTILINE) == [tag]


def test_stdout_gets_utf_8_whatever_the_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    with path.open("w", encoding="ascii") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with ReportOutputs({"html": "-"}) as outputs:
            outputs.write_each({"html": lambda: "µ\n"})
    assert path.read_text("utf-8") == "µ\n"


def test_half_a_surrogate_pair_does_not_cost_the_report(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    with ReportOutputs({"html": str(path)}) as outputs:
        outputs.write_each({"html": lambda: "a\ud800b"})
    assert path.read_text("utf-8") == "a?b"
