"""The committed figures of a class of machines, in `baselines/CLASS.json`, and what a run may be worse by.

Rates are kept and compared as ratios to the reference workload of their own run, and latencies in units of the
reference's time of one item: the machine's mood is in both, and cancels. Nothing in a file says which machine
it was, where the checkout lay, or whose it is.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bounds import Bound
from thresholds import Tolerance

__all__ = ["FOLDER", "load", "machine_class", "merged", "rate_bounds", "save", "time_bounds"]

FOLDER = Path(__file__).parent / "baselines"

# By table, the figures that a run is held against.
JUDGED = {"rates": ("against_reference",), "latencies": ("p50_items", "p99_items")}

ANEW = "remove it, and write it anew with --update-baseline"


def machine_class() -> str:
    """What must be equal for figures to be comparable, as a file name: system, interpreter, processor model."""
    options = sysconfig.get_config_var("CONFIG_ARGS") or ""
    parts = (
        sys.platform,
        platform.machine(),
        f"{os.cpu_count()}cpu",
        f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}{sys.abiflags}",
        "" if "--enable-optimizations" in options else "no-pgo",
        processor_model(),
    )
    return "-".join(slug for part in parts if (slug := re.sub(r"[^a-z0-9_.]+", "-", part.lower()).strip("-")))


def processor_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or "unknown processor"


def load(path: Path) -> dict[str, Any] | None:
    """What `path` holds, or None when there is no such file.

    Raises:
        ValueError: It is not what `save` writes; the text says what is wrong.
    """
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # also of text that is no UTF-8
        raise ValueError(f"{path.name} is no JSON: {error}; {ANEW}") from None
    for table, figures in JUDGED.items():
        if not isinstance(document, dict) or not isinstance(document.get(table), dict):
            raise ValueError(f"{path.name} has no table {table!r}; {ANEW}")
        for name, seen in document[table].items():
            for figure in figures:
                value = seen.get(figure) if isinstance(seen, dict) else None
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                    where = f"{path.name}: {figure} of {name!r} in {table}"
                    raise ValueError(f"{where} is {value!r}; it must be a number above 0; {ANEW}")
    return document


def save(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def merged(old: Mapping[str, Any] | None, new: Mapping[str, Any], names: Mapping[str, object]) -> dict[str, Any]:
    """`new`, and of what it does not have the figures of `old`, as far as they are of `names`: those that exist."""
    document = dict(new)
    for table in ("rates", "latencies"):
        kept = {} if old is None else {name: value for name, value in old[table].items() if name in names}
        document[table] = dict(sorted({**kept, **new[table]}.items()))
    return document


def rate_bounds(baseline: Mapping[str, Any] | None, name: str, tolerance: Tolerance) -> list[Bound]:
    figures = {} if baseline is None else baseline["rates"].get(name, {})
    return [
        Bound(figure, seen * tolerance.rate, True, f"{tolerance.rate:g} of the baseline's {seen:.3g}")
        for figure, seen in figures.items()
        if figure == "against_reference"
    ]


def time_bounds(baseline: Mapping[str, Any] | None, name: str, tolerance: Tolerance) -> list[Bound]:
    figures = {} if baseline is None else baseline["latencies"].get(name, {})
    slack = tolerance.items
    return [
        Bound(
            figure,
            figures[figure] * factor + slack,
            False,
            f"{factor:g} times the baseline's {figures[figure]:.3g} and {slack:g} more",
        )
        for figure, factor in (("p50_items", tolerance.p50), ("p99_items", tolerance.p99))
        if figure in figures
    ]
