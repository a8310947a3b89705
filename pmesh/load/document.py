"""Reading a load report's JSON back: `read_document` is the inverse of `report.as_document`.

What a document looks like is said by `report.schema.json`; here is what it cannot say: that figures which follow
from others really do, that objectives and histograms can be read.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from pmesh import LatencyRecorder
from pmesh.environment import Environment
from pmesh.errors import InvalidArgument, InvalidType
from pmesh.load.profiles import Profile, Reference
from pmesh.load.report import (
    SCHEMA,
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
)
from pmesh.load.resources import Resources
from pmesh.load.schema import describe, schema_problem
from pmesh.slo import Objective, Verdict, parse_objective

__all__ = ["Document", "read_document"]

# A day of a soak, an interval a second, takes a tenth of this; a device has no end.
MOST_CHARACTERS = 1 << 28

# How far two sums of the same middles of buckets may lie apart, made by different compilers: a share, and ns.
_ROUNDING = 1e-6
_ROUNDING_NS = 1e-3

_SCHEMA_NAME = re.compile(r"pmesh\.load/([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Document:
    """What a command measured: where, a report for each profile that ran, and searches for the highest rate."""

    environment: Environment
    reports: tuple[Report, ...]
    searches: tuple[Search, ...] = ()


def read_document(source: str | os.PathLike[str] | dict[str, Any]) -> Document:
    """The document in the file `source`, or in what was parsed from its JSON.

    Raises:
        InvalidArgument: It cannot be read, or is no load report that this pmesh knows; one line that names the
            file and the place in it.
        InvalidType: `source` is neither a path nor a dict.
    """
    if isinstance(source, dict):
        return _build(source, "the document")
    if not isinstance(source, str | os.PathLike):
        raise InvalidType(f"source is the {type(source).__name__} {source!r:.60}; it must be a path or a dict")
    name = repr(os.fspath(source))
    return _build(_parse(_read_text(source, name), name), name)


def _read_text(path: str | os.PathLike[str], name: str) -> str:
    try:
        # A byte order mark, which some editors leave, is no part of the JSON.
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{name} is not JSON: byte {error.start} is not UTF-8") from None
    except OSError as error:
        raise InvalidArgument(f"cannot read {name}: {error.strerror}") from None
    except ValueError as error:
        raise InvalidArgument(f"cannot read {name}: {error}") from None  # a path with a null character
    if len(text) > MOST_CHARACTERS:
        raise InvalidArgument(f"{name} is no load report: it is longer than {MOST_CHARACTERS:,} characters")
    return text


def _parse(text: str, name: str) -> object:
    if not text.strip():
        raise InvalidArgument(f"{name} is empty; it must hold what `pmesh load --json` wrote")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        if _is_cut_off(text, error.pos):
            raise InvalidArgument(f"{name} is truncated: its JSON ends within a value ({where}: {error.msg})") from None
        raise InvalidArgument(f"{name} is not JSON: {where}: {error.msg}") from None
    except RecursionError:
        raise InvalidArgument(f"{name} is no load report: it is nested too deeply") from None
    except ValueError as error:
        raise InvalidArgument(f"{name} is not JSON: {error}") from None


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number in JSON")


def _is_cut_off(text: str, position: int) -> bool:
    """Whether `text`, whose fault is at `position`, looks like the beginning of an object."""
    text = text.rstrip()
    return text.lstrip().startswith("{") and (position >= len(text) or not text.endswith("}"))


def _build(content: object, name: str) -> Document:
    _check_schema_name(content, name)
    problem = schema_problem(content)
    if problem is not None:
        raise InvalidArgument(f"{name}: {problem}")
    assert isinstance(content, dict)
    environment = Environment(**content["environment"])
    try:
        _check_start(environment)
        return Document(
            environment,
            tuple(_report(part, environment, f"profiles[{index}]") for index, part in enumerate(content["profiles"])),
            tuple(_search(part, f"find_max[{index}]") for index, part in enumerate(content["find_max"])),
        )
    except _Mismatch as mismatch:
        raise InvalidArgument(f"{name}: {mismatch}") from None


def _check_schema_name(content: object, name: str) -> None:
    if not isinstance(content, dict):
        raise InvalidArgument(f"{name} is no load report: it is {describe(content)}, and not an object with a schema")
    if "schema" not in content:
        raise InvalidArgument(f"{name} is no load report: it has no `schema`, which would be {SCHEMA!r}")
    schema = content["schema"]
    match = _SCHEMA_NAME.fullmatch(schema) if isinstance(schema, str) else None
    if match is None:
        raise InvalidArgument(f"{name} is no load report: its schema is {describe(schema)}, and not {SCHEMA!r}")
    if schema != SCHEMA:
        advice = "upgrade pmesh to read it" if int(match[1]) > 1 else "there never was such a schema"
        raise InvalidArgument(f"{name} has the schema {schema!r}; this pmesh reads up to {SCHEMA!r}: {advice}")


class _Mismatch(Exception):
    """Parts of a document that follow the schema and cannot be, alone or beside each other, in words."""


def _check_start(environment: Environment) -> None:
    try:
        zone = datetime.datetime.fromisoformat(environment.started_at).tzinfo
    except ValueError:
        zone = None
    if zone is None:
        raise _Mismatch(
            f"environment.started_at is {describe(environment.started_at)}; it must be a date and a time with its"
            " offset from UTC, such as 2026-11-23T12:00:00+00:00"
        )


def _report(part: Mapping[str, Any], environment: Environment, path: str) -> Report:
    report = Report(
        plan=_plan(part),
        counts=Counts(**part["counts"]),
        duration_ns=part["duration_ns"],
        latency_ns=Spread(**part["latency_ns"]),
        response_ns=Spread(**part["response_ns"]),
        queue_ns=Spread(**part["queue_ns"]),
        service_ns=Spread(**part["service_ns"]),
        send_delay_ns=None if part["send_delay_ns"] is None else Spread(**part["send_delay_ns"]),
        resources=Resources(**part["resources"]),
        overhead_bytes=part["overhead_bytes"],
        environment=environment,
        unsent=part["unsent"],
        injected=Injected(**part["injected"]),
        recorders={name: _recorder(text, f"{path}.histograms.{name}") for name, text in part["histograms"].items()},
        series=tuple(_point(row, f"{path}.series[{index}]") for index, row in enumerate(part["series"])),
        agents=tuple(AgentRow(**{**row, "counts": Counts(**row["counts"])}) for row in part["per_agent_accounts"]),
        soak=None if part["soak"] is None else _soak(part["soak"]),
        slo=tuple(_verdict(row, f"{path}.slo[{index}]") for index, row in enumerate(part["slo"])),
        faults=tuple(part["faults"]),
        interrupted=part["interrupted"],
        aborted=part["aborted"],
    )
    _check_consequences(report, part, path)
    return report


def _plan(part: Mapping[str, Any]) -> Plan:
    profile = Profile(
        name=part["profile"],
        reference=None if part["reference"] is None else Reference(**part["reference"]),
        **{name: part[name] for name in ("agents", "messages_per_agent", "rounds", "concurrency", "payload_bytes")},
    )
    others = (field.name for field in dataclasses.fields(Plan) if field.name != "profile")
    return Plan(profile=profile, **{name: part[name] for name in others})


def _recorder(text: str, path: str) -> LatencyRecorder:
    try:
        return LatencyRecorder.decode(text)
    except InvalidArgument as error:
        raise _Mismatch(f"{path} is no histogram: {error}") from None


def _point(row: Mapping[str, Any], path: str) -> Point:
    kept = {name: value for name, value in row.items() if name != "histogram"}
    point = Point(**kept, recorder=_recorder(row["histogram"], f"{path}.histogram"))
    if point.interval_ns > point.at_ns:
        raise _Mismatch(
            f"{path}.interval_ns is {point.interval_ns}, and it ended at {point.at_ns}: before the run it cannot begin"
        )
    held = Spread.of(point.recorder)
    for name in ("count", "p50", "p99", "max"):
        field = f"latency_{name}" if name == "count" else f"latency_{name}_ns"
        told, computed = getattr(point, field), getattr(held, name)
        if told != computed:
            raise _Mismatch(f"{path}.{field} is {told}; the histogram beside it makes it {computed}")
    return point


def _soak(part: Mapping[str, Any]) -> Soak:
    return Soak(part["duration_ns"], Drift(**part["p99"]), Drift(**part["rss"]))


def _objective(text: str, path: str) -> Objective:
    try:
        return parse_objective(text)
    except InvalidArgument as error:
        problem = str(error)  # which quotes all of the text, that may be long
        raise _Mismatch(
            f"{path}.objective is none: {problem if len(problem) <= 300 else f'{problem[:297]}...'}"
        ) from None


def _verdict(row: Mapping[str, Any], path: str) -> Verdict:
    objective = _objective(row["objective"], path)
    observed = row["observed"]
    passed = observed is not None and objective.holds(observed)
    if row["passed"] is not passed:
        raise _Mismatch(f"{path}.passed is {describe(row['passed'])}; what was observed makes it {describe(passed)}")
    return Verdict(objective, observed, passed)


def _search(part: Mapping[str, Any], path: str) -> Search:
    _objective(part["objective"], path)
    return Search(**{**part, "steps": tuple(Step(**step) for step in part["steps"])})


def _check_consequences(report: Report, part: Mapping[str, Any], path: str) -> None:
    """Refuse what does not follow from that which it follows from."""
    if part["mode"] != report.mode:
        raise _Mismatch(f"{path}.mode is {part['mode']!r}; its rate_per_second makes it {report.mode!r}")
    # A report with faults tells of an account that does not balance, and must be read for that.
    if not report.faults:
        _check_balance(report.counts, f"{path}.counts")
    for name in ("success_rate", "throughput_per_second"):
        told, computed = part[name], getattr(report, name)
        if not math.isclose(told, computed, rel_tol=1e-9):
            raise _Mismatch(f"{path}.{name} is {told}; the counts and the duration make it {computed}")
    for name, recorder in report.recorders.items():
        spread: Spread | None = getattr(report, f"{name}_ns")
        if spread is None:
            raise _Mismatch(f"{path}.{name}_ns is null; the histogram of that name holds {recorder.count}")
        _check_spread(spread, Spread.of(recorder), f"{path}.{name}_ns")


def _check_balance(counts: Counts, path: str) -> None:
    judged = counts.accepted + counts.rejected
    if counts.sent != judged:
        raise _Mismatch(f"{path}.sent is {counts.sent}; accepted and rejected make it {judged}, and no fault is listed")
    became = counts.handled + counts.failed + counts.expired + counts.dropped + counts.dead + counts.pending
    if counts.accepted != became:
        raise _Mismatch(
            f"{path}.accepted is {counts.accepted}; handled, failed, expired, dropped, dead and pending make it"
            f" {became}, and no fault is listed"
        )


def _check_spread(told: Spread, held: Spread, path: str) -> None:
    for field in dataclasses.fields(Spread):
        ours, theirs = getattr(told, field.name), getattr(held, field.name)
        if field.name in ("mean", "stddev"):
            same = math.isclose(ours, theirs, rel_tol=_ROUNDING, abs_tol=_ROUNDING_NS)
        else:
            same = ours == theirs
        if not same:
            raise _Mismatch(f"{path}.{field.name} is {ours}; the histogram of that name makes it {theirs}")
