"""What the sdist and the wheel hold, shown by building both from a copy of the project without git.

The wheel is built from the unpacked sdist, as a release is, and installed into a fresh environment.
"""

import email
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[1]

# What setuptools adds to every sdist. Nothing that git tracks is left out.
GENERATED_IN_SDIST = {
    "PKG-INFO",
    "setup.cfg",
    "pmesh.egg-info/PKG-INFO",
    "pmesh.egg-info/SOURCES.txt",
    "pmesh.egg-info/dependency_links.txt",
    "pmesh.egg-info/entry_points.txt",
    "pmesh.egg-info/requires.txt",
    "pmesh.egg-info/top_level.txt",
}
NOT_SOURCES = {"build", "dist", "__pycache__"}


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run `command` without build variants or search paths from outside; return its stdout."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("PMESH_") and name != "PYTHONPATH"
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=inherited | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{command} exited {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def project_files() -> list[str]:
    """Paths of the project's files: what git tracks or would track, else what an sdist unpacked."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
        return sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file())
    return sorted(
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*")
        if path.is_file() and not is_by_product(path.relative_to(ROOT))
    )


def is_by_product(path: Path) -> bool:
    """Whether a build, a test run or an environment left `path`, going by .gitignore's folders."""
    folders = path.parts[:-1]
    return (
        path.as_posix() in GENERATED_IN_SDIST
        or path.suffix == ".so"
        or not NOT_SOURCES.isdisjoint(folders)
        or any(folder.endswith(".egg-info") or (folder.startswith(".") and folder != ".ci") for folder in folders)
    )


def copy_project(target: Path) -> Path:
    for name in project_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    return target


def build(kind: str, project: Path, out: Path, **variables: str) -> Path:
    """Build `project`'s sdist or wheel with this environment's setuptools and Cython."""
    command = (sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", out)
    run(*command, project, cwd=out.parent, **variables)
    [built] = out.iterdir()
    return built


def of_suffix(names: Iterable[str], *suffixes: str) -> set[str]:
    return {name for name in names if name.endswith(suffixes)}


@dataclass(frozen=True, slots=True)
class Built:
    sdist: Path
    sdist_names: set[str]
    unpacked: Path
    wheel: Path
    wheel_names: set[str]

    @property
    def dist_info(self) -> str:
        return "-".join(self.wheel.name.split("-")[:2]) + ".dist-info"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    scratch = tmp_path_factory.mktemp("packaging")
    project = copy_project(scratch / "project")
    assert not (project / ".git").exists()
    # Left-overs of other builds, none of which may reach the sdist.
    (project / "build").mkdir()
    for name in ("build/_core.c", "pmesh/_core.c", "pmesh/_core.cpython-399-x86_64-linux-gnu.so"):
        (project / name).write_text("stale\n")
    sdist = build("sdist", project, scratch / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch / "unpacked", filter="data")
        [top] = (scratch / "unpacked").iterdir()
        names = {member.name.removeprefix(f"{top.name}/") for member in archive.getmembers() if member.isfile()}
    wheel = build("wheel", top, scratch / "wheel")
    with zipfile.ZipFile(wheel) as contents:
        wheel_names = set(contents.namelist())
    return Built(sdist, names, top, wheel, wheel_names)


def test_sdist_holds_every_project_file_and_nothing_else(built: Built) -> None:
    assert built.sdist_names - GENERATED_IN_SDIST == set(project_files())


def test_sdist_carries_no_generated_c_and_no_compiled_module(built: Built) -> None:
    assert of_suffix(built.sdist_names, ".c", ".cpp", ".o", ".so", ".pyc", ".html") == set()


def test_building_leaves_no_generated_file_among_the_sources(built: Built) -> None:
    left = {path.name for path in (built.unpacked / "pmesh").iterdir() if path.is_file()}
    shipped = {name for name in built.sdist_names if name.startswith("pmesh/")}
    assert left == {name.removeprefix("pmesh/") for name in shipped if name.count("/") == 1}


def test_wheel_holds_modules_stub_marker_and_schema_and_no_source_of_the_core(built: Built) -> None:
    package = {name for name in built.wheel_names if name.startswith("pmesh/")}
    kept = (".py", ".pyi", "py.typed", ".schema.json", ".css", ".js")
    shipped = {name for name in built.sdist_names if name.startswith("pmesh/") and name.endswith(kept)}
    assert {"pmesh/_core.pyi", "pmesh/py.typed", "pmesh/__init__.py", "pmesh/load/report.schema.json"} <= shipped
    assert {f"pmesh/load/rendering/page.{kind}" for kind in ("css", "js", "py")} <= shipped
    assert package == shipped | {f"pmesh/_core{sysconfig.get_config_var('EXT_SUFFIX')}"}


def test_wheel_holds_only_the_package_and_its_metadata(built: Built) -> None:
    metadata = {name for name in built.wheel_names if not name.startswith("pmesh/")}
    assert metadata == {
        f"{built.dist_info}/{name}"
        for name in (
            "METADATA",
            "RECORD",
            "WHEEL",
            "entry_points.txt",
            "licenses/LICENSE",
            "top_level.txt",
        )
    }


def test_metadata_states_licence_python_and_the_two_dependencies(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as contents:
        metadata = email.message_from_bytes(contents.read(f"{built.dist_info}/METADATA"))
    assert metadata["License-Expression"] == "MIT"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.11"
    required = metadata.get_all("Requires-Dist", [])
    assert sorted(line.split(">")[0] for line in required if "extra ==" not in line) == [
        "click",
        "rich",
    ]


def test_wheel_installs_into_a_fresh_environment_and_runs(built: Built, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / "bin"
    run(scripts / "python", "-m", "pip", "install", built.wheel, cwd=tmp_path)
    program = "import json, pmesh, pmesh._core as c; print(json.dumps([pmesh.__file__, c.__file__]))"
    files = json.loads(run(scripts / "python", "-c", program, cwd=tmp_path))
    assert all(Path(file).is_relative_to(tmp_path / "venv") for file in files)
    assert "load" in run(scripts / "pmesh", "--help", cwd=tmp_path)


def test_a_variant_is_not_built_from_what_another_one_left(built: Built, tmp_path: Path) -> None:
    def is_debug(**variables: str) -> bool:
        out = tmp_path / ("debug" if variables else "release")
        wheel = build("wheel", built.unpacked, out, **variables)
        with zipfile.ZipFile(wheel) as contents:
            contents.extractall(out)
        program = f"import sys; sys.path.insert(0, {str(out)!r}); import pmesh._core as core"
        report = "import json; print(json.dumps(core.BUILD_INFO['debug']))"
        return bool(json.loads(run(sys.executable, "-c", f"{program}; {report}", cwd=tmp_path)))

    assert is_debug(PMESH_DEBUG="1")
    assert not is_debug()


def test_the_core_is_generated_again_when_one_of_its_parts_changes(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    # A C compiler that does nothing: this is about what Cython generates.
    command = (sys.executable, "setup.py", "--quiet", "build_ext")
    run(*command, cwd=project, CC="true", LDSHARED="true")
    [generated] = project.glob("build/*/cython/pmesh/_core.c")
    part = min(project.glob("pmesh/_core_*.pxi"))
    part.write_text(part.read_text() + "\n\ncdef object _probe_of_a_changed_part():\n    return 1\n")
    assert "_probe_of_a_changed_part" not in generated.read_text()
    run(*command, cwd=project, CC="true", LDSHARED="true")
    assert "_probe_of_a_changed_part" in generated.read_text()
