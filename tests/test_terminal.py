"""What people see of load reports, searches and comparisons: plain text of 80 columns, and a bar on terminals."""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
from load_samples import ENVIRONMENT, point, report

from pmesh.load.compare import Breach, Comparison, compare, parse_limit
from pmesh.load.document import Document
from pmesh.load.rendering import terminal
from pmesh.load.rendering.terminal import Screen
from pmesh.load.rendering.terminal_tables import PLOT_CELLS, drift_text, rate_text
from pmesh.load.report import Counts, Drift, Injected, Report, Search, Soak, Step
from pmesh.slo import Objective, parse_objective

MS = 1_000_000
P99 = parse_objective("p99<5ms")

NOT_ALL_HANDLED = Counts(
    sent=1_000_000,
    accepted=995_000,
    rejected=5_000,
    handled=980_000,
    failed=5_000,
    expired=1_000,
    dropped=8_900,
    dead=100,
    pending=0,
)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def shown(show: Callable[[Screen], object], encoding: str = "utf-8") -> str:
    """What a stream of that encoding, which is no terminal, gets."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show(Screen(stream, show_progress=True))
    stream.seek(0)
    return stream.read()


def words(text: str) -> str:
    """`text` without its line breaks."""
    return " ".join(text.split())


def planned(made: Report, **changes: Any) -> Report:
    return dataclasses.replace(made, plan=dataclasses.replace(made.plan, **changes))


def everything() -> Report:
    """An open loop in which all that can be told has happened."""
    made = planned(
        report("extreme", open_loop=True),
        rate_per_second=1_234_567.0,
        arrival="poisson",
        duration_seconds=86_400.0,
        warmup_seconds=2.5,
        capacity=1_000_000,
        overflow="drop_oldest",
        agent="a_package.of_some_depth.with_long_names:OrderAgent",
        payload="a_package.of_some_depth.with_long_names:make_order_of_a_size",
        fail_rate=0.005,
        slow_agents=1,
        slow_ns=50 * MS,
        stop_every_seconds=1.0,
    )
    return dataclasses.replace(
        made,
        counts=NOT_ALL_HANDLED,
        unsent=1_234_567,
        injected=Injected(failures=5_000, delays=9_876, stops=599),
        aborted="p99<5ms: observed 7 ms in second 42",
        soak=Soak(
            86_400_000_000_000,
            Drift("p99", 151_900.0, 312.0, -2_100.0, 2_724.0, 86_399, "no growth"),
            Drift("rss", 30e6, 18.1e6, 17.9e6, 18.3e6, 86_399, "growth"),
        ),
    )


def step(rate: float, p99_ns: int, *, held: bool | None = None, **changes: Any) -> Step:
    made = Step(rate, rate, 1.0, p99_ns // 6, p99_ns, p99_ns * 2, observed=p99_ns, held=p99_ns < 5 * MS)
    return dataclasses.replace(made, **({} if held is None else {"held": held}), **changes)


def found(*steps: Step, objective: str = "p99<5ms", **changes: Any) -> Search:
    held = [s.rate_per_second for s in steps if s.held]
    missed = [s.rate_per_second for s in steps if not s.held]
    made = Search("low", objective, steps, max(held, default=None), min(missed, default=None))
    return dataclasses.replace(made, **changes)


KNEE = (step(8_000, 1 * MS), step(1_000, 100_000), step(16_000, 64 * MS), step(2_000, 200_000))


def compared() -> tuple[Comparison, tuple[Breach, ...]]:
    slower = report()
    slower = dataclasses.replace(
        slower, latency_ns=dataclasses.replace(slower.latency_ns, p99=slower.latency_ns.p99 * 2)
    )
    other = dataclasses.replace(ENVIRONMENT, cpu="Another CPU", event_loop="uvloop")
    comparison = compare(
        Document(ENVIRONMENT, (report(), report("extreme"), everything())), Document(other, (slower, report("extreme")))
    )
    return comparison, comparison.breaches([parse_limit("p99:10%")])


# All of it.


def show_everything(screen: Screen) -> None:
    screen.show_report(report())
    screen.show_report(everything())
    screen.show_report(dataclasses.replace(report(), interrupted=True))
    screen.show_summary([report("extreme"), report("medium")])
    screen.show_summary([everything(), report()])
    screen.show_search_begin("extreme", P99)
    for tried in KNEE:
        screen.show_step(tried, P99)
    screen.show_step(step(99_999_999.0, 999 * 10**9, throughput_per_second=1_234_567.8), P99)
    screen.show_search(found(*KNEE, step(9_999_999, 999 * 10**9)))
    screen.show_search(found(*KNEE, objective="send_delay.p99.99<5ms", interrupted=True))
    screen.show_comparison(*compared())
    screen.show_outcome("All objectives hold (low).", good=True)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_every_line_fits_80_columns_and_has_no_escape_codes(encoding: str) -> None:
    text = shown(show_everything, encoding)
    assert "\x1b" not in text
    assert "\r" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "\u2026" not in text  # nothing was cut


def test_words_and_signs_take_the_place_of_what_ascii_has_not() -> None:
    text = shown(show_everything, "ascii")
    assert re.search(r"^ok +1,000 .* # *$", text, re.MULTILINE)
    assert re.search(r"^MISSED +16,000 .* #+ *$", text, re.MULTILINE)


def test_a_name_that_the_stream_has_no_letters_for_does_not_cost_the_report() -> None:
    made = dataclasses.replace(report(), environment=dataclasses.replace(ENVIRONMENT, cpu="Процессор"))
    assert "?????????, 2 CPUs" in shown(lambda screen: screen.show_report(made), "ascii")


def test_a_silent_screen_shows_nothing() -> None:
    stream = io.StringIO()
    show_everything(Screen(stream, show_progress=False, silent=True))
    assert stream.getvalue() == ""


# A report.


def test_each_report_says_which_loop_it_is_and_what_its_latency_is() -> None:
    closed = words(shown(lambda screen: screen.show_report(report())))
    assert "Closed loop: 10 senders, at most 10 messages in flight" in closed
    assert "In a closed loop, latency runs from accept to the end of handling." in closed
    opened = words(shown(lambda screen: screen.show_report(report(open_loop=True))))
    assert "Open loop: 500 messages/s" in opened
    assert "constant arrivals" in opened
    assert "latency runs from the intended send time to the end of handling." in opened


def test_an_open_loop_shows_the_parts_of_its_latency() -> None:
    made = report(open_loop=True)
    text = shown(lambda screen: screen.show_report(made))
    for name, spread in (
        ("latency", made.latency_ns),
        ("send delay", made.send_delay_ns),
        ("response", made.response_ns),
        ("queue", made.queue_ns),
        ("service", made.service_ns),
    ):
        assert spread is not None
        [line] = re.findall(rf"^{name}  +(.*)$", text, re.MULTILINE)
        cells = re.split(r"  +", line)
        figures = (spread.mean, spread.p50, spread.p99, spread.p99_9, spread.max)
        assert cells[:5] == [terminal.duration_text(value) for value in figures]


def test_a_closed_loop_has_no_send_delay_and_nothing_unsent() -> None:
    text = shown(lambda screen: screen.show_report(report()))
    assert "send delay" not in text
    assert "unsent" not in text


def test_an_open_loop_tells_its_backlog_and_what_it_gave_up() -> None:
    late = dataclasses.replace(point(3), pending=4_321, late=77)
    made = dataclasses.replace(report(open_loop=True), unsent=1_234, series=(point(1), late, point(4)))
    text = shown(lambda screen: screen.show_report(made))
    assert re.search(r"^unsent +1,234$", text, re.MULTILINE)
    assert re.search(r"^most pending +4,321$", text, re.MULTILINE)
    assert re.search(r"^most late +77$", text, re.MULTILINE)
    assert "1,234 messages of the schedule given up" in words(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": 20_000},
        {"duration_seconds": 5.0},
        {"agent": "shop:Agent"},
        {"rate_per_second": 500.0},
        {"fail_rate": 0.1},
    ],
)
def test_the_references_figures_stand_beside_nothing_but_the_same_load(changes: dict[str, Any]) -> None:
    assert "2,000-3,000/s" in shown(lambda screen: screen.show_report(report()))
    changed = planned(report(), **changes)
    for text in (
        shown(lambda screen: screen.show_report(changed)),
        shown(lambda screen: screen.show_summary([changed])),
    ):
        assert "ref" not in text


def test_a_profile_without_reference_is_shown_without() -> None:
    made = report()
    made = planned(made, profile=dataclasses.replace(made.profile, name="mine", reference=None))
    text = shown(lambda screen: screen.show_report(made))
    assert "reference" not in text
    assert re.search(r"^p99 +188 us$", text, re.MULTILINE)


def test_what_was_not_handled_is_accounted_for() -> None:
    text = words(shown(lambda screen: screen.show_report(everything())))
    assert "1,000,000 sent = 995,000 accepted + 5,000 rejected" in text
    assert (
        "995,000 accepted = 980,000 handled + 5,000 failed + 1,000 expired + 8,900 dropped + 100 dead + 0 pending"
        in text
    )


def test_an_account_in_which_all_was_handled_is_not_shown() -> None:
    assert "sent =" not in shown(lambda screen: screen.show_report(report()))


def test_what_went_wrong_on_purpose_is_told_with_what_it_did() -> None:
    text = words(shown(lambda screen: screen.show_report(everything())))
    assert re.search(r"on purpose: 0\.5% of handlers .*5,000.*50 ms.*9,876.*every 1 s.*599", text)


def test_a_number_and_its_unit_stay_in_one_line() -> None:
    lines = shown(show_everything).splitlines()
    for line, following in itertools.pairwise(lines):
        assert not (re.search(r"\d$", line) and re.match(r"(ns|us|ms|s|MB|messages)\b", following)), line


def test_an_aborted_and_an_interrupted_run_say_so() -> None:
    text = shown(lambda screen: screen.show_report(everything()))
    assert "\nextreme (aborted)\n" in text
    assert "p99<5ms: observed 7 ms in second 42" in words(text)
    text = shown(lambda screen: screen.show_report(dataclasses.replace(report(), interrupted=True)))
    assert "\nlow (interrupted)\n" in text


def test_what_figures_were_read_on_is_told_again_only_where_it_changes() -> None:
    other = dataclasses.replace(report(), environment=dataclasses.replace(ENVIRONMENT, cpu="Another CPU"))

    def show(screen: Screen) -> None:
        for made in (report(), report(), other, other):
            screen.show_report(made)

    text = shown(show)
    assert text.count("Example CPU") == 1
    assert text.count("Another CPU") == 1


def test_a_report_without_objectives_has_no_table_of_them() -> None:
    text = shown(lambda screen: screen.show_report(dataclasses.replace(report(), slo=())))
    assert "objective" not in text


# A soak.


@pytest.mark.parametrize(
    ("drift", "text"),
    [
        (
            Drift("p99", 151_900.0, 312.0, -2_100.0, 2_724.0, 540, "no growth"),
            "p99 +0.31 us/h (95 %: -2.10 to +2.72 us/h) from 152 us: no growth",
        ),
        (
            Drift("p99", 5e6, 12.3e6, 10.0e6, 14.6e6, 540, "growth"),
            "p99 +12.3 ms/h (95 %: +10.0 to +14.6 ms/h) from 5 ms: growth",
        ),
        (
            Drift("rss", 30e6, -150e3, -200e3, -100e3, 540, "shrinking"),
            "RSS -150 kB/h (95 %: -200 to -100 kB/h) from 30.0 MB: shrinking",
        ),
        (
            Drift("rss", 30e6, 0.0, 0.0, 0.0, 540, "no growth"),
            "RSS +0.00 B/h (95 %: +0.00 to +0.00 B/h) from 30.0 MB: no growth",
        ),
        (Drift("p99", 0.0, 0.0, 0.0, 0.0, 9, "too few points"), "p99: too few points (9) to tell"),
    ],
)
def test_a_drift_reads_as_slope_interval_and_verdict(drift: Drift, text: str) -> None:
    assert drift_text(drift) == text


def test_a_soak_shows_both_drifts() -> None:
    text = shown(lambda screen: screen.show_report(everything()))
    assert "soak of 86,400 s" in text
    assert "\np99 +0.31 us/h" in text
    assert "\nRSS +18.1 MB/h (95 %: +17.9 to +18.3 MB/h) from 30.0 MB: growth\n" in text


# Several reports.


def test_a_summary_of_both_loops_says_which_is_which() -> None:
    text = shown(lambda screen: screen.show_summary([report(), report("medium", open_loop=True)]))
    assert re.search(r"^low +500 +closed ", text, re.MULTILINE)
    assert re.search(r"^medium +500 +open ", text, re.MULTILINE)
    assert "In a closed loop" in text
    assert "In an open loop" in text
    assert "x ref." not in text


def test_a_summary_of_closed_loops_stands_beside_the_reference() -> None:
    text = shown(lambda screen: screen.show_summary([report(), report("medium")]))
    assert re.search(r"^low +500 +0\.2x ", text, re.MULTILINE)
    assert "In an open loop" not in text


# A search.


def test_each_step_says_what_was_observed_and_whether_it_held() -> None:
    text = shown(lambda screen: screen.show_step(step(43_800, 1_200_000), P99))
    assert text == "✓     43,800/s  p99 1.2 ms, 43,800/s handled\n"
    text = shown(lambda screen: screen.show_step(step(43_800, 7 * MS), P99), "ascii")
    assert text == "MISSED     43,800/s  p99 7 ms, 43,800/s handled\n"


def test_a_rate_that_was_missed_though_the_objective_holds_was_not_sustained() -> None:
    tried = step(43_800, 1_200_000, held=False, throughput_per_second=30_000.0)
    text = shown(lambda screen: screen.show_step(tried, P99))
    assert text == "✗     43,800/s  p99 1.2 ms, 30,000/s handled: not sustained\n"


def test_a_step_shows_the_figure_of_its_objective() -> None:
    success = Objective("success>=99%", "success", ">=", 0.99)
    tried = step(1_000, 1 * MS, observed=0.995)
    assert "success 99.5%" in shown(lambda screen: screen.show_step(tried, success))
    nothing = step(1_000, 0, observed=None, held=False)
    assert "p99 nothing" in shown(lambda screen: screen.show_step(nothing, P99))


def bars(text: str) -> dict[str, int]:
    rows = re.findall(r"^[✓✗] +([\d,.]+)  .*?(█*) *$", text, re.MULTILINE)
    return {rate: len(bar) for rate, bar in rows}


def test_the_knee_is_plotted_in_the_order_of_rates_on_a_log_scale() -> None:
    drawn = bars(shown(lambda screen: screen.show_search(found(*KNEE))))
    assert list(drawn) == ["1,000", "2,000", "8,000", "16,000"]
    lengths = list(drawn.values())
    assert lengths[0] == 1
    assert lengths[-1] == PLOT_CELLS
    # 100 us to 64 ms is 9.3 doublings, and 200 us one of them.
    assert lengths[1] == 1 + round((PLOT_CELLS - 1) / 9.32)
    assert lengths == sorted(lengths)


def test_a_rate_that_was_run_several_times_is_one_row_of_medians() -> None:
    runs = (step(1_000, 1 * MS), step(1_000, 9 * MS), step(1_000, 2 * MS), step(2_000, 20 * MS))
    text = shown(lambda screen: screen.show_search(found(*runs)))
    assert re.search(r"^✓ +1,000 +2/3 +\S+ us +2 ms +4 ms ", text, re.MULTILINE)
    assert re.search(r"^✗ +2,000 +0/1 ", text, re.MULTILINE)


@pytest.mark.parametrize("steps", [(step(1_000, 1 * MS),), (step(1_000, 0, observed=None, held=False),)])
def test_a_search_of_one_rate_has_no_scale_and_is_shown(steps: tuple[Step, ...]) -> None:
    drawn = bars(shown(lambda screen: screen.show_search(found(*steps))))
    assert drawn == {"1,000": 1 if steps[0].p99_ns else 0}


def test_a_search_that_ran_nothing_says_so_without_a_table() -> None:
    text = shown(lambda screen: screen.show_search(found(interrupted=True)))
    assert "p99<5ms" in text
    assert "rate/s" not in text


def test_a_search_for_another_figure_shows_what_was_observed() -> None:
    steps = tuple(step(rate, 1 * MS, observed=rate * 10, held=True) for rate in (1_000, 2_000))
    text = shown(lambda screen: screen.show_search(found(*steps, objective="queue.p99<1ms")))
    assert re.search(r"^✓ +2,000 +1/1 +\S+ us +1 ms +20 us ", text, re.MULTILINE)


@pytest.mark.parametrize(("rate", "text"), [(43_800.4, "43,800/s"), (10, "10/s"), (2.5, "2.5/s"), (1.0, "1/s")])
def test_low_rates_keep_their_decimals(rate: float, text: str) -> None:
    assert rate_text(rate) == text


# A comparison.


def test_a_comparison_shows_each_change_what_warns_of_it_and_the_limits_not_kept() -> None:
    text = shown(lambda screen: screen.show_comparison(*compared()))
    assert re.search(r"^p99 +188 us +376 us +\+100\.0%  worse *$", text, re.MULTILINE)
    assert re.search(r"^p50 +59\.5 us +59\.5 us +\+0\.0% *$", text, re.MULTILINE)
    assert re.search(r"^p99\.9 .*too few samples *$", text, re.MULTILINE)
    assert "WARNING: different processor: Example CPU and Another CPU" in words(text)
    assert "✗ low: p99:10%: 188 us became 376 us" in words(text)
    assert text.index("before: ") < text.index("WARNING") < text.index("\nlow\n") < text.index("✗ low")


def test_a_comparison_names_what_only_one_of_the_two_has() -> None:
    low, high = report(), report("high")
    comparison = compare(Document(ENVIRONMENT, (low, high)), Document(ENVIRONMENT, (low, report("medium"))))
    text = shown(lambda screen: screen.show_comparison(comparison, ()))
    assert "only before: high" in text
    assert "only after: medium" in text
    assert "✗" not in text


# The bar.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the bar goes by; the first is what is to be changed."""
    now = [1_000.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)
    return now


def lines_of(stream: io.StringIO) -> list[str]:
    return stream.getvalue().split("\r\x1b[2K")[1:]


def test_the_bar_is_drawn_over_itself_and_is_gone_at_the_end(clock: list[float]) -> None:
    stream = Terminal()
    with Screen(stream, show_progress=True).progress("low", 5_000, "messages") as advance:
        assert advance is not None
        for completed in (0, 1_250, 2_500, 5_000):
            clock[0] += 0.3
            advance(completed)
    drawn = lines_of(stream)
    assert [line.count("█") for line in drawn] == [0, 0, 6, 12, 24, 0]
    assert drawn[2].endswith(" 1250/5000 messages")
    assert drawn[-1] == ""
    assert "\n" not in stream.getvalue()


def test_the_bar_tells_what_is_left_once_that_can_be_told(clock: list[float]) -> None:
    stream = Terminal()
    with Screen(stream, show_progress=True).progress("low", 7_200, "seconds") as advance:
        assert advance is not None
        for seconds in (1, 60, 7_200):
            clock[0] = 1_000.0 + seconds
            advance(seconds)
    drawn = lines_of(stream)
    assert drawn[1].endswith(" 1/7200 seconds")
    assert drawn[2].endswith(" 60/7200 seconds, 1:59:00 left")
    assert drawn[3].endswith(" 7200/7200 seconds")


def test_the_bar_is_not_drawn_more_often_than_it_can_be_read(clock: list[float]) -> None:
    stream = Terminal()
    with Screen(stream, show_progress=True).progress("low", 1_000, "messages") as advance:
        assert advance is not None
        for completed in range(1_000):
            clock[0] += 0.001
            advance(completed)
    assert len(lines_of(stream)) <= 2 + 1 / terminal.DRAW_SECONDS


@pytest.mark.parametrize("columns", [20, 40, 200])
def test_the_bar_never_wraps(columns: int, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    with Screen(stream, show_progress=True).progress("a profile of a long name" * 3, 10**9, "messages") as advance:
        assert advance is not None
        clock[0] += 10
        advance(12_345_678)
    assert max(map(len, lines_of(stream))) < min(columns, 80)


@pytest.mark.parametrize("bad", [-1.0, 0.0, 11.0])
def test_the_bar_stays_in_its_bounds(bad: float, clock: list[float]) -> None:
    stream = Terminal()
    with Screen(stream, show_progress=True).progress("low", 10, "seconds") as advance:
        assert advance is not None
        clock[0] += 10
        advance(bad)
    assert {line.count("█") + line.count("░") for line in lines_of(stream)[:-1]} == {terminal.BAR_CELLS}


@pytest.mark.usefixtures("clock")
def test_no_bar_is_drawn_where_none_is_wanted_or_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, options in (
        (io.StringIO(), {"show_progress": True}),
        (Terminal(), {"show_progress": False}),
        (Terminal(), {"show_progress": True, "silent": True}),
    ):
        with Screen(stream, **options).progress("low", 10, "messages") as advance:
            assert advance is None
        assert stream.getvalue() == ""
    monkeypatch.setenv("TERM", "dumb")
    with Screen(Terminal(), show_progress=True).progress("low", 10, "messages") as advance:
        assert advance is None


@pytest.mark.usefixtures("clock")
def test_a_terminal_that_has_gone_ends_the_bar_and_not_the_run() -> None:
    class Gone(Terminal):
        def flush(self) -> None:
            raise BrokenPipeError(32, "Broken pipe")

    screen = Screen(Gone(), show_progress=True)
    with screen.progress("low", 10, "messages") as advance:
        assert advance is not None
        advance(5)
    assert screen.failure == "Broken pipe"


@pytest.mark.usefixtures("clock")
def test_an_error_of_what_runs_takes_the_bar_away_and_comes_through() -> None:
    stream = Terminal()
    with pytest.raises(ZeroDivisionError), Screen(stream, show_progress=True).progress("low", 10, "messages"):
        raise ZeroDivisionError
    assert lines_of(stream)[-1] == ""


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_names_that_were_read_are_no_commands_to_the_terminal(
    stream: Callable[[], io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    hostile = "[/bold]:bomb:\x1b]0;title\x07\x9b2J\x7f\r"
    made = report()
    profile = dataclasses.replace(made.profile, name=hostile)
    environment = dataclasses.replace(made.environment, cpu=hostile)
    made = planned(dataclasses.replace(made, environment=environment), profile=profile)
    file = stream()
    screen = Screen(file, show_progress=False)
    screen.show_report(made)
    screen.show_summary([made])
    text = re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())  # colours
    assert text.replace("\n", "").isprintable()
    assert text.count("[/bold]:bomb:]0;title2J") == 2, "what is left is shown as it is"
    assert text.count("[/bold]:bomb:") == 3, "in the summary as well, whose column is narrow"
