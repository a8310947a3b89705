"""What holds of anything that comes from outside: the checks that hypothesis (`test_*.py`) and atheris (`fuzz/`) share.

Each takes an input, of which nothing is assumed, and fails unless it is read whole or refused as documented: by
`InvalidArgument`, in one line that is not too long.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import os
import re
import struct
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from recorder_samples import HIGHEST_NS, state

from pmesh import LatencyRecorder
from pmesh.errors import InvalidArgument
from pmesh.hdr import Interval, write_hlog
from pmesh.load import compare as comparing
from pmesh.load.document import read_document
from pmesh.load.outputs import FORMATS
from pmesh.load.rendering.compare_page import compare_page
from pmesh.load.rendering.terminal import Screen
from pmesh.load.report import as_document
from pmesh.slo import parse_duration, parse_objective, parse_share

# Beside what they quote, which is as long as it was given.
LONGEST_REFUSAL = 1_000


def refused_in_one_line(error: InvalidArgument, *, quoted: str = "") -> None:
    text = str(error)
    assert text
    assert len(text.splitlines()) == 1, text
    # A character is quoted by ten at most.
    assert len(text) <= LONGEST_REFUSAL + 20 * len(quoted), text[:2_000]
    text.encode()  # can be shown


# Texts of one line: objectives, limits, durations, shares.


def check_objective(text: str) -> None:
    try:
        objective = parse_objective(text)
    except InvalidArgument as error:
        _refused_at_a_column(error, "objective", text)
    else:
        assert parse_objective(objective.text) == objective
        assert not re.search(r"\s", objective.text)
        assert 0.0 <= objective.bound < float("inf")


def check_limit(text: str) -> None:
    try:
        limit = comparing.parse_limit(text)
    except InvalidArgument as error:
        _refused_at_a_column(error, "limit", text)
    else:
        assert comparing.parse_limit(limit.text) == limit
        assert 0.0 <= limit.share < float("inf")


def check_duration(text: str) -> None:
    try:
        value_ns = parse_duration(text)
    except InvalidArgument as error:
        _refused_at_a_column(error, "duration", text)
    else:
        assert 0.0 < value_ns < float("inf")


def check_share(text: str) -> None:
    try:
        share = parse_share(text)
    except InvalidArgument as error:
        _refused_at_a_column(error, "share", text)
    else:
        assert 0.0 <= share <= 1.0


def check_line(text: str) -> None:
    """All readers of one-line texts."""
    for check in (check_objective, check_limit, check_duration, check_share):
        check(text)


def _refused_at_a_column(error: InvalidArgument, what: str, text: str) -> None:
    refused_in_one_line(error, quoted=text)
    match = re.match(rf"{what} .*, column (\d+): ", str(error))
    assert match is not None, str(error)
    assert 1 <= int(match[1]) <= len(text) + 1


# Histograms.


def sealed(payload: bytes, trailer: bytes = b"", cookie: int = 0x1C849314, length: int | None = None) -> str:
    """`payload` as an encoder would wrap it, or nearly."""
    return enveloped(zlib.compress(payload) + trailer, cookie, length)


def enveloped(stream: bytes, cookie: int = 0x1C849314, length: int | None = None) -> str:
    envelope = struct.pack(">II", cookie, len(stream) if length is None else length) + stream
    return base64.b64encode(envelope).decode()


def payload_of(
    counts: bytes,
    *,
    cookie: int = 0x1C849313,
    length: int | None = None,
    offset: int = 0,
    digits: int = 3,
    lowest: int = 1,
    highest: int = HIGHEST_NS,
) -> bytes:
    size = len(counts) if length is None else length
    return struct.pack(">IIIIQQd", cookie, size, offset, digits, lowest, highest, 1.0) + counts


def number(value: int) -> bytes:
    """`value` as ZigZag LEB128-64b9B, written down once more from its definition."""
    zigzag = value * 2 if value >= 0 else -value * 2 - 1
    groups = [zigzag >> shift & 0x7F for shift in range(0, 56, 7)] + [zigzag >> 56]
    while len(groups) > 1 and not groups[-1]:
        groups.pop()
    return bytes(group | 0x80 for group in groups[:-1]) + bytes(groups[-1:])


def trailer_of(*numbers: int) -> bytes:
    body = b"pmr1" + b"".join(map(number, numbers))
    return body + struct.pack(">I", zlib.crc32(body))


def check_histogram(text: str) -> None:
    """Decoded whole, and then encoded and decoded again to the same, or refused."""
    try:
        recorder = LatencyRecorder.decode(text)
    except InvalidArgument as error:
        refused_in_one_line(error)
        return
    assert recorder.count == sum(count for _, _, count in recorder.counts())
    assert recorder.min <= recorder.percentile(50) <= recorder.percentile(99.99) <= recorder.max
    again = LatencyRecorder.decode(recorder.encode())
    assert state(again) == state(recorder)
    assert again.encode() == recorder.encode()


# Interval logs.

_LOG_LINE = re.compile(r"Tag=([^, ]+),(\d+\.\d{3}),(\d+\.\d{3}),(\d+\.\d{3}),([A-Za-z0-9+/]+=*)")
_LOG_COLUMNS = '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"'


def check_hlog(
    tag: str, start_seconds: float, length_seconds: float, recorder: LatencyRecorder, comment: str | None
) -> None:
    """One interval, of which readers find just that; or refused, and the head of the log is there."""
    file = io.StringIO()
    interval = Interval(tag, start_seconds, length_seconds, recorder)
    started_at = datetime(2026, 11, 28, tzinfo=UTC)
    expected = 1
    try:
        write_hlog(file, [interval], started_at=started_at, comment=comment)
    except InvalidArgument as error:
        refused_in_one_line(error, quoted=tag)
        expected = 0
    # As readers split it, who know more ends of lines than "\n".
    lines = [line for line in file.getvalue().splitlines() if not line.startswith("#")]
    assert lines[0] == _LOG_COLUMNS
    assert len(lines) == 1 + expected, lines
    if expected:
        match = _LOG_LINE.fullmatch(lines[1])
        assert match is not None, lines[1]
        assert match[1] == tag
        assert state(LatencyRecorder.decode(match[5])) == state(recorder)
        for told, given in ((match[2], start_seconds), (match[3], length_seconds)):
            assert abs(float(told) - given) <= 0.0006 + given * 1e-15


# Load reports.


def check_report_file(content: bytes, path: str | os.PathLike[str]) -> None:
    """`content` in a file at `path`, which is overwritten, reads as a report that holds, or is refused."""
    with open(path, "wb") as file:
        file.write(content)
    _check_document(lambda: read_document(path))


def check_report(document: dict[str, Any]) -> None:
    """What JSON or Python made of a report reads as one that holds, or is refused."""
    _check_document(lambda: read_document(document))


def _check_document(read: Callable[[], Any]) -> None:
    try:
        document = read()
    except InvalidArgument as error:
        refused_in_one_line(error)
        return
    # What reads can be written again, and says the same.
    again = as_document(document.environment, document.reports, document.searches)
    json.dumps(again, allow_nan=False).encode()
    once_more = read_document(copy.deepcopy(again))
    assert as_document(once_more.environment, once_more.reports, once_more.searches) == again
    # It can be shown in every way that there is.
    for make in FORMATS.values():
        make(document.environment, document.reports, document.searches).encode()
    comparison = comparing.compare(document, once_more)
    breaches = comparison.breaches([comparing.parse_limit("p99:10%")])
    compare_page(comparison, breaches).encode()
    shown = io.StringIO()
    screen = Screen(shown, show_progress=False)
    for report in document.reports:
        screen.show_report(report)
    for search in document.searches:
        screen.show_search(search)
    screen.show_summary(document.reports)
    screen.show_comparison(comparison, breaches)
    assert screen.failure is None
    # No name, whatever it is, makes the terminal do anything.
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown.getvalue())
