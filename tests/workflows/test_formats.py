"""Runs on files and folders of slices as they are: the numbers of the Zarr volume of the same voxels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr
from scipy import ndimage

from pipeline.volume.opening import open_volume
from tests.shared_data import shared_data
from tests.volume.formats import FORMATS, jpeg2000, jpeg2000_slices, tiff_slices
from tests.volume.servers import Bucket, first_tries, s3_bucket, web_server
from tests.workflows.conftest import Command, noise
from tests.workflows.runs import results, without_place

SIZE = ("--voxel-size-um", "19.5")
BONE = "lhdl_trabecular_bone/slices"


def grey_noise(shape: tuple[int, int, int]) -> npt.NDArray[np.uint16]:
    """Smooth noise around 1000."""
    field = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(shape), 2)
    return np.asarray(1000 + 200 * field / field.std(), np.uint16)


VOXELS = grey_noise((40, 44, 52))
ABOVE = (*SIZE, "--threshold", 1000, "--block-shape", "24")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The voxels as a Zarr array."""
    path = tmp_path_factory.mktemp("plain") / "v.zarr"
    zarr.create_array(path, data=VOXELS, chunks=(16, 16, 16))
    return path


@pytest.fixture
def expected(plain: Path, measure: Command) -> dict[str, bytes]:
    """What the Zarr array gives: statistics and the whole map."""
    run = plain.with_name("run")
    if not (run / "provenance.json").exists():
        done = measure(plain, run, *ABOVE)
        assert done.code == 0, done
    return results(run)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    with s3_bucket(monkeypatch, tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    "kind",
    [
        "npy", "nii", "nii.gz", "plain tiff", "tiled tiff", "striped tiff slices", "jp2 slices", "chunked HDF5",
        "zlib mha", "nrrd", "png slices",
    ],
)  # fmt: skip
def test_the_same_numbers(tmp_path: Path, measure: Command, expected: dict[str, bytes], kind: str) -> None:
    where = FORMATS[kind](tmp_path, VOXELS)
    done = measure(where, tmp_path / "run", *ABOVE)
    assert done.code == 0, done
    assert without_place(results(tmp_path / "run")) == without_place(expected)
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text("utf-8"))
    assert provenance["input"]["location"] == str(where)
    assert provenance["input"]["objects_missing_read_as_fill_value"] is None


def test_slices_behind_a_web_server_with_faults(tmp_path: Path, measure: Command, expected: dict[str, bytes]) -> None:
    jpeg2000_slices(tmp_path / "stack", VOXELS)
    with web_server(tmp_path, index=True) as server:
        server.faults = first_tries("drop", 500, "truncate", 503)
        done = measure(f"{server.url}/stack", tmp_path / "run", *ABOVE)
    assert done.code == 0, done
    assert results(tmp_path / "run") == expected


def test_slices_in_s3_with_faults(tmp_path: Path, here: Command, expected: dict[str, bytes], bucket: Bucket) -> None:
    url = bucket.upload(jpeg2000_slices(tmp_path / "stack", VOXELS), "scans/stack")
    bucket.server.faults = first_tries("drop", 500, "truncate", 503)
    done = here("thickness", url, "--run", tmp_path / "run", *ABOVE, "--workers", 1, "--quiet")
    assert done.code == 0, done
    assert results(tmp_path / "run") == expected


def test_a_slice_that_breaks_stops_the_run_which_begins_anew_when_it_is_mended(
    tmp_path: Path, measure: Command, here: Command, scheduler: str, expected: dict[str, bytes]
) -> None:
    stack, run = jpeg2000_slices(tmp_path / "stack", VOXELS), tmp_path / "run"
    victim = stack / "organ_000030.jp2"
    content = victim.read_bytes()
    victim.write_bytes(content[:-500])
    failure = measure(stack, run, *ABOVE).failure()
    assert f"{victim} cannot be read (its JPEG 2000 image has no end" in failure
    victim.write_bytes(content)
    plain = ("--scheduler", scheduler, "--unencrypted", "--quiet")
    failure = here("resume", run, *plain).failure()
    assert failure.startswith(f"The mask of the run {run} changed since it began (content: ")
    done = here("resume", run, *plain, "--restart")
    assert done.code == 0, done
    assert results(run) == expected


def test_refusals_of_the_command(tmp_path: Path, measure: Command) -> None:
    stack = jpeg2000_slices(tmp_path / "stack", VOXELS[:5])
    assert f"{stack} states no voxel size" in measure(stack, tmp_path / "run").failure()
    (stack / "organ_000002.jp2").unlink()
    assert f"{stack} lacks the slice organ_000002.jp2" in measure(stack, tmp_path / "run", *SIZE).failure()
    (stack / "organ_000002.jp2").write_bytes(jpeg2000(np.stack([VOXELS[0]] * 3, axis=-1)))
    assert f"{stack}/organ_000002.jp2 is not a readable" in measure(stack, tmp_path / "run", *SIZE).failure()
    cut = FORMATS["nii.gz"](tmp_path, VOXELS)
    cut.write_bytes(cut.read_bytes()[:-9000])
    failure = measure(cut, tmp_path / "run", "--threshold", 1000, "--block-shape", "24").failure()
    assert f"{cut}: the voxels " in failure
    assert "cut off" in failure


def test_comparing_stacks(tmp_path: Path, here: Command, scheduler: str) -> None:
    labels = noise((24, 30, 32)).astype(np.uint8)
    other = np.roll(labels, 1, axis=1)
    found: list[dict[str, Any]] = []
    for name, kinds in {"plain": ("zarr", "zarr"), "stacks": ("jp2 slices", "nii.gz")}.items():
        places = []
        for side, (kind, voxels) in enumerate(zip(kinds, (labels, other), strict=True)):
            folder = tmp_path / name / str(side)
            folder.mkdir(parents=True)
            if kind == "zarr":
                zarr.create_array(folder / "v.zarr", data=voxels, chunks=(16, 16, 16))
            places.append(folder / "v.zarr" if kind == "zarr" else FORMATS[kind](folder, voxels))
        run = tmp_path / name / "run"
        done = here(
            "compare",
            *places,
            "--run",
            run,
            *SIZE,
            "--block-shape",
            "20",
            "--scheduler",
            scheduler,
            "--unencrypted",
            "--quiet",
        )
        assert done.code == 0, done
        found.append(json.loads((run / "comparison.json").read_text("utf-8")))
    assert found[0] == found[1]


def test_info_and_plan(tmp_path: Path, here: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = jpeg2000_slices(tmp_path / "stack", VOXELS)
    text = here("info", stack).out
    assert "format      folder of JPEG 2000 slices" in text
    assert "shape       40 × 44 × 52 voxels (z, y, x), 91,520 in all" in text
    assert "voxel size  not stated" in text
    assert "slices      40 of 40 stored" in text
    assert "checksums   none in this format: damage that still decodes is not noticed" in text
    file = FORMATS["nii.gz"](tmp_path, VOXELS)
    text = here("info", file).out
    assert "format      NIfTI" in text
    assert "voxel size  3 × 0.7 × 0.7 µm (z, y, x)" in text
    assert "files       1 of 1 stored" in text
    assert "times over" not in here("plan", "thickness", stack, *ABOVE).out  # the planes stay in memory
    monkeypatch.setattr("pipeline.volume.slices.PLANES_BYTES", 1000)
    text = here("plan", "thickness", stack, *ABOVE).out
    # 2 × 3 blocks decode every plane; blocks of 24 planes cut no plane in two.
    assert (
        f"{stack} is decoded 6 times over, 12 bytes read a voxel, as its smallest readable part is 1 × 44 × 52;"
        f" make it a Zarr volume first: voxcaliper convert {stack} TARGET.ome.zarr\n"
    ) in text
    assert "6 times over" in here("plan", "compare", stack, stack, *SIZE, "--block-shape", "24").out


def bone_run(measure: Command, stack: Path, folder: Path, *options: object) -> dict[str, bytes]:
    done = measure(stack, folder, *SIZE, "--threshold", 63, *options)
    assert done.code == 0, done
    return results(folder)


def test_a_crop_of_the_bone_stack(tmp_path: Path, measure: Command) -> None:
    names = sorted(shared_data(BONE).glob("*.tif"))[60:124]
    voxels = np.stack([tifffile.imread(name) for name in names])[:, 40:104, 30:94]
    zarr.create_array(tmp_path / "bone.zarr", data=voxels, chunks=(32, 32, 32))
    expected = bone_run(measure, tmp_path / "bone.zarr", tmp_path / "plain", "--block-shape", "48")
    for stack in (tiff_slices(tmp_path / "tiff", voxels), jpeg2000_slices(tmp_path / "jp2", voxels)):
        assert bone_run(measure, stack, tmp_path / f"run-{stack.name}", "--block-shape", "48") == expected


def test_a_crop_of_the_bone_stack_over_http_and_s3_with_faults(
    tmp_path: Path, here: Command, measure: Command, bucket: Bucket
) -> None:
    """The slices' own names and encoding; only their crop is written anew."""
    stack = tmp_path / "web" / "bone"
    stack.mkdir(parents=True)
    for file in sorted(shared_data(BONE).glob("*.tif"))[60:108]:
        tifffile.imwrite(stack / file.name, tifffile.imread(file)[40:88, 30:78], photometric="minisblack")
    voxels = np.stack([tifffile.imread(name) for name in sorted(stack.iterdir())])
    zarr.create_array(tmp_path / "bone.zarr", data=voxels, chunks=(16, 16, 16))
    options = (*SIZE, "--threshold", 63, "--block-shape", "32")
    done = measure(tmp_path / "bone.zarr", tmp_path / "plain", *options)
    assert done.code == 0, done
    with web_server(tmp_path / "web", index=True) as server:
        places = {"http": (server, f"{server.url}/bone"), "s3": (bucket.server, bucket.upload(stack, "scans/bone"))}
        for name, (behind, url) in places.items():
            behind.clear()
            behind.faults = first_tries("drop", 500, "truncate", 503)
            done = here("thickness", url, "--run", tmp_path / name, *options, "--workers", 1, "--quiet")
            assert done.code == 0, done
            assert {request.status for request in behind.requests} >= {0, 500, 503}
            assert results(tmp_path / name) == results(tmp_path / "plain")


@pytest.mark.parametrize("kind", ["striped tiff slices", "jp2 slices"])
def test_converting_a_stack_over_http_and_s3_with_faults(
    tmp_path: Path, here: Command, bucket: Bucket, kind: str
) -> None:
    (tmp_path / "web").mkdir()
    stack = FORMATS[kind](tmp_path / "web", VOXELS)
    with web_server(tmp_path / "web", index=True) as server:
        places = {"http": (server, f"{server.url}/s"), "s3": (bucket.server, bucket.upload(stack, "scans/s"))}
        for name, (behind, url) in places.items():
            behind.clear()
            behind.faults = first_tries("drop", 500, "truncate", 503)
            target = tmp_path / f"{name}.ome.zarr"
            done = here("convert", url, target, *SIZE, "--block-shape", "32", "--quiet")
            assert done.code == 0, done
            copy = open_volume(str(target))
            np.testing.assert_array_equal(copy.read(copy.box), VOXELS)
            assert {request.status for request in behind.requests} >= {0, 500, 503}


def test_the_bone_stack_as_it_is(tmp_path: Path, measure: Command) -> None:
    stack = shared_data(BONE)
    voxels = np.stack([tifffile.imread(name) for name in sorted(stack.glob("*.tif"))])
    zarr.create_array(tmp_path / "bone.zarr", data=voxels, chunks=(64, 64, 64))
    expected = bone_run(measure, tmp_path / "bone.zarr", tmp_path / "plain", "--block-shape", "100", "--map", "none")
    found = bone_run(measure, stack, tmp_path / "run", "--block-shape", "100", "--map", "none")
    assert found == expected
    statistics = json.loads(found["statistics.json"])
    assert statistics["foreground_voxels"] / statistics["volume_voxels"] == pytest.approx(0.228, abs=0.0005)
