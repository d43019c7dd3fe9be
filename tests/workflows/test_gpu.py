"""On a real GPU: runs give what the CPU gives, byte for byte, and CUDA's tools find nothing wrong in the kernels."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.geometry import VoxelSize
from tests.shared_data import shared_data
from tests.workflows.conftest import noise
from tests.workflows.runs import ROOT, environment, results, voxcaliper
from workflows.convert_volume import convert
from workflows.demonstrate import write_phantom
from workflows.phantom import vascular_phantom

pytestmark = pytest.mark.gpu

SANITIZER_MINUTES = 20
SMALL_RUN = """
import sys
import numpy as np
from pipeline import device
from pipeline.device import Host
from tests.kernels.test_whole_volume import by_kernels

mask = np.load(sys.argv[1])

def work(place: Host) -> None:
    for dtype in (np.int32, np.int64):
        _, radii = by_kernels(place.up, mask, (1, 1, 1), dtype, closed=True, batches=2)
        _, expected = by_kernels(lambda array: array, mask, (1, 1, 1), dtype, closed=True)
        assert np.array_equal(radii, expected)

device.run("gpu", work)
"""
SMALL_COMPARISON = """
import sys
import numpy as np
from pipeline.kernels import cuda
from tests.kernels.comparison_twins import KINDS, assert_same_corners, assert_same_structures, assert_same_surface
from tests.kernels.comparison_twins import random_labels

cupy = cuda.checked_cupy()
mask = np.load(sys.argv[1])
rng = np.random.default_rng(0)
for kind in KINDS:
    labels = random_labels(kind, mask.shape, "u4", rng)
    assert_same_structures(cupy.asarray, (labels, mask.view(np.uint8), labels), (0, 0, 0), (0, len(mask)))
    assert_same_corners(cupy.asarray, labels[:9], (0, 0, 0), (10, *(n + 1 for n in mask.shape[1:])))
padded = np.pad(mask, 1)
assert_same_surface(cupy.asarray, padded, (1, 1, 1), rng.integers(0, 99, padded.shape, np.int32))
"""


def phantom(folder: Path) -> tuple[Path, list[str]]:
    made = vascular_phantom((200, 200, 200))
    path = write_phantom(made, folder / "phantom.ome.zarr", regions=False).path
    return path, ["--regions", str(write_phantom(made, folder / "regions.ome.zarr", regions=True).path)]


def bone(folder: Path) -> tuple[Path, list[str]]:
    source = shared_data("lhdl_trabecular_bone/slices")
    convert(str(source), folder / "bone.ome.zarr", voxel_size=VoxelSize((19.5, 19.5, 19.5)))
    return folder / "bone.ome.zarr", ["--threshold", "63"]


def fly(folder: Path) -> tuple[Path, list[str]]:
    source = shared_data("qim3d_microct/fly_150x256x256.tif")
    convert(str(source), folder / "fly.ome.zarr", voxel_size=VoxelSize((2.0, 1.0, 1.0)))
    return folder / "fly.ome.zarr", ["--threshold", "60,200"]


@pytest.mark.parametrize("make", [phantom, bone, fly])
@pytest.mark.parametrize("kind", ["thickness", "squared-radius"])
def test_a_run_is_the_same_on_both_devices(make: object, kind: str, tmp_path: Path) -> None:
    assert callable(make)
    mask, options = make(tmp_path)
    for device, block in (("cpu", "128"), ("gpu", "128")):
        run = ("thickness", mask, "--run", tmp_path / device, "--device", device, "--block-shape", block, "--map", kind)
        done = voxcaliper(tmp_path / "logs", *run, *options)
        assert done.code == 0, done
    assert results(tmp_path / "gpu") == results(tmp_path / "cpu")
    whole = ("thickness", mask, "--run", tmp_path / "other", "--device", "gpu", "--block-shape", "96", "--map", kind)
    assert voxcaliper(tmp_path / "logs", *whole, *options).code == 0
    for name in ("statistics.json", "histogram.csv"):
        assert (tmp_path / "other" / name).read_bytes() == (tmp_path / "cpu" / name).read_bytes()


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
@pytest.mark.parametrize("program", [SMALL_RUN, SMALL_COMPARISON], ids=["thickness", "comparison"])
def test_the_tools_of_cuda_find_nothing(program: str, tool: str, tmp_path: Path) -> None:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("needs compute-sanitizer of the CUDA toolkit in the PATH")
    np.save(tmp_path / "mask.npy", noise((40, 50, 70), sigma=2))
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", program]
    done = subprocess.run(
        [*command, str(tmp_path / "mask.npy")], cwd=ROOT, env=environment(), capture_output=True, text=True,
        timeout=60 * SANITIZER_MINUTES, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
