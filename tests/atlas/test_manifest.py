"""RELEASE.toml: the runs that it stands for, and what is said about files that are not one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import InputError
from tests.workflows.conftest import Command
from workflows.atlas.manifest import EXAMPLE, read_manifest
from workflows.config import ComparisonConfig, ThicknessConfig
from workflows.run_file import STATISTICS, read_run_file

HEAD = 'name = "organs"\noutput = "out"\n'
ONE = HEAD + '[[dataset]]\nname = "one"\nmask = "one.ome.zarr"\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "release.toml"
    path.write_text(text)
    return path


def write_metadata(folder: Path, name: str, *, donor: str) -> None:
    """The metadata of one data set, a kidney, as an atlas publishes them."""
    folder.mkdir()
    content = {
        "name": name, "dataset_type": "overview", "voi": "complete-organ", "metadata_version": "1",
        "data": {"shape": [10, 20, 30], "voxel_size_um": 2.0, "gcs_url": "n5://gs://bucket/2.0um/"},
        "sample": {"organ": "kidney", "organ_context": None}, "donor": {"id": donor, "age": 94, "sex": "F"},
        "citation": {"doi": None},
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_what_describes_a_data_set_comes_from_the_metadata_of_the_atlas(tmp_path: Path) -> None:
    write_metadata(tmp_path / "atlas", "one", donor="D1")
    text = ONE + 'about = { donor = "mine" }\n[[dataset]]\nname = "two"\nmask = "two.ome.zarr"\n'
    one, two = read_manifest(written(tmp_path, 'metadata = "atlas"\n' + text))[1]
    assert one.about == {
        "donor": "mine", "organ": "kidney", "type": "overview", "voi": "complete-organ", "age": 94, "sex": "F",
    }  # fmt: skip
    assert two.about == {}
    with pytest.raises(InputError, match=r"release.toml cannot be used: metadata: .*nowhere cannot be read"):
        read_manifest(written(tmp_path, 'metadata = "nowhere"\n' + text))


def test_entries_are_the_runs_of_run_files(tmp_path: Path) -> None:
    """What the nearest table says counts, and a key reaches the workflows that know it."""
    path = written(
        tmp_path,
        HEAD
        + """
profile = "profiles/here.toml"
disk_budget = "2 TiB"
[defaults]
workflows = ["thickness", "statistics"]
level = 1
border = "closed"
voxel_size_um = 7
[defaults.thickness]
map = "none"
[[dataset]]
name = "one"
mask = "masks/one.ome.zarr"
image = "s3://bucket/one.ome.zarr"
about = { donor = "somebody", age = 94 }
[[dataset]]
name = "two"
mask = "masks/two.ome.zarr"
reference = "masks/truth.ome.zarr"
workflows = ["compare", "thickness"]
level = 2
[dataset.compare]
parts = ["thickness"]
[dataset.thickness]
label = 3
map = "squared-radius"
""",
    )
    manifest, entries = read_manifest(path)
    assert manifest.output == tmp_path / "out"
    assert manifest.profile == tmp_path / "profiles" / "here.toml"
    assert (manifest.keep, manifest.disk_budget) == (3, 2 << 40)
    assert [entry.name for entry in entries] == ["one/thickness", "one/statistics", "two/compare", "two/thickness"]
    assert entries[0].about == {"donor": "somebody", "age": 94}
    masks, size = tmp_path / "masks", (7.0, 7.0, 7.0)
    one, two, truth = (str(masks / f"{name}.ome.zarr") for name in ("one", "two", "truth"))
    assert entries[0].config == ThicknessConfig(mask=one, level=1, border="closed", voxel_size_um=size, map="none")
    assert entries[1].config == ComparisonConfig.model_validate(
        {
            **STATISTICS, "workflow": "statistics", "reference": one, "image": "s3://bucket/one.ome.zarr", "level": 1,
            "voxel_size_um": size,
        }
    )  # fmt: skip
    assert entries[2].config == ComparisonConfig(
        reference=truth, prediction=two, level=2, border="closed", voxel_size_um=size, parts=("overlap", "thickness")
    )
    assert entries[3].config == ThicknessConfig(
        mask=two, level=2, border="closed", voxel_size_um=size, map="squared-radius", label=3
    )
    run = tmp_path / "run.toml"
    run.write_text(
        f'workflow = "thickness"\nrun = "r"\nmask = "{two}"\nlevel = 2\nborder = "closed"\nvoxel_size_um = 7\n'
        'label = 3\nmap = "squared-radius"\n'
    )
    assert read_run_file(run)[0] == entries[3].config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "release.toml is not TOML: "),
        ('output = "out"', "release.toml cannot be used: name: field required."),
        (HEAD, "release.toml cannot be used: dataset: field required."),
        (HEAD + "dataset = []", "cannot be used: dataset: "),
        (HEAD + 'dataset = "one"', "cannot be used: dataset: "),
        (HEAD + "keep = 0\n" + ONE.removeprefix(HEAD), "keep: input should be greater than or equal to 1"),
        (HEAD + 'path = "a"', "path is no key of it; there are name, output, profile, keep, disk_budget"),
        (HEAD + "budget = 3\n" + ONE.removeprefix(HEAD), "budget is no key of it; there are name, output, profile"),
        (HEAD + 'disk_budget = "lots"\n' + ONE.removeprefix(HEAD), "disk_budget: 'lots' is no amount of memory"),
        (HEAD + "[defaults]\nlevels = 1\n" + ONE.removeprefix(HEAD), "defaults.levels is no key of it; there are "),
        (ONE + "masks = 3", "The data set one of the manifest "),
        (ONE + "masks = 3", "masks is no key of it; there are thickness, statistics, compare, workflows, name, about"),
        (ONE + "common = { mask = 3 }", "data set one of the manifest"),
        (ONE + "workflows = []", "workflows: name at least one, and each once"),
        (ONE + 'workflows = ["thickness", "thickness"]', "workflows: name at least one, and each once"),
        (ONE + 'workflows = ["measure"]', "'thickness', 'compare' or 'statistics'"),
        (ONE + 'border = "open"', "The workflow thickness of the data set one of the manifest "),
        (ONE + 'border = "open"', "border: input should be 'unknown' or 'closed'"),
        (ONE + "[dataset.thickness]\nlabels = [3]", "labels is no key of it; there are level, voxel_size_um"),
        (ONE + 'voxel_size_um = "a"', "cannot be used: voxel_size_um: --voxel-size-um takes numbers"),
        (ONE + 'workflows = ["compare"]', "The workflow compare of the data set one"),
        (ONE + 'workflows = ["compare"]', "cannot be used: reference: field required."),
        (ONE.replace("mask", "image"), "cannot be used: mask: field required."),
        (
            ONE.replace("mask", "image") + 'workflows = ["statistics"]',
            "cannot be used: reference (or mask): field required.",
        ),
        (ONE + 'threshold = [3]\nworkflows = ["statistics"]', "threshold: it makes a mask of grey values"),
        (ONE.replace('"one"', '"../one"'), "name: '../one' is no safe name of a folder; use letters, digits"),
        (ONE.replace('"one"', '""'), "The data set  of the manifest"),
        (HEAD + '[[dataset]]\nmask = "a"', "The data set number 1 of the manifest"),
        (
            ONE + '[[dataset]]\nname = "One"\nmask = "b"',
            "has 2 data sets named one; a name is a folder, so each needs its own",
        ),
        (ONE + "about = { donor = [1] }", "The data set one of the manifest"),
        (ONE + "about = { age = nan }", "age is nan, which is no number; leave it out"),
    ],
)
def test_one_sentence_with_file_data_set_and_key(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as raised:
        read_manifest(path)
    sentence = str(raised.value)
    assert words in sentence
    assert str(path) in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_the_example_is_a_manifest(here: Command, tmp_path: Path) -> None:
    done = here("atlas", "example")
    assert (done.code, done.err) == (0, "")
    assert done.out == EXAMPLE.read_text()
    _, entries = read_manifest(written(tmp_path, done.out))
    assert {entry.workflow for entry in entries} == {"thickness", "statistics", "compare"}
    # Everything that is only a comment there is a key, too.
    more = [line[2:] for line in done.out.splitlines() if line.startswith("# ") and " = " in line]
    assert len(more) == 3
    write_metadata(tmp_path / "hoa-metadata", "donor-1_kidney", donor="somebody")
    manifest, _ = read_manifest(written(tmp_path, "\n".join([*more, done.out])))
    assert manifest.profile == tmp_path / "cluster.toml"


def test_a_manifest_that_is_not_there(here: Command, tmp_path: Path) -> None:
    sentence = here("atlas", "run", tmp_path / "none.toml", "--quiet").failure()
    assert (
        sentence == f"The manifest {tmp_path / 'none.toml'} cannot be read: No such file or directory; check its path."
    )
