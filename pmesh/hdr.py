"""A recorder's exchange formats: HdrHistogram's V2 encoding, hdrh's objects and interval logs (`.hlog`).

Here: bytes and text. Not here: counting, and the statistics (`_core_recorder.pxi`). The methods of
`LatencyRecorder` import this module when they are called, so `import pmesh` does not.

The encoding is that of `AbstractHistogram.encodeIntoCompressedByteBuffer` in the Java HdrHistogram
(github.com/HdrHistogram/HdrHistogram): a cookie and the length of what follows, then a zlib stream of a
40-byte header and the counts as ZigZag LEB128-64b9B integers, in which a negative number stands for a run of zeros.
"""

from __future__ import annotations

import base64
import importlib
import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from pmesh.errors import ExtraMissing, InvalidArgument, InvalidType

if TYPE_CHECKING:
    from pmesh._core import LatencyRecorder

__all__ = ["Content", "Interval", "decode_content", "encode_content", "write_hlog"]

HIGHEST_NS = 60_000_000_000
SIGNIFICANT_DIGITS = 3

_COMPRESSED_COOKIE = 0x1C849304
_PAYLOAD_COOKIE = 0x1C849303
# Bits 4 to 7 of a cookie are the word size of V0 and V1; V2 says 1 there, and readers mask them.
_WORD_SIZE = 0x10
_WORD_SIZE_BITS = 0xF0
_ENVELOPE = struct.Struct(">II")  # cookie, bytes of the zlib stream
# Cookie, bytes of counts, offset of a shifted histogram, digits, lowest and highest value, the ratio that
# DoubleHistogram alone uses.
_HEADER = struct.Struct(">IIIIQQd")
_CRC = struct.Struct(">I")

# The trailer: what the format has no room for. It follows the end of the zlib stream, within the declared
# length: zlib says itself where its stream ends, so Java and hdrh read no further.
_TRAILER_MAGIC = b"pmr1"

# Inflated bytes. A recorder's own need is 9 * 27,648 at most, and a histogram of 5 digits that uses
# 100,000 counters fits too. The worst that fits, a million counters of one, takes some 2 s to decode.
_INFLATED_LIMIT_BYTES = 1 << 20


class Content(NamedTuple):
    """What a recorder holds, of one moment; all 0 and empty when nothing was recorded."""

    min_ns: int
    max_ns: int
    below_range: int
    above_range: int
    counters: dict[int, int]  # count by index, those that are not 0, ascending


class _Layout:
    """Buckets of a histogram: `AbstractHistogram.init` and `valueFromIndex`."""

    def __init__(self, lowest: int, highest: int, digits: int) -> None:
        self.unit_log2 = lowest.bit_length() - 1
        sub_buckets_log2: int = max((2 * 10**digits - 1).bit_length(), 1)
        self.half_log2 = sub_buckets_log2 - 1
        self.is_ours = (self.unit_log2, self.half_log2) == (0, 10)
        # Doublings of the first 2**sub_buckets_log2 units until `highest` is below.
        doublings = max(highest.bit_length() - sub_buckets_log2 - self.unit_log2, 0)
        self.counters = (doublings + 2) << self.half_log2

    def bounds(self, index: int) -> tuple[int, int]:
        """Lowest and highest value of the bucket with counter `index`."""
        width_log2 = max((index >> self.half_log2) - 1, 0)
        lowest = (index - (width_log2 << self.half_log2)) << (width_log2 + self.unit_log2)
        return lowest, lowest + (1 << (width_log2 + self.unit_log2)) - 1

    def index(self, value: int) -> int:
        """Counter of `value`, which is not negative."""
        width_log2 = max((value >> self.unit_log2).bit_length() - self.half_log2 - 1, 0)
        return (width_log2 << self.half_log2) + (value >> (width_log2 + self.unit_log2))


_OURS = _Layout(1, HIGHEST_NS, SIGNIFICANT_DIGITS)
_TOP_INDEX = _OURS.index(HIGHEST_NS)


def encode_content(content: Content) -> str:
    """`content` in the V2 encoding, compressed and in base64."""
    counts = _encode_counts(content.counters)
    header = _HEADER.pack(_PAYLOAD_COOKIE | _WORD_SIZE, len(counts), 0, SIGNIFICANT_DIGITS, 1, HIGHEST_NS, 1.0)
    stream = zlib.compress(header + counts)
    if content.counters:
        stream += _encode_trailer(content)
    return base64.b64encode(_ENVELOPE.pack(_COMPRESSED_COOKIE | _WORD_SIZE, len(stream)) + stream).decode()


def decode_content(text: str) -> Content:
    """What `text` encodes, in a recorder's own layout.

    Raises:
        InvalidArgument: The text is not a V2 encoding, or holds what no recorder can.
        InvalidType: Not a str.
    """
    if not isinstance(text, str):
        raise InvalidType(f"an encoded histogram is a str of base64, not the {type(text).__name__} {text!r:.60}")
    try:
        envelope = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidArgument(f"an encoded histogram is base64, not {text!r:.60} ({error})") from None
    if len(envelope) < _ENVELOPE.size:
        raise InvalidArgument(f"an encoded histogram has 8 bytes of cookie and length, not {len(envelope)}: {text!r}")
    cookie, declared_bytes = _ENVELOPE.unpack_from(envelope)
    stream = envelope[_ENVELOPE.size :]
    _check_cookie(cookie, _COMPRESSED_COOKIE)
    if declared_bytes != len(stream):
        raise InvalidArgument(f"an encoded histogram declares {declared_bytes} compressed bytes and has {len(stream)}")
    payload, trailer = _inflate(stream)
    layout, counters = _decode_payload(payload)
    content = _recorded(layout, counters)
    return _decode_trailer(trailer, content.counters) if trailer else content


def to_hdrh(content: Content) -> Any:
    """A `hdrh.histogram.HdrHistogram` with `content`."""
    histogram = _import_hdrh()(1, HIGHEST_NS, SIGNIFICANT_DIGITS)
    if content.counters:
        for index, count in content.counters.items():
            histogram.counts[index] = count
        histogram.total_count = sum(content.counters.values())
        histogram.min_value = _clamp(content.min_ns)
        histogram.max_value = _clamp(content.max_ns)
    return histogram


def from_hdrh(histogram: Any) -> Content:
    """What `histogram` has recorded, in a recorder's own layout."""
    expected = _import_hdrh()
    if not isinstance(histogram, expected):
        raise InvalidType(f"from_hdr wants an hdrh.histogram.HdrHistogram, not the {type(histogram).__name__}")
    layout = _Layout(histogram.lowest_trackable_value, histogram.highest_trackable_value, histogram.significant_figures)
    # Up to the maximum, as hdrh's own encoder: with five digits there are millions of counters.
    used = histogram.get_counts_array_index(histogram.max_value) + 1
    counters = {index: count for index, count in enumerate(histogram.counts[:used]) if count}
    content = _recorded(layout, counters)
    if not counters:
        return content
    # hdrh's own are better where they lie in the same buckets; after `decode` they are the buckets' ends.
    return content._replace(
        min_ns=_refined(histogram.min_value, content.min_ns), max_ns=_refined(histogram.max_value, content.max_ns)
    )


@dataclass(frozen=True, slots=True)
class Interval:
    """A line of an interval log."""

    tag: str  # what HistogramLogProcessor's -tag selects; a profile's name
    start_seconds: float  # since the start of the log
    length_seconds: float
    recorder: LatencyRecorder


def write_hlog(
    file: TextIO, intervals: Iterable[Interval], *, started_at: datetime, comment: str | None = None
) -> None:
    """Write an interval log, version 1.3, as `HistogramLogWriter` of the Java HdrHistogram does.

    Args:
        file: Where the lines go; it stays open.
        intervals: In order of their start, as readers of the format take them.
        started_at: When second 0 was, with a time zone.
        comment: Written above the intervals, each of its lines behind a `#`.

    Raises:
        InvalidArgument: `started_at` has no time zone, a tag has a comma or white space or is empty, or a
            time is negative or not finite; the intervals before that one are written.
    """
    if started_at.tzinfo is None:
        raise InvalidArgument(f"started_at has a time zone, as datetime.now().astimezone() has; {started_at} has none")
    started_seconds = started_at.timestamp()
    if comment is not None:
        # With a space, so that no comment reads as one of the marks below.
        file.writelines(f"# {line}\n" for line in comment.splitlines())
    file.write("#[Histogram log format version 1.3]\n")
    file.write(f"#[StartTime: {started_seconds:.3f} (seconds since epoch), {started_at:%a %b %d %H:%M:%S %Z %Y}]\n")
    file.write(f"#[BaseTime: {started_seconds:.3f} (seconds since epoch)]\n")
    file.write('"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"\n')
    file.writelines(_hlog_line(interval) for interval in intervals)


def _hlog_line(interval: Interval) -> str:
    tag = interval.tag
    if not tag or not tag.isprintable() or "," in tag or " " in tag:
        raise InvalidArgument(f"a tag of an .hlog has no comma, space or line break and is not empty, unlike {tag!r}")
    for name, seconds in (("start", interval.start_seconds), ("length", interval.length_seconds)):
        if not (math.isfinite(seconds) and seconds >= 0):
            raise InvalidArgument(f"the {name} of an interval is 0 s or more and finite, not {seconds!r} ({tag})")
    frozen = interval.recorder.snapshot()
    # Milliseconds by convention, whatever the reader scales by.
    max_milliseconds = max(frozen.max, 0) / 1e6
    # Added to 0.0, so that no -0.0 is written with its sign.
    return (
        f"Tag={tag},{interval.start_seconds + 0.0:.3f},{interval.length_seconds + 0.0:.3f},{max_milliseconds:.3f},"
        f"{frozen.encode()}\n"
    )


def _import_hdrh() -> Any:
    try:
        return importlib.import_module("hdrh.histogram").HdrHistogram
    except ImportError as error:
        raise ExtraMissing(
            f"hdrh cannot be imported here ({error}); `pip install 'pmesh[hdr]'` installs it."
            " encode() and decode() do without"
        ) from None


def _clamp(value_ns: int) -> int:
    return min(max(value_ns, 0), HIGHEST_NS)


def _refined(exact_ns: int, bound_ns: int) -> int:
    """`exact_ns` where it lies in the bucket of `bound_ns` and in range, else `bound_ns`."""
    is_known = 0 <= exact_ns <= HIGHEST_NS >= bound_ns and _OURS.index(exact_ns) == _OURS.index(bound_ns)
    return exact_ns if is_known else bound_ns


def _recorded(layout: _Layout, counters: dict[int, int]) -> Content:
    """Counters of any layout, ascending, in a recorder's own; each value as the highest of its bucket."""
    if not counters:
        return Content(0, 0, 0, 0, counters)
    if sum(counters.values()) >= 2**63:
        raise InvalidArgument("a LatencyRecorder holds 2**63 - 1 values at most, and this histogram has more")
    recorded: dict[int, int] = {}
    above_range = 0
    for index, count in counters.items():
        if layout.is_ours and index <= _TOP_INDEX:  # for speed: the rule below gives the same
            recorded[index] = count
            continue
        lowest, highest = layout.bounds(index)
        if lowest > HIGHEST_NS:
            above_range += count
        own_index = _OURS.index(_clamp(highest))
        recorded[own_index] = recorded.get(own_index, 0) + count
    min_ns, highest = layout.bounds(next(iter(counters)))
    if _OURS.index(_clamp(min_ns)) not in recorded:
        min_ns = _clamp(highest)
    lowest, max_ns = layout.bounds(next(reversed(counters)))
    if lowest <= HIGHEST_NS:
        max_ns = _clamp(max_ns)
    return Content(min_ns, max_ns, 0, above_range, recorded)


def _check_cookie(cookie: int, expected: int) -> None:
    if cookie & ~_WORD_SIZE_BITS != expected:
        raise InvalidArgument(f"an encoded histogram of V2 has the cookie {expected:#x} here, not {cookie:#x}")


def _inflate(stream: bytes) -> tuple[bytes, bytes]:
    """The payload, and the bytes after the end of the zlib stream."""
    inflater = zlib.decompressobj()
    try:
        payload = inflater.decompress(stream, _INFLATED_LIMIT_BYTES)
    except zlib.error as error:
        raise InvalidArgument(f"an encoded histogram has a broken zlib stream ({error})") from None
    if not inflater.eof:
        raise InvalidArgument(
            f"an encoded histogram inflates to less than {_INFLATED_LIMIT_BYTES} bytes, and this one to more"
            if len(payload) == _INFLATED_LIMIT_BYTES
            else "an encoded histogram has a zlib stream that breaks off"
        )
    return payload, inflater.unused_data


def _decode_payload(payload: bytes) -> tuple[_Layout, dict[int, int]]:
    """The layout of an inflated payload and its counters, those that are not 0."""
    if len(payload) < _HEADER.size:
        raise InvalidArgument(f"an encoded histogram has a header of {_HEADER.size} bytes, not {len(payload)}")
    cookie, counts_bytes, offset, digits, lowest, highest, _ratio = _HEADER.unpack_from(payload)
    _check_cookie(cookie, _PAYLOAD_COOKIE)
    if counts_bytes != len(payload) - _HEADER.size:
        raise InvalidArgument(
            f"an encoded histogram declares {counts_bytes} bytes of counts and has {len(payload) - _HEADER.size}"
        )
    if offset:
        raise InvalidArgument(f"an encoded histogram whose values were shifted (by {offset} counters) is not supported")
    if digits > 5 or not 1 <= lowest <= highest // 2 or highest >= 2**63:
        raise InvalidArgument(
            f"no histogram has {digits} significant digits (0 to 5) from {lowest} (1 or more) to {highest}"
            " (twice that or more, below 2**63)"
        )
    layout = _Layout(lowest, highest, digits)
    # As in `AbstractHistogram.init`: the first buckets alone would reach beyond 63 bits.
    if layout.unit_log2 + layout.half_log2 > 61:
        raise InvalidArgument(f"no histogram has {digits} significant digits from {lowest}: that is more than 63 bits")
    counters: dict[int, int] = {}
    index = 0
    for number in _signed_numbers(payload[_HEADER.size :]):
        if number > 0:
            counters[index] = number
        index += -number if number < 0 else 1
    if index > layout.counters:
        raise InvalidArgument(f"an encoded histogram of {layout.counters} counters holds {index}")
    return layout, counters


def _encode_counts(counters: dict[int, int]) -> bytearray:
    """The counts up to the last that is not 0."""
    encoded = bytearray()
    following = 0
    for index, count in counters.items():
        zeros = index - following
        if zeros:
            # A single zero too: -1 as hdrh writes it. Java writes 0 there, and both read either.
            _append_signed(encoded, -zeros)
        _append_signed(encoded, count)
        following = index + 1
    return encoded


def _encode_trailer(content: Content) -> bytes:
    trailer = bytearray(_TRAILER_MAGIC)
    for number in content[:4]:
        _append_signed(trailer, number)
    return bytes(trailer + _CRC.pack(zlib.crc32(trailer)))


def _decode_trailer(trailer: bytes, counters: dict[int, int]) -> Content:
    signed, crc = trailer[: -_CRC.size], trailer[-_CRC.size :]
    numbers = list(_signed_numbers(signed[len(_TRAILER_MAGIC) :])) if signed.startswith(_TRAILER_MAGIC) else []
    if len(numbers) != 4 or crc != _CRC.pack(zlib.crc32(signed)):
        raise InvalidArgument(f"an encoded histogram ends with its zlib stream or pmesh's trailer, not {trailer!r:.60}")
    min_ns, max_ns, below_range, above_range = numbers
    return Content(min_ns, max_ns, below_range, above_range, counters)


def _append_signed(encoded: bytearray, number: int) -> None:
    """Append `number` of 64 bits as `ZigZagEncoding.putLong`: seven bits a byte, the ninth byte has eight."""
    rest = (number << 1) ^ (number >> 63)
    for _ in range(8):
        if rest < 0x80:
            break
        encoded.append(rest & 0x7F | 0x80)
        rest >>= 7
    encoded.append(rest)


def _signed_numbers(encoded: bytes) -> Iterator[int]:
    """The numbers that `_append_signed` made: `ZigZagEncoding.getLong`."""
    rest = shift = 0
    for byte in encoded:
        if byte < 0x80 or shift == 56:
            rest |= byte << shift
            yield (rest >> 1) ^ -(rest & 1)
            rest = shift = 0
        else:
            rest |= (byte & 0x7F) << shift
            shift += 7
    if shift:
        raise InvalidArgument("an encoded histogram has a number that breaks off")
