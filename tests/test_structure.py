"""The house stays a house: imports run down, each big library has one door, and no file knows the machine it was on."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "workflows", "cluster")
TOP_FOLDERS = {*PACKAGES, "tests", "benchmarks", ".ci"}

# Library (or module of ours) and the only modules, with all below them, that import it. The longest name decides.
DOORS = {
    "dask": ("pipeline.engine", "cluster"),
    "dask.array": ("pipeline.volume.views",),
    "dask_jobqueue": ("cluster.slurm",),
    "distributed": ("pipeline.engine", "cluster"),
    "tornado": ("cluster",),
    "zarr": ("pipeline.volume",),
    "ome_zarr_models": ("pipeline.volume",),
    "xarray": ("pipeline.volume", "workflows.results", "workflows.atlas.catalogue"),
    "fsspec": ("pipeline.volume",),
    "obstore": ("pipeline.volume",),
    "boto3": ("pipeline.volume",),
    "tensorstore": ("pipeline.volume",),
    "diskcache": ("pipeline.volume",),
    "tifffile": ("pipeline.volume",),
    "imagecodecs": ("pipeline.volume",),
    "nibabel": ("pipeline.volume",),
    "h5py": ("pipeline.volume",),
    "hdf5plugin": ("pipeline.volume",),
    "matplotlib": ("pipeline.report",),
    "jinja2": ("pipeline.report",),
    "PIL": ("pipeline.report", "pipeline.volume"),
    "pandas": ("workflows.atlas",),
    "pyarrow": ("workflows.atlas",),
    "cc3d": ("pipeline.components",),
    "numba": ("pipeline.kernels", "workflows.phantom"),
    "cupy": ("pipeline.kernels", "cluster.cards"),
    "cupyx": ("pipeline.device",),
    "typer": ("workflows",),
    "rich": ("workflows",),
    "pipeline.kernels.reference": (),  # the definition, slow: only tests compare with it
}

# Written so that these lines do not match themselves.
REGISTRY_HOST = re.compile(r"\b(?:pypi|pythonhosted|anaconda|npmjs|yarnpkg|debian)\.(?:org|com|net|io)\b")
MACHINE_PATH = re.compile(r"(?<![\w.:/~<}$-])/(?:home|root|Users|work|farm|opt)/\w")


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(source: str) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative imports hide the direction"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _trespasses(importer: str, source: str) -> list[str]:
    """Imports of a library by a module that is not its door."""
    found = []
    for line, name in _imported(source):
        door = max((library for library in DOORS if _within(name, library)), key=len, default=None)
        if door and not any(_within(importer, allowed) for allowed in DOORS[door]):
            found.append(f"{importer}:{line} imports {name}; its door: {', '.join(DOORS[door]) or 'tests'}")
    return found


def _python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def _project_files() -> list[Path]:
    """Every file of the project: tracked, or new and not ignored."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout to tell the project's files from others")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]


def test_imports_run_down(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [*sys.path])  # import-linter adds the current folder to it
    kept = lint_imports(config_filename="pyproject.toml", no_cache=True, no_logo=True) == 0
    assert kept, capsys.readouterr().out


def test_each_library_has_one_door() -> None:
    trespasses = [
        line for path in _python_files(*PACKAGES) for line in _trespasses(_module(path), path.read_text("utf-8"))
    ]
    assert not trespasses, "\n".join(trespasses)


@pytest.mark.parametrize(
    ("importer", "source", "allowed"),
    [
        ("pipeline.engine", "import dask", True),
        ("pipeline.engine", "import dask.array as da", False),
        ("pipeline.volume.views", "from dask import array", True),
        ("pipeline.volume.views", "from dask.distributed import Client", False),
        ("pipeline.distance", "def f():\n    import zarr.codecs", False),
        ("pipeline.volumes", "import zarr", False),
        ("pipeline.engine", "from pipeline.kernels.reference import thickness", False),
    ],
)
def test_a_door_is_a_door(importer: str, source: str, allowed: bool) -> None:
    assert (not _trespasses(importer, source)) == allowed


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in _python_files(*PACKAGES, "tests", "benchmarks")
        if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert not silent, f"modules without a docstring: {', '.join(silent)}"


def test_top_level_folders_are_the_agreed_ones() -> None:
    folders = {path.relative_to(ROOT).parts[0] for path in _project_files() if path.parent != ROOT}
    assert folders <= TOP_FOLDERS, f"new at the top level: {', '.join(sorted(folders - TOP_FOLDERS))}"


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    found = []
    for path in _project_files():
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # a picture or an archive
        found += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(lines, 1)
            if REGISTRY_HOST.search(line) or MACHINE_PATH.search(line)
        ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-run.txt"])
def test_requirements_are_pinned_and_hash_checked(name: str) -> None:
    text = (ROOT / name).read_text("utf-8").replace("\\\n", " ")
    pins = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert pins
    loose = [
        line for line in pins if not re.match(r"[\w.-]+==[^\s;]+(?: *;[^#]*?)?(?: +--hash=sha256:[0-9a-f]{64})+$", line)
    ]
    assert not loose, f"{name}: not pinned with hashes: {loose}"


def test_the_short_requirements_are_part_of_the_full_ones() -> None:
    full, short = ((ROOT / name).read_text("utf-8") for name in ("requirements.txt", "requirements-run.txt"))
    pin = re.compile(r"^[\w.-]+==\S+", re.MULTILINE)
    assert set(pin.findall(short)) <= set(pin.findall(full)), "run `make lock`"


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE))
    named = {re.split("[^a-z0-9-]", line)[0] for line in [*project["dependencies"], *extras["bench"], *extras["dev"]]}
    assert named <= pinned, f"not in requirements.txt: {sorted(named - pinned)}; run `make lock`"


def test_ci_runs_the_checks_of_a_developer() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = script.read_text("utf-8").splitlines()
    assert lines[-3:] == ["make lint test", "make test-browser", "make test-slurm"]
