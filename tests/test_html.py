"""Reports as one HTML page: whole and safe as text, then opened in headless Chromium at a phone's width."""

from __future__ import annotations

import dataclasses
import html as stdlib_html
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import load_samples
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmesh.load import compare
from pmesh.load.document import Document
from pmesh.load.profiles import Profile
from pmesh.load.rendering import html
from pmesh.load.rendering.axes import linear_axis, log_axis, percentile_axis, time_axis
from pmesh.load.rendering.plots import HEIGHT_PIXELS, LABEL_PIXELS, Line, condense, spread_apart
from pmesh.load.report import AgentRow, Counts, Drift, Injected, Point, Report, Search, Soak, Spread, Step
from pmesh.units import duration_text

VOID = {"meta", "link", "br", "hr", "img", "input"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE_PIXELS = 390
NASTY = "<script>alert(1)</script>&\"'" + "x" * 120

SEARCH = Search(
    "low",
    "p99<5ms",
    tuple(
        Step(rate, min(rate, 60_000.0), 1.0, 50_000, p99, 2 * p99, float(p99), p99 < 5_000_000)
        for rate, p99 in ((5e3, 100_000), (4e4, 200_000), (8.5e4, 3_000_000), (9e4, 5_100_000), (1.6e5, 500_000_000))
    ),
    8.5e4,
    9e4,
)


class Page(HTMLParser):
    """What a page holds; fails on tags that do not balance."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self._read(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> is only for SVG"
        self._read(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def _read(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute of <{tag}> occurs twice"
        for name, value in attrs:
            assert not name.startswith("on"), f"{name} runs script from markup"
            if name == "id":
                self.ids.append(str(value))
            elif name in ("href", "xlink:href") and str(value).startswith("#"):
                self.links.append(str(value)[1:])
            elif name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                self.loads.append(str(value))
            elif name in ("aria-labelledby", "aria-describedby"):
                self.links += str(value).split()


def long_series(points: int) -> tuple[Point, ...]:
    """A run of `points` seconds with one stall."""
    first = load_samples.point(1)
    return tuple(
        dataclasses.replace(
            first,
            at_ns=number * 1_000_000_000,
            latency_p50_ns=50_000 + number * 7 % 9_000,
            latency_p99_ns=200_000_000 if number == points // 3 else 150_000 + number * 31 % 90_000,
            latency_max_ns=400_000_000 if number == points // 3 else 300_000 + number * 53 % 90_000,
            pending=number * 13 % 40,
            late=number % 3,
            failed=number % 7 // 6,
            rss_bytes=50_000_000 + number * 900,
        )
        for number in range(1, points + 1)
    )


def soaked() -> Report:
    report = load_samples.report("medium", open_loop=True)
    plan = dataclasses.replace(
        report.plan, fail_rate=0.005, slow_agents=1, slow_ns=50_000_000, stop_every_seconds=1.0, warmup_seconds=2.0
    )
    return dataclasses.replace(
        report,
        plan=plan,
        injected=Injected(25, 200, 3_599),
        series=long_series(3_600),
        unsent=12,
        aborted="p99<5ms",
        faults=("sent 5000 is not accepted 4999 + rejected 0",),
        soak=Soak(
            3_600_000_000_000,
            Drift("p99", 240_000.0, -1_000.0, -5_000.0, 3_000.0, 3_600, "no growth"),
            Drift("rss", 5e7, 3.2e6, 3.1e6, 3.3e6, 3_600, "growth"),
        ),
    )


def long_names() -> Report:
    """Names that are long and want to be markup, 700 agents, and a series of one interval."""
    report = load_samples.report()
    profile = Profile(f"p{NASTY}", 700, 10, 1, 50, 64)
    counts = Counts(10, 10, 0, 10, 0, 0, 0, 0, 0)
    return dataclasses.replace(
        report,
        plan=dataclasses.replace(report.plan, profile=profile, agent=f"m:{NASTY}", payload=f"f:{NASTY}"),
        agents=tuple(AgentRow(f"{NASTY}{n}", counts, 50_000 + n, 90_000 + n, 99_000 + n) for n in range(700)),
        series=report.series[:1],
        aborted=NASTY,
        faults=(NASTY,),
        environment=dataclasses.replace(report.environment, cpu=NASTY, platform=NASTY),
    )


def gaps() -> Report:
    """A run in which every other interval handled nothing."""
    report = load_samples.report(open_loop=True)
    idle = {"handled": 0, "latency_count": 0, "latency_p50_ns": 0, "latency_p99_ns": 0, "latency_max_ns": 0}
    series = tuple(
        dataclasses.replace(point, **idle) if number % 2 else point for number, point in enumerate(report.series)
    )
    return dataclasses.replace(report, series=series)


def idle() -> Report:
    """Intervals in which nothing at all happened."""
    point = dataclasses.replace(
        gaps().series[1], sent=0, pending=0, rss_bytes=0, cpu_seconds=0.0, interval_ns=0, at_ns=0
    )
    series = tuple(dataclasses.replace(point, at_ns=number) for number in range(5))
    return dataclasses.replace(load_samples.nothing_handled(), series=series)


def render(reports: Sequence[Report], searches: Sequence[Search] = ()) -> str:
    return html.render(reports[0].environment if reports else load_samples.ENVIRONMENT, reports, searches)


def compared() -> str:
    before = load_samples.report()
    recorder = load_samples.recorder(9, 4_000, 90_000.0)
    after = dataclasses.replace(
        before, recorders={**before.recorders, "latency": recorder}, latency_ns=Spread.of(recorder), interrupted=True
    )
    other = dataclasses.replace(load_samples.ENVIRONMENT, cpu=NASTY)
    comparison = compare.compare(
        Document(load_samples.ENVIRONMENT, (before, load_samples.report("high")), ()), Document(other, (after,), ())
    )
    return html.compare_page(comparison, comparison.breaches([compare.parse_limit("p99:10%")]))


PAGES: dict[str, Callable[[], str]] = {
    "shipped profiles": lambda: render(
        [load_samples.report(name) for name in ("low", "medium", "high", "extreme")], [SEARCH]
    ),
    "open-loop soak with failures": lambda: render([soaked()]),
    "nothing handled": lambda: render([load_samples.nothing_handled()], [Search("low", "p99<1ms", (), None, None)]),
    "long names": lambda: render(
        [long_names()], [dataclasses.replace(SEARCH, profile=NASTY, objective="success>=99%")]
    ),
    "gaps": lambda: render([gaps(), idle()]),
    "searches alone": lambda: render([], [SEARCH]),
    "comparison": compared,
}
TEXTS = {name: make() for name, make in PAGES.items()}


@pytest.mark.parametrize("name", TEXTS)
def test_a_page_is_whole_and_needs_nothing_else(name):
    page = Page(TEXTS[name])
    assert len(set(page.ids)) == len(page.ids)
    assert set(page.links) <= set(page.ids)
    assert page.loads == ["data:,"]
    assert (
        page.tags.count("script") == page.tags.count("style") == page.tags.count("main") == page.tags.count("h1") == 1
    )
    assert not re.search(r"url\(|@import|https?://", TEXTS[name])


@pytest.mark.parametrize("name", TEXTS)
def test_a_page_forbids_itself_the_network(name):
    assert "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:" in TEXTS[name]


LOW = load_samples.report()


@given(st.text(min_size=1, max_size=30))
def test_text_from_data_is_shown_as_it_is(name):
    profile = dataclasses.replace(LOW.profile, name=name)
    agents = (AgentRow(name, LOW.counts),)
    report = dataclasses.replace(
        LOW, plan=dataclasses.replace(LOW.plan, profile=profile), agents=agents, series=(), recorders={}
    )
    page = Page(render([report]))
    # As a browser does before anything else, HTMLParser's texts have no carriage return or NUL of their own.
    assert page.tags.count("script") == 1
    assert page.texts.count(name) >= 3 or re.search(r"[\r\0]", name)


def test_the_verdict_stands_above_everything_else():
    text = TEXTS["shipped profiles"]
    body = text[text.index("<body>") :]
    assert body.index('class="verdict bad"') < body.index("<table")
    assert "4 of 28 objectives missed" in text
    assert 'class="verdict bad">No message was handled.' in TEXTS["nothing handled"]


def test_what_speaks_against_the_figures_is_told():
    text = stdlib_html.unescape(TEXTS["open-loop soak with failures"])
    for told in (
        "The account does not balance: sent 5000",
        "Aborted on a breach: p99<5ms",
        "Failures on purpose: 0.5% of handlers raise (25 did)",
        "12 messages of the schedule given up",
    ):
        assert told in text


def test_every_plot_says_its_loop_and_can_be_reached_by_keyboard():
    for text, loop in ((TEXTS["shipped profiles"], "closed"), (TEXTS["open-loop soak with failures"], "open")):
        assert f'aria-label="Times by percentile ({loop} loop).' in text
        areas = re.findall(r'<svg class="area"[^>]*>', text)
        assert len(areas) >= 6
        assert all('role="img" tabindex="0" aria-label="' in area for area in areas)


def test_each_percentile_line_ends_at_its_exact_maximum():
    report = load_samples.report(open_loop=True)
    text = render([report])
    figure = text[text.index('id="profile-0-percentiles"') :]
    last = re.findall(r"<tr data-x.*?</tr>", figure[: figure.index("</figure>")])[-1]
    maxima = [duration_text(recorder.max) for recorder in report.recorders.values()]
    assert sorted(re.findall(r"<td>(.*?)</td>", last)) == sorted(maxima)


def test_an_interval_between_two_gaps_is_a_dot():
    text = TEXTS["gaps"]
    figure = text[text.index('id="profile-0-latency"') : text.index('id="profile-0-depth"')]
    assert re.findall(r'<path class="(l\d dots)" d="(?:M\d+ \d+h0){5}"/>', figure) == ["l0 dots", "l1 dots", "l2 dots"]


def test_a_stall_of_one_second_in_an_hour_is_in_the_page():
    text = TEXTS["open-loop soak with failures"]
    figure = text[text.index('id="profile-0-latency"') :]
    assert "to 400 ms)" in figure[: figure.index("</figure>")]


def test_a_page_of_four_long_runs_stays_small():
    counts = Counts(10, 10, 0, 10, 0, 0, 0, 0, 0)
    agents = tuple(AgentRow(f"load-{number}", counts, 50_000, 90_000, 100_000) for number in range(2_000))
    reports = [
        load_samples.report(name, open_loop=True, series=long_series(3_600), agents=agents)
        for name in ("low", "medium", "high", "extreme")
    ]
    text = render(reports)
    assert len(text.encode()) < 1_500_000
    assert text.count("1,500 more are in the JSON") == 4


@given(
    st.lists(st.none() | st.floats(0, 1e12), min_size=1, max_size=400),
    st.integers(1, 50),
)
def test_condensing_keeps_every_peak(values, most):
    xs = [float(number) for number in range(len(values))]
    condensed_xs, (line,) = condense(xs, [Line("line", values, 0)], most)
    assert len(condensed_xs) == len(line.values) <= most
    known = [value for value in values if value is not None]
    if line.spans:
        spans = [span for span in line.spans if span is not None]
        assert (
            [min(known), max(known)] == [min(low for low, _ in spans), max(high for _, high in spans)] if known else 1
        )
        for value, span in zip(line.values, line.spans, strict=True):
            assert (value is None) == (span is None)
            assert span is None or span[0] <= value <= span[1]
    else:
        assert list(line.values) == values


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10).map(sorted))
def test_labels_are_moved_apart_and_keep_their_order(places):
    moved = spread_apart(places)
    gap = LABEL_PIXELS / HEIGHT_PIXELS
    assert all(after - before >= gap - 1e-9 for before, after in itertools.pairwise(moved))
    assert all(-1e-9 <= place <= 1 for place in moved)
    if all(after - before >= gap for before, after in itertools.pairwise(places)):
        assert moved == pytest.approx(places)


POSITIVE = st.floats(1e-3, 1e13)


@given(st.lists(POSITIVE, min_size=1, max_size=20), st.booleans())
def test_every_value_stands_inside_its_axis_in_order(values, from_zero):
    for axis in (linear_axis(values, str, from_zero=from_zero), log_axis(values, str), time_axis(max(values))):
        places = [axis.place(value) for value in sorted(values)]
        assert places == sorted(places)
        assert 2 <= len(axis.ticks) <= 40
        inside = [(axis.scale(value) - axis.low) / (axis.high - axis.low) for value in [t[0] for t in axis.ticks]]
        assert all(-1e-6 <= place <= 1 + 1e-6 for place in inside)
        assert inside == sorted(inside)


@given(st.lists(POSITIVE, min_size=1, max_size=20))
def test_no_value_is_cut_off_by_its_axis(values):
    for axis in (linear_axis(values, str), linear_axis(values, str, from_zero=False)):
        assert axis.low <= min(values) * (1 + 1e-9)
        assert max(values) <= axis.high * (1 + 1e-9)
    axis = log_axis([max(1.0, value) for value in values], str)
    assert 10**axis.high >= max(values) * (1 - 1e-9)


def test_counts_have_whole_ticks():
    assert [tick[0] for tick in linear_axis([0, 2], str, whole=True).ticks] == [0, 1, 2, 3]


def test_each_further_nine_has_the_same_room():
    axis = percentile_axis(1_000_000)
    places = [axis.place(percentile) for percentile in (0, 90, 99, 99.9, 99.99, 99.999)]
    steps = [after - before for before, after in itertools.pairwise(places)]
    assert steps == pytest.approx([1 / 6] * 5)
    assert [text for _, text, _ in axis.ticks][-3:] == ["p99.99", "p99.999", "p99.9999"]


def test_colours_have_the_contrast_to_be_read():
    css = resources.files("pmesh.load.rendering").joinpath("page.css").read_text(encoding="utf-8")
    light, dark = css.split("prefers-color-scheme: dark", 1)
    for part in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part))
        pairs = [(text, "page") for text in ("ink", "dim", "good", "bad", "warn", "c0", "c1", "c2", "c3", "c4")]
        pairs += [("ink", "panel"), ("dim", "panel")] + [(text, f"{text}-back") for text in ("good", "bad", "warn")]
        for text, back in pairs:
            assert contrast(colours[text], colours[back]) >= 4.5, (text, back)


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours (WCAG 2.2, "contrast ratio" and "relative luminance")."""
    bright, dim = sorted(map(luminance, (one, other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


# Runs in each page before anything else, to see whatever goes wrong in it.
WATCH = """<script>
window.failures = [];
addEventListener("error", (event) => failures.push(String(event.message)));
document.addEventListener("securitypolicyviolation", (event) => failures.push(`blocked ${event.blockedURI}`));
</script>"""

# Looks at each page in its frame, and leaves what it saw as JSON.
LOOK = """
const seen = {};
const textsOutside = (doc, width) => [...doc.querySelectorAll(".plot text")].filter((text) => {
  const box = text.getBoundingClientRect();
  return box.width && (box.left < -0.5 || box.right > width + 0.5);
}).map((text) => text.textContent);
const overlapping = (doc) => [...doc.querySelectorAll(".plot")].flatMap((plot) => {
  const boxes = [...plot.querySelectorAll("text")].map((text) => [text.textContent, text.getBoundingClientRect()])
    .filter(([, box]) => box.width);
  return boxes.flatMap(([one, a], number) => boxes.slice(number + 1).filter(([, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3).map(([other]) => `${one} over ${other}`));
});
const undrawn = (doc) => [...doc.querySelectorAll("figure.plotted")].filter((figure) => {
  const area = figure.querySelector(".area").getBoundingClientRect();
  const drawn = [...figure.querySelectorAll(".area path, .area circle")].some((path) => {
    const box = path.getBoundingClientRect();
    return box.width + box.height > 3 || path.classList.contains("dots");
  });
  return area.width < 150 || area.height < 150 || !drawn;
}).map((figure) => figure.id);
addEventListener("load", () => {
  for (const frame of document.querySelectorAll("iframe")) {
    const view = frame.contentWindow, doc = frame.contentDocument;
    const plots = [...doc.querySelectorAll(".area")];
    const read = plots.map((area) => {
      area.focus();
      const first = area.getAttribute("aria-valuetext");
      area.dispatchEvent(new view.KeyboardEvent("keydown", { key: "End", bubbles: true }));
      const figure = area.closest("figure");
      return { role: area.getAttribute("role"), first, readout: figure.querySelector(".readout").textContent,
        cursor: area.querySelector(".cursor").getAttribute("visibility"),
        rows: figure.querySelectorAll("tbody tr").length };
    });
    for (const details of doc.querySelectorAll("details")) details.open = true;
    const agents = doc.querySelector("table.sortable");
    let sorted = null;
    if (agents) {
      const column = [...agents.tHead.rows[0].cells].findIndex((cell) => cell.textContent === "p99");
      if (column > 0) {
        sorted = [1, 2].map(() => {
          agents.tHead.rows[0].cells[column].querySelector("button")?.click();
          return agents.tBodies[0].rows[0].cells[column].textContent;
        });
      }
    }
    seen[frame.id] = {
      failures: view.failures, width: doc.documentElement.scrollWidth, shown: doc.documentElement.clientWidth,
      outside: textsOutside(doc, doc.documentElement.clientWidth), overlapping: overlapping(doc),
      plots: plots.length, undrawn: undrawn(doc), read, sorted,
    };
  }
  document.getElementById("seen").textContent = JSON.stringify(seen);
});
"""


def open_pages(texts: dict[str, str], folder: Path, width: int) -> dict[str, dict]:
    """What Chromium sees in each page in a frame `width` pixels wide."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed")
        pytest.skip("CHROMIUM IS NOT INSTALLED: no HTML page was opened in a browser")
    watched = {name: stdlib_html.escape(text.replace("<head>", f"<head>{WATCH}", 1)) for name, text in texts.items()}
    frames = "".join(
        f'<iframe id="{name}" style="border:0;width:{width}px;height:900px" srcdoc="{text}"></iframe>'
        for name, text in watched.items()
    )
    document = folder / "frames.html"
    document.write_text(
        f'<!DOCTYPE html><meta charset="utf-8"><script>{LOOK}</script>{frames}<pre id="seen"></pre>', encoding="utf-8"
    )
    command = [
        CHROMIUM,
        "--headless",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        f"--user-data-dir={folder / 'chromium'}",
        "--virtual-time-budget=20000",
        "--dump-dom",
        document.as_uri(),
    ]
    if os.geteuid() == 0:
        command.insert(1, "--no-sandbox")  # Chromium refuses to run as root with it
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    found = re.search(r'<pre id="seen">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, f"chromium exited {done.returncode} and saw nothing:\n{done.stderr[-2000:]}"
    seen: dict[str, dict] = json.loads(stdlib_html.unescape(found[1]))
    return seen


@pytest.fixture(scope="module", params=[PHONE_PIXELS, 1_200])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    return open_pages(TEXTS, tmp_path_factory.mktemp("pages"), request.param)


def test_no_page_scrolls_sideways(opened):
    assert {name: seen["width"] for name, seen in opened.items() if seen["width"] > seen["shown"]} == {}


def test_no_script_fails_and_nothing_is_fetched(opened):
    assert {name: seen["failures"] for name, seen in opened.items() if seen["failures"]} == {}


def test_every_plot_is_drawn_with_all_its_texts_in_the_page(opened):
    assert {name: seen["undrawn"] for name, seen in opened.items() if seen["undrawn"]} == {}
    assert {name: seen["outside"] for name, seen in opened.items() if seen["outside"]} == {}
    plots = {name: seen["plots"] for name, seen in opened.items()}
    assert plots == {
        "shipped profiles": 1 + 4 * 6 + 1,
        "open-loop soak with failures": 6,
        "nothing handled": 0,
        "long names": 1 + 1,
        "gaps": 6 + 4,
        "searches alone": 1,
        "comparison": 1,
    }


def test_no_text_of_a_plot_covers_another(opened):
    assert {name: seen["overlapping"] for name, seen in opened.items() if seen["overlapping"]} == {}


def test_values_are_read_out_by_keyboard(opened):
    for seen in opened.values():
        for read in seen["read"]:
            assert read["role"] == "slider"
            assert read["cursor"] == "visible"
            assert read["readout"]
            assert (read["readout"] != read["first"]) == (read["rows"] > 1)


def test_agents_are_sorted_down_and_up_by_a_press_on_a_heading(opened):
    assert opened["long names"]["sorted"] == ["90.7 us", "90.2 us"]
