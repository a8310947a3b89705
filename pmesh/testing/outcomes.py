"""What is raised to say something of the test, wherever it is raised."""

from __future__ import annotations

import sys
from collections.abc import Iterator

__all__ = ["is_about_the_test", "leaving"]


def leaving() -> Iterator[type[BaseException]]:
    """What ends a test that did not fail, of those modules that are in use."""
    if pytest := sys.modules.get("pytest"):
        yield from (pytest.skip.Exception, pytest.xfail.Exception, pytest.exit.Exception)
    if case := sys.modules.get("unittest.case"):
        yield case.SkipTest
    if bdb := sys.modules.get("bdb"):
        yield bdb.BdbQuit


def is_about_the_test(error: BaseException) -> bool:
    """Whether it says that the test fails or is left, and not that an agent has failed, whose supervisor goes on."""
    failing = (pytest.fail.Exception,) if (pytest := sys.modules.get("pytest")) else ()
    return isinstance(error, (AssertionError, *failing, *leaving()))
