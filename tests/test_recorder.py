"""LatencyRecorder against three oracles: an exact sort, the layout written out as powers of two, and hdrh."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import random
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorder_samples import HIGHEST_NS, recorder_of, state

from pmesh import LatencyRecorder
from pmesh.errors import PmeshError

INT64_MAX = 2**63 - 1
COUNTERS_BYTES = 27_648 * 8
PERCENTILES = (0, 0.1, 1, 1.1, 10, 25, 33.3, 50, 75, 90, 95, 99, 99.9, 99.99, 100)

in_range = st.one_of(
    st.integers(0, HIGHEST_NS),
    st.integers(0, 5_000),
    st.builds(lambda power, step: min(max(2**power + step, 0), HIGHEST_NS), st.integers(0, 35), st.integers(-2, 2)),
)
anything = st.one_of(in_range, st.integers(-(2**63), 2**63 - 1))
# Decimals as a user writes them; hypothesis would otherwise spend its time on 1e-300.
decimals = st.integers(0, 100_000).map(lambda thousandths: thousandths / 1000)


def bucket(value: int) -> tuple[int, int]:
    """Lowest and highest value of the bucket of `value`, from the definition and not by index."""
    width = 1 if value < 2048 else 2 ** (value.bit_length() - 11)
    lowest = value // width * width
    return lowest, lowest + width - 1


def exact(values: list[int], percentile: float) -> int:
    """The percentile of the samples themselves: rank ceil(p / 100 * n), p as the decimal it is written as."""
    rank = math.ceil(Fraction(str(percentile)) * len(values) / 100)
    return sorted(values)[max(rank, 1) - 1]


# The layout


def powers_and_neighbours() -> list[int]:
    near = {2**power + step for power in range(36) for step in (-1, 0, 1)}
    return sorted(near | {0, HIGHEST_NS - 1, HIGHEST_NS})


@pytest.mark.parametrize("value", powers_and_neighbours())
def test_a_value_is_counted_in_the_bucket_the_definition_gives(value: int) -> None:
    recorder = recorder_of([value])
    assert list(recorder.counts()) == [(*bucket(value), 1)]
    assert recorder.below_range == recorder.above_range == 0


def test_the_layout_is_that_of_hdrh_at_every_power_of_two(hdrh: Any) -> None:
    histogram = hdrh.HdrHistogram(1, HIGHEST_NS, 3)
    assert histogram.counts_len * 8 == COUNTERS_BYTES
    for value in powers_and_neighbours():
        [(lowest, highest, count)] = recorder_of([value]).counts()
        assert lowest == histogram.get_lowest_equivalent_value(value), value
        assert highest == histogram.get_highest_equivalent_value(value), value
        assert count == 1


def test_neighbouring_buckets_touch_without_gap_or_overlap() -> None:
    edges = [edge for value in powers_and_neighbours() for edge in bucket(value)]
    rows = list(recorder_of([min(edge + step, HIGHEST_NS) for edge in edges for step in (0, 1)]).counts())
    for (_, highest, _), (lowest, _, _) in itertools.pairwise(rows):
        assert highest < lowest
    assert all(bucket(lowest) == bucket(highest) == (lowest, highest) for lowest, highest, _ in rows)


# Percentiles


@given(values=st.lists(in_range, min_size=1, max_size=60), percentile=decimals)
def test_a_percentile_is_the_top_of_the_exact_ones_bucket_within_min_and_max(
    values: list[int], percentile: float
) -> None:
    recorder = recorder_of(values)
    truth = exact(values, percentile)
    if percentile == 0:
        assert recorder.percentile(percentile) == min(values)
    else:
        assert recorder.percentile(percentile) == min(bucket(truth)[1], max(values))


@given(values=st.lists(anything, min_size=1, max_size=60), percentiles=st.lists(st.floats(0, 100), min_size=2))
def test_percentiles_rise_with_p_and_stay_within_min_and_max(values: list[int], percentiles: list[float]) -> None:
    recorder = recorder_of(values)
    found = [recorder.percentile(percentile) for percentile in sorted(percentiles)]
    assert found == sorted(found)
    assert min(values) <= found[0] <= found[-1] <= max(values)
    assert recorder.percentile(0) == min(values)
    assert recorder.percentile(100) == max(values)


@given(values=st.lists(anything, max_size=60), percentiles=st.lists(st.floats(0, 100)))
def test_percentiles_in_one_sweep_equal_percentiles_one_by_one(values: list[int], percentiles: list[float]) -> None:
    recorder = recorder_of(values)
    assert recorder.percentiles(percentiles) == [recorder.percentile(p) for p in percentiles]
    assert recorder.percentiles(iter(percentiles)) == recorder.percentiles(tuple(percentiles))


def test_the_rank_is_rounded_up_where_the_python_port_rounds_to_nearest(hdrh: Any) -> None:
    values = [100, 200, 300, 400]
    recorder, histogram = recorder_of(values), hdrh.HdrHistogram(1, HIGHEST_NS, 3)
    for value in values:
        histogram.record_value(value)
    # 30 % of 4 is rank 1.2: Java's ceiling takes the second value, the nearest rank is the first.
    assert histogram.get_value_at_percentile(30) == 100
    assert recorder.percentile(30) == 200


def test_the_rank_is_rounded_up() -> None:
    assert recorder_of([100, 200, 300, 400]).percentiles([25, 25.1, 30, 50, 50.1]) == [
        100,
        200,
        200,
        200,
        300,
    ]


def test_a_whole_rank_is_not_pushed_up_by_floating_point() -> None:
    assert 1.1 * 3000 / 100 > 33  # the trap: 1.1 % of 3000 is rank 33 exactly
    assert recorder_of(list(range(1, 2001)) + [2000] * 1000).percentile(1.1) == 33


DISTRIBUTIONS: dict[str, Callable[[random.Random], float]] = {
    "uniform": lambda r: r.uniform(0, HIGHEST_NS),
    "uniform small": lambda r: r.uniform(0, 3_000),
    "exponential 1 us": lambda r: r.expovariate(1e-3),
    "exponential 1 ms": lambda r: r.expovariate(1e-6),
    "exponential 1 s": lambda r: r.expovariate(1e-9),
    "lognormal": lambda r: r.lognormvariate(10, 1),
    "lognormal wide": lambda r: r.lognormvariate(12, 3),
    "normal": lambda r: r.gauss(1e6, 1e5),
    "normal narrow": lambda r: r.gauss(1e9, 1e3),
    "pareto": lambda r: 1e3 * r.paretovariate(1.2),
    "pareto heavy": lambda r: 1e2 * r.paretovariate(0.7),
    "gamma": lambda r: r.gammavariate(2, 1e5),
    "weibull": lambda r: r.weibullvariate(1e6, 0.5),
    "triangular": lambda r: r.triangular(1e3, 1e7, 2e3),
    "beta": lambda r: 1e8 * r.betavariate(0.5, 0.5),
    "bimodal": lambda r: r.gauss(1e4, 1e2) if r.random() < 0.99 else r.gauss(2e8, 1e6),
    "constant": lambda r: 123_456_789,
    "two values": lambda r: r.choice((2047, 2048)),
    "powers of two": lambda r: 2 ** r.randrange(35),
    "log uniform": lambda r: math.exp(r.uniform(0, math.log(HIGHEST_NS))),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_percentiles_of_a_distribution_are_within_one_bucket_of_the_sort(name: str) -> None:
    assert len(DISTRIBUTIONS) == 20
    source = random.Random(name)  # the name is the seed
    values = [min(max(int(DISTRIBUTIONS[name](source)), 0), HIGHEST_NS) for _ in range(5_000)]
    recorder = recorder_of(values)
    for percentile, found in zip(PERCENTILES, recorder.percentiles(PERCENTILES), strict=True):
        truth = exact(values, percentile)
        assert truth <= found <= bucket(truth)[1], (name, percentile)
    assert recorder.mean == pytest.approx(sum(values) / len(values), rel=1 / 2048, abs=1)


@pytest.mark.parametrize("name", ["lognormal wide", "pareto", "uniform", "uniform small", "constant"])
def test_mean_stddev_and_counts_equal_those_of_hdrh(hdrh: Any, name: str) -> None:
    source = random.Random(name)
    values = [min(max(int(DISTRIBUTIONS[name](source)), 0), HIGHEST_NS) for _ in range(2_000)]
    recorder, histogram = recorder_of(values), hdrh.HdrHistogram(1, HIGHEST_NS, 3)
    for value in values:
        histogram.record_value(value)
    low, high = min(values), max(values)
    assert recorder.mean == pytest.approx(min(max(histogram.get_mean_value(), low), high), rel=1e-12)
    assert recorder.stddev == pytest.approx(histogram.get_stddev(), rel=1e-9)
    assert [row[1:] for row in recorder.counts()] == [
        (item.value_iterated_to, item.count_added_in_this_iter_step) for item in histogram.get_recorded_iterator()
    ]


def test_equal_values_have_that_mean_and_no_deviation() -> None:
    recorder = recorder_of([4_099] * 7)  # 4098 is the middle of its bucket
    assert (recorder.mean, recorder.stddev) == (4_099.0, 0.0)


# Values out of range


@given(values=st.lists(anything, max_size=60))
def test_every_value_is_counted_and_none_twice(values: list[int]) -> None:
    recorder = recorder_of(values)
    assert recorder.count == len(values) == sum(count for _, _, count in recorder.counts())
    assert recorder.below_range == sum(value < 0 for value in values)
    assert recorder.above_range == sum(value > HIGHEST_NS for value in values)
    assert recorder.min == min(values, default=0)
    assert recorder.max == max(values, default=0)
    assert float(recorder.min) <= recorder.mean <= float(recorder.max)


def test_values_out_of_range_stand_in_the_outermost_buckets() -> None:
    recorder = recorder_of([-5, -1, 7, HIGHEST_NS, HIGHEST_NS + 1, 90_000_000_000])
    assert (recorder.below_range, recorder.above_range) == (2, 2)
    assert list(recorder.counts()) == [(0, 0, 2), (7, 7, 1), (*bucket(HIGHEST_NS), 3)]
    assert (recorder.min, recorder.max) == (-5, 90_000_000_000)


def test_a_percentile_among_values_above_the_range_is_the_maximum_and_never_too_low() -> None:
    recorder = recorder_of([1_000] * 90 + [61_000_000_000] * 9 + [3_600_000_000_000])
    assert recorder.percentiles([50, 90, 90.1, 99, 100]) == [1_000, 1_000] + [3_600_000_000_000] * 3


@pytest.mark.parametrize(
    ("value", "kept"),
    [(2**63, INT64_MAX), (10**30, INT64_MAX), (-(2**63) - 1, -(2**63)), (-(10**30), -(2**63))],
)
def test_an_int_beyond_64_bits_is_out_of_range_and_no_error(value: int, kept: int) -> None:
    recorder = recorder_of([value])
    assert (recorder.count, recorder.below_range + recorder.above_range) == (1, 1)
    assert recorder.min == recorder.max == recorder.percentile(50) == kept


# Merge, snapshot, reset, copies


@given(left=st.lists(anything, max_size=40), right=st.lists(anything, max_size=40))
def test_merging_equals_recording_everything_in_one(left: list[int], right: list[int]) -> None:
    merged, other = recorder_of(left), recorder_of(right)
    merged.merge(other)
    assert state(merged) == state(recorder_of(left + right))
    assert state(other) == state(recorder_of(right))


@given(values=st.lists(anything, max_size=40))
def test_merging_with_itself_doubles(values: list[int]) -> None:
    recorder = recorder_of(values)
    recorder.merge(recorder)
    assert state(recorder) == state(recorder_of(values * 2))


def test_a_merge_that_would_overflow_is_refused_and_changes_nothing() -> None:
    recorder = recorder_of([5])
    for _ in range(62):
        recorder.merge(recorder)
    assert recorder.count == 2**62
    before = state(recorder)
    with pytest.raises(ValueError, match=r"more than 2\*\*63 - 1 values"):
        recorder.merge(recorder)
    assert state(recorder) == before


@given(before=st.lists(anything, max_size=40), after=st.lists(anything, min_size=1, max_size=40))
def test_a_snapshot_and_its_origin_do_not_touch_each_other(before: list[int], after: list[int]) -> None:
    recorder = recorder_of(before)
    frozen = recorder.snapshot()
    for value in after:
        recorder.record(value)
    assert state(frozen) == state(recorder_of(before))
    frozen.reset()
    frozen.record(1)
    assert state(recorder) == state(recorder_of(before + after))


@given(before=st.lists(anything, max_size=40), after=st.lists(anything, max_size=40))
def test_reset_forgets_everything(before: list[int], after: list[int]) -> None:
    recorder = recorder_of(before)
    recorder.reset()
    assert state(recorder) == state(LatencyRecorder())
    for value in after:
        recorder.record(value)
    assert state(recorder) == state(recorder_of(after))


@given(values=st.lists(anything, max_size=40))
def test_copies_and_pickles_are_equal_and_independent(values: list[int]) -> None:
    recorder = recorder_of(values)
    for twin in (copy.copy(recorder), copy.deepcopy(recorder), pickle.loads(pickle.dumps(recorder))):
        assert state(twin) == state(recorder)
        twin.record(3)
        assert state(recorder) == state(recorder_of(values))


def test_a_pickle_holds_only_the_counters_in_use() -> None:
    assert len(pickle.dumps(recorder_of([1_000, 2_000_000] * 1_000))) < 200


@pytest.mark.parametrize(
    "broken",
    [
        (5, 5, 0, 0, {}),
        (5, 5, 0, 0, {5: 0}),
        (5, 5, 0, 0, {5: -1}),
        (5, 5, 0, 0, {6: 1}),
        (5, 9, 0, 0, {5: 1}),
        (9, 5, 0, 0, {5: 1}),
        (5, 5, 0, 0, {27_648: 1}),
        (5, 5, 0, 0, {-1: 1}),
        (5, 5, 1, 0, {5: 1}),
        (-5, 5, 2, 0, {0: 1, 5: 1}),
        (5, 5, 0, 1, {5: 1}),
        (5, 6, 0, 0, {5: INT64_MAX, 6: 1}),
    ],
)
def test_a_pickle_that_contradicts_itself_is_refused(broken: tuple[object, ...]) -> None:
    restore = recorder_of([5]).__reduce__()[0]
    with pytest.raises(ValueError, match=r"(no|of a) LatencyRecorder (can|contradicts)"):
        restore(*broken)


@given(batches=st.lists(st.lists(anything, max_size=20), max_size=6))
def test_each_take_has_what_came_since_the_last_and_the_recorder_starts_again(batches: list[list[int]]) -> None:
    recorder = LatencyRecorder()
    for values in batches:
        for value in values:
            recorder.record(value)
        taken = recorder.take()
        assert state(taken) == state(recorder_of(values))
        assert state(recorder) == state(LatencyRecorder())
        taken.record(1)
        assert recorder.count == 0


# Coordinated omission


def corrected(value: int, interval: int) -> list[int]:
    """What `recordValueWithExpectedInterval` records, value by value as it does."""
    values = [value]
    missing = value - interval
    while 0 < interval <= missing:
        values.append(missing)
        missing -= interval
    return values


@given(
    before=st.lists(anything, max_size=5),
    value=anything,
    interval=st.integers(0, 2**63 - 1),
    parts=st.none() | st.integers(1, 300),
)
def test_correcting_records_the_value_and_each_that_it_hid(
    before: list[int], value: int, interval: int, parts: int | None
) -> None:
    if parts is not None:
        interval = max(value // parts, 1)
    if interval and value // interval > 1_000:
        interval = value // 1_000
    recorder = recorder_of(before)
    recorder.record_corrected(value, interval)
    assert state(recorder) == state(recorder_of(before + corrected(value, interval)))


@pytest.mark.parametrize("interval", [1, 7, 1_000, 1_000_000])
def test_correcting_takes_one_step_per_bucket_and_not_per_value(interval: int) -> None:
    recorder = LatencyRecorder()
    recorder.record_corrected(HIGHEST_NS, interval)  # with 1 ns: sixty thousand million values
    assert recorder.count == HIGHEST_NS // interval == sum(count for _, _, count in recorder.counts())
    assert (recorder.min, recorder.max) == (interval + HIGHEST_NS % interval, HIGHEST_NS)
    for lowest, highest, count in recorder.counts():
        # Multiples of the interval, counted from the value downwards.
        first = max(lowest, recorder.min) - 1
        assert count == (HIGHEST_NS - first - 1) // interval - (HIGHEST_NS - min(highest, HIGHEST_NS) - 1) // interval


@pytest.mark.parametrize(("value", "interval"), [(950, 100), (123_456_789, 1_000_003), (5, 5), (5, 6), (70, 0)])
def test_correcting_equals_hdrh_but_for_the_one_value_below_the_interval(hdrh: Any, value: int, interval: int) -> None:
    histogram = hdrh.HdrHistogram(1, HIGHEST_NS, 3)
    histogram.record_corrected_value(value, interval)
    recorder = LatencyRecorder()
    recorder.record_corrected(value, interval)
    if interval and value > interval and value % interval:
        recorder.record(value % interval)  # hdrh goes on while a value is above the interval
    assert [row[1:] for row in recorder.counts()] == [
        (item.value_iterated_to, item.count_added_in_this_iter_step) for item in histogram.get_recorded_iterator()
    ]


def test_correcting_values_above_the_range_counts_them_there() -> None:
    recorder = LatencyRecorder()
    recorder.record_corrected(HIGHEST_NS + 3, 1)
    assert (recorder.count, recorder.above_range) == (HIGHEST_NS + 3, 3)
    assert sum(count for _, _, count in recorder.counts()) == recorder.count
    recorder.reset()
    recorder.record_corrected(INT64_MAX, INT64_MAX // 2)
    assert (recorder.count, recorder.above_range, recorder.min) == (2, 2, INT64_MAX // 2 + 1)


def test_a_correction_that_would_overflow_is_refused_and_changes_nothing() -> None:
    recorder = LatencyRecorder()
    recorder.record_corrected(INT64_MAX, 1)
    assert recorder.count == INT64_MAX
    before = state(recorder)
    with pytest.raises(ValueError, match=r"cannot record 5 ns at an interval of 1 ns: more than 2\*\*63 - 1 values"):
        recorder.record_corrected(5, 1)
    assert state(recorder) == before


@pytest.mark.parametrize(
    ("value", "interval", "kind", "message"),
    [
        (5, -1, ValueError, "an expected interval is 0 ns or more, not -1"),
        (5, 1.0, TypeError, r"an expected interval is an int of nanoseconds, not the float 1\.0"),
        (5, True, TypeError, "an expected interval is an int of nanoseconds, not the bool True"),
        ("5", 1, TypeError, "a latency is an int of nanoseconds, not the str '5'"),
    ],
)
def test_a_correction_by_no_interval_says_what_it_was(
    value: Any, interval: Any, kind: type[Exception], message: str
) -> None:
    recorder = LatencyRecorder()
    with pytest.raises(kind, match=message) as caught:
        recorder.record_corrected(value, interval)
    assert isinstance(caught.value, PmeshError)
    assert recorder.count == 0


# Memory


def test_an_unused_recorder_is_small_and_counters_come_with_the_first_value() -> None:
    recorder = LatencyRecorder()
    assert sys.getsizeof(recorder) < 200
    assert (recorder.count, recorder.percentile(99), recorder.mean, list(recorder.counts())) == (
        0,
        0,
        0.0,
        [],
    )
    recorder.merge(LatencyRecorder())
    assert sys.getsizeof(recorder.snapshot()) == sys.getsizeof(recorder) < 200
    recorder.record(1)
    assert COUNTERS_BYTES < sys.getsizeof(recorder) < COUNTERS_BYTES + 200


def test_taking_leaves_a_recorder_its_counters_so_that_recording_cannot_fail() -> None:
    recorder = recorder_of([5])
    taken = recorder.take()
    assert COUNTERS_BYTES < sys.getsizeof(recorder) == sys.getsizeof(taken)
    nothing = recorder.take()
    assert sys.getsizeof(recorder) > COUNTERS_BYTES
    assert sys.getsizeof(nothing) == sys.getsizeof(LatencyRecorder().take()) < 200


def test_taken_encoded_and_decoded_recorders_leave_no_memory_behind(python: Callable[..., str]) -> None:
    code = """
        import os
        from pmesh import LatencyRecorder

        def rss():
            with open("/proc/self/statm") as statm:
                return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        def churn(count):
            recorder = LatencyRecorder()
            for _ in range(count):
                recorder.record_corrected(1_000_000, 300)
                assert LatencyRecorder.decode(recorder.take().encode()).count == 3_333
                assert recorder.take().count == 0
                try:
                    LatencyRecorder.decode("HISTF")
                except ValueError:
                    pass

        churn(20)
        before = rss()
        churn(150)
        print(rss() - before)
    """
    assert int(python(code)) < 150 * COUNTERS_BYTES / 5


# Threads


def in_threads(*targets: Any) -> None:
    """Run `targets` at once, switching often, and raise what any of them raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(targets))

    def guarded(target: Any) -> None:
        try:
            start.wait(10)
            target()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(target,), daemon=True) for target in targets]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "a thread hangs"
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]


def test_four_threads_lose_nothing_and_every_snapshot_is_of_one_moment() -> None:
    recorder = LatencyRecorder()
    done = threading.Event()
    finished = itertools.count(1)

    def writer(seed: int) -> None:
        record = recorder.record
        for step in range(100_000):
            record(seed + step % 1_000)
        if next(finished) == 4:
            done.set()

    def reader() -> None:
        last = 0
        while not done.is_set():
            frozen = recorder.snapshot()
            assert frozen.count == sum(count for _, _, count in frozen.counts())
            assert frozen.count >= last
            last = frozen.count
            assert frozen.min <= frozen.percentile(50) <= frozen.max

    in_threads(*(lambda seed=seed: writer(seed) for seed in (0, 5_000, 10**6, 10**9)), reader)
    assert recorder.count == 400_000 == sum(count for _, _, count in recorder.counts())
    assert (recorder.min, recorder.max) == (0, 10**9 + 999)
    assert recorder.percentile(25) == 999


def test_what_threads_record_is_in_one_take_or_in_the_rest_and_in_no_two() -> None:
    recorder, total = LatencyRecorder(), LatencyRecorder()
    done = threading.Event()
    finished = itertools.count(1)
    something_taken = threading.Event()

    def writer(seed: int) -> None:
        for step in range(50_000):
            recorder.record(seed + step % 1_000)
            if step == 25_000:
                assert something_taken.wait(10)  # else the rest might be all there is
        for _ in range(1_000):
            recorder.record_corrected(seed + 3_000, 1_000)
        if next(finished) == 3:
            done.set()

    def taker() -> None:
        while not done.is_set():
            taken = recorder.take()
            assert taken.count == sum(count for _, _, count in taken.counts())
            assert taken.count == 0 or taken.min <= taken.percentile(50) <= taken.max
            if taken.count:
                something_taken.set()
            total.merge(taken)

    seeds = (0, 5_000, 10**6)
    in_threads(*(lambda seed=seed: writer(seed) for seed in seeds), taker, taker)
    total.merge(recorder.take())
    expected = LatencyRecorder()
    for seed in seeds:
        for step in range(1_000):
            for _ in range(50):
                expected.record(seed + step)
            expected.record_corrected(seed + 3_000, 1_000)
    assert state(total) == state(expected)


def test_merges_in_opposite_directions_do_not_hang_and_stay_whole() -> None:
    left, right = recorder_of([1]), recorder_of([2])

    def merging(into: LatencyRecorder, source: LatencyRecorder) -> None:
        for _ in range(2_000):
            into.merge(source)
            frozen = source.snapshot()
            assert frozen.count == sum(count for _, _, count in frozen.counts())
            into.reset()  # or the two would grow as Fibonacci's numbers do
            into.record(1)

    in_threads(lambda: merging(left, right), lambda: merging(right, left))
    assert (left.min, right.min) == (1, 1)


# Bad input


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "not the bool True"),
        (1.5, r"not the float 1\.5; of seconds as a float make round"),
        (float("nan"), "not the float nan"),
        ("12", "not the str '12'"),
        (None, "not the NoneType None"),
    ],
)
def test_recording_anything_but_an_int_says_what_it_was(value: Any, message: str) -> None:
    recorder = LatencyRecorder()
    with pytest.raises(TypeError, match=message) as caught:
        recorder.record(value)
    assert isinstance(caught.value, PmeshError)
    assert recorder.count == 0


def test_an_object_with_index_is_recorded_as_its_int() -> None:
    class Ticks:
        def __index__(self) -> int:
            return 42

    class Nanoseconds(int):
        pass

    recorder = LatencyRecorder()
    recorder.record(Ticks())
    recorder.record(Nanoseconds(43))
    assert (recorder.min, recorder.max) == (42, 43)


@pytest.mark.parametrize("ask", [LatencyRecorder.percentile, lambda recorder, p: recorder.percentiles([50, p])])
@pytest.mark.parametrize(
    ("percentile", "kind", "message"),
    [
        (-0.001, ValueError, r"from 0 to 100, not -0\.001"),
        (100.001, ValueError, r"from 0 to 100, not 100\.001"),
        (float("nan"), ValueError, "from 0 to 100, not nan"),
        (float("inf"), ValueError, "from 0 to 100, not inf"),
        (10**400, ValueError, "not an int of 1329 bits"),
        (True, TypeError, "not the bool True"),
        ("99", TypeError, "not the str '99'"),
        (None, TypeError, "not the NoneType None"),
    ],
)
def test_a_percentile_outside_0_to_100_is_refused_by_name(
    ask: Any, percentile: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        ask(recorder_of([1]), percentile)
    assert isinstance(caught.value, PmeshError)


@pytest.mark.parametrize("percentiles", [99, "99", b"99", None])
def test_percentiles_of_no_list_of_numbers_are_refused(percentiles: Any) -> None:
    with pytest.raises(TypeError, match="an iterable of numbers from 0 to 100") as caught:
        LatencyRecorder().percentiles(percentiles)
    assert isinstance(caught.value, PmeshError)


@pytest.mark.parametrize("other", [None, 5, [1, 2]])
def test_merging_something_else_is_refused(other: Any) -> None:
    with pytest.raises(TypeError, match="merge wants a LatencyRecorder, not the") as caught:
        LatencyRecorder().merge(other)
    assert isinstance(caught.value, PmeshError)


def test_repr_is_for_people() -> None:
    assert repr(LatencyRecorder()) == "<LatencyRecorder: empty>"
    assert (
        repr(recorder_of([512] * 98 + [1_500_000, 2_000_000_000]))
        == "<LatencyRecorder: count=100, p50=512 ns, p99=1.5 ms, max=2 s>"
    )
    assert repr(recorder_of([-7, 61_000_000_000])).endswith(", max=61 s, below_range=1, above_range=1>")
