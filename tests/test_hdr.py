"""The exchange formats against those who also speak them: hdrh, and the Java HistogramLogProcessor."""

from __future__ import annotations

import base64
import io
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from fuzz_checks import check_histogram, check_hlog, enveloped, number, payload_of, sealed, trailer_of
from hypothesis import given, settings
from hypothesis import strategies as st
from recorder_samples import HIGHEST_NS, recorder_of, state

from pmesh import InvalidArgument, InvalidType, LatencyRecorder, PmeshError
from pmesh.errors import ExtraMissing
from pmesh.hdr import Interval, write_hlog

COUNTERS = 27_648
JAR = Path(os.environ.get("HDRHISTOGRAM_JAR", "/usr/share/java/hdrhistogram.jar"))

in_range = st.one_of(st.integers(0, HIGHEST_NS), st.integers(0, 5_000), st.integers(HIGHEST_NS - 10, HIGHEST_NS))
anything = st.one_of(in_range, st.integers(-(2**63), 2**63 - 1))

DISTRIBUTIONS: dict[str, Callable[[random.Random], float]] = {
    "lognormal": lambda r: r.lognormvariate(12, 1),
    "wide": lambda r: r.lognormvariate(12, 3),
    "small": lambda r: r.uniform(0, 3_000),
    "dense": lambda r: r.randrange(500),
    "uniform": lambda r: r.uniform(0, HIGHEST_NS),
    "constant": lambda r: 123_456_789,
    "ends": lambda r: r.choice((0, HIGHEST_NS)),
}


def samples(name: str, count: int = 2_000) -> list[int]:
    source = random.Random(name)  # the name is the seed
    return [min(int(DISTRIBUTIONS[name](source)), HIGHEST_NS) for _ in range(count)]


def highest_equivalent(recorder: LatencyRecorder, value: int) -> int:
    """The end of the bucket of `value`, which is what hdrh and Java answer with."""
    [highest] = [high for low, high, _ in recorder.counts() if low <= value <= high]
    return highest


def parts(text: str) -> tuple[bytes, bytes]:
    """The inflated payload and what follows the zlib stream."""
    envelope = base64.b64decode(text)
    cookie, length = struct.unpack_from(">II", envelope)
    assert (cookie, length) == (0x1C849314, len(envelope) - 8)
    inflater = zlib.decompressobj()
    return inflater.decompress(envelope[8:]), inflater.unused_data


def hdrh_of(hdrh: Any, values: list[int]) -> Any:
    histogram = hdrh.HdrHistogram(1, HIGHEST_NS, 3)
    for value in values:
        assert histogram.record_value(value)
    return histogram


def same_percentiles(recorder: LatencyRecorder, histogram: Any) -> None:
    """Ours and hdrh's, at ranks that are whole, so that rounding up and to the nearest are one."""
    count = recorder.count
    for rank in {1, 2, count // 4, count // 2, count * 9 // 10, count - 1, count} - {0}:
        # A little below the rank's own percentile, which may come out above it in floating point.
        percentile = (rank - 0.25) * 100 / count
        ours = recorder.percentile(percentile)
        assert histogram.get_value_at_percentile(percentile) == highest_equivalent(recorder, ours), percentile


# Our own way there and back


@given(values=st.lists(anything, max_size=60))
def test_decoding_gives_back_everything_that_was_encoded(values: list[int]) -> None:
    recorder = recorder_of(values)
    text = recorder.encode()
    assert text.isascii()
    decoded = LatencyRecorder.decode(text)
    assert state(decoded) == state(recorder)
    assert decoded.encode() == text
    decoded.record(7)
    assert decoded.count == recorder.count + 1 == len(values) + 1


@given(doublings=st.lists(st.integers(0, 62), max_size=4), value=anything)
def test_counts_of_any_size_up_to_63_bits_survive(doublings: list[int], value: int) -> None:
    recorder = LatencyRecorder()
    for power in doublings:
        part = recorder_of([value + len(doublings)])
        for _ in range(power):
            part.merge(part)
        try:
            recorder.merge(part)
        except InvalidArgument:
            break  # more than a recorder holds
    assert state(LatencyRecorder.decode(recorder.encode())) == state(recorder)


def test_a_recorder_that_uses_every_counter_survives() -> None:
    recorder = LatencyRecorder()
    recorder.record_corrected(HIGHEST_NS, 1)
    assert len(list(recorder.counts())) == 27_388  # from that of 1 ns to that of 60 s
    assert state(LatencyRecorder.decode(recorder.encode())) == state(recorder)


def test_an_encoding_while_threads_record_is_of_one_moment() -> None:
    recorder = LatencyRecorder()
    done = threading.Event()

    def writing() -> None:
        step = 0
        while not done.is_set():
            recorder.record(step % 5_003)
            step += 1

    threads = [threading.Thread(target=writing, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    last = 0
    for _ in range(50):
        decoded = LatencyRecorder.decode(recorder.encode())  # refuses what contradicts itself
        assert decoded.count >= last
        last = decoded.count
    done.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_importing_pmesh_does_not_import_the_formats(python: Callable[[str], str]) -> None:
    code = """
        import sys, pmesh
        before = "pmesh.hdr" in sys.modules
        pmesh.LatencyRecorder().encode()
        print(before, "pmesh.hdr" in sys.modules)
    """
    assert python(code) == "False True\n"


# Between pmesh and hdrh


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_standard_part_is_what_hdrh_encodes_byte_for_byte(hdrh: Any, name: str) -> None:
    values = samples(name)
    ours, trailer = parts(recorder_of(values).encode())
    theirs, nothing = parts(hdrh_of(hdrh, values).encode().decode())
    assert ours == theirs
    assert (trailer[:4], nothing) == (b"pmr1", b"")


def test_an_empty_recorder_encodes_as_an_empty_hdrh_histogram(hdrh: Any) -> None:
    text = LatencyRecorder().encode()
    assert text == hdrh.HdrHistogram(1, HIGHEST_NS, 3).encode().decode()
    assert state(LatencyRecorder.decode(text)) == state(LatencyRecorder())


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_hdrh_decodes_ours_and_ignores_the_trailer(hdrh: Any, name: str) -> None:
    values = samples(name)
    recorder = recorder_of(values)
    decoded = hdrh.HdrHistogram.decode(recorder.encode())
    assert decoded.equals(hdrh.HdrHistogram.decode(hdrh_of(hdrh, values).encode()))
    assert decoded.get_total_count() == len(values)
    same_percentiles(recorder, decoded)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_hdrh_encodes_decodes_to_the_same_counts(hdrh: Any, name: str) -> None:
    values = samples(name)
    recorder = recorder_of(values)
    decoded = LatencyRecorder.decode(hdrh_of(hdrh, values).encode().decode())
    assert list(decoded.counts()) == list(recorder.counts())
    rows = list(recorder.counts())
    assert (decoded.min, decoded.max) == (rows[0][0], min(rows[-1][1], HIGHEST_NS))
    assert (decoded.below_range, decoded.above_range) == (0, 0)


@settings(max_examples=60, deadline=None)  # hdrh takes its time over five digits
@given(
    values=st.lists(st.one_of(st.integers(0, 2**42), st.integers(0, 10_000)), min_size=1, max_size=40),
    lowest=st.sampled_from([1, 2, 1_000, 4_096]),
    highest=st.sampled_from([10_000, 1_000_000_000, HIGHEST_NS, 3_600_000_000_000]),
    digits=st.integers(1, 5),
)
def test_other_parameters_are_recorded_anew_with_the_percentiles_they_have(
    hdrh: Any, values: list[int], lowest: int, highest: int, digits: int
) -> None:
    histogram = hdrh.HdrHistogram(lowest, highest, digits)
    kept = [value for value in values if histogram.record_value(value)]
    text = histogram.encode().decode()
    for recorder in (LatencyRecorder.decode(text), LatencyRecorder.from_hdr(histogram)):
        assert recorder.count == len(kept) == sum(count for _, _, count in recorder.counts())
        above = [value for value in kept if histogram.get_lowest_equivalent_value(value) > HIGHEST_NS]
        assert (recorder.below_range, recorder.above_range) == (0, len(above))
        for rank, value in enumerate(sorted(kept), 1):
            found = recorder.percentile((rank - 0.25) * 100 / len(kept))
            theirs = histogram.get_highest_equivalent_value(value)
            if len(kept) - rank < len(above):
                assert found == recorder.max
            elif found != recorder.max:
                assert theirs <= found <= theirs * (1 + 1 / 1024)
    if kept:
        decoded = LatencyRecorder.decode(text)
        smallest, largest = min(kept), max(kept)
        assert decoded.min <= histogram.get_highest_equivalent_value(smallest)
        assert decoded.max >= min(largest, HIGHEST_NS)
        assert decoded.max <= histogram.get_highest_equivalent_value(largest)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_to_hdr_and_from_hdr_keep_counts_min_and_max(hdrh: Any, name: str) -> None:
    values = samples(name)
    recorder, histogram = recorder_of(values), hdrh_of(hdrh, values)
    ours = recorder.to_hdr()
    assert type(ours) is hdrh.HdrHistogram
    assert (ours.min_value, ours.max_value) == (min(values), max(values)) == (histogram.min_value, histogram.max_value)
    assert ours.equals(histogram)
    assert ours.encode() == histogram.encode()
    assert ours.get_stddev() == histogram.get_stddev()
    assert state(LatencyRecorder.from_hdr(histogram)) == state(recorder) == state(LatencyRecorder.from_hdr(ours))


def test_an_empty_recorder_is_an_empty_hdrh_histogram_and_back(hdrh: Any) -> None:
    histogram = LatencyRecorder().to_hdr()
    assert histogram.equals(hdrh.HdrHistogram(1, HIGHEST_NS, 3))
    histogram.record_value(5)
    assert (histogram.min_value, histogram.max_value, histogram.total_count) == (5, 5, 1)
    assert state(LatencyRecorder.from_hdr(hdrh.HdrHistogram(1, HIGHEST_NS, 3))) == state(LatencyRecorder())


def test_values_out_of_range_stand_at_its_ends_in_hdrh(hdrh: Any) -> None:
    histogram = recorder_of([-5, 7, 61_000_000_000]).to_hdr()
    assert (histogram.min_value, histogram.max_value, histogram.total_count) == (0, HIGHEST_NS, 3)
    assert hdrh.HdrHistogram.decode(histogram.encode()).total_count == 3


def test_a_decoded_hdrh_histogram_has_no_exact_maximum_and_does_not_pretend_to(hdrh: Any) -> None:
    decoded = hdrh.HdrHistogram.decode(hdrh_of(hdrh, [5_000, HIGHEST_NS]).encode())
    assert decoded.max_value > HIGHEST_NS  # its bucket's end
    recorder = LatencyRecorder.from_hdr(decoded)
    assert (recorder.min, recorder.max, recorder.above_range) == (5_000, HIGHEST_NS, 0)


def test_an_hdrh_histogram_of_more_than_63_bits_of_values_is_refused(hdrh: Any) -> None:
    histogram = hdrh.HdrHistogram(1, HIGHEST_NS, 3)
    histogram.record_value(5, 2**63)
    with pytest.raises(InvalidArgument, match=r"holds 2\*\*63 - 1 values at most"):
        LatencyRecorder.from_hdr(histogram)


@pytest.mark.parametrize("thing", [None, 5, "x", LatencyRecorder()])
def test_from_hdr_of_anything_else_says_what_it_was(hdrh: Any, thing: Any) -> None:
    with pytest.raises(InvalidType, match=r"from_hdr wants an hdrh\.histogram\.HdrHistogram, not the "):
        LatencyRecorder.from_hdr(thing)


@pytest.mark.parametrize("call", [LatencyRecorder().to_hdr, lambda: LatencyRecorder.from_hdr(object())])
def test_without_hdrh_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> None:
    monkeypatch.setitem(sys.modules, "hdrh.histogram", None)
    with pytest.raises(ExtraMissing, match=r"`pip install 'pmesh\[hdr\]'`") as caught:
        call()
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, PmeshError)


# Bad input

ONE = payload_of(number(-4) + number(3))  # three values of 4 ns


def test_the_wrappers_of_these_tests_make_what_is_accepted() -> None:
    assert state(LatencyRecorder.decode(sealed(ONE))) == state(recorder_of([4, 4, 4]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 8 bytes of cookie and length, not 0"),
        ("HISTFAAAAB4", r"is base64, not 'HISTFAAAAB4' \(Incorrect padding\)"),
        ("HIST\nFAAAAB4=", "is base64, not"),
        ("Größe", "is base64, not 'Größe'"),
        (sealed(ONE)[:-4], r"declares \d+ compressed bytes and has \d+"),
        (sealed(ONE, cookie=0x1C849302), "V2 has the cookie 0x1c849304 here, not 0x1c849302"),
        (sealed(ONE, cookie=0x0C72124F), "V2 has the cookie 0x1c849304 here, not 0xc72124f"),
        (sealed(ONE, length=2**32 - 1), "declares 4294967295 compressed bytes and has"),
        (sealed(ONE, trailer=b"\0"), r"ends with its zlib stream or pmesh's trailer, not b'\\x00'"),
        (sealed(ONE, trailer=b"pmr1"), "ends with its zlib stream or pmesh's trailer"),
        (sealed(b""), "a header of 40 bytes, not 0"),
        (sealed(ONE[:39]), "a header of 40 bytes, not 39"),
        (sealed(payload_of(b"", cookie=0x1C849301)), "V2 has the cookie 0x1c849303 here, not 0x1c849301"),
        (sealed(payload_of(b"\2", length=2)), "declares 2 bytes of counts and has 1"),
        (sealed(payload_of(b"\2\2", length=1)), "declares 1 bytes of counts and has 2"),
        (sealed(payload_of(b"\2", length=2**32 - 1)), "declares 4294967295 bytes of counts and has 1"),
        (sealed(payload_of(b"\2", offset=1024)), r"shifted \(by 1024 counters\)"),
        (sealed(payload_of(b"\2", digits=6)), r"no histogram has 6 significant digits \(0 to 5\)"),
        (sealed(payload_of(b"\2", lowest=0)), r"from 0 \(1 or more\)"),
        (sealed(payload_of(b"\2", lowest=9, highest=17)), r"to 17 \(twice that or more"),
        (sealed(payload_of(b"\2", highest=2**63)), r"to 9223372036854775808 .*below 2\*\*63"),
        (
            sealed(payload_of(b"\2", lowest=2**52, highest=2**62)),
            r"no histogram has 3 significant digits from 4503599627370496: that is more than 63 bits",
        ),
        (sealed(payload_of(b"\x80")), "a number that breaks off"),
        (sealed(payload_of(number(-COUNTERS) + number(1))), "of 27648 counters holds 27649"),
        (sealed(payload_of(number(-(2**63)))), "of 27648 counters holds 9223372036854775808"),
        (sealed(payload_of(number(2**63 - 1) + number(1))), r"holds 2\*\*63 - 1 values at most"),
        (
            sealed(payload_of(number(-30_000) + 2 * number(2**63 - 1), highest=2**62)),
            r"holds 2\*\*63 - 1 values at most",
        ),
        (base64.b64encode(struct.pack(">II", 0x1C849314, 3) + b"abc").decode(), "a broken zlib stream"),
        (base64.b64encode(struct.pack(">II", 0x1C849314, 0)).decode(), "a zlib stream that breaks off"),
        (
            base64.b64encode(struct.pack(">II", 0x1C849314, 20) + zlib.compress(ONE)[:20]).decode(),
            "a zlib stream that breaks off",
        ),
    ],
)
def test_a_broken_encoding_is_refused_in_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        LatencyRecorder.decode(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_the_largest_unit_that_a_histogram_can_have_is_decoded() -> None:
    decoded = LatencyRecorder.decode(sealed(payload_of(number(-2_047) + number(1), lowest=2**51, highest=2**62)))
    assert (decoded.count, decoded.above_range) == (1, 1)
    assert (decoded.min, decoded.max) == (2_047 << 51, (2_048 << 51) - 1)


@pytest.mark.parametrize("text", [None, 5, b"HISTFA==", ["HISTFA=="]])
def test_only_a_str_is_decoded(text: Any) -> None:
    with pytest.raises(InvalidType, match="is a str of base64, not the "):
        LatencyRecorder.decode(text)


def test_a_trailer_that_fits_the_counts_is_believed() -> None:
    assert LatencyRecorder.decode(sealed(ONE, trailer_of(4, 4, 0, 0))).count == 3


@pytest.mark.parametrize(
    "trailer",
    [
        trailer_of(3, 4, 0, 0),
        trailer_of(4, 5, 0, 0),
        trailer_of(5, 4, 0, 0),
        trailer_of(4, 4, 1, 0),
        trailer_of(4, 4, 0, 1),
        trailer_of(4, 4, 0, -1),
        trailer_of(4, 2**63 - 1, 0, 0),
        trailer_of(4, 4, 0),
        trailer_of(4, 4, 0, 0, 0),
        trailer_of(4, 4, 0, 0)[:-1],
        trailer_of(4, 4, 0, 0) + b"\0",
        trailer_of(4, 4, 0, 0).replace(b"pmr1", b"pmr2"),
        trailer_of(4, 4, 0, 0)[:-5] + b"\x80" + trailer_of(4, 4, 0, 0)[-4:],
    ],
)
def test_a_trailer_that_contradicts_the_counts_or_is_damaged_is_refused(trailer: bytes) -> None:
    with pytest.raises(InvalidArgument):
        LatencyRecorder.decode(sealed(ONE, trailer))


@pytest.mark.parametrize("bomb", [bytes(50_000_000), payload_of(bytes(50_000_000))], ids=["zeros", "counts"])
def test_a_zip_bomb_is_refused_before_it_takes_memory(bomb: bytes) -> None:
    text = sealed(bomb)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArgument, match="inflates to less than 1048576 bytes, and this one to more"):
            LatencyRecorder.decode(text)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


@given(text=st.one_of(st.text(), st.binary().map(lambda raw: base64.b64encode(raw).decode())))
def test_any_text_is_decoded_or_refused(text: str) -> None:
    check_histogram(text)


@given(
    stream=st.one_of(
        st.binary(),
        st.binary().map(zlib.compress),
        st.builds(lambda payload, rest: zlib.compress(payload) + rest, st.just(ONE), st.binary(max_size=20)),
        st.builds(lambda numbers: zlib.compress(ONE) + trailer_of(*numbers), st.lists(anything, max_size=5)),
    )
)
def test_any_stream_is_decoded_or_refused(stream: bytes) -> None:
    check_histogram(enveloped(stream))


@given(
    counts=st.one_of(st.binary(max_size=200), st.lists(anything, max_size=20).map(lambda n: b"".join(map(number, n)))),
    digits=st.integers(0, 7),
    lowest=st.one_of(st.integers(0, 10_000), st.integers(0, 2**64 - 1)),
    highest=st.one_of(st.integers(0, 2**42), st.integers(0, 2**64 - 1)),
)
def test_any_payload_is_decoded_or_refused(counts: bytes, digits: int, lowest: int, highest: int) -> None:
    check_histogram(sealed(payload_of(counts, digits=digits, lowest=lowest, highest=highest)))


@given(values=st.lists(anything, min_size=1, max_size=20), data=st.data())
def test_a_changed_byte_never_goes_by_unseen(values: list[int], data: st.DataObject) -> None:
    recorder = recorder_of(values)
    raw = bytearray(base64.b64decode(recorder.encode()))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    text = base64.b64encode(raw).decode()
    try:
        decoded = LatencyRecorder.decode(text)
    except InvalidArgument:
        return
    # The word size in the cookie and zlib's own flags may differ; what was recorded may not.
    assert state(decoded) == state(recorder)


@given(values=st.lists(anything, min_size=1, max_size=20), data=st.data())
def test_bytes_changed_below_the_compression_are_decoded_or_refused(values: list[int], data: st.DataObject) -> None:
    payload, trailer = map(bytearray, parts(recorder_of(values).encode()))
    for part in data.draw(st.lists(st.sampled_from([payload, trailer]), min_size=1, max_size=4)):
        at = data.draw(st.integers(0, len(part)))
        part[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    if data.draw(st.booleans()) and len(payload) >= 8:
        payload[4:8] = struct.pack(">I", max(len(payload) - 40, 0))  # as many bytes as it declares
    check_histogram(sealed(bytes(payload), bytes(trailer)))


# Interval logs

STARTED = datetime(2024, 2, 29, 12, 30, 45, 250_000, tzinfo=timezone(timedelta(hours=2), "CEST"))


def profile_intervals() -> list[Interval]:
    """Two profiles of three seconds each; in the second of the three nothing is recorded."""
    return [
        Interval(tag, offset + second, 1.0, recorder_of([] if second == 1 else samples(name)))
        for offset, tag, name in ((0, "low", "lognormal"), (3, "extreme", "wide"))
        for second in range(3)
    ]


def log_text(intervals: list[Interval], **options: Any) -> str:
    file = io.StringIO()
    write_hlog(file, intervals, started_at=STARTED, **options)
    return file.getvalue()


def merged(intervals: list[Interval], tag: str) -> LatencyRecorder:
    total = LatencyRecorder()
    for interval in intervals:
        if interval.tag == tag:
            total.merge(interval.recorder)
    return total


def test_a_log_is_version_1_3_to_the_letter() -> None:
    recorder = recorder_of([1_234_567])
    text = log_text([Interval("low", 0, 1.0004, recorder), Interval("low", 1.5, 2, LatencyRecorder())])
    assert text.splitlines() == [
        "#[Histogram log format version 1.3]",
        "#[StartTime: 1709202645.250 (seconds since epoch), Thu Feb 29 12:30:45 CEST 2024]",
        "#[BaseTime: 1709202645.250 (seconds since epoch)]",
        '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"',
        f"Tag=low,0.000,1.000,1.235,{recorder.encode()}",
        f"Tag=low,1.500,2.000,0.000,{LatencyRecorder().encode()}",
    ]
    assert text.endswith("\n")


def test_a_comment_is_a_comment_on_each_of_its_lines_and_nothing_else() -> None:
    text = log_text([], comment="closed loop\n[StartTime: 5 (seconds since epoch), never]\r\nTag=x,1,1,1,HISTFAAA")
    assert text.splitlines()[:3] == [
        "# closed loop",
        "# [StartTime: 5 (seconds since epoch), never]",
        "# Tag=x,1,1,1,HISTFAAA",
    ]


@pytest.mark.parametrize("tag", ["", "a b", "a,b", "a\nb", "a\rb", "a\tb", "a\u2028b", "a\u00a0b"])
def test_a_tag_that_readers_would_split_is_refused(tag: str) -> None:
    with pytest.raises(InvalidArgument, match="no comma, space or line break and is not empty, unlike "):
        log_text([Interval(tag, 0, 1, LatencyRecorder())])


@pytest.mark.parametrize("seconds", [-0.001, float("nan"), float("inf")])
def test_an_interval_at_an_impossible_time_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidArgument, match="the start of an interval is 0 s or more and finite, not "):
        log_text([Interval("low", seconds, 1, LatencyRecorder())])
    with pytest.raises(InvalidArgument, match="the length of an interval is 0 s or more and finite, not "):
        log_text([Interval("low", 1, seconds, LatencyRecorder())])


SECONDS = st.one_of(st.floats(), st.floats(0, 1e9), st.just(-0.0))


@given(
    tag=st.one_of(st.text(), st.text('ab, \t\r\n\x0b\x1c\x85\u2028#["')),
    start=SECONDS,
    length=SECONDS,
    values=st.lists(anything, max_size=5),
    comment=st.one_of(st.none(), st.text(), st.text("#[]\r\n\x0b\x85\u2028 ab")),
)
def test_any_interval_is_one_line_that_says_it_or_refused(
    tag: str, start: float, length: float, values: list[int], comment: str | None
) -> None:
    check_hlog(tag, start, length, recorder_of(values), comment)


def test_no_time_has_the_sign_of_a_negative_nothing() -> None:
    line = log_text([Interval("low", -0.0, -0.0, LatencyRecorder())]).splitlines()[-1]
    assert line.startswith("Tag=low,0.000,0.000,0.000,")


def test_a_start_without_a_time_zone_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="started_at has a time zone"):
        write_hlog(io.StringIO(), [], started_at=STARTED.replace(tzinfo=None))


def test_hdrh_reads_the_log(hdrh: Any, tmp_path: Path) -> None:
    from hdrh.log import HistogramLogReader

    intervals = profile_intervals()
    path = tmp_path / "run.hlog"
    path.write_text(log_text(intervals, comment="closed loop"), encoding="utf-8")
    reader = HistogramLogReader(str(path), hdrh.HdrHistogram(1, HIGHEST_NS, 3))
    try:
        for interval in intervals:
            read = reader.get_next_interval_histogram()
            assert (read.get_tag(), read.get_total_count()) == (interval.tag, interval.recorder.count)
            start = STARTED.astimezone(UTC).timestamp() + interval.start_seconds
            assert read.get_start_time_stamp() == pytest.approx(start * 1e3)
            assert read.get_end_time_stamp() == pytest.approx((start + interval.length_seconds) * 1e3)
            if interval.recorder.count:
                same_percentiles(interval.recorder, read)
        assert reader.get_next_interval_histogram() is None
    finally:
        reader.close()


@pytest.fixture(scope="module")
def processor() -> Callable[..., str]:
    """Runs Java's HistogramLogProcessor and returns what it prints."""
    java = shutil.which("java")
    if java is None or not JAR.exists():
        missing = f"java or {JAR} (apt-get install libhdrhistogram-java default-jre-headless)"
        if os.environ.get("CI"):
            pytest.fail(f"CI has no {missing}")
        pytest.skip(f"NOTHING WAS READ BY THE JAVA HDRHISTOGRAM: no {missing}")

    def run(*arguments: str) -> str:
        command = [java, "-cp", str(JAR), "org.HdrHistogram.HistogramLogProcessor", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    return run


def rows(output: str) -> Iterator[tuple[int, float, int]]:
    """Value, percentile and count up to there, of each line of a percentile distribution."""
    for line in output.splitlines():
        fields = line.split()
        if len(fields) >= 3 and fields[0].replace(".", "").isdigit():
            yield int(float(fields[0])), float(fields[1]) * 100, int(fields[2])


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hlog") / "run.hlog"
    path.write_text(log_text(profile_intervals(), comment="closed loop"), encoding="utf-8")
    return path


@pytest.mark.parametrize("tag", ["low", "extreme"])
def test_java_reads_each_tag_with_our_count_maximum_and_percentiles(
    processor: Callable[..., str], logged: Path, tag: str
) -> None:
    recorder = merged(profile_intervals(), tag)
    # In ns, so that its three decimals hide nothing.
    output = processor("-i", str(logged), "-tag", tag, "-outputValueUnitRatio", "1")
    distribution = list(rows(output))
    assert len(distribution) > 40
    for value, percentile, total in distribution:
        assert highest_equivalent(recorder, recorder.percentile(percentile)) == value, percentile
        assert sum(count for _, high, count in recorder.counts() if high <= value) == total
    assert distribution[-1] == (highest_equivalent(recorder, recorder.max), 100.0, recorder.count)
    last = f"[Max     = {distribution[-1][0]:12.3f}, Total count    = {recorder.count:12d}]"
    assert last in output


def test_java_finds_every_tag_and_the_time_of_the_start(processor: Callable[..., str], logged: Path) -> None:
    assert set(processor("-i", str(logged), "-listtags").split()) >= {"low", "extreme"}
    assert "#[StartTime: 1709202645.250 (seconds since epoch)" in processor("-i", str(logged), "-tag", "low")


def test_java_selects_intervals_by_their_time(processor: Callable[..., str], logged: Path) -> None:
    [last] = [interval for interval in profile_intervals() if interval.start_seconds == 5]
    output = processor("-i", str(logged), "-tag", "extreme", "-start", "4", "-end", "6", "-outputValueUnitRatio", "1")
    assert list(rows(output))[-1][2] == last.recorder.count


def test_java_corrects_for_an_expected_interval_as_record_corrected_does(
    processor: Callable[..., str], tmp_path: Path
) -> None:
    # Below 2048 each value has a bucket of its own, so Java corrects the very values.
    values = [value % 2_048 for value in samples("small")]
    corrected = LatencyRecorder()
    for value in values:
        corrected.record_corrected(value, 100)
    path = tmp_path / "run.hlog"
    # Without the tag, which the processor loses when it corrects.
    text = log_text([Interval("low", 0, 1, recorder_of(values))]).replace("Tag=low,", "")
    path.write_text(text, encoding="utf-8")
    output = processor(
        *("-i", str(path), "-outputValueUnitRatio", "1", "-correctLogWithKnownCoordinatedOmission", "100")
    )
    distribution = list(rows(output))
    assert distribution[-1][2] == corrected.count > 5 * len(values)
    for value, percentile, total in distribution:
        assert corrected.percentile(percentile) == value
        assert sum(count for _, high, count in corrected.counts() if high <= value) == total
