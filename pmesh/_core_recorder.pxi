"""Part of `_core`: the latency recorder, an HdrHistogram that is always on.

Here: `LatencyRecorder`, the bucket layout and the percentile rule. Not here: who times what (the
dispatcher does) and the exchange formats (V2 encoding, `.hlog`, hdrh's objects), which are `pmesh.hdr`;
the methods that speak them import it when called.

The layout is that of HdrHistogram (Gil Tene; github.com/HdrHistogram/HdrHistogram,
`AbstractHistogram.java`) for 1 ns .. 60 s at 3 significant digits, index for index, so that counts can
be exchanged with the Java, C and Python implementations. With 2048 sub-buckets a value below 2048 has a
counter of its own; above, each doubling has 1024 counters, so a bucket is narrower than 1/1024 of its
value.
"""

cimport cython
from cpython.float cimport PyFloat_AsDouble
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_Check, PyLong_CheckExact
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from libc.math cimport INFINITY, ceil, nextafter, sqrt
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from operator import index as _operator_index

from pmesh.errors import InvalidArgument, InvalidType


cdef extern from *:
    """
    #include <string.h>

    /* The smallest count whose buckets reach 60 s: 2048 << 25 > 60e9, so 26 buckets of 2048 sub-buckets,
       of which all but the first share their lower half with the one before. */
    #define PMESH_HDR_HALF_MAGNITUDE 10
    #define PMESH_HDR_HALF_COUNT (1 << PMESH_HDR_HALF_MAGNITUDE)
    #define PMESH_HDR_COUNTERS (27 * PMESH_HDR_HALF_COUNT)
    #define PMESH_HDR_HIGHEST_NS INT64_C(60000000000)

    /* Counter of `value`, which is in range: `countsArrayIndex` of the Java implementation. From 2048 up it is the
       exponent and the first ten bits of the mantissa of the value as a double, from their own start: half the
       instructions of finding the highest bit and shifting by it. */
    static CYTHON_INLINE Py_ssize_t pmesh_hdr_index(int64_t value) {
        double number;
        uint64_t bits;
        if (value < 2 * PMESH_HDR_HALF_COUNT) return (Py_ssize_t)value;
        number = (double)value;
        memcpy(&bits, &number, sizeof bits);
        return (Py_ssize_t)(bits >> (52 - PMESH_HDR_HALF_MAGNITUDE))
            - ((1023 - 1 + PMESH_HDR_HALF_MAGNITUDE) << PMESH_HDR_HALF_MAGNITUDE);
    }

    /* Ints of one digit (30 bits), so latencies below 1.07 s, without a call into the interpreter: a
       tenth of the time that `record` takes. */
    #if PY_VERSION_HEX >= 0x030C0000
    #define pmesh_long_is_compact(value) PyUnstable_Long_IsCompact((PyLongObject *)(value))
    #define pmesh_long_compact_value(value) PyUnstable_Long_CompactValue((PyLongObject *)(value))
    #else
    #define pmesh_long_is_compact(value) (Py_SIZE(value) >= -1 && Py_SIZE(value) <= 1)
    #define pmesh_long_compact_value(value) (Py_SIZE(value) * (Py_ssize_t)((PyLongObject *)(value))->ob_digit[0])
    #endif
    """
    enum:
        HDR_HALF_MAGNITUDE "PMESH_HDR_HALF_MAGNITUDE"
        HDR_HALF_COUNT "PMESH_HDR_HALF_COUNT"
        HDR_COUNTERS "PMESH_HDR_COUNTERS"
    const int64_t HDR_HIGHEST_NS "PMESH_HDR_HIGHEST_NS"
    Py_ssize_t hdr_index "pmesh_hdr_index"(int64_t value) noexcept nogil
    bint long_is_compact "pmesh_long_is_compact"(object value) noexcept
    Py_ssize_t long_compact_value "pmesh_long_compact_value"(object value) noexcept


cdef inline int64_t hdr_clamp(int64_t value_ns) noexcept nogil:
    """The value in range that stands for `value_ns` in the buckets."""
    if value_ns < 0:
        return 0
    if value_ns > HDR_HIGHEST_NS:
        return HDR_HIGHEST_NS
    return value_ns


cdef inline int hdr_width_log2_at(Py_ssize_t index) noexcept nogil:
    """log2 of the width of the bucket with counter `index`."""
    cdef int doubling = <int>(index >> HDR_HALF_MAGNITUDE) - 1
    return doubling if doubling > 0 else 0


cdef inline int64_t hdr_lowest(Py_ssize_t index) noexcept nogil:
    """Lowest value of the bucket with counter `index`: `valueFromIndex`."""
    cdef int width_log2 = hdr_width_log2_at(index)
    return <int64_t>(index - (<Py_ssize_t>width_log2 << HDR_HALF_MAGNITUDE)) << width_log2


cdef inline int64_t hdr_highest(Py_ssize_t index) noexcept nogil:
    """Highest value of the bucket with counter `index`: `highestEquivalentValue`."""
    return hdr_lowest(index) + (<int64_t>1 << hdr_width_log2_at(index)) - 1


cdef inline double hdr_median(Py_ssize_t index) noexcept nogil:
    """Middle of the bucket with counter `index`: `medianEquivalentValue`, integer as it is there."""
    return <double>(hdr_lowest(index) + ((<int64_t>1 << hdr_width_log2_at(index)) >> 1))


cdef object recorder_integer(object value, str name):
    """`value` as an int; off the fast path, for everything that is not exactly an int."""
    if isinstance(value, bool):
        raise InvalidType(f"{name} is an int of nanoseconds, not the bool {value!r}")
    if PyLong_Check(value):
        return value
    if not hasattr(type(value), "__index__"):
        raise InvalidType(
            f"{name} is an int of nanoseconds, not the {type(value).__name__} {value!r}; "
            "of seconds as a float make round(seconds * 1e9)"
        )
    return _operator_index(value)


cdef int64_t recorder_nearest(object value, str name) except? -1:
    """`value` in 64 bits, the nearest there is."""
    cdef int overflow = 0
    cdef int64_t result = PyLong_AsLongLongAndOverflow(recorder_integer(value, name), &overflow)
    if overflow:
        result = INT64_MAX if overflow > 0 else INT64_MIN
    return result


cdef inline int64_t recorder_nanoseconds(object value, str name) except? -1:
    """`value` as a number of nanoseconds, which an error calls `name`; ints beyond 64 bits are clamped."""
    if PyLong_CheckExact(value) and long_is_compact(value):
        return long_compact_value(value)
    return recorder_nearest(value, name)


cdef double recorder_percentile(object percentile) except? -1.0:
    """`percentile` as a double in 0..100, or the error that names it."""
    cdef double result
    # PyFloat_AsDouble and not float(): that one would parse a str.
    if isinstance(percentile, bool):
        raise InvalidType(f"a percentile is a number from 0 to 100, not the bool {percentile!r}")
    try:
        result = PyFloat_AsDouble(percentile)
    except TypeError:
        raise InvalidType(
            f"a percentile is a number from 0 to 100, not the {type(percentile).__name__} {percentile!r}"
        ) from None
    except OverflowError:
        raise InvalidArgument(
            f"a percentile is a number from 0 to 100, not an int of {percentile.bit_length()} bits"
        ) from None
    # Written so that NaN, for which every comparison is false, is refused too.
    if not 0.0 <= result <= 100.0:
        raise InvalidArgument(f"a percentile is a number from 0 to 100, not {percentile!r}")
    return result


cdef str recorder_duration(int64_t value_ns):
    """`value_ns` for people: four significant digits and a unit."""
    if -1_000 < value_ns < 1_000:
        return f"{value_ns} ns"
    if -1_000_000 < value_ns < 1_000_000:
        return f"{value_ns / 1e3:.4g} us"
    if -1_000_000_000 < value_ns < 1_000_000_000:
        return f"{value_ns / 1e6:.4g} ms"
    return f"{value_ns / 1e9:.4g} s"


@cython.final
cdef class LatencyRecorder:
    """Histogram of latencies in integer nanoseconds: 0 to 60 s at three significant digits.

    Recording takes a few nanoseconds and never allocates after the first value; the 27,648 counters
    (216 KiB) are made then, so a recorder that saw nothing is small. The layout and the statistics are
    HdrHistogram's; `count`, `min` and `max` are exact.

    Values outside 0 .. 60 s are not lost: they are counted in `below_range` and `above_range`, and
    also in the lowest and the highest bucket, so `count`, `min`, `max` and `percentile` include them.
    `mean` and `stddev` see them as 0 and 60 s. Ints beyond 64 bits count as the nearest int of 64 bits.

    Every method may be called from any thread.

    Invariant (under the recorder's own lock): the counters sum to `count`, and all that are not zero lie
    between the counters of `min` and `max`.
    """

    cdef int64_t *_counters     # HDR_COUNTERS of them, or NULL until the first value; owned
    cdef int64_t _count         # values recorded, those out of range included
    cdef int64_t _min           # smallest value recorded, unclamped; INT64_MAX when empty
    cdef int64_t _max           # largest value recorded, unclamped; INT64_MIN when empty
    cdef int64_t _below_range   # values below 0, which stand in the first counter
    cdef int64_t _above_range   # values above 60 s, which stand in the counter of 60 s
    cdef PyObject *_stage       # Meter that holds back some of this recorder's values, or NULL; it outlives that

    def __cinit__(self):
        self._counters = NULL
        self._count = 0
        self._min = INT64_MAX
        self._max = INT64_MIN
        self._below_range = 0
        self._above_range = 0
        self._stage = NULL

    def __dealloc__(self):
        PyMem_RawFree(self._counters)

    cdef int _allocate(self) except -1:
        """Make the counters; the caller holds the lock.

        Raw, because that is calloc: pages nobody counts in stay unmapped (a recorder of values between
        1 and 2 us touches 8 KiB), and no garbage collection can start under the lock.
        """
        self._counters = <int64_t *>PyMem_RawCalloc(HDR_COUNTERS, sizeof(int64_t))
        if self._counters is NULL:
            raise MemoryError("no memory for the 216 KiB of counters of a LatencyRecorder")
        return 0

    cdef int reserve(self) except -1:
        """Make the counters before the first value."""
        with cython.critical_section(self):
            if self._counters is NULL:
                self._allocate()
        return 0

    cdef inline int add(self, int64_t value_ns) except -1:
        """Record `value_ns`; the dispatcher's way in. Safe from any thread.

        Raises MemoryError, with nothing recorded, when the first value finds no memory for the counters.
        """
        with cython.critical_section(self):
            if self._counters is NULL:
                self._allocate()
            # hdr_index of a clamped value is below HDR_COUNTERS: 60 s has index 27388.
            self._counters[hdr_index(hdr_clamp(value_ns))] += 1
            self._count += 1
            if value_ns < self._min:
                self._min = value_ns
            if value_ns > self._max:
                self._max = value_ns
            # One test for both sides in the usual case: a negative value is a huge unsigned one.
            if <uint64_t>value_ns > <uint64_t>HDR_HIGHEST_NS:
                if value_ns < 0:
                    self._below_range += 1
                else:
                    self._above_range += 1
        return 0

    cdef inline int _settle(self) noexcept:
        """Record what the meter still holds back; before all that reads or empties the counters."""
        if self._stage is not NULL:
            (<Meter>self._stage).flush()
        return 0

    cdef inline int add_counted(self, int count, int64_t least_ns, int64_t most_ns) noexcept:
        """`add` of `count` values in range that stand in the counters already; only where there is a GIL."""
        self._count += count
        if least_ns < self._min:
            self._min = least_ns
        if most_ns > self._max:
            self._max = most_ns
        return 0

    # Not a cyfunction but a method descriptor, which CPython's CALL specialises: 21 ns a call from
    # Python instead of 28 (3.11, loop included). The signature comes from the docstring instead.
    @cython.binding(False)
    @cython.embedsignature(True)
    @cython.embedsignature.format("clinic")
    def record(self, value_ns, /):
        """Record one latency of `value_ns` nanoseconds.

        Args:
            value_ns: An int (or an object with `__index__`). Outside 0 .. 60 s it is counted in
                `below_range` or `above_range` as well.

        Raises:
            InvalidType: Not an int: a bool, a float, a str. (A `TypeError`.)
            MemoryError: The first value found no memory for the counters; nothing was recorded.
        """
        self.add(recorder_nanoseconds(value_ns, "a latency"))

    # Divides numbers of 0 and more by an interval of 1 and more.
    @cython.cdivision(True)
    def record_corrected(self, value_ns, expected_interval_ns, /):
        """Record one latency and those it hid from a sender that waited for it.

        A sender that meant to send every `expected_interval_ns` and waited `value_ns` for an answer left
        out the requests in between (coordinated omission). Their latencies are recorded too: `value_ns`
        less one interval, less two, and so on while at least one interval remains. The rule is
        `recordValueWithExpectedInterval` of the Java HdrHistogram; hdrh's `record_corrected_value`
        goes one value further, below the interval.

        The time this takes grows with the buckets the values fall in and not with their number.

        Args:
            value_ns: As for `record`.
            expected_interval_ns: Time between two sends, an int; 0 corrects nothing.

        Raises:
            InvalidArgument: The interval is negative, or the sum would be more than 2**63 - 1 values;
                nothing was recorded. (A `ValueError`.)
            InvalidType: One of the two is not an int. (A `TypeError`.)
            MemoryError: The first value found no memory for the counters; nothing was recorded.
        """
        cdef int64_t value = recorder_nanoseconds(value_ns, "a latency")
        cdef int64_t interval = recorder_nanoseconds(expected_interval_ns, "an expected interval")
        cdef int64_t left = 1
        cdef int64_t lowest, here
        cdef int64_t missing = value
        cdef Py_ssize_t index
        cdef bint fits
        if interval < 0:
            raise InvalidArgument(f"an expected interval is 0 ns or more, not {expected_interval_ns}")
        if interval == 0 or value < interval:
            interval = 1  # any number will do, for one value
        else:
            left = value // interval
        with cython.critical_section(self):
            fits = left <= INT64_MAX - self._count
            if fits:
                if self._counters is NULL:
                    self._allocate()
                self._count += left
                self._max = max(self._max, value)
                self._min = min(self._min, value - (left - 1) * interval)
                self._below_range += value < 0
                # From the top, one bucket a turn: `here` of the values lie in the bucket of `missing`.
                while left:
                    index = hdr_index(hdr_clamp(missing))
                    lowest = HDR_HIGHEST_NS + 1 if missing > HDR_HIGHEST_NS else hdr_lowest(index)
                    here = (missing - lowest) // interval + 1 if missing > lowest else 1
                    here = min(here, left)
                    self._counters[index] += here
                    if missing > HDR_HIGHEST_NS:
                        self._above_range += here
                    left -= here
                    missing -= here * interval
        if not fits:
            raise InvalidArgument(
                f"cannot record {value} ns at an interval of {interval} ns: more than 2**63 - 1 values in all"
            )

    @property
    def count(self):
        """Values recorded, those out of range included."""
        cdef int64_t result
        self._settle()
        with cython.critical_section(self):
            result = self._count
        return result

    @property
    def min(self):
        """The smallest value recorded, exactly, in ns; 0 when empty, as in HdrHistogram."""
        cdef int64_t result
        self._settle()
        with cython.critical_section(self):
            result = self._min if self._count else 0
        return result

    @property
    def max(self):
        """The largest value recorded, exactly, in ns; 0 when empty, as in HdrHistogram."""
        cdef int64_t result
        self._settle()
        with cython.critical_section(self):
            result = self._max if self._count else 0
        return result

    @property
    def below_range(self):
        """How many recorded values were negative."""
        cdef int64_t result
        self._settle()
        with cython.critical_section(self):
            result = self._below_range
        return result

    @property
    def above_range(self):
        """How many recorded values were above 60 s."""
        cdef int64_t result
        self._settle()
        with cython.critical_section(self):
            result = self._above_range
        return result

    @property
    def mean(self):
        """Mean in ns, from the middles of the buckets, between `min` and `max`; 0.0 when empty.

        Within 1/2048 of the exact mean of the values in range. `getMean` of HdrHistogram, but clamped.
        """
        cdef double result
        self._settle()
        with cython.critical_section(self):
            result = self._bucket_mean()
            # The middle of a bucket may lie outside the values that are in it.
            if self._count and result < <double>self._min:
                result = <double>self._min
            elif self._count and result > <double>self._max:
                result = <double>self._max
        return result

    @property
    def stddev(self):
        """Population standard deviation in ns, from the middles of the buckets; 0.0 when empty.

        `getStdDeviation` of HdrHistogram.
        """
        cdef double result
        self._settle()
        with cython.critical_section(self):
            result = self._bucket_stddev()
        return result

    def percentile(self, percentile, /):
        """The latency in ns that `percentile` percent of the recorded values do not exceed.

        It is the highest value of the bucket that holds the value of rank ceil(percentile / 100 * count),
        but no less than `min` and no more than `max`: never below the exact percentile, and above it by
        less than 1/1024 of it. So `percentile(0)` is `min` and `percentile(100)` is `max`, exactly. An
        empty recorder answers 0. The rule is `getValueAtPercentile` of the Java HdrHistogram, with its
        guard against products that should be whole and come out above it (1.1 * 3000 / 100); the
        Python port rounds the rank to the nearest instead.

        A rank that falls among the values above 60 s gives `max`, which alone is known of them; one
        among the negative values gives 0.

        Args:
            percentile: A number from 0 to 100.

        Raises:
            InvalidArgument: NaN, or outside 0..100. (A `ValueError`.)
            InvalidType: Not a number. (A `TypeError`.)
        """
        cdef double wanted = recorder_percentile(percentile)
        cdef Py_ssize_t index = 0
        cdef int64_t reached = 0
        cdef int64_t result
        self._settle()
        with cython.critical_section(self):
            result = self._value_at(wanted, &index, &reached)
        return result

    def percentiles(self, percentiles, /):
        """`percentile` for each of `percentiles`: a list in the same order, of one moment, in one sweep.

        Args:
            percentiles: An iterable of numbers from 0 to 100, in any order.

        Raises:
            InvalidArgument: One is NaN or outside 0..100. (A `ValueError`.)
            InvalidType: Not an iterable, or one is not a number. (A `TypeError`.)
        """
        cdef list wanted = []
        cdef list result
        cdef LatencyRecorder frozen
        cdef Py_ssize_t index = 0
        cdef int64_t reached = 0
        if isinstance(percentiles, (str, bytes)) or not hasattr(type(percentiles), "__iter__"):
            raise InvalidType(
                "percentiles wants an iterable of numbers from 0 to 100, not the "
                f"{type(percentiles).__name__} {percentiles!r}"
            )
        for percentile in percentiles:
            wanted.append(recorder_percentile(percentile))
        # A private copy, because the loop makes Python objects, which the lock does not allow.
        frozen = self.snapshot()
        result = [0] * len(wanted)
        for position in sorted(range(len(wanted)), key=wanted.__getitem__):
            result[position] = frozen._value_at(wanted[position], &index, &reached)
        return result

    def merge(self, other, /):
        """Add everything `other` has recorded; a recorder merged with itself doubles.

        Both are locked together, so a merge never sees half of another thread's recording.

        Raises:
            InvalidType: `other` is not a `LatencyRecorder`. (A `TypeError`.)
            InvalidArgument: The sum would be more than 2**63 - 1 values; nothing was added.
            MemoryError: No memory for the counters; nothing was added.
        """
        cdef bint fits = True
        cdef LatencyRecorder source
        cdef Py_ssize_t index
        if not isinstance(other, LatencyRecorder):
            raise InvalidType(
                f"merge wants a LatencyRecorder, not the {type(other).__name__} {other!r}"
            )
        source = <LatencyRecorder>other
        self._settle()
        source._settle()
        with cython.critical_section(self, source):
            fits = source._count <= INT64_MAX - self._count
            if fits and source._count:
                if self._counters is NULL:
                    self._allocate()
                # `source` may be `self`: nothing it is read for may be written before.
                for index in range(source._first(), source._last() + 1):
                    self._counters[index] += source._counters[index]
                self._count += source._count
                self._below_range += source._below_range
                self._above_range += source._above_range
                if source._min < self._min:
                    self._min = source._min
                if source._max > self._max:
                    self._max = source._max
        if not fits:
            raise InvalidArgument(f"cannot merge {other!r}: more than 2**63 - 1 values in all")

    def snapshot(self):
        """A new recorder with the same content, of one moment; neither changes the other afterwards.

        Raises:
            MemoryError: No memory for the counters of the copy.
        """
        cdef LatencyRecorder copy = LatencyRecorder.__new__(LatencyRecorder)
        cdef Py_ssize_t first
        self._settle()
        with cython.critical_section(self):
            if self._count:
                copy._allocate()
                # Only what is in use, so that the copy's other pages stay unmapped too.
                first = self._first()
                memcpy(
                    copy._counters + first,
                    self._counters + first,
                    <size_t>(self._last() + 1 - first) * sizeof(int64_t),
                )
                copy._count = self._count
                copy._min = self._min
                copy._max = self._max
                copy._below_range = self._below_range
                copy._above_range = self._above_range
        return copy

    def take(self):
        """Everything recorded since the last `take` or `reset`, as a new recorder; this one starts again.

        One step for other threads: what they record is in the result or in the next one, never in both.

        Raises:
            MemoryError: No memory for another set of counters; nothing was taken.
        """
        cdef LatencyRecorder taken = LatencyRecorder.__new__(LatencyRecorder)
        # Fresh counters for this recorder, made before the lock so that nobody waits for them, and not
        # at its next value, so that recording still cannot fail.
        taken._allocate()
        self._settle()
        with cython.critical_section(self):
            # An empty recorder gives nothing away: its counters, if there are any, are zero.
            if self._count:
                self._counters, taken._counters = taken._counters, self._counters
                taken._count, self._count = self._count, 0
                taken._min, self._min = self._min, INT64_MAX
                taken._max, self._max = self._max, INT64_MIN
                taken._below_range, self._below_range = self._below_range, 0
                taken._above_range, self._above_range = self._above_range, 0
        if not taken._count:
            PyMem_RawFree(taken._counters)
            taken._counters = NULL
        return taken

    def reset(self):
        """Forget everything recorded. The counters' memory is kept: recording goes on and cannot fail."""
        cdef Py_ssize_t first
        self._settle()
        with cython.critical_section(self):
            if self._count:
                first = self._first()
                memset(
                    self._counters + first, 0, <size_t>(self._last() + 1 - first) * sizeof(int64_t)
                )
            self._count = 0
            self._min = INT64_MAX
            self._max = INT64_MIN
            self._below_range = 0
            self._above_range = 0

    def counts(self):
        """Iterate over the buckets in use, of one moment: `(lowest_ns, highest_ns, count)`, ascending.

        A value v was counted in the bucket with lowest_ns <= v <= highest_ns; values out of range stand
        in the first bucket and in the one of 60 s.
        """
        cdef LatencyRecorder frozen = self.snapshot()
        cdef Py_ssize_t index
        cdef list rows = []
        if frozen._count:
            for index in range(frozen._first(), frozen._last() + 1):
                if frozen._counters[index]:
                    rows.append((hdr_lowest(index), hdr_highest(index), frozen._counters[index]))
        return iter(rows)

    def encode(self):
        """This recorder as text, in HdrHistogram's V2 compressed format and base64.

        Java's `Histogram.decodeFromCompressedByteBuffer`, hdrh and others read it, and get the same
        counters. What the format has no room for stands where they do not look: exact `min` and `max`,
        `below_range` and `above_range`, which `decode` restores.
        """
        from pmesh.hdr import Content, encode_content

        return encode_content(Content(*self._content()))

    @staticmethod
    def decode(text, /):
        """The recorder that `text` encodes: what `encode` gave, or any HdrHistogram in V2 and base64.

        A histogram of another origin has no exact `min` and `max`: they are the ends of the outermost
        buckets in use, 60 s at most where 60 s lies in the bucket. Values above 60 s are counted in
        `above_range`. One of other parameters is recorded anew, each value as the highest of its
        bucket, so that percentiles are what the histogram itself gives, or above by less than 1/1024.

        Raises:
            InvalidArgument: Not such a text; it says what is wrong with it. (A `ValueError`.)
            InvalidType: Not a str. (A `TypeError`.)
        """
        from pmesh.hdr import decode_content

        content = decode_content(text)
        return _restore_recorder(*content) if content.counters else LatencyRecorder()

    def to_hdr(self):
        """A new `hdrh.histogram.HdrHistogram(1, 60_000_000_000, 3)` with the same counters.

        `min_value` and `max_value` are exact, but never outside 0 .. 60 s. On a free-threaded interpreter
        hdrh 0.10.8 turns the GIL back on when it is imported, which this and `from_hdr` do.

        Raises:
            ExtraMissing: hdrh is not installed; `pip install 'pmesh[hdr]'` does that. (An `ImportError`.)
        """
        from pmesh.hdr import Content, to_hdrh

        return to_hdrh(Content(*self._content()))

    @staticmethod
    def from_hdr(histogram, /):
        """The recorder with what `histogram`, an `hdrh.histogram.HdrHistogram`, has recorded.

        As `decode`, but with the exact `min` and `max`, as far as hdrh knows them: not after decoding.

        Raises:
            ExtraMissing: hdrh is not installed; `pip install 'pmesh[hdr]'` does that. (An `ImportError`.)
            InvalidArgument: It holds more than 2**63 - 1 values. (A `ValueError`.)
            InvalidType: Not an hdrh histogram. (A `TypeError`.)
        """
        from pmesh.hdr import from_hdrh

        content = from_hdrh(histogram)
        return _restore_recorder(*content) if content.counters else LatencyRecorder()

    def __copy__(self):
        return self.snapshot()

    def __deepcopy__(self, memo):
        return self.snapshot()

    def __reduce__(self):
        """Pickle the counters in use only: a few KiB at most for what a service records."""
        cdef tuple content = self._content()
        return (_restore_recorder, content) if content[4] else (LatencyRecorder, ())

    def __sizeof__(self):
        """Bytes of the object and, once made, of its counters."""
        cdef Py_ssize_t result = type(self).__basicsize__
        self._settle()
        with cython.critical_section(self):
            if self._counters is not NULL:
                result += HDR_COUNTERS * sizeof(int64_t)
        return result

    def __repr__(self):
        cdef LatencyRecorder frozen = self.snapshot()
        cdef str outside = ""
        if not frozen._count:
            return "<LatencyRecorder: empty>"
        if frozen._below_range:
            outside += f", below_range={frozen._below_range}"
        if frozen._above_range:
            outside += f", above_range={frozen._above_range}"
        p50, p99 = frozen.percentiles((50, 99))
        return (
            f"<LatencyRecorder: count={frozen._count}, p50={recorder_duration(p50)}, "
            f"p99={recorder_duration(p99)}, max={recorder_duration(frozen._max)}{outside}>"
        )

    cdef tuple _content(self):
        """min, max, below_range, above_range and {index: count}, of one moment; `hdr.Content` names them."""
        cdef LatencyRecorder frozen = self.snapshot()
        cdef Py_ssize_t index
        cdef dict counters = {}
        if not frozen._count:
            return 0, 0, 0, 0, counters
        for index in range(frozen._first(), frozen._last() + 1):
            if frozen._counters[index]:
                counters[index] = frozen._counters[index]
        return frozen._min, frozen._max, frozen._below_range, frozen._above_range, counters

    # The rest is called with the lock held, or on a recorder nobody else has, and makes no object.

    cdef Py_ssize_t _first(self) noexcept:
        """The first counter in use; not for an empty recorder."""
        return hdr_index(hdr_clamp(self._min))

    cdef Py_ssize_t _last(self) noexcept:
        """The last counter in use; not for an empty recorder."""
        return hdr_index(hdr_clamp(self._max))

    cdef int64_t _value_at(self, double percentile, Py_ssize_t *index, int64_t *reached) noexcept:
        """The value at `percentile`, which is in 0..100.

        `index` and `reached` (the count below `index`) start at 0 and carry a sweep over rising
        percentiles from one call to the next.
        """
        cdef int64_t rank
        cdef int64_t result
        cdef Py_ssize_t last
        if not self._count:
            return 0
        if percentile == 0.0:
            return self._min
        # Beyond 2**52 values the product below is no longer exact to one rank.
        if percentile == 100.0:
            return self._max
        # Java's guard: 1.1 * 3000 / 100 is 33.00000000000001 in doubles, and ceil would go one rank too
        # far. One step down changes no rank where the product is not nearly whole.
        rank = <int64_t>ceil(nextafter(percentile, -INFINITY) * <double>self._count / 100.0)
        if rank < 1:
            rank = 1
        if rank > self._count - self._above_range:
            return self._max
        last = self._last()
        if index[0] < self._first():
            index[0] = self._first()
        while index[0] < last and reached[0] + self._counters[index[0]] < rank:
            reached[0] += self._counters[index[0]]
            index[0] += 1
        result = hdr_highest(index[0])
        if result > self._max:
            return self._max
        if result < self._min:
            return self._min
        return result

    @cython.cdivision(True)
    cdef double _bucket_mean(self) noexcept:
        cdef double total = 0.0
        cdef Py_ssize_t index
        if not self._count:
            return 0.0
        for index in range(self._first(), self._last() + 1):
            if self._counters[index]:
                total += hdr_median(index) * <double>self._counters[index]
        return total / <double>self._count

    @cython.cdivision(True)
    cdef double _bucket_stddev(self) noexcept:
        # The mean of the middles and not the clamped one: the deviation of equal values is 0.
        cdef double mean = self._bucket_mean()
        cdef double total = 0.0
        cdef double deviation
        cdef Py_ssize_t index
        if not self._count:
            return 0.0
        for index in range(self._first(), self._last() + 1):
            if self._counters[index]:
                deviation = hdr_median(index) - mean
                total += deviation * deviation * <double>self._counters[index]
        return sqrt(total / <double>self._count)


def _restore_recorder(
    int64_t min_ns, int64_t max_ns, int64_t below_range, int64_t above_range, dict counters not None, /
):
    """The LatencyRecorder with this content, which is not empty; pickles and `pmesh.hdr` come in here.

    Raises:
        InvalidArgument: The state is none that a recorder can have.
    """
    cdef LatencyRecorder recorder = LatencyRecorder.__new__(LatencyRecorder)
    cdef Py_ssize_t index
    cdef int64_t count
    recorder._allocate()
    recorder._min = min_ns
    recorder._max = max_ns
    recorder._below_range = below_range
    recorder._above_range = above_range
    for key, value in counters.items():
        index = key
        count = value
        if not 0 <= index < HDR_COUNTERS or count <= 0 or count > INT64_MAX - recorder._count:
            raise InvalidArgument(f"no LatencyRecorder can have the counter {key}: {value}")
        recorder._counters[index] = count
        recorder._count += count
    # Every sweep runs from the counter of min to that of max, so a count outside would be lost.
    if (
        not recorder._count
        or min_ns > max_ns
        or recorder._first() != min(counters)
        or recorder._last() != max(counters)
        or (min_ns < 0) != (below_range > 0)
        or (max_ns > HDR_HIGHEST_NS) != (above_range > 0)
        or not 0 <= below_range <= recorder._counters[0]
        or not 0 <= above_range <= recorder._counters[hdr_index(HDR_HIGHEST_NS)]
    ):
        raise InvalidArgument(
            f"the content of a LatencyRecorder contradicts itself: min {min_ns}, max {max_ns}, "
            f"{below_range} below and {above_range} above range, counters "
            f"{min(counters, default=None)} to {max(counters, default=None)}"
        )
    return recorder
