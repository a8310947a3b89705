"""Reports as CSV: one row a profile in base units, the JSON's names, and nothing that a spreadsheet would run."""

from __future__ import annotations

import csv
import dataclasses
import io

import load_samples
import pytest

from pmesh.load.rendering import tables
from pmesh.load.report import Drift, Soak


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_each_profile_is_a_row_of_its_figures_in_base_units():
    reports = [load_samples.report("low"), load_samples.report("extreme")]
    low, extreme = read(tables.render(load_samples.ENVIRONMENT, reports))
    assert (low["profile"], extreme["profile"]) == ("low", "extreme")
    assert int(low["latency_ns.p99_9"]) == reports[0].latency_ns.p99_9
    assert float(low["throughput_per_second"]) == 500.0
    assert int(extreme["resources.rss_bytes_peak"]) == 31_000_000
    assert int(extreme["counts.handled"]) == 5_000
    assert low["environment.cpu"] == "Example CPU"
    assert low["environment.build.debug"] == "false"


def test_columns_are_named_as_in_the_json():
    report = load_samples.report(open_loop=True)
    document = report.as_dict()
    (row,) = read(tables.render(load_samples.ENVIRONMENT, [report]))
    for column, cell in row.items():
        outer, _, inner = column.partition(".")
        if outer in ("environment", "slo", "soak"):
            continue
        value = document[outer][inner] if inner else document[outer]
        assert cell in ("" if value is None else str(value), str(value).lower(), "; ".join(document["faults"])), column


def test_closed_and_open_loops_have_the_same_columns():
    closed = tables.render(load_samples.ENVIRONMENT, [load_samples.report()])
    drift = Drift("rss", 1.0, 2.0, -1.0, 3.0, 10, "no growth")
    soaked = load_samples.report(open_loop=True, soak=Soak(10**10, drift, drift))
    opened = tables.render(load_samples.ENVIRONMENT, [soaked])
    assert closed.splitlines()[0] == opened.splitlines()[0]
    assert read(closed)[0]["send_delay_ns.p99"] == ""
    assert int(read(opened)[0]["send_delay_ns.p99"]) == soaked.send_delay_ns.p99
    assert float(read(opened)[0]["soak.rss.low_per_hour"]) == -1.0


def test_missed_objectives_stand_in_the_row():
    (row,) = read(tables.render(load_samples.ENVIRONMENT, [load_samples.report()]))
    assert row["slo.missed"] == "throughput>=5000/s"
    assert int(row["slo.held"]) == 6


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@sum(a1)", "\t=1", "\r=1"])
def test_text_that_a_spreadsheet_would_compute_is_made_text(name):
    report = load_samples.report()
    profile = dataclasses.replace(report.profile, name=name)
    report = dataclasses.replace(report, plan=dataclasses.replace(report.plan, profile=profile))
    (row,) = read(tables.render(load_samples.ENVIRONMENT, [report]))
    assert row["profile"] == f"'{name}"
    assert all(interval["profile"] == f"'{name}" for interval in read(tables.series_csv([report])))


def test_negative_numbers_stay_numbers():
    report = load_samples.report()
    resources = dataclasses.replace(report.resources, rss_bytes_per_agent=-4_096)
    (row,) = read(tables.render(load_samples.ENVIRONMENT, [dataclasses.replace(report, resources=resources)]))
    assert row["resources.rss_bytes_per_agent"] == "-4096"


def test_names_with_commas_quotes_and_line_ends_come_back_whole():
    environment = dataclasses.replace(load_samples.ENVIRONMENT, cpu='a "b", c\nd')
    (row,) = read(tables.render(environment, [load_samples.report()]))
    assert row["environment.cpu"] == 'a "b", c\nd'


def test_the_series_has_a_row_for_each_interval_of_each_report():
    reports = [load_samples.report("low"), load_samples.report("medium", open_loop=True)]
    rows = read(tables.series_csv(reports))
    assert [row["profile"] for row in rows] == ["low"] * 10 + ["medium"] * 10
    assert {row["mode"] for row in rows} == {"closed", "open"}
    assert [int(row["at_ns"]) for row in rows[:10]] == [point.at_ns for point in reports[0].series]
    assert int(rows[3]["latency_p99_ns"]) == reports[0].series[3].latency_p99_ns


def test_without_reports_a_series_is_its_headings():
    assert tables.series_csv([]).startswith("profile,mode,at_ns,")
    assert read(tables.series_csv([])) == []
