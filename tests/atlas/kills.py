"""A release of two entries that is killed before each of its changes of names on disk, and then run again.

python -m tests.atlas.kills RELEASE.toml: of a root with one release, whose sources changed since. The runs themselves
are copies of finished ones, so that only the release is looked at. Prints how often it was killed.
"""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import workflows.atlas.release_page  # noqa: F401  once, and not by every child; what forks uses none of its libraries
from cluster.profile import LocalProfile
from pipeline.files import temporary_name
from pipeline.report import templates
from workflows.atlas import make_entry, root_lock
from workflows.atlas.manifest import Manifest, read_manifest
from workflows.atlas.root import Root
from workflows.atlas.run_release import run_release
from workflows.options import offer_of

CHANGES = ("rename", "replace", "symlink", "unlink", "mkdir", "rmdir")
KILLED = 99
BEGUN = {"run.json", "plan.json", "entry.json"}
"""What a run has from its beginning."""
RELEASE = ("release.json", "catalogue.parquet", "catalogue.csv", "changes.csv", "index.html")
RESULTS = ("entry.json", "statistics.json", "provenance.json")


def copied(finished: Path) -> Callable[..., None]:
    """What carries out a run by copying a finished one, the provenance last."""

    def carry_out(profile: Any, *, run: Path, device: Any, begin: Callable[[Any], Any], **_: Any) -> None:
        begin(offer_of(profile, device))
        made = finished / run.parents[1].name
        for path in made.iterdir():
            if path.is_file() and path.name not in (*BEGUN, "provenance.json"):
                shutil.copyfile(path, run / path.name)
        last = temporary_name(run / "provenance.json")
        shutil.copyfile(made / "provenance.json", last)
        os.replace(last, run / "provenance.json")

    return carry_out


def kill_before(number: int) -> None:
    """End this process before its change of that number, counted from 1."""
    numbers = count(1)

    def watched(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*arguments: Any, **options: Any) -> Any:
            if next(numbers) == number:
                os._exit(KILLED)
            return change(*arguments, **options)

        return changed

    for name in CHANGES:
        setattr(os, name, watched(getattr(os, name)))


def released(path: Path, killed_before: int | None = None) -> int:
    """The release in a process of its own; its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            manifest, entries = read_manifest(path)
            if killed_before is not None:
                kill_before(killed_before)
            release = run_release(manifest, entries, LocalProfile(workers=1), quiet=True, say=lambda _: None)
            bad = [entry.message for entry in release.entries if entry.outcome not in ("made", "kept")]
            assert not bad, bad
            code = 0
        except BaseException:  # noqa: BLE001  its end is here
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check_readers(root: Path) -> None:
    """Whoever comes now finds whole results and a whole release."""
    for current in [root / "entries" / name / "statistics" / "current" for name in ("one", "two")]:
        assert all((current / name).is_file() for name in RESULTS), current
    assert all((root / "latest" / name).is_file() for name in RELEASE)


def check_whole(manifest: Manifest) -> None:
    """Everything is made, told and tidy."""
    check_readers(manifest.output)
    root = Root(manifest.output)
    newest = root.newest()
    assert newest is not None
    assert newest.ended is not None
    assert root.latest() == newest.identifier
    assert not list(root.path.rglob("*.partial")), list(root.path.rglob("*.partial"))
    for entry in newest.entries:
        folder = root.entry(entry.dataset, entry.workflow)
        assert entry.version is not None
        assert os.listdir(folder.path / "versions") == [entry.version], "one is kept"
        assert folder.record(entry.version) == folder.current() is not None
        assert sorted(os.listdir(folder.path)) == ["current", "versions"]
    for identifier in root.releases():
        folder_of_release = root.path / "releases" / identifier
        assert all((folder_of_release / name).is_file() for name in RELEASE), f"{identifier} never got its page"


def main(path: Path) -> int:
    """Kill it before its first change, its second …; how many there are."""
    manifest, _ = read_manifest(path)
    before, finished = path.parent / "before", path.parent / "finished"
    for template in Path(templates.__file__).parent.glob("*.j2"):  # once, and not by every child
        templates._environment().get_template(template.name)
    shutil.copytree(manifest.output, before, symlinks=True)
    for name in ("one", "two"):
        shutil.copytree(manifest.output / "entries" / name / "statistics" / "current", finished / name)
    root_lock.SETTLE_SECONDS = 0.0
    setattr(os, "fsync", lambda _: None)  # noqa: B010  a killed process loses nothing that it wrote
    setattr(make_entry, "carry_out", copied(finished))  # noqa: B010
    for number in count(1):
        shutil.rmtree(manifest.output)
        shutil.copytree(before, manifest.output, symlinks=True)
        code = released(path, number)
        check_readers(manifest.output)
        if code == KILLED:
            assert released(path) == 0, f"killed before change {number}"
        else:
            assert code == 0, f"it ended with {code} before change {number}"
        check_whole(manifest)
        if code == 0:
            return number - 1
    raise AssertionError


if __name__ == "__main__":
    sys.stdout.write(str(main(Path(sys.argv[1]))))
