"""Which of valgrind's findings are the core's."""

from __future__ import annotations

import memcheck

CORE = "/somewhere/pmesh/_core.so"

Frame = tuple[str, str]


def finding(kind: str, *stacks: list[Frame]) -> memcheck.Finding:
    """What is read from valgrind's XML of one error."""

    def frames(stack: list[Frame]) -> str:
        return "".join(f"<frame><obj>{path}</obj><fn>{function}</fn></frame>" for function, path in stack)

    text = "".join(f"<stack>{frames(stack)}</stack>" for stack in stacks)
    report = f"<valgrindoutput><error><kind>{kind}</kind><what>something</what>{text}</error></valgrindoutput>"
    [found] = memcheck.findings_in(report)
    return found


HERE: list[Frame] = [("memcpy", "/vg.so"), ("__pyx_f_snapshot", CORE), ("_PyEval", "/python.so")]
ELSEWHERE: list[Frame] = [("Py_INCREF", "/python.so"), ("_PyEval", "/python.so")]


def test_an_error_beneath_a_function_of_the_core_is_the_cores() -> None:
    assert finding("InvalidWrite", HERE).is_of(CORE)
    assert finding("Leak_DefinitelyLost", HERE).is_of(CORE)
    assert not finding("InvalidWrite", ELSEWHERE).is_of(CORE)


def test_memory_that_the_core_allocated_makes_it_the_cores() -> None:
    assert finding("InvalidRead", ELSEWHERE, HERE).is_of(CORE)
    assert finding("UninitCondition", ELSEWHERE, HERE).is_of(CORE)


def test_an_int_of_the_interpreters_is_no_error_even_where_the_core_calls_it() -> None:
    made: list[Frame] = [("malloc", "/vg.so"), ("_PyLong_New", "/python.so"), ("__pyx_f_snapshot", CORE)]
    assert finding("UninitValue", HERE, made).is_false
    assert not finding("UninitValue", HERE, made).is_of(CORE)
    # Only where it is about the value: writing past its end is an error as any.
    assert finding("InvalidWrite", HERE, made).is_of(CORE)


def test_a_finding_shows_its_kind_and_both_stacks() -> None:
    text = str(finding("UninitValue", ELSEWHERE, HERE))
    assert text.startswith("UninitValue: something")
    assert "Py_INCREF (python.so)" in text
    assert "__pyx_f_snapshot (_core.so)" in text
