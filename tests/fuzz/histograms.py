"""Encoded histograms: any text, and what is right up to some layer and anything below it.

The first byte says what the rest is: the text, what is in base64, the stream of zlib, what is compressed, or the parts
of a payload and of a trailer.
"""

from __future__ import annotations

import base64

import harness

with harness.instrumented():
    from fuzz_checks import check_histogram, enveloped, number, payload_of, sealed, trailer_of

ONE = payload_of(number(-4) + number(3))


def text_of(data: bytes) -> str:
    kind, rest = data[0] % 6 if data else 0, data[1:]
    if kind == 0:
        return rest.decode("utf-8", "surrogateescape")
    if kind == 1:
        return base64.b64encode(rest).decode()
    if kind == 2:
        return enveloped(rest)
    if kind == 3:
        return sealed(rest)
    provider = harness.FuzzedDataProvider(rest)
    if kind == 4:
        return sealed(ONE, trailer_of(*(provider.ConsumeInt(8) for _ in range(provider.ConsumeIntInRange(3, 5)))))
    digits = provider.ConsumeIntInRange(0, 6)
    lowest, highest = (provider.ConsumeUInt(provider.ConsumeIntInRange(0, 8)) for _ in range(2))
    offset = provider.ConsumeIntInRange(-3, 1)  # mostly none
    counts = provider.ConsumeBytes(provider.remaining_bytes())
    return sealed(payload_of(counts, digits=digits, lowest=lowest, highest=highest, offset=max(offset, 0)))


def check(data: bytes) -> None:
    check_histogram(text_of(data))


def seeds() -> list[bytes]:
    text = sealed(ONE, trailer_of(4, 4, 0, 0))
    raw = base64.b64decode(text)
    return [b"\0" + text.encode(), b"\1" + raw, b"\2" + raw[8:], b"\3" + ONE, b"\4" + bytes(32), b"\5" + ONE]


if __name__ == "__main__":
    harness.fuzz(check, seeds())
