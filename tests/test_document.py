"""A load report's JSON: it follows the schema that ships, reads back whole, and what is wrong with it is named."""

from __future__ import annotations

import copy
import dataclasses
import importlib.resources
import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import fuzz_checks
import fuzz_edits
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from load_samples import ENVIRONMENT, point, recorder, report

from pmesh import LatencyRecorder, Overflow
from pmesh.environment import Environment
from pmesh.errors import InvalidArgument, InvalidType
from pmesh.load.document import Document, read_document
from pmesh.load.profiles import Profile, Reference
from pmesh.load.report import (
    AgentRow,
    Counts,
    Drift,
    Injected,
    Plan,
    Point,
    Report,
    Search,
    Soak,
    Spread,
    Step,
    as_document,
)
from pmesh.load.resources import Resources
from pmesh.load.schema import load_schema, schema_problem

SCHEMA = json.loads((importlib.resources.files("pmesh.load") / "report.schema.json").read_text(encoding="utf-8"))


def search() -> Search:
    steps = (
        Step(1_000.0, 999.5, 1.0, 60_000, 900_000, 1_000_000, 900_000.0, True),
        Step(2_000.0, 1_700.0, 0.85, 90_000, 9_000_000, 20_000_000, None, False),
    )
    return Search("low", "p99<5ms", steps, 1_000.0, 2_000.0)


def soak() -> Soak:
    return Soak(
        600_000_000_000,
        Drift("p99", 190_000.0, -12.5, -40.0, 15.0, 600, "no growth"),
        Drift("rss", 30e6, 4e6, 3e6, 5e6, 600, "growth"),
    )


def failing_open_loop() -> Report:
    """An open loop with everything that can be asked for."""
    plain = report("medium", open_loop=True)
    plan = dataclasses.replace(
        plain.plan,
        arrival="poisson",
        duration_seconds=10.0,
        warmup_seconds=1.5,
        capacity=77,
        overflow="drop_oldest",
        agent="shop.agents:Till",
        payload="shop.payloads:order",
        fail_rate=0.005,
        slow_agents=1,
        slow_ns=50_000_000,
        stop_every_seconds=1.0,
        per_agent=True,
        seed=7,
    )
    return dataclasses.replace(
        plain,
        plan=plan,
        counts=Counts(5_000, 4_990, 10, 4_960, 20, 1, 2, 10, -3),
        unsent=12,
        injected=Injected(20, 200, 9),
        agents=(AgentRow("load-1", Counts(5, 5, 0, 5, 0, 0, 0, 0, 0), 1, 2, 3),),
        faults=("counted 9 handled, the agents 10",),
        interrupted=True,
        aborted="p99<5ms: observed 6.21 ms",
    )


def samples() -> dict[str, Document]:
    empty = Spread(0, 0, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0)
    idle = report(counts=Counts(0, 0, 0, 0, 0, 0, 0, 0, 0), duration_ns=0, recorders={}, series=(), latency_ns=empty)
    own = dataclasses.replace(report(), plan=Plan(Profile("own", 1, 1, 1, 1, 0), window=1))
    return {
        "closed": Document(ENVIRONMENT, (report(),)),
        "open": Document(ENVIRONMENT, (report("low", open_loop=True), failing_open_loop())),
        "soak": Document(ENVIRONMENT, (report(soak=soak()),)),
        "search": Document(ENVIRONMENT, (), (search(), dataclasses.replace(search(), highest_rate_per_second=None))),
        "idle": Document(ENVIRONMENT, (idle, own)),
    }


SAMPLES = {
    name: as_document(document.environment, document.reports, document.searches) for name, document in samples().items()
}


@pytest.fixture(params=SAMPLES)
def content(request: pytest.FixtureRequest) -> dict[str, Any]:
    return copy.deepcopy(SAMPLES[request.param])


@pytest.fixture
def closed() -> dict[str, Any]:
    return copy.deepcopy(SAMPLES["closed"])


def write(path: pathlib.Path, text: str | bytes) -> pathlib.Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# There and back.


def test_what_was_written_reads_back_the_same(content: dict[str, Any], tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "report.json", json.dumps(content, indent=2, allow_nan=False))
    for source in (content, path, str(path)):
        document = read_document(source)
        assert as_document(document.environment, document.reports, document.searches) == content


@pytest.mark.parametrize("name", SAMPLES)
def test_reports_read_back_equal_to_those_written(name: str) -> None:
    written, read = samples()[name], read_document(copy.deepcopy(SAMPLES[name]))
    assert read.environment == written.environment
    assert read.searches == written.searches
    for ours, theirs in zip(written.reports, read.reports, strict=True):
        for field in dataclasses.fields(Report):
            if field.name not in ("recorders", "series"):  # recorders are not compared by value
                assert getattr(theirs, field.name) == getattr(ours, field.name)
        assert len(theirs.series) == len(ours.series)


def test_histograms_read_back_with_every_percentile() -> None:
    [read] = read_document(copy.deepcopy(SAMPLES["closed"])).reports
    assert set(read.recorders) == {"latency", "response", "queue", "service"}
    for name, decoded in read.recorders.items():
        assert Spread.of(decoded) == getattr(read, f"{name}_ns")
    assert Spread.of(read.series[3].recorder) == Spread.of(point(4).recorder)


def test_a_byte_order_mark_is_no_part_of_the_json(closed: dict[str, Any], tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "report.json", b"\xef\xbb\xbf" + json.dumps(closed).encode())
    assert len(read_document(path).reports) == 1


# The schema.


def test_every_document_follows_the_schema(content: dict[str, Any]) -> None:
    parsed = json.loads(json.dumps(content))
    assert [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(parsed)] == []
    assert schema_problem(parsed) is None


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


PROFILE_FIELDS = {field.name for field in dataclasses.fields(Profile)} - {"name"} | {"profile"}
PLAN_FIELDS = {field.name for field in dataclasses.fields(Plan)} - {"profile"}
RENAMED = {"plan", "recorders", "agents", "environment"}
REPORT_FIELDS = {field.name for field in dataclasses.fields(Report)} - RENAMED
DERIVED = {"mode", "success_rate", "throughput_per_second", "histograms", "per_agent_accounts"}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        *(
            (name, {field.name for field in dataclasses.fields(kind)})
            for name, kind in {
                "environment": Environment,
                "reference": Reference,
                "counts": Counts,
                "spread": Spread,
                "injected": Injected,
                "resources": Resources,
                "agent": AgentRow,
                "drift": Drift,
                "soak": Soak,
                "step": Step,
                "search": Search,
            }.items()
        ),
        ("point", {field.name for field in dataclasses.fields(Point)} - {"recorder"} | {"histogram"}),
        ("verdict", {"objective", "observed", "passed"}),
        ("profile", PROFILE_FIELDS | PLAN_FIELDS | REPORT_FIELDS | DERIVED),
    ],
)
def test_the_schema_has_the_fields_of_the_data_model_and_no_others(name: str, fields: set[str]) -> None:
    definition = SCHEMA["$defs"][name]
    assert set(definition["properties"]) == fields
    assert set(definition["required"]) == fields


def test_the_schema_names_the_overflow_policies_there_are() -> None:
    named = SCHEMA["$defs"]["profile"]["properties"]["overflow"]["enum"]
    assert named == [policy.name.lower() for policy in Overflow]


def objects(schema: dict[str, Any], path: str = "document") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of an object within `schema`, with where it is."""
    if schema.get("type") == "object":
        yield path, schema
    for key, value in schema.items():
        if isinstance(value, dict):
            yield from objects(value, f"{path}.{key}")


OBJECTS = dict(objects(SCHEMA))


@pytest.mark.parametrize("path", OBJECTS)
def test_every_field_is_described_and_every_number_has_a_unit(path: str) -> None:
    schema = OBJECTS[path]
    assert schema["description"]
    # The flags of a build are an open set; nothing else is.
    assert schema["additionalProperties"] is False or path.endswith(".build")
    for name, field in schema["properties"].items():
        assert field["description"], name
        if {"integer", "number"} & set(
            [field["type"]] if isinstance(field.get("type"), str) else field.get("type", ())
        ):
            assert re.search(r"; unit: \w", field["description"]) or name == "seed", name


def test_the_schema_uses_only_what_the_reader_knows() -> None:
    known = {"$ref", "anyOf", "const", "enum", "type", "required", "properties", "additionalProperties", "items"}
    known |= {"minimum", "maximum", "minLength", "description"}

    def keywords(schema: dict[str, Any]) -> Iterator[str]:
        yield from schema
        for name in ("items", "additionalProperties"):
            if isinstance(schema.get(name), dict):
                yield from keywords(schema[name])
        for choice in schema.get("anyOf", ()):
            yield from keywords(choice)
        for field in schema.get("properties", {}).values():
            yield from keywords(field)

    used = {keyword for definition in SCHEMA["$defs"].values() for keyword in keywords(definition)}
    assert used | set(keywords(SCHEMA)) - {"$schema", "$id", "$defs", "title"} <= known
    for definition in (SCHEMA, *SCHEMA["$defs"].values()):
        for field in definition["properties"].values():
            if "anyOf" in field:
                assert field["anyOf"][1:] == [{"type": "null"}]


def test_the_schema_is_read_from_the_installed_package() -> None:
    assert load_schema() == SCHEMA


# What is refused, in one line.


def refusal(source: Any) -> str:
    with pytest.raises(InvalidArgument) as caught:
        read_document(source)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty; it must hold what `pmesh load --json` wrote"),
        (" \n", "is empty"),
        ("profile,p99\nlow,5\n", "is not JSON: line 1, column 1: Expecting value"),
        ('{"schema": "pmesh.load/1",\n "profiles" []}', "is not JSON: line 2, column 13: Expecting ':' delimiter"),
        ('{"schema": NaN}', "is not JSON: NaN is not a number in JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"schema": ' + "9" * 5_000 + "}", "is not JSON: Exceeds the limit"),
        (b'{"schema": "\xff"}', "is not JSON: byte 12 is not UTF-8"),
        ("[1]", "is no load report: it is an array, and not an object"),
        ("null", "is no load report: it is null"),
        ("{}", "is no load report: it has no `schema`, which would be 'pmesh.load/1'"),
        ('{"schema": 1}', "is no load report: its schema is 1, and not 'pmesh.load/1'"),
        ('{"schema": "k6/1"}', "is no load report: its schema is \"k6/1\", and not 'pmesh.load/1'"),
        ('{"schema": "pmesh.load/2"}', "has the schema 'pmesh.load/2'; this pmesh reads up to 'pmesh.load/1': upgrade"),
        ('{"schema": "pmesh.load/0"}', "there never was such a schema"),
        ('{"schema": "pmesh.load/1"}', "environment is missing"),
    ],
)
def test_a_file_that_is_no_report_is_refused_in_one_line(text: str | bytes, told: str, tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "report.json", text)
    message = refusal(path)
    assert repr(str(path)) in message
    assert told in message


def test_a_file_that_cannot_be_read_is_named(tmp_path: pathlib.Path) -> None:
    assert refusal(tmp_path / "none.json") == f"cannot read {str(tmp_path / 'none.json')!r}: No such file or directory"
    assert refusal(str(tmp_path)) == f"cannot read {str(tmp_path)!r}: Is a directory"
    assert "null" in refusal("a\0b")


def test_a_file_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmesh.load.document.MOST_CHARACTERS", 1_000)
    assert refusal("/dev/zero") == "'/dev/zero' is no load report: it is longer than 1,000 characters"


@pytest.mark.parametrize("source", [None, 5, b"report.json", [1]])
def test_a_source_that_is_neither_path_nor_dict_is_named(source: Any) -> None:
    with pytest.raises(InvalidType, match=f"source is the {type(source).__name__} "):
        read_document(source)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_truncated_file_is_called_that(tmp_path: pathlib.Path, data: st.DataObject) -> None:
    text = json.dumps(SAMPLES["search"], indent=2)
    cut = data.draw(st.integers(1, len(text) - 1))
    message = refusal(write(tmp_path / "report.json", text[:cut]))
    assert "is truncated" in message
    assert re.search(r"line \d+, column \d+", message)


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of the document: the value at `path`, whose parts are separated by spaces."""

    def apply(document: Any) -> None:
        *way, last = (int(part) if part.isdigit() else part for part in path.split(" "))
        for key in way:
            document = document[key]
        document[last] = value

    return apply


def remove(path: str) -> Callable[[dict[str, Any]], None]:
    def apply(document: Any) -> None:
        *way, last = (int(part) if part.isdigit() else part for part in path.split(" "))
        for key in way:
            document = document[key]
        del document[last]

    return apply


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (remove("profiles 0 counts sent"), "profiles[0].counts.sent is missing"),
        (change("profiles 0 counts sent", "5"), 'profiles[0].counts.sent is "5"; it must be an integer'),
        (change("profiles 0 counts sent", 5.0), "profiles[0].counts.sent is 5.0; it must be an integer"),
        (change("profiles 0 counts sent", True), "profiles[0].counts.sent is true; it must be an integer"),
        (change("profiles 0 counts sent", None), "profiles[0].counts.sent is null; it must be an integer"),
        (change("profiles 0 counts sent", -1), "profiles[0].counts.sent is -1; it must be at least 0"),
        (change("profiles 0 counts sent", 10**5_000), "profiles[0].counts.sent is a very large integer; it must be at"),
        (change("profiles 0 counts", []), "profiles[0].counts is an array; it must be an object"),
        (change("profiles", {}), "profiles is an object; it must be an array"),
        (change("profiles 0", 5), "profiles[0] is 5; it must be an object"),
        (change("profiles 0 sended", 5), "profiles[0].sended is no field of pmesh.load/1"),
        (change("profiles 0 a\nb", 5), 'profiles[0]["a\\nb"] is no field of pmesh.load/1'),
        (change("profiles 0 agents", 0), "profiles[0].agents is 0; it must be at least 1"),
        (change("profiles 0 rate_per_second", 0), "profiles[0].rate_per_second is 0; it must be at least 1e-30"),
        (change("profiles 0 fail_rate", 1.5), "profiles[0].fail_rate is 1.5; it must be at most 1"),
        (change("profiles 0 latency_ns mean", float("nan")), "profiles[0].latency_ns.mean is NaN; it must be at least"),
        (change("profiles 0 latency_ns mean", float("inf")), "profiles[0].latency_ns.mean is Infinity; it must be at"),
        (
            change("profiles 0 arrival", "bursts"),
            'profiles[0].arrival is "bursts"; it must be one of "constant", "pois',
        ),
        (change("profiles 0 profile", "\ud800"), 'profiles[0].profile is "\\ud800", which holds half of a surrogate'),
        (change("profiles 0 profile", ""), 'profiles[0].profile is ""; it must be at least 1 long'),
        (change("profiles 0 duration_seconds", "x"), 'duration_seconds is "x"; it must be a number or null'),
        (change("environment gil", 1), "environment.gil is 1; it must be true or false"),
        (
            change("environment started_at", "yesterday"),
            'environment.started_at is "yesterday"; it must be a date and a time with its offset from UTC, such as ',
        ),
        (change("environment started_at", "2026-11-23T12:00:00"), "it must be a date and a time with its offset"),
        (change("environment started_at", "2026-11-23"), "it must be a date and a time with its offset from UTC"),
        (
            change("profiles 0 series 3 interval_ns", 5_000_000_000),
            "profiles[0].series[3].interval_ns is 5000000000, and it ended at 4000000000: before the run it",
        ),
        (change("profiles 0 slo 1 objective", "p" * 5_000), "slo[1].objective is none: objective 'pppp"),
        (change("profiles 0 " + "p" * 5_000, 1), 'ppp..."] is no field of pmesh.load/1'),
        (change("environment build", {"x y": []}), 'environment.build["x y"] is an array; it must be true or false'),
        (change("profiles 0 series 3 sent", None), "profiles[0].series[3].sent is null"),
        (change("profiles 0 series 3 histogram", "HIST"), "profiles[0].series[3].histogram is no histogram: "),
        (change("profiles 0 histograms queue", "???"), "profiles[0].histograms.queue is no histogram: "),
        (change("profiles 0 slo 1 objective", "p98<1ms"), "slo[1].objective is none: objective 'p98<1ms', column 1"),
        (change("profiles 0 slo 1 passed", False), "slo[1].passed is false; what was observed makes it true"),
        (change("profiles 0 mode", "open"), "profiles[0].mode is 'open'; its rate_per_second makes it 'closed'"),
        (change("profiles 0 success_rate", 0.5), "success_rate is 0.5; the counts and the duration make it 1.0"),
        (change("profiles 0 duration_ns", 10**9), "throughput_per_second is 500.0; the counts and the duration make"),
        (change("profiles 0 latency_ns count", 4_999), "profiles[0].latency_ns.count is 4999; the histogram of that"),
        (
            change("profiles 0 latency_ns p99", 1),
            "profiles[0].latency_ns.p99 is 1; the histogram of that name makes it",
        ),
        (change("profiles 0 counts sent", 5_001), "counts.sent is 5001; accepted and rejected make it 5000, and no"),
        (
            change("profiles 0 counts dead", 5),
            "profiles[0].counts.accepted is 5000; handled, failed, expired, dropped, dead and pending make it 5005",
        ),
        (
            change("profiles 0 histograms send_delay", recorder(1).encode()),
            "profiles[0].send_delay_ns is null; the histogram of that name holds 5000",
        ),
        (
            change("profiles 0 series 3 latency_count", 1),
            "profiles[0].series[3].latency_count is 1; the histogram beside it",
        ),
        (
            change("profiles 0 series 3 latency_p99_ns", 1),
            "series[3].latency_p99_ns is 1; the histogram beside it makes",
        ),
        (change("find_max", [{"profile": "low"}]), "find_max[0].objective is missing"),
    ],
)
def test_what_is_wrong_in_a_report_is_named_by_its_place(
    edit: Callable[[dict[str, Any]], None], told: str, closed: dict[str, Any]
) -> None:
    edit(closed)
    message = refusal(closed)
    assert message.startswith("the document: ")
    assert told in message
    assert len(message) < 500


def test_a_search_without_a_name_of_its_profile_is_refused() -> None:
    document = copy.deepcopy(SAMPLES["search"])
    document["find_max"][0]["profile"] = ""
    assert refusal(document) == 'the document: find_max[0].profile is ""; it must be at least 1 long'


@pytest.mark.parametrize("series", ["latency", "response", "queue", "service", "send_delay"])
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Spread)])
def test_each_field_of_a_spread_must_be_that_of_its_histogram(series: str, field: str) -> None:
    document = copy.deepcopy(SAMPLES["open"])
    spread = document["profiles"][1][f"{series}_ns"]
    spread[field] += 1
    assert re.fullmatch(
        rf"the document: profiles\[1\]\.{series}_ns\.{field} is \S+; the histogram of that name makes it \S+",
        refusal(document),
    )


@pytest.mark.parametrize("field", ["latency_count", "latency_p50_ns", "latency_p99_ns", "latency_max_ns"])
def test_each_percentile_of_an_interval_must_be_that_of_its_histogram(field: str, closed: dict[str, Any]) -> None:
    closed["profiles"][0]["series"][7][field] += 1
    assert f"profiles[0].series[7].{field} is " in refusal(closed)


def test_a_mean_that_was_summed_up_in_another_order_is_no_contradiction(closed: dict[str, Any]) -> None:
    for name in ("mean", "stddev"):
        closed["profiles"][0]["latency_ns"][name] *= 1 + 1e-9
    assert len(read_document(closed).reports) == 1


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Counts)])
def test_each_count_must_balance_unless_a_fault_says_that_it_does_not(field: str, closed: dict[str, Any]) -> None:
    part = closed["profiles"][0]
    part["counts"][field] += 1
    counts = Counts(**part["counts"])
    part["success_rate"] = counts.handled / counts.sent
    part["throughput_per_second"] = counts.handled * 1e9 / part["duration_ns"]
    assert re.search(r"profiles\[0\]\.counts\.\w+ is 500\d; .* make it 500\d, and no fault is listed$", refusal(closed))
    part["faults"] = ["accepted 5000 is not handled 5000 + failed 1"]
    assert read_document(closed).reports[0].counts == counts


def test_a_report_with_faults_must_still_agree_with_its_histograms(closed: dict[str, Any]) -> None:
    closed["profiles"][0]["faults"] = ["one is lost"]
    closed["profiles"][0]["queue_ns"]["max"] += 1
    assert "profiles[0].queue_ns.max is " in refusal(closed)


@given(st.lists(st.integers(0, 70_000_000_000), max_size=20))
@settings(deadline=None)
def test_spreads_of_any_times_read_back(times_ns: list[int]) -> None:
    made = LatencyRecorder()
    for time_ns in times_ns:
        made.record(time_ns)
    written = report(latency_ns=Spread.of(made), recorders={"latency": made}, series=())
    [read] = read_document(json.loads(json.dumps(as_document(ENVIRONMENT, [written])))).reports
    assert read.latency_ns == written.latency_ns


def test_what_only_python_can_hold_is_refused_too(closed: dict[str, Any]) -> None:
    assert "profiles[0].counts is a Python object" in refusal(
        {**closed, "profiles": [{**closed["profiles"][0], "counts": object()}]}
    )
    assert "has the key null; keys must be strings" in refusal({**closed, None: 1})
    assert "has half of a surrogate pair in its name" in refusal({**closed, "\ud800": 1})


# Mutations.


# One row of each kind will do, or most mutations would be of the series and the agents.
SMALL = {
    name: {
        **content,
        "profiles": [
            {**part, "series": part["series"][:1], "per_agent_accounts": part["per_agent_accounts"][:1]}
            for part in content["profiles"]
        ],
    }
    for name, content in SAMPLES.items()
}
PLACES = {name: [way for way in fuzz_edits.places(content) if way] for name, content in SMALL.items()}

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(10**400), max_value=10**400),
    st.floats(),
    st.text(),
    st.sampled_from(["open", "closed", "p99<5ms", "p99", "poisson", "growth", "HISTFAAA", "stop", "\ud800"]),
    st.just({}),
    st.just([]),
    st.dictionaries(st.text(), st.integers(), max_size=2),
    st.lists(st.integers(), max_size=2),
)


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from(sorted(SMALL)))
    document: dict[str, Any] = copy.deepcopy(SMALL[name])
    for way in draw(st.lists(st.sampled_from(PLACES[name]), min_size=1, max_size=3)):
        holder: Any = document
        try:
            for key in way[:-1]:
                holder = holder[key]
            if draw(st.booleans()):
                holder[way[-1]] = draw(JUNK)
            else:
                del holder[way[-1]]
        except (LookupError, TypeError):
            continue  # an earlier mutation took the place away
    return document


@given(mutated())
@settings(max_examples=300, deadline=None)
def test_a_mutated_document_reads_or_is_refused_in_one_line(document: dict[str, Any]) -> None:
    fuzz_checks.check_report(document)


@pytest.mark.parametrize("document", fuzz_edits.DOCUMENTS)
def test_the_reports_that_are_changed_are_right_before(document: dict[str, Any]) -> None:
    read_document(copy.deepcopy(document))
    fuzz_checks.check_report(copy.deepcopy(document))


class Drawn:
    """The `Choices` of `fuzz_edits`, drawn by hypothesis."""

    def __init__(self, data: st.DataObject) -> None:
        self._draw = data.draw

    def index(self, count: int) -> int:
        return self._draw(st.integers(0, count - 1))

    def text(self) -> str:
        return self._draw(st.text(max_size=40))

    def integer(self) -> int:
        return self._draw(st.integers())

    def number(self) -> float:
        return self._draw(st.floats())


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_report_that_is_nearly_right_is_refused_or_shown_in_every_format(data: st.DataObject) -> None:
    fuzz_checks.check_report(fuzz_edits.edited(Drawn(data)))


@given(mutated())
@settings(max_examples=300, deadline=None)
def test_the_readers_idea_of_the_schema_is_that_of_jsonschema(document: dict[str, Any]) -> None:
    follows = jsonschema.Draft202012Validator(SCHEMA).is_valid(document)
    if schema_problem(document) is None:
        assert follows
    elif follows:
        assert stricter(document)


def stricter(value: Any) -> bool:
    """Whether `value` holds what only the reader refuses: whole floats, halves of surrogate pairs, NaN."""
    if isinstance(value, dict):
        return any(stricter(item) or stricter(key) for key, item in value.items())
    if isinstance(value, list):
        return any(map(stricter, value))
    if isinstance(value, str):
        return any("\ud800" <= letter <= "\udfff" for letter in value)
    return isinstance(value, float) and (value != value or value.is_integer())


@given(st.binary(max_size=200), st.integers(0, 2_000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_file_with_random_bytes_in_it_reads_or_is_refused(tmp_path: pathlib.Path, junk: bytes, at: int) -> None:
    text = json.dumps(SMALL["search"]).encode()
    at = min(at, len(text))
    fuzz_checks.check_report_file(text[:at] + junk + text[at + len(junk) :], tmp_path / "report.json")


@given(st.sampled_from(fuzz_edits.DOCUMENTS), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_file_whose_parts_are_mixed_up_reads_or_is_refused(
    tmp_path: pathlib.Path, document: dict[str, Any], data: st.DataObject
) -> None:
    """Pieces are left out, doubled or moved at the marks of JSON, where it may go on as JSON."""
    pieces = re.split(rb"(?<=[,:{}\[\]])", fuzz_edits.as_json(document))
    for _ in range(data.draw(st.integers(1, 4))):
        start, end, target = (data.draw(st.integers(0, len(pieces))) for _ in range(3))
        taken = pieces[start : min(end, start + 20)]
        if data.draw(st.booleans()):
            del pieces[start : start + len(taken)]
        pieces[target:target] = taken
    fuzz_checks.check_report_file(b"".join(pieces), tmp_path / "report.json")
