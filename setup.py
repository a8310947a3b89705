"""Build `pmesh._core`, the one extension; everything else is declared in pyproject.toml.

Three environment variables choose a build variant (see CONTRIBUTING.md): `PMESH_DEBUG=1` keeps the
asserts and adds the core's own checks, `PMESH_TRACE=1` adds line tracing for coverage, and
`PMESH_SANITIZE=address,undefined` has the compiler's sanitizers watch the core.
"""

import os
import sys
import sysconfig
from pathlib import Path

import Cython
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


def _flag(name: str) -> bool:
    value = os.environ.get(name, "0")
    if value not in ("", "0", "1"):
        sys.exit(f"{name}={value!r}: must be 0 or 1")
    return value == "1"


def _sanitizers() -> list[str]:
    value = os.environ.get("PMESH_SANITIZE", "")
    names = sorted({name.strip() for name in value.split(",") if name.strip()})
    if not {"address", "thread", "undefined"}.issuperset(names) or {"address", "thread"}.issubset(names):
        sys.exit(f"PMESH_SANITIZE={value!r}: must be 'address' or 'thread', 'undefined', or one of the two and that")
    return names


DEBUG = _flag("PMESH_DEBUG")
TRACE = _flag("PMESH_TRACE")
SANITIZERS = _sanitizers()

# Generated C, objects and copied modules live in a directory of their own per variant, interpreter
# ABI and compiler, so that no build picks up what another one left.
BUILD_BASE = os.path.join(
    "build",
    "-".join(
        [
            "debug" if DEBUG else "release",
            *(["trace"] if TRACE else []),
            *SANITIZERS,
            sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag,
            f"cython{Cython.__version__}",
        ]
    ),
)

macros: list[tuple[str, str | None]] = [
    ("PMESH_DEBUG", str(int(DEBUG))),
    ("PMESH_TRACE", str(int(TRACE))),
    ("PMESH_SANITIZE", f'"{",".join(SANITIZERS)}"'),
]
if TRACE:
    macros += [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1")]
if DEBUG:
    compile_args = ["-O1", "-g", "-UNDEBUG"]
else:
    compile_args = ["-O3"]
    macros += [("CYTHON_WITHOUT_ASSERTIONS", None)]
link_args: list[str] = []
if SANITIZERS:
    # The first finding ends the process: a test that goes on after one would say that all is well. Signed overflow is
    # only looked for where it is not defined to wrap, as the interpreter's own flags have it.
    link_args = [f"-fsanitize={','.join(SANITIZERS)}"]
    compile_args += [*link_args, "-fno-sanitize-recover=all", "-fstrict-overflow", "-fno-omit-frame-pointer"]
    compile_args += ["-O1", "-g"]


# Cython regenerates when a source changed, and knows nothing of the settings in this file.
generated = Path(BUILD_BASE, "cython", "pmesh", "_core.c")
settings_changed = generated.exists() and generated.stat().st_mtime < Path(__file__).stat().st_mtime


class BuildExt(build_ext):
    """`build_ext` that never keeps an in-place module, which may be of another variant."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.force = self.force or self.inplace


core = Extension(
    "pmesh._core",
    ["pmesh/_core.pyx"],
    define_macros=macros,
    extra_compile_args=compile_args,
    extra_link_args=link_args,
    depends=["setup.py"],
)

setup(
    ext_modules=cythonize(
        [core],
        build_dir=os.path.join(BUILD_BASE, "cython"),
        force=settings_changed,
        # `__test__` would be a public name that no stub declares.
        compiler_directives={"linetrace": TRACE, "autotestdict": False},
    ),
    cmdclass={"build_ext": BuildExt},
    options={"build": {"build_base": BUILD_BASE}},
)
