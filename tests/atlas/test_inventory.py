"""The inventory: what metadata say of an atlas, sizes and cost at a level, and a manifest to begin with."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.inventory import spent, write_atlas
from pipeline.errors import InputError
from tests.shared_data import FOLDER
from tests.workflows.conftest import Command
from workflows.atlas.costs import MEASURED
from workflows.atlas.inventory import BLOCK_SHAPE, DataSet, at_level, read_inventory, selected
from workflows.atlas.manifest import read_manifest

ROOT = Path(__file__).resolve().parents[2]
REAL = FOLDER / "hoa_inventory"
BYTES = 10**9


def described(**changes: Any) -> dict[str, Any]:
    """The metadata of one data set; changes replace parts."""
    content: dict[str, Any] = {
        "name": "D1_lung_VOI-1_2.0um_bm18", "dataset_type": "zoom", "voi": "VOI-1",
        "data": {"shape": [1001, 2, 513], "voxel_size_um": 2.0, "gcs_url": "n5://gs://bucket/D1/lung/2.0um/"},
        "sample": {"organ": "lung", "organ_context": "left", "degassing_method": "none"},
        "donor": {"id": "D1", "age": "60-65", "sex": None}, "citation": {"doi": None}, "metadata_version": "1",
    }  # fmt: skip
    return content | changes


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    """Four data sets."""
    folder = tmp_path / "metadata"
    folder.mkdir()
    where = described()["data"]
    sets = [
        described(),
        described(name="D1_lung_whole", dataset_type="overview", data=where | {"voxel_size_um": 20.0}),
        described(
            name="D2_heart_2", sample={"organ": "heart"}, donor={"id": "D2"}, data=where | {"voxel_size_um": 6.5}
        ),
        described(
            name="D2_heart_zoom",
            sample={"organ": "heart", "organ_context": 'Ünï "q"'},
            donor={"id": "D2", "age": 71, "sex": "F"},
        ),
    ]
    for content in sets:
        (folder / f"{content['name']}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def names(found: list[DataSet]) -> list[str]:
    return [one.name for one in found]


def test_a_folder_and_a_zip_tell_the_same(metadata: Path) -> None:
    archive = shutil.make_archive(str(metadata), "zip", metadata.parent, "metadata")
    found = read_inventory(metadata)
    assert names(found) == ["D1_lung_VOI-1_2.0um_bm18", "D1_lung_whole", "D2_heart_2", "D2_heart_zoom"]
    assert read_inventory(Path(archive)) == found


def test_data_sets_are_chosen_by_organ_donor_voxel_size_and_type(metadata: Path) -> None:
    found = read_inventory(metadata)
    assert names(selected(found, organ="Heart")) == ["D2_heart_2", "D2_heart_zoom"]
    assert names(selected(found, donor="d1", kind="overview")) == ["D1_lung_whole"]
    assert names(selected(found, voxel_size_um=(6.5, 20.0))) == ["D1_lung_whole", "D2_heart_2"]
    assert selected(found, organ="lung", donor="D2") == []


@given(st.tuples(*[st.integers(1, 40_000)] * 3), st.integers(0, 8))
def test_levels_halve_and_round_up(shape: tuple[int, int, int], level: int) -> None:
    one = at_level([DataSet.model_validate(described(data=described()["data"] | {"shape": shape}))], level=level)[0]
    expected = shape[::-1]  # metadata are (x, y, z)
    for _ in range(level):
        expected = tuple(math.ceil(n / 2) for n in expected)  # type: ignore[assignment]
    assert one.shape == expected
    assert one.voxels == math.prod(expected)
    assert one.bytes == 2 * one.voxels
    assert one.blocks == math.prod(math.ceil(n / side) for n, side in zip(expected, BLOCK_SHAPE, strict=True))
    assert one.cpu_hours * 3600e6 == pytest.approx(
        MEASURED.cpu_us * one.voxels + 5 * MEASURED.engine_us * one.blocks
    )  # fmt: skip


@given(st.floats(0.1, 100), st.floats(0.1, 100))
def test_the_finest_level_that_is_not_too_fine_is_taken(voxel_um: float, finest_um: float) -> None:
    where = described()["data"] | {"voxel_size_um": voxel_um}
    one = at_level([DataSet.model_validate(described(data=where))], finest_um=finest_um)[0]
    assert one.voxel_um >= finest_um * (1 - 1e-8)
    assert one.level == 0 or one.voxel_um / 2 < finest_um


def test_voxels_that_are_just_fine_enough_stay_at_their_level(metadata: Path) -> None:
    levels = {one.dataset.name: one.level for one in at_level(read_inventory(metadata), finest_um=20.0)}
    assert levels == {"D1_lung_VOI-1_2.0um_bm18": 4, "D1_lung_whole": 0, "D2_heart_2": 2, "D2_heart_zoom": 4}


def test_the_costs_are_those_of_the_benchmarks() -> None:
    text = (ROOT / "benchmarks" / "RESULTS_SCALE.md").read_text("utf-8")
    for name, value in vars(MEASURED).items():
        found = re.search(rf"^\| {name} \| (\S+) \|$", text, re.MULTILINE)
        assert found, name
        assert float(found[1]) == value, name


def test_json_csv_and_plain_columns_agree(here: Command, metadata: Path) -> None:
    as_json = json.loads(here("inventory", "--metadata", metadata, "--level", 1, "--json").out)
    rows = list(csv.DictReader(io.StringIO(here("inventory", "--metadata", metadata, "--level", 1, "--csv").out)))
    assert [row["name"] for row in rows] == [one["name"] for one in as_json["datasets"]]
    for row, one in zip(rows, as_json["datasets"], strict=True):
        assert [int(n) for n in row["shape"].split()] == one["shape"] == [257, 1, 501]
        assert float(row["cpu_hours"]) == one["cpu_hours"]
    total = as_json["total"]
    assert total["voxels"] == 4 * 257 * 501
    assert (total["datasets"], total["donors"], total["organs"], total["blocks"]) == (4, 2, 2, 4)
    plain = here("inventory", "--metadata", metadata, "--level", 1)
    assert plain.code == 0
    assert "257 × 1 × 501" in plain.out
    assert "512 × 512 × 512" in plain.out
    assert re.search(r"^4 data sets +2 organs +2 donors +0\.00 +1\.0 MB +4 ", plain.out, re.MULTILINE)


def test_a_terminal_gets_a_table(here: Command, metadata: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout.__class__, "isatty", lambda _: True)
    monkeypatch.setenv("COLUMNS", "220")
    monkeypatch.setenv("NO_COLOR", "1")
    shown = here("inventory", "--metadata", metadata)
    assert shown.code == 0, shown
    assert "│" in shown.out
    for name in ("D2_heart_zoom", "lung (left)", "513 × 2 × 1,001", "4 data sets"):
        assert name in shown.out


def test_a_manifest_of_thresholds_can_be_planned(here: Command, metadata: Path, tmp_path: Path) -> None:
    path = tmp_path / "release.toml"
    done = here("inventory", "--metadata", metadata, "--finest-um", 20, "--manifest", path, "--threshold", "60,180")
    assert done.code == 0, done
    _, entries = read_manifest(path)
    assert [entry.dataset for entry in entries] == names(read_inventory(metadata))
    first = entries[0]
    assert first.config.level == 4
    assert first.config.mask == "n5://gs://bucket/D1/lung/2.0um/"  # type: ignore[union-attr]
    assert first.config.threshold == (60, 180)  # type: ignore[union-attr]
    assert first.about["donor"] == "D1"
    assert first.about["age"] == "60-65"
    again = here("inventory", "--metadata", metadata, "--manifest", path)
    assert again.failure() == f"{path} exists already; remove it or choose another name."


def test_a_manifest_without_masks_asks_for_them(here: Command, metadata: Path, tmp_path: Path) -> None:
    path = tmp_path / "release.toml"
    assert here("inventory", "--metadata", metadata, "--manifest", path).code == 0
    with pytest.raises(InputError, match=r"D1_lung_VOI-1_2.0um_bm18 .* mask: field required"):
        read_manifest(path)
    path.write_text(path.read_text("utf-8").replace("# mask =", "mask ="), encoding="utf-8")
    _, entries = read_manifest(path)
    assert entries[1].config.mask == str(tmp_path / "masks" / "D1_lung_whole.ome.zarr")  # type: ignore[union-attr]
    assert tomllib.loads(path.read_text("utf-8"))["dataset"][0]["image"] == "n5://gs://bucket/D1/lung/2.0um/"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "does not describe a data set of the atlas (Invalid JSON"),
        (json.dumps(described(data={"shape": [1, 2]})), "does not describe a data set of the atlas (data.shape"),
        (json.dumps(described(donor={})), "(donor.id: Field required); mend or remove it."),
        (json.dumps(described(data=described()["data"] | {"voxel_size_um": -1})), "(data.voxel_size_um: Input should"),
        (json.dumps(described()), "describes the data set D1_lung_VOI-1_2.0um_bm18 twice"),
    ],
)
def test_a_broken_file_is_named(here: Command, metadata: Path, text: str, sentence: str) -> None:
    broken = metadata / "broken.json"
    broken.write_text(text, encoding="utf-8")
    failure = here("inventory", "--metadata", metadata).failure()
    assert sentence in failure
    assert str(metadata) in failure
    assert "twice" in failure or failure.startswith(str(broken))


def test_what_is_no_metadata_is_said(here: Command, tmp_path: Path, metadata: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no JSON file" in here("inventory", "--metadata", tmp_path / "empty").failure()
    (tmp_path / "no.zip").write_text("no zip")
    for name in ("no.zip", "nowhere"):
        assert "cannot be read as a folder or zip" in here("inventory", "--metadata", tmp_path / name).failure()
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("deep/bad.json", "[]")
    assert here("inventory", "--metadata", tmp_path / "some.zip").failure().startswith(f"{tmp_path}/some.zip/deep/bad")
    for options, sentence in (
        (("--organ", "toe"), "No data set is like that"),
        (("--level", 1, "--finest-um", 5), "exclude each other"),
        (("--json", "--csv"), "exclude each other"),
        (("--voxel-size-um", "5,2"), "LOW,HIGH, but 5 is above 2"),
        (("--threshold", 4), "belongs to the manifest"),
    ):
        assert sentence in here("inventory", "--metadata", metadata, *options).failure()


def test_an_installed_package_is_found_without_importing_it(
    here: Command, metadata: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "hoa_tools"
    shutil.copytree(metadata, package / "data" / "metadata" / "metadata")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert len(json.loads(here("inventory", "--json").out)["datasets"]) == 4
    assert "hoa_tools" not in sys.modules


def test_where_no_package_is_installed_the_sentence_says_what_to_give(
    here: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    failure = here("inventory").failure()
    assert "pip install voxcaliper[atlas]" in failure
    assert "--metadata" in failure


def test_a_whole_atlas_is_planned_in_little_memory(tmp_path: Path) -> None:
    """As many data sets as the Human Organ Atlas has, with its own metadata where they lie beside the project."""
    made = write_atlas(tmp_path / "atlas", 378)
    metadata = REAL / "hoa_metadata_378.zip" if REAL.exists() else made
    listed = spent("inventory", "--metadata", metadata, "--json")
    total = json.loads(listed.out)["total"]
    assert total["datasets"] == 378
    assert listed.peak < BYTES
    if REAL.exists():
        with (REAL / "inventory.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert total["voxels"] == sum(int(row["voxels"]) for row in rows)
        assert total["bytes"] == sum(int(row["bytes_u16"]) for row in rows)
    manifest = tmp_path / "release.toml"
    spent("inventory", "--metadata", made, "--csv", "--manifest", manifest, "--threshold", 100)
    plan = spent("atlas", "plan", manifest, "--json")
    assert plan.peak < BYTES
    entries = json.loads(plan.out)
    assert len(entries) == 378
    assert all(entry["blocks"] > 0 for entry in entries)
