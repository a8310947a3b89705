"""Service level objectives: the text `p99<5ms`, what it means, and whether it holds.

What is judged, not how it is measured: a load report, a benchmark or a live mesh gives the figures.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pmesh.scanner import Quantity, Scanner, Unit
from pmesh.units import observed_text

__all__ = [
    "DEFAULT_OBJECTIVES",
    "FIGURES",
    "FIGURES_TEXT",
    "HIGHER_IS_BETTER",
    "SERIES_OF_TIMES",
    "STATISTICS",
    "Objective",
    "Verdict",
    "as_objective",
    "default_objectives",
    "judge",
    "parse_duration",
    "parse_objective",
    "parse_share",
    "split_figure",
]

# Prefixes of a latency figure, as in `queue.p99`; without one it is of the latency.
SERIES_OF_TIMES = ("queue", "service", "response", "send_delay")

STATISTICS = ("p50", "p90", "p95", "p99", "p99.9", "p99.99", "mean", "max")

DURATION = Quantity(
    "a duration",
    "5ms",
    MappingProxyType(
        {
            # U+00B5 is the micro sign, U+03BC the Greek letter.
            **dict.fromkeys(("ns", "NS"), Unit("ns")),
            **dict.fromkeys(("us", "US", "\u00b5s", "\u03bcs"), Unit("us", 3)),
            **dict.fromkeys(("ms", "MS"), Unit("ms", 6)),
            **dict.fromkeys(("s", "S"), Unit("s", 9)),
            # Not "M", which is mega everywhere else.
            **dict.fromkeys(("m", "min"), Unit("m", 9, 60)),
            **dict.fromkeys(("h", "H"), Unit("h", 9, 3600)),
        }
    ),
)
SHARE = Quantity("a share", "99.5%", MappingProxyType({"%": Unit("%", -2)}))
_RATE = Quantity(
    "a rate",
    "5000/s",
    MappingProxyType(
        {
            "/s": Unit("/s"),
            **dict.fromkeys(("k/s", "K/s"), Unit("k/s", 3)),
            "M/s": Unit("M/s", 6),
        }
    ),
)
_SIZE = Quantity(
    "a size",
    "3MB",
    MappingProxyType(
        {
            spelling: unit
            for unit in (
                Unit("B"),
                Unit("kB", 3),
                Unit("MB", 6),
                Unit("GB", 9),
                Unit("KiB", factor=2**10),
                Unit("MiB", factor=2**20),
                Unit("GiB", factor=2**30),
            )
            for spelling in (unit.name, unit.name.lower(), unit.name.upper())
        }
    ),
)

_QUANTITIES: Mapping[str, Quantity] = MappingProxyType(
    {
        **dict.fromkeys(STATISTICS, DURATION),
        **{f"{series}.{statistic}": DURATION for series in SERIES_OF_TIMES for statistic in STATISTICS},
        "success": SHARE,
        "throughput": _RATE,
        "memory_per_agent": _SIZE,
        "overhead": _SIZE,
    }
)

# Every figure that an objective can be about, and the same in words.
FIGURES = tuple(_QUANTITIES)
FIGURES_TEXT = (
    f"{', '.join(STATISTICS)} (of the latency, or behind {', '.join(f'{series}.' for series in SERIES_OF_TIMES)}),"
    " success, throughput, memory_per_agent, overhead"
)

HIGHER_IS_BETTER = frozenset({"success", "throughput"})

_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = MappingProxyType(
    {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
)


@dataclass(frozen=True, slots=True)
class Objective:
    """One promise about one figure, such as `p99<5ms`.

    Args:
        text: How people write it, and its name in reports.
        figure: What it is about, one of `FIGURES`: "p99", "queue.p99", "success", "throughput", ...
        comparison: "<", "<=", ">" or ">=".
        bound: In the unit of the figure: ns, bytes, messages per second or a ratio.
    """

    text: str
    figure: str
    comparison: str
    bound: float

    def holds(self, observed: float) -> bool:
        return _COMPARISONS[self.comparison](observed, self.bound)


@dataclass(frozen=True, slots=True)
class Verdict:
    """An objective, what was observed in its unit (None when nothing was), and whether it holds."""

    objective: Objective
    observed: float | None
    passed: bool

    def __str__(self) -> str:
        return f"{self.objective.text}: observed {self.observed_text}"

    @property
    def observed_text(self) -> str:
        """What was observed, for people; never rounded onto the bound, which would belie the verdict."""
        figure, bound = self.objective.figure, self.objective.bound
        text = observed_text(figure, self.observed)
        if self.observed is None or self.observed == bound or text != observed_text(figure, bound):
            return text
        return f"just {'above' if self.observed > bound else 'below'} {text}"


def parse_objective(text: str) -> Objective:
    """The objective that `text` says: a figure, a comparison and a bound with its unit.

    =====================================  ==========================================
    p50 p90 p95 p99 p99.9 p99.99 mean max  a duration: 200ns, 500us, 5ms, 1.5s, 1m
    the same behind queue. service.        a duration; of one part of the latency
    response. or send_delay.
    success                                a share, handled of sent: 99.5%
    throughput                             a rate, messages handled: 5000/s, 50k/s, 2M/s
    memory_per_agent overhead              a size: 800kB, 3MB, 1.5GB, 512KiB, 3MiB, 1GiB
    =====================================  ==========================================

    Comparisons are `<`, `<=`, `>` and `>=`, and say what must hold: `p99<5ms` holds when p99 is below 5 ms. The
    other way round is allowed and means what it says: `p99>5ms` holds when p99 is above 5 ms, as in a test of
    an injected delay. Refused is what no measurement could meet, such as `p99<0ms` or `success>100%`. Spaces
    between the parts do not count. The `text` of the result is without them, and parses to an equal objective.

    Raises:
        InvalidArgument: It is no objective; the text names the column, what stands there and what would be right.
        InvalidType: `text` is no str.
    """
    scanner = Scanner("objective", text, "p99<5ms")
    figure = scanner.name(FIGURES, "a figure", FIGURES_TEXT)
    quantity = _QUANTITIES[figure]
    comparison = scanner.symbol(_COMPARISONS, f"a comparison is one of {' '.join(_COMPARISONS)}")
    column = scanner.column
    bound, written = scanner.amount(quantity)
    scanner.end("every objective is a text of its own")
    if quantity is SHARE and bound > 1.0:
        scanner.fail(f"found {written!r}; a share is at most 100%", column)
    if bound == 0.0 and comparison == "<":
        scanner.fail(f"found {written!r}; nothing is below it, so the objective could never hold", column)
    if quantity is SHARE and bound == 1.0 and comparison == ">":
        scanner.fail("found '100%'; nothing is above it, so the objective could never hold; >= can", column)
    return Objective(f"{figure}{comparison}{written}", figure, comparison, bound)


def parse_duration(text: str, what: str = "duration") -> float:
    """Nanoseconds of a text such as `500us`, `5ms`, `1.5s`, `10m` or `1h`.

    Raises:
        InvalidArgument: It is none, or zero; the text names `what`, the column and what would be right.
    """
    scanner = Scanner(what, text, DURATION.example)
    value, _ = scanner.amount(DURATION)
    scanner.end("a duration is one number with one unit")
    if not value:
        scanner.fail("a duration of nothing; it must be above 0", 1)
    return value


def parse_share(text: str, what: str = "share") -> float:
    """The ratio, from 0.0 to 1.0, of a text such as `0.5%`.

    Raises:
        InvalidArgument: It is none; the text names `what`, the column and what would be right.
    """
    scanner = Scanner(what, text, SHARE.example)
    value, written = scanner.amount(SHARE)
    scanner.end("a share is one number with a % sign")
    if value > 1.0:
        scanner.fail(f"found {written!r}; a share is at most 100%", 1)
    return value


def split_figure(figure: str) -> tuple[str, str]:
    """The series of times that a latency figure is of, and the statistic: `queue.p99.9` is ("queue", "p99.9")."""
    prefix, _, rest = figure.partition(".")
    return (prefix, rest) if prefix in SERIES_OF_TIMES else ("latency", figure)


def as_objective(objective: str | Objective) -> Objective:
    """The objective itself, or the one that a text says."""
    return objective if isinstance(objective, Objective) else parse_objective(objective)


def judge(figure: Callable[[str], float | None], objectives: Iterable[Objective]) -> tuple[Verdict, ...]:
    """A verdict for each of `objectives`, in order; what was not observed does not hold.

    Args:
        figure: The observed value of the figure of that name, or None.
    """
    verdicts = []
    for objective in objectives:
        observed = figure(objective.figure)
        verdicts.append(Verdict(objective, observed, observed is not None and objective.holds(observed)))
    return tuple(verdicts)


# The reference report's (design, section 7).
DEFAULT_OBJECTIVES = tuple(
    parse_objective(text)
    for text in (
        "throughput>=5000/s",
        "p50<500us",
        "p99<5ms",
        "max<50ms",
        "success>99.5%",
        "memory_per_agent<3MB",
        "overhead<50MB",
    )
)


def default_objectives(mode: str) -> tuple[Objective, ...]:
    """Those that are checked unless others are asked for: in an "open" loop all but the throughput, which is then
    what was asked for and says nothing about the mesh.
    """
    return tuple(objective for objective in DEFAULT_OBJECTIVES if mode == "closed" or objective.figure != "throughput")
