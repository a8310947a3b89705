"""Run pytest on a build of the core that the compiler's sanitizers watch (`PMESH_SANITIZE`).

    python tests/sanitized.py                            the tests that have to do with the core
    python tests/sanitized.py tests                      all that can run
    python tests/sanitized.py tests/test_recorder.py     some

Their runtime has to be in the process before the interpreter, which was not built with it, so it is preloaded; memory
comes from malloc, whose ends it knows, and not from the interpreter's own arenas. It ends a process at its first
finding, which it writes to a file: what a test's subprocess did fails the run too, whatever the test made of it.

ThreadSanitizer says most where the interpreter was built with it too (`--disable-gil --with-thread-sanitizer`): then it
sees what the interpreter does to order threads, and nothing of what it says of the core is left out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent

# Each with its reason: what cannot run in such a process.
EXCLUDED = {
    "test_cli.py": "the command warns on such a build, and its tests want the output to the letter",
    "test_leaks.py::test_spawning_and_stopping_ten_thousand_agents_leaves_no_object_behind": (
        "looks at the size of the process: what was freed is kept for a while, to know it when it is used"
    ),
    "test_leaks.py::test_repeating_a_public_call_leaves_nothing_behind": "looks at the size of the process",
    "test_leaks.py::test_a_call_that_leaves_something_behind_is_found": "looks at the interpreter's own allocator",
    "test_recorder.py::test_taken_encoded_and_decoded_recorders_leave_no_memory_behind": (
        "looks at the size of the process"
    ),
    "test_stalls.py::test_a_fork_leaves_the_thread_to_the_parent_and_warns_of_nothing": (
        "a forked child may find a lock of the runtime's taken by a thread that it has not; it hung when it was run"
    ),
}

ASAN = {
    # What the interpreter leaves to the end of the process is no leak of the core's; `test_leaks.py` looks for those.
    "detect_leaks": "0",
    "detect_stack_use_after_return": "1",
    "strict_string_checks": "1",
    # As malloc does: MemoryError is tested.
    "allocator_may_return_null": "1",
    "halt_on_error": "1",
    # By a signal, for which pytest shows what Python code it was.
    "abort_on_error": "1",
}
UBSAN = {"print_stacktrace": "1", "halt_on_error": "1", "abort_on_error": "1"}
# It goes on after a finding, since most are of the interpreter, which was not built with it: see `of_the_core`.
TSAN = {"exitcode": "0", "history_size": "7"}
INTERPRETER_IS_WATCHED = "--with-thread-sanitizer" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
if not INTERPRETER_IS_WATCHED:
    TSAN["suppressions"] = str(TESTS / "tsan.supp")


def runtimes(sanitizers: list[str]) -> Iterator[str]:
    """Paths of the sanitizers' libraries, of the compiler that builds the core."""
    compiler = os.environ.get("CC", "gcc")
    for name in ("address", "thread", "undefined"):
        if name in sanitizers:
            library = {"address": "libasan.so", "thread": "libtsan.so", "undefined": "libubsan.so"}[name]
            found = subprocess.run(
                [compiler, f"-print-file-name={library}"], capture_output=True, text=True, check=True
            ).stdout.strip()
            if not os.path.isabs(found):
                sys.exit(f"{compiler} has no {library}; it is in the Debian package libgcc-12-dev")
            yield os.path.realpath(found)


def sanitizers_of_the_build() -> list[str]:
    """What the installed core was built with, read without loading it: outside of `environment` that would fail."""
    import importlib.util

    package = importlib.util.find_spec("pmesh")
    locations = [] if package is None else package.submodule_search_locations or []
    for location in locations:
        for core in Path(location).glob("_core*.so"):
            content = core.read_bytes()
            return [
                name
                for name, symbol in (("address", b"__asan_"), ("thread", b"__tsan_"), ("undefined", b"__ubsan_"))
                if symbol in content
            ]
    sys.exit("pmesh is not installed here")


def environment(sanitizers: list[str], findings: Path) -> dict[str, str]:
    """Environment variables of a process that can load such a core; what is found goes to files in `findings`."""

    def options(values: dict[str, str]) -> str:
        return ":".join(f"{name}={value}" for name, value in {**values, "log_path": findings / "finding"}.items())

    return {
        **os.environ,
        "LD_PRELOAD": ":".join(runtimes(sanitizers)),
        # Without a GIL there is one allocator only; and ThreadSanitizer needs no other.
        **({} if "thread" in sanitizers else {"PYTHONMALLOC": "malloc"}),
        "ASAN_OPTIONS": options(ASAN),
        "TSAN_OPTIONS": options(TSAN),
        "UBSAN_OPTIONS": options(UBSAN),
    }


def of_the_core(found: str) -> str:
    """The reports of ThreadSanitizer in which the core takes part; what other sanitizers say, as it is."""
    separator = "==================\n"
    if "WARNING: ThreadSanitizer" not in found:
        return found
    reports = (report for report in found.split(separator) if "(_core." in report)
    return separator.join(reports)


def main(arguments: list[str]) -> int:
    sanitizers = sanitizers_of_the_build()
    if not sanitizers:
        sys.exit("this build of pmesh has no sanitizers; build it with PMESH_SANITIZE=address,undefined")
    if not any(Path(argument.partition("::")[0]).exists() for argument in arguments):
        arguments = [*arguments, str(TESTS), "--core-only"]
    for name, reason in EXCLUDED.items():
        print(f"not run: {name}: {reason}")
        # By the path from where pytest's configuration is.
        arguments += [f"--deselect={TESTS.name}/{name}"]
    # UBSan writes to stderr where AddressSanitizer is, and what it says must not get lost with the process.
    arguments += [f"--rootdir={TESTS.parent}", "--capture=sys"]
    with tempfile.TemporaryDirectory() as folder:
        variables = environment(sanitizers, Path(folder))
        shows = "import json, pmesh; print(json.dumps(pmesh.BUILD_INFO))"
        shown = subprocess.run(
            [sys.executable, "-P", "-c", shows], env=variables, capture_output=True, text=True, check=False
        )
        if shown.returncode:
            sys.exit(f"the core cannot be loaded with {variables['LD_PRELOAD']}:\n{shown.stdout}{shown.stderr}")
        print(f"pmesh {json.loads(shown.stdout)}, {variables['LD_PRELOAD']}", flush=True)
        command = [sys.executable, "-P", "-m", "pytest", *arguments]
        code = subprocess.run(command, env=variables, check=False).returncode
        texts = {path.name: of_the_core(path.read_text(errors="replace")) for path in sorted(Path(folder).iterdir())}
    found = {name: text for name, text in texts.items() if text}
    for name, text in found.items():
        print(f"\n{name}\n{text}", file=sys.stderr)
    if "thread" in sanitizers:
        watched = "the interpreter and the core" if INTERPRETER_IS_WATCHED else "the core alone, with tsan.supp"
        print(f"ThreadSanitizer watched {watched}: {len(found)} processes with findings in the core")
    return code or (1 if found else 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
