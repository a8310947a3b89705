"""Two environments to compare: one with a revision installed, one with the working tree as it is now.

Building the core takes most of a minute, so wheels are kept in `build/ab-wheels`, by a hash of all that goes into
them; environments are made anew each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# What a wheel is made of, and nothing that changes without changing it.
BUILD_INPUTS = ("pyproject.toml", "setup.py", "setup.cfg", "MANIFEST.in", "README.md", "LICENSE", "pmesh")

TAIL_LINES = 30


class Problem(Exception):
    """Why there is no comparison, in words for whoever asked for it."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two builds: what it is called, and the environment that it is installed in."""

    title: str
    environment: Path

    @property
    def python(self) -> Path:
        return self.environment / "bin" / "python"

    def copied(self, folder: Path) -> Side:
        """The same in files of its own, at `folder`."""
        return Side(self.title, shutil.copytree(self.environment, folder, symlinks=True))


@dataclass(frozen=True, slots=True)
class Source:
    """A copy of the files of one side."""

    title: str
    folder: Path


def revision(root: Path, name: str, folder: Path) -> Source:
    """Copy what git has as revision `name` to `folder`.

    Raises:
        Problem: There is no git, no repository, or no such revision.
    """
    found = _git(root, "rev-parse", "--short", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if found is None:
        raise Problem(f"no revision is called {name!r}; it must be a commit, a branch or a tag, such as HEAD~1")
    commit = found.decode().strip()
    archive = folder.with_suffix(".zip")
    if _git(root, "archive", "--format=zip", "--output", str(archive), commit) is None:
        raise Problem(f"git cannot archive {name}")
    with zipfile.ZipFile(archive) as files:
        files.extractall(folder)
    return Source(name if name == commit else f"{name} ({commit})", folder)


def working_tree(root: Path, folder: Path) -> Source:
    """Copy the files that git tracks or would track, as they are now, to `folder`.

    Raises:
        Problem: There is no git or no repository.
    """
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard") or b""
    for name in filter(None, listed.decode(errors="surrogateescape").split("\0")):
        if (root / name).is_file():  # not deleted since
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)
    return Source("the working tree", folder)


def _git(root: Path, *arguments: str) -> bytes | None:
    """The output of git; None if it failed."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise Problem("git is not installed; a revision can only be built from a git checkout") from None
    if b"not a git repository" in done.stderr:
        raise Problem(f"{root} is not a git checkout; there is no revision to compare with")
    return None if done.returncode else done.stdout


def install(sources: Sequence[Source], store: Path, scratch: Path) -> list[Side]:
    """An environment below `scratch` for each source, with its wheel installed.

    A wheel that `store` has is taken from there; those that must be built are built side by side, and kept there.

    Raises:
        Problem: A build or an installation failed; says the end of its output.
    """
    wheels = {source: store / _content_hash(source.folder) for source in sources}
    missing = {folder: source for source, folder in wheels.items() if not folder.is_dir()}
    built = {folder: scratch / f"wheel-{source.folder.name}" for folder, source in missing.items()}
    _side_by_side(
        [
            (f"building {source.title}", _pip("wheel", "--no-deps", "--wheel-dir", built[folder], source.folder))
            for folder, source in missing.items()
        ],
        scratch,
    )
    for folder, result in built.items():
        _keep(result, folder)
    sides = {source: Side(source.title, scratch / f"environment-{source.folder.name}") for source in sources}
    for side in sides.values():
        _make_environment(side.environment)
    _side_by_side(
        [
            (
                f"installing {source.title}",
                _pip("--python", side.python, "install", "--no-deps", "--ignore-installed", wheel),
            )
            for source, side in sides.items()
            for wheel in wheels[source].glob("*.whl")
        ],
        scratch,
    )
    return list(sides.values())


def _content_hash(folder: Path) -> str:
    """A name for the wheel that `folder` makes with this interpreter and compiler."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    try:
        version = subprocess.run([*compiler, "--version"], capture_output=True, check=False).stdout
    except FileNotFoundError:
        version = b""  # the build will say so
    flags = [os.environ.get(name, "") for name in ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS")]
    digest = hashlib.sha256(repr([sys.version, sysconfig.get_config_var("SOABI"), version, flags]).encode())
    for name in BUILD_INPUTS:
        files = sorted((folder / name).rglob("*")) if (folder / name).is_dir() else [folder / name]
        for file in filter(Path.is_file, files):
            content = file.read_bytes()
            digest.update(f"{file.relative_to(folder)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:16]


def _keep(result: Path, folder: Path) -> None:
    """Copy `result` to `folder`, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        shutil.copytree(result, beside)
        with contextlib.suppress(FileExistsError):  # of another run that was quicker
            beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _make_environment(folder: Path) -> None:
    """Make a virtual environment without pip.

    What the benchmarks import besides pmesh is this interpreter's own, behind whatever is installed there.
    """
    venv.create(folder, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    behind = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "behind.pth").write_text("\n".join(sorted(behind)), encoding="utf-8")


def _pip(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]


def _side_by_side(steps: Sequence[tuple[str, list[str]]], scratch: Path) -> None:
    """Run commands at the same time, and wait for all of them.

    Raises:
        Problem: One failed; the others are ended.
    """
    # A variant of the build would be compared with another one, and a search path lead to another pmesh.
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PMESH_", "PYTHON"))}
    # What a command leaves behind that was ended in the middle goes with the rest.
    variables["TMPDIR"] = str(scratch)
    with contextlib.ExitStack() as ending:
        running = []
        for number, (title, command) in enumerate(steps):
            log = ending.enter_context((scratch / f"output-{number}").open("w+b"))
            # In a session of its own, to be ended with the compilers that it started.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=scratch,
                env=variables,
                start_new_session=True,
            )
            ending.callback(_end, process)
            running.append((title, process, log))
        for title, process, log in running:
            if process.wait():
                log.seek(0)
                tail = log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
                raise Problem("\n  ".join([f"{title} failed; the end of its output:", *tail]))


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
