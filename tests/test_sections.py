"""Critical sections of the core: none is entered twice by one thread, and what is changed outside of them is reported.

Before CPython 3.14 entering a section of an object that the same thread is in already lets other threads in between
(`_PyCriticalSection_BeginSlow` in Python/critical_section.c of 3.13 waits for the lock, which suspends the section that
holds it), so that what the outer one does is not done at once.
"""

import re
from pathlib import Path

import pytest
from sanitized import of_the_core

SOURCES = sorted((Path(__file__).parent.parent / "pmesh").glob("_core*.p[xy][xi]"))

SECTION = re.compile(r"^( *)with cython\.critical_section\((.*)\):$")
FUNCTION = re.compile(r"^ {0,4}(?:cdef|cpdef|def) .*?\b(\w+)\(")
CLASS = re.compile(r"^(?:cdef )?class (\w+)")
METHOD_CALL = re.compile(r"\bself\.(\w+)\(")


def sections(text: str) -> list[tuple[str, str, list[str], str]]:
    """Class, function, locked objects and body of each section."""
    found = []
    lines = text.splitlines()
    within = function = ""
    for at, line in enumerate(lines):
        if match := CLASS.match(line):
            within = match[1]
        elif match := FUNCTION.match(line):
            function = match[1]
        elif match := SECTION.match(line):
            body = []
            for inner in lines[at + 1 :]:
                if inner.strip() and len(inner) - len(inner.lstrip()) <= len(match[1]):
                    break
                body.append(inner)
            found.append((within, function, [name.strip() for name in match[2].split(",")], "\n".join(body)))
    return found


def nested(found: list[tuple[str, str, list[str], str]], bases: dict[str, str]) -> list[str]:
    """Calls, from within a section of an object, of its methods that enter one."""
    entered = {(within, function) for within, function, objects, _ in found if "self" in objects}
    return [
        f"{within}.{function} calls {called}"
        for within, function, objects, body in found
        if "self" in objects
        for called in METHOD_CALL.findall(body)
        if {(within, called), (bases.get(within, within), called)} & entered
    ] + [f"{within}.{function} enters one in another" for within, function, _, body in found if "critical_" in body]


def test_no_section_is_entered_by_who_is_in_it_already() -> None:
    found = [section for path in SOURCES for section in sections(path.read_text(encoding="utf-8"))]
    assert len(found) > 50
    assert {"Mailbox", "Cell", "Dispatcher", "LatencyRecorder"} <= {within for within, *_ in found}
    assert nested(found, {"Cell": "Mailbox"}) == []


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("            self.count()\n", ["Box.put calls count"]),
        ("            with cython.critical_section(other):\n                pass\n", ["Box.put enters one in another"]),
        ("            self.size += 1\n", []),
    ],
)
def test_one_that_is_entered_twice_is_found(body: str, told: list[str]) -> None:
    text = (
        "cdef class Box:\n"
        "    cdef int count(self) noexcept:\n"
        "        with cython.critical_section(self):\n"
        "            self.size += 1\n"
        "    cdef int put(self, object item) except -1:\n"
        "        with cython.critical_section(self):\n" + body
    )
    assert nested(sections(text), {}) == told


def test_of_what_threadsanitizer_reports_that_of_the_core_is_kept() -> None:
    line = "=" * 18 + "\n"
    head = "WARNING: ThreadSanitizer: data race (pid=1)\n  Write of size 8 at 0x7b by thread T1:\n"
    core = f"{head}    #0 __pyx_f_5pmesh_5_core_7Mailbox_link _core.c:1 (_core.cpython-313t-x86_64-linux-gnu.so+0x1)\n"
    interpreter = f"{head}    #0 copy_values Objects/dictobject.c:3978 (python3.13t+0x142347)\n"
    assert of_the_core(f"{line}{interpreter}{line}\n{line}{core}{line}") == core
    assert of_the_core(f"{line}{interpreter}{line}") == ""
    assert of_the_core("ERROR: AddressSanitizer: heap-use-after-free") == "ERROR: AddressSanitizer: heap-use-after-free"
