"""A release run again: exactly what changed is made again, everything else stays as it is, bytes and times."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from pipeline.errors import StorageError
from tests.atlas.releases import Atlas, change_voxel, chunks, corrupt, labels, tree
from tests.workflows.conftest import Command
from workflows.atlas.records import ReleaseRecord
from workflows.config import ALGORITHM_VERSION

DOZEN = {
    "voxel": ["thickness", "statistics"], "parameter": ["thickness"], "described": ["thickness", "statistics"],
    "lost": ["statistics"], "corrupt": ["statistics"], "plain": ["thickness", "statistics"],
    "pair": ["compare", "statistics"], "other-pair": ["compare"],
}  # fmt: skip


@pytest.fixture
def atlas(here: Command, scheduler: str, tmp_path: Path) -> Atlas:
    return Atlas(tmp_path, here, f'kind = "scheduler"\naddress = "{scheduler}"\nunencrypted = true\n')


def describe_otherwise(volume: Path) -> None:
    """Edit the attributes of an image: everything but the voxel size."""
    path = volume / ".zattrs"
    content = json.loads(path.read_text())
    content["multiscales"][0]["name"] = "another name"
    content["omero"] = {"channels": []}
    path.write_text(json.dumps(content))


def test_only_what_changed_is_made_again(atlas: Atlas) -> None:
    for seed, (name, workflows) in enumerate(DOZEN.items()):
        atlas.add(name, labels(seed), workflows=workflows, about={"organ": "kidney"})
    atlas.datasets["pair"]["reference"] = "volumes/plain.ome.zarr"
    atlas.datasets["other-pair"] |= {"reference": "volumes/plain.ome.zarr", "prediction": "volumes/voxel.ome.zarr"}
    done = atlas.run()
    assert (done.code, done.err) == (0, ""), done
    assert set(atlas.outcomes().values()) == {"made"}
    assert {entry.reasons for entry in atlas.entries().values()} == {("new",)}
    first, before = atlas.release(), atlas.trees()
    assert len(before) == 12

    assert atlas.run().code == 0
    assert set(atlas.outcomes().values()) == {"kept"}
    assert atlas.release().identifier > first.identifier
    assert atlas.trees() == before, "a run that had nothing to do touched entries"

    change_voxel(atlas.volume("voxel"))
    atlas.datasets["parameter"]["border"] = "closed"
    atlas.datasets["described"]["about"] = {"organ": "heart", "donor": "someone"}
    describe_otherwise(atlas.volume("described"))
    atlas.lose("lost")
    whole = chunks(atlas.volume("corrupt"))[2].read_bytes(), os.stat(chunks(atlas.volume("corrupt"))[2])
    corrupt(atlas.volume("corrupt"))
    planned = atlas.plan()
    assert planned.code == 1  # one cannot be made
    assert "make        parameter/thickness: parameter border\n" in planned.out
    assert atlas.trees() == before, "a plan touched entries"

    done = atlas.run()
    assert done.code == 1
    made = {name: entry for name, entry in atlas.entries().items() if entry.outcome == "made"}
    expected = {
        "voxel/thickness": ("mask: content",),
        "voxel/statistics": ("mask: content",),
        "parameter/thickness": ("parameter border",),
        "other-pair/compare": ("prediction: content",),
    }
    assert {name: entry.reasons for name, entry in made.items()} == expected
    bad = {name: entry for name, entry in atlas.entries().items() if entry.outcome == "failed"}
    assert set(bad) == {"lost/statistics", "corrupt/statistics"}
    assert f"{atlas.volume('lost')} does not exist" in bad["lost/statistics"].message
    assert "corrupt chunk" in bad["corrupt/statistics"].message
    assert bad["corrupt/statistics"].reasons == ("mask: content",)
    for entry in bad.values():
        assert entry.version == first.identifier
        assert f"failed      {entry.dataset}/{entry.workflow}: {entry.message}\n" in done.out
    assert atlas.entries()["described/statistics"].about == {"organ": "heart", "donor": "someone"}
    # The catalogue says why, and so does what changed since the release before.
    told = {f"{row['dataset']}/{row['workflow']}": row["status_reason"] for row in rows_of(atlas, "catalogue.csv")}
    changed = {f"{row['dataset']}/{row['workflow']}": row["why"] for row in rows_of(atlas, "changes.csv")}
    why = {name: "; ".join(reasons) for name, reasons in expected.items()} | {
        name: entry.message for name, entry in bad.items()
    }
    assert {name: reason for name, reason in told.items() if reason} == why
    assert changed == why

    after = atlas.trees()
    for name, files in before.items():
        left = {path: found for path, found in after[name].items() if not path.startswith("work")}
        if name in expected:
            assert {path: left[path] for path in files if path.startswith("versions/")} == {
                path: found for path, found in files.items() if path.startswith("versions/")
            }, f"an old version of {name} was touched"
            assert os.readlink(atlas.entry(name) / "current") == f"versions/{atlas.release().identifier}"
        else:
            assert left == files, f"{name} was touched"
    assert not (atlas.entry("lost/statistics") / "work").exists()

    assert atlas.run().code == 1
    assert {name for name, outcome in atlas.outcomes().items() if outcome == "failed"} == set(bad), "tried again"
    assert "made" not in atlas.outcomes().values()

    atlas.volume("lost.away").rename(atlas.volume("lost"))
    path = chunks(atlas.volume("corrupt"))[2]
    path.write_bytes(whole[0])
    os.utime(path, ns=(whole[1].st_atime_ns, whole[1].st_mtime_ns))
    assert atlas.run().code == 0
    assert set(atlas.outcomes().values()) == {"kept"}
    assert not list((atlas.root / "entries").glob("*/*/work")), "a run that nobody needs was left"
    # Of the releases in which nothing was made only the last one tells anything.
    assert len(list((atlas.root / "releases").iterdir())) == 3


def rows_of(atlas: Atlas, table: str) -> list[dict[str, str]]:
    with (atlas.root / "latest" / table).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_newer_algorithm_makes_everything_again(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    atlas.add("one", labels(1), workflows=["statistics"])
    assert atlas.run().code == 0
    monkeypatch.setattr("workflows.atlas.staleness.ALGORITHM_VERSION", ALGORITHM_VERSION + 1)
    assert atlas.run().code == 0
    assert atlas.entries()["one/statistics"].reasons == ("algorithm version",)
    assert atlas.outcomes() == {"one/statistics": "made"}
    assert len(atlas.versions("one/statistics")) == 2


def test_a_release_without_its_page_goes_on(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its catalogue could not be written, say: its versions are there, and the next run tells of them."""
    atlas.add("one", labels(1), workflows=["statistics"])
    atlas.add("two", labels(2), workflows=["statistics"])
    atlas.lose("two")

    def full(*_: object) -> None:
        raise StorageError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr("workflows.atlas.release_page.write_release_page", full)
        assert atlas.run().failure() == "The disk is full."
    found = atlas.status()
    assert found["state"] == "stopped"
    assert not (atlas.root / "latest").exists()
    before = tree(atlas.entry("one/statistics"))
    atlas.volume("two.away").rename(atlas.volume("two"))
    assert atlas.run().code == 0
    assert atlas.release().identifier == found["release"]
    assert atlas.outcomes() == {"one/statistics": "made", "two/statistics": "made"}
    assert tree(atlas.entry("one/statistics")) == before
    assert atlas.status()["state"] == "complete"
    assert (atlas.root / "latest" / "index.html").exists()


def test_a_damaged_version_of_a_stopped_release_is_no_place_for_another(atlas: Atlas) -> None:
    atlas.add("one", labels(1), workflows=["statistics"])
    assert atlas.run().code == 0
    first = atlas.release().identifier
    (atlas.root / "latest" / "index.html").unlink()
    (atlas.entry("one/statistics") / "current" / "statistics.json").unlink()
    assert atlas.run().code == 0
    assert atlas.release().identifier > first
    assert atlas.entries()["one/statistics"].reasons == ("no whole version",)


def test_an_output_has_one_manifest(atlas: Atlas) -> None:
    """Another one would take the unfinished runs of the first for what nobody needs."""
    atlas.add("one", labels(1), workflows=["statistics"])
    assert atlas.run().code == 0
    work = atlas.entry("one/statistics") / "work" / "precious"
    work.parent.mkdir()
    work.write_text("precious")
    first, other = atlas.manifest, atlas.folder / "other.toml"
    other.write_text(first.read_text().replace('name = "test"', 'name = "other"'))
    for command in ("plan", "run"):
        assert atlas.call("atlas", command, other).failure() == (
            f"{atlas.root} holds the releases of test ({first}), and {other} is named other; give it another output, or"
            " that name if it is the same release."
        )
    assert work.exists()
    other.write_text(first.read_text())
    assert atlas.call("atlas", "run", other, "--quiet").code == 0, "it was only moved"
    assert atlas.release().manifest == str(other)


def test_how_a_run_goes_is_no_reason(atlas: Atlas) -> None:
    atlas.add("one", labels(1), workflows=["statistics", "thickness"])
    assert atlas.run().code == 0
    before = atlas.trees()
    atlas.datasets["one"] |= {"block_shape": 16, "device": "cpu", "keep_scratch": True, "voxel_size_um": 2}
    assert atlas.run("--workers", 1).code == 0
    assert set(atlas.outcomes().values()) == {"kept"}
    assert atlas.trees() == before


def test_versions_beyond_keep_go_and_their_readers_read_on(atlas: Atlas) -> None:
    atlas.add("one", labels(1), workflows=["statistics"])
    atlas.head["keep"] = 2
    published: list[str] = []
    for label in range(1, 5):
        atlas.datasets["one"]["labels"] = [label]
        if label == 3:
            reader = (atlas.entry("one/statistics") / "versions" / published[0] / "statistics.json").open()
        assert atlas.run().code == 0
        published.append(atlas.release().identifier)
        assert atlas.versions("one/statistics") == published[-2:]
    with reader:
        assert list(json.load(reader)["labels"]) == ["1"]
    assert atlas.run("--keep", 1).code == 0
    assert atlas.versions("one/statistics") == published[-1:]
    assert not list(atlas.root.rglob("*.partial"))


def test_entries_that_exceed_the_budget_wait_and_others_go_on(atlas: Atlas) -> None:
    atlas.add("large", labels(1, (64, 64, 96)))
    atlas.add("small", labels(2), workflows=["statistics"])
    atlas.head["disk_budget"] = "0.4 MiB"
    assert "waits: It may take 0.5 MiB more" in atlas.plan().out
    done = atlas.run()
    assert done.code == 1, "somebody has to make room"
    assert atlas.outcomes() == {"large/thickness": "waiting", "small/statistics": "made"}
    sentence = atlas.entries()["large/thickness"].message
    assert "MiB of its budget of 0.4 MiB already; raise disk_budget" in sentence
    assert f"waiting     large/thickness: {sentence}\n" in done.out
    assert not atlas.entry("large/thickness").exists()
    atlas.head["disk_budget"] = "100 MiB"
    assert atlas.run().code == 0
    assert atlas.outcomes() == {"large/thickness": "made", "small/statistics": "kept"}


@pytest.mark.parametrize("name", ["entry.json", "statistics.json", "provenance.json"])
def test_a_version_that_somebody_damaged_is_made_again(atlas: Atlas, name: str) -> None:
    atlas.add("one", labels(1), workflows=["statistics"])
    assert atlas.run().code == 0
    (atlas.entry("one/statistics") / "current" / name).unlink()
    assert atlas.run().code == 0
    assert atlas.entries()["one/statistics"].reasons == ("no whole version",)
    assert atlas.run().code == 0
    assert atlas.outcomes() == {"one/statistics": "kept"}


def test_what_a_stopped_release_made_may_be_stale_before_it_goes_on(atlas: Atlas) -> None:
    """Its versions are never replaced: another release makes the next ones."""
    atlas.add("one", labels(1), workflows=["statistics"])
    atlas.add("two", labels(2), workflows=["statistics"])
    assert atlas.run().code == 0
    stopped = atlas.release()
    record = atlas.root / "releases" / stopped.identifier / "release.json"
    record.write_text(stopped.model_copy(update={"ended": None}).model_dump_json())
    before = tree(atlas.entry("one/statistics") / "versions")
    change_voxel(atlas.volume("one"))
    assert atlas.run().code == 0
    assert atlas.release().identifier > stopped.identifier
    assert ReleaseRecord.model_validate_json(record.read_text()).ended is None, "it never came to its end"
    assert atlas.outcomes() == {"one/statistics": "made", "two/statistics": "kept"}
    assert atlas.versions("one/statistics") == [stopped.identifier, atlas.release().identifier]
    assert before.items() <= tree(atlas.entry("one/statistics") / "versions").items()


def test_a_source_that_no_library_reads_fails_alone(atlas: Atlas) -> None:
    atlas.add("good", labels(1), workflows=["statistics"])
    atlas.add("bad", labels(2), workflows=["statistics"])
    (atlas.volume("bad") / "0" / ".zarray").write_text('{"zarr_format": 2, "shape": 3}')
    assert atlas.run().code == 1
    assert atlas.outcomes() == {"good/statistics": "made", "bad/statistics": "failed"}
    assert str(atlas.volume("bad")) in atlas.entries()["bad/statistics"].message


def test_an_entry_whose_folder_cannot_be_read_fails_alone(atlas: Atlas) -> None:
    atlas.add("good", labels(1), workflows=["statistics"])
    atlas.add("bad", labels(2), workflows=["statistics"])
    current = atlas.entry("bad/statistics") / "current"
    current.mkdir(parents=True)
    assert atlas.run().code == 1
    assert atlas.outcomes() == {"good/statistics": "made", "bad/statistics": "failed"}
    assert f"{current} cannot be read: Invalid argument; mend it" in atlas.entries()["bad/statistics"].message


def test_workers_that_nobody_finds_are_no_fault_of_the_entries(atlas: Atlas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.running.CONNECT_SECONDS", 1)
    atlas.add("one", labels(1), workflows=["statistics"])
    atlas.profile = 'kind = "scheduler"\naddress = "tcp://127.0.0.1:9"\nunencrypted = true\n'
    assert "127.0.0.1:9" in atlas.run().failure()
    assert not (atlas.root / "releases").exists()


def test_a_plan_knows_the_pace_of_earlier_versions(atlas: Atlas) -> None:
    """Of those that took a while: others measure how soon workers start."""
    atlas.add("one", labels(1), workflows=["statistics"])
    atlas.add("other", labels(2, (64, 72, 80)), workflows=["statistics"])

    def seconds() -> list[float]:
        done = atlas.call("atlas", "plan", atlas.write(), "--json")
        return [entry["seconds"] for entry in json.loads(done.out)]

    assert max(seconds()) < 6
    assert atlas.run().code == 0
    atlas.defaults["labels"] = [1]
    assert max(seconds()) < 6
    record = atlas.entry("one/statistics") / "current" / "entry.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "seconds": 600}))
    assert seconds() == [605, 5 + 8 * 600]
    del atlas.datasets["other"]
    assert "others      1 entries of earlier releases are not in the manifest; they stay" in atlas.plan().out
