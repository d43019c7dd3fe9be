"""Where volumes lie: headers against nibabel and SimpleITK, lattices on each other, turned volumes voxel by voxel."""

from __future__ import annotations

import itertools
import json
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from pipeline.geometry import Box, Index, VoxelSize
from pipeline.placement import AT_ORIGIN, Lattice, Misfit, Placement, Turn, align, clean_directions
from pipeline.volume.laying import lay
from pipeline.volume.opening import open_volume
from pipeline.volume.views import to_xarray
from tests.volume.stores import grey, write_ome_zarr
from workflows.convert_volume import convert

UM = (3.0, 0.7, 0.5)
TURNS = [
    Turn((order[0], order[1], order[2]), (backwards[0], backwards[1], backwards[2]))
    for order in itertools.permutations(range(3))
    for backwards in itertools.product((False, True), repeat=3)
]
turns = st.sampled_from(TURNS)
new_nifti: Any = nib.Nifti1Image


def nifti(path: Path, voxels: npt.NDArray[Any], affine: npt.NDArray[Any], unit: str = "mm") -> Path:
    """Voxels : (x, y, z)."""
    image = new_nifti(voxels, affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


def rotation(seed: int) -> npt.NDArray[np.float64]:
    """Any rotation."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    q[:, 0] *= np.linalg.det(q)
    return np.asarray(q)


def corners(shape: Index) -> list[Index]:
    return [(z, y, x) for z, y, x in itertools.product(*((0, n - 1) for n in shape))]


def turned(placement: Placement, um: VoxelSize, shape: Index, turn: Turn) -> Lattice:
    """The lattice of an array that is turned and stays where it is."""
    first = [0, 0, 0]
    for axis, back in zip(turn.order, turn.backwards, strict=True):
        first[axis] = shape[axis] - 1 if back else 0
    sides = tuple(um.um[axis] for axis in turn.order)
    return Lattice(
        turn.shape(shape), VoxelSize((sides[0], sides[1], sides[2])), placement.starting_at(first, um).turned(turn)
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["rotated", "sheared", "flipped", "permuted"])
def test_the_affine_of_a_nifti_file_places_every_corner(tmp_path: Path, kind: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    matrix = {
        "rotated": rotation(seed) * [0.5, 0.7, 3.0],
        "sheared": np.array([[0.5, 0.1, 0], [0, 0.7, 0.2], [0, 0, 3.0]]),
        "flipped": np.diag([0.5, 0.7, 3.0] * random.choice([-1, 1], 3)),
        "permuted": np.diag([0.5, 0.7, 3.0])[random.permutation(3)],
    }[kind]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, random.uniform(-300, 300, 3)
    path = nifti(tmp_path / "v.nii.gz", np.zeros((5, 6, 7), np.uint8), affine)
    volume = open_volume(str(path))
    assert volume.placement
    assert volume.voxel_size
    said: Any = nib.load(path)
    for voxel in corners(volume.shape):
        expected = (said.affine @ [*voxel[::-1], 1])[2::-1] * 1000
        np.testing.assert_allclose(
            volume.placement.position_um(voxel, volume.voxel_size), expected, rtol=1e-6, atol=0.01
        )
    assert any("sheared" in warning for warning in volume.warnings) == (kind == "sheared")


def test_sform_goes_before_qform_and_both_before_pixdim(tmp_path: Path) -> None:
    image: Any = new_nifti(np.zeros((4, 5, 6), np.uint8), None)
    image.header.set_xyzt_units("mm")
    image.header["pixdim"][1:4] = 1
    path = str(tmp_path / "v.nii")

    def opened() -> Any:
        nib.save(image, path)
        return open_volume(path)

    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    neither = opened()
    assert (neither.placement, neither.voxel_size) == (None, VoxelSize((1000.0, 1000.0, 1000.0)))
    image.set_qform(np.array([[0, -2.0, 0, 7], [2, 0, 0, 8], [0, 0, 2, 9], [0, 0, 0, 1]]), code=1)
    by_qform = opened()
    assert by_qform.origin_um == (9000.0, 8000.0, 7000.0)
    assert by_qform.placement.directions == ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0))
    assert by_qform.voxel_size == VoxelSize((2000.0, 2000.0, 2000.0))
    image.set_sform(np.diag([0.5, 0.5, 0.5, 1.0]), code=2)
    image.header["pixdim"][1:4] = 2
    by_sform = opened()
    assert by_sform.placement == AT_ORIGIN
    assert by_sform.voxel_size == VoxelSize((500.0, 500.0, 500.0))
    assert any("the affine counts" in warning for warning in by_sform.warnings)
    assert any("the sform counts" in warning for warning in by_sform.warnings)


@pytest.mark.parametrize(("unit", "um"), [("micron", 1.0), ("mm", 1e3), ("meter", 1e6)])
def test_places_have_the_unit_of_the_header(tmp_path: Path, unit: str, um: float) -> None:
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    affine[:3, 3] = 1.25, -2.5, 3.0
    volume = open_volume(str(nifti(tmp_path / "v.nii", np.zeros((4, 5, 6), np.uint8), affine, unit)))
    assert volume.origin_um == (3.0 * um, -2.5 * um, 1.25 * um)
    assert not volume.warnings


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("given", [None, (3.0, 0.7, 0.7)])
@pytest.mark.parametrize("level", [0, 1])
def test_every_level_of_an_image_has_its_translation(
    tmp_path: Path, version: str, given: tuple[float, float, float] | None, level: int
) -> None:
    path = tmp_path / "i.ome.zarr"
    write_ome_zarr(path, grey(), version=version)
    group = zarr.open_group(path)
    ome: Any = group.attrs["ome"] if version == "0.5" else dict(group.attrs)
    for n, dataset in enumerate(ome["multiscales"][0]["datasets"]):
        dataset["coordinateTransformations"].append({"type": "translation", "translation": [10.0, 2.1375, 0.35 * n]})
    group.attrs.update({"ome": ome} if version == "0.5" else ome)
    um = tuple(side * 2**level for side in given) if given else None
    assert open_volume(str(path), level=level, voxel_size_um=um).origin_um == (10.0, 2.1375, 0.35 * level)
    assert open_volume(f"{path}/{level}").origin_um == (10.0, 2.1375, 0.35 * level)


def test_a_translation_of_unknown_unit_counts_in_voxels(tmp_path: Path) -> None:
    path = tmp_path / "i.ome.zarr"
    write_ome_zarr(path, grey(), unit="pixel", scale=(1.0, 1.0, 2.0))
    group = zarr.open_group(path)
    ome: Any = group.attrs["ome"]
    ome["multiscales"][0]["datasets"][0]["coordinateTransformations"].append(
        {"type": "translation", "translation": [3.0, -2.0, 1.0]}
    )
    group.attrs["ome"] = ome
    volume = open_volume(str(path), voxel_size_um=(5.0, 2.0, 2.0))
    assert (volume.origin_um, volume.voxel_size) == ((15.0, -4.0, 1.0), VoxelSize((5.0, 2.0, 2.0)))


@pytest.mark.parametrize("turn", TURNS)
def test_a_turned_array_lies_on_the_one_it_was_made_of(turn: Turn) -> None:
    """In all 48 orientations, from any direction in space: the turn that brings it back, and on the first voxel."""
    shape, um = (3, 4, 5), VoxelSize(UM)
    placement = Placement((-12.5, 1e5, 7.1), clean_directions(rotation(3).tolist()))
    back, start = align(Lattice(shape, um, placement), turned(placement, um, shape, turn))
    assert start == (0, 0, 0)
    axes = turn.order
    assert all(axes[back.order[a]] == a for a in range(3))
    assert all(turn.backwards[back.order[a]] == back.backwards[a] for a in range(3))


@pytest.mark.parametrize("turn", TURNS)
def test_turned_volumes_are_read_voxel_by_voxel(tmp_path: Path, turn: Turn) -> None:
    """A box that sticks out at some sides, of every orientation, in one read and in parts."""
    voxels = grey((7, 10, 13))
    np.save(tmp_path / "v.npy", voxels)
    volume = open_volume(str(tmp_path / "v.npy"), voxel_size_um=UM)
    expected = voxels.transpose(turn.order)[tuple(slice(None, None, -1 if b else 1) for b in turn.backwards)]
    start, shape = (-2, 3, -1), (6, 12, 9)
    padded = np.zeros(shape, voxels.dtype)
    inside = expected[0:4, 3:15, 0:8]
    padded[2 : 2 + inside.shape[0], : inside.shape[1], 1 : 1 + inside.shape[2]] = inside
    laid = lay(volume, turn, start, shape)
    np.testing.assert_array_equal(laid.read(laid.box), padded)
    sent = pickle.loads(pickle.dumps(laid))
    box = Box((1, 2, 3), (5, 9, 8))
    np.testing.assert_array_equal(sent.read(box), padded[box.slices])
    assert laid.identity() != volume.identity()
    json.dumps(laid.identity())
    assert lay(volume, Turn(), (0, 0, 0), volume.shape) is volume


@given(
    turn=turns,
    start=st.tuples(*[st.integers(-5, 5)] * 3),
    seed=st.integers(0, 1000),
    noise=st.floats(-9e-5, 9e-5),
    away=st.floats(-0.009, 0.009),
)
def test_cut_outs_are_found_in_spite_of_rounding(
    turn: Turn, start: Index, seed: int, noise: float, away: float
) -> None:
    whole, um = (9, 11, 13), VoxelSize(UM)
    placement = Placement((1234.5, -7.25, 1e4), clean_directions(rotation(seed).tolist()))
    cut = placement.starting_at([s + away for s in start], um)
    other = turned(cut, VoxelSize((UM[0], UM[1] * (1 + noise), UM[2])), whole, turn)
    found, at = align(Lattice(whole, um, placement), other)
    assert at == start
    assert found.shape(other.shape) == whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p, um: (p.starting_at([0, 0, 0.5], um), um), "which are no whole voxels"),
        (lambda p, um: (p.starting_at([0, -0.1, 0], um), um), "which are no whole voxels"),
        (lambda p, um: (p.starting_at([1 / 3, 4, 0], um), um), "which are no whole voxels"),
        (lambda p, um: (p, VoxelSize((3.0, 0.7, 0.5001))), "has voxels of 3 × 0.7 × 0.5001 µm and"),
        (lambda p, um: (p, VoxelSize((0.7, 3.0, 0.5))), "has voxels of"),
        (lambda p, um: (Placement(p.origin_um, clean_directions(rotation(1).tolist())), um), "is rotated by"),
    ],
)
def test_other_lattices_do_not_fit(change: Any, words: str) -> None:
    placement, um = Placement((5.0, 6.0, 7.0)), VoxelSize(UM)
    other, size = change(placement, um)
    with pytest.raises(Misfit, match=words):
        align(Lattice((9, 9, 9), um, placement), Lattice((9, 9, 9), size, other))


@pytest.mark.parametrize("order", [1, -1])
def test_voxel_sizes_are_alike_whichever_comes_first(order: int) -> None:
    sizes = [VoxelSize((1.0, 1.0, 1.0)), VoxelSize((1.00009, 1.0, 1.0))][::order]
    reference, other = (Lattice((20, 20, 20), size, AT_ORIGIN) for size in sizes)
    assert align(reference, other) == (Turn(), (0, 0, 0))


@pytest.mark.parametrize("seed", range(50))
def test_two_files_agree_on_a_point_as_simpleitk_says(tmp_path: Path, seed: int) -> None:
    """Random affines, the other array turned and cut: what meets a voxel is what SimpleITK finds at its point."""
    sitk = pytest.importorskip("SimpleITK")
    random = np.random.default_rng(seed)
    voxels = random.integers(0, 200, (7, 8, 9)).astype(np.uint8)
    reference = sitk.GetImageFromArray(voxels)
    reference.SetSpacing([0.5, 0.7, 3.0])
    reference.SetDirection(rotation(seed).ravel().tolist())
    reference.SetOrigin(random.uniform(-200, 200, 3).tolist())
    other = sitk.PermuteAxes(reference, [int(n) for n in random.permutation(3)])
    other = sitk.Flip(other, [bool(n) for n in random.integers(0, 2, 3)], False)
    if seed % 2:
        other = other[1:, : other.GetSize()[1] - 2, 1:]
    if seed % 5 == 4:
        other.SetOrigin(
            (
                np.array(other.GetOrigin())
                + other.TransformContinuousIndexToPhysicalPoint((0.3, 0, 0))
                - np.array(other.GetOrigin())
            ).tolist()
        )
    for name, image in (("reference", reference), ("other", other)):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    one, two = (open_volume(str(tmp_path / f"{name}.nii.gz")) for name in ("reference", "other"))
    assert one.lattice
    assert two.lattice
    if seed % 5 == 4:
        with pytest.raises(Misfit):
            align(one.lattice, two.lattice)
        return
    turn, start = align(one.lattice, two.lattice)
    laid = lay(two, turn, (-start[0], -start[1], -start[2]), one.shape)
    resampled = sitk.Resample(other, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    np.testing.assert_array_equal(laid.read(laid.box), sitk.GetArrayFromImage(resampled))


@pytest.mark.parametrize("source", ["ome-zarr", "nifti", "oblique nifti", "npy"])
def test_a_conversion_lies_where_its_source_does(tmp_path: Path, source: str) -> None:
    """Every voxel within 1e-9 of its place, and xarray pairs all of them."""
    voxels = grey((20, 70, 90))
    affine = np.diag([-0.0005, 0.0007, 0.003, 1.0])
    affine[:3, 3] = 0.0123, -7.7, 1234.5678
    if source == "oblique nifti":
        affine[:3, :3] = rotation(5) * [0.0005, 0.0007, 0.003]
    if source == "ome-zarr":
        path = str(tmp_path / "i.ome.zarr")
        write_ome_zarr(path, voxels, scale=UM)
        group = zarr.open_group(path)
        ome: Any = group.attrs["ome"]
        ome["multiscales"][0]["datasets"][0]["coordinateTransformations"].append(
            {"type": "translation", "translation": [-0.1234567891234, 2.1375, 1 / 3]}
        )
        group.attrs["ome"] = ome
    elif source == "npy":
        path = str(tmp_path / "v.npy")
        np.save(path, voxels)
    else:
        path = str(nifti(tmp_path / "v.nii.gz", voxels.T, affine))
    given = VoxelSize((3.0, 0.7, 1 / 3)) if source == "npy" else None
    target = tmp_path / "c.ome.zarr"
    convert(path, target, block_shape=(20, 40, 40), voxel_size=given)
    before, after = open_volume(path, voxel_size_um=given.um if given else None), open_volume(str(target))
    assert before.voxel_size == after.voxel_size
    assert after.placement == (before.placement or AT_ORIGIN)
    assert before.voxel_size
    for voxel in corners(before.shape):
        there = after.placement.position_um(voxel, before.voxel_size)
        np.testing.assert_allclose(
            there, (before.placement or AT_ORIGIN).position_um(voxel, before.voxel_size), atol=1e-9
        )
    joined = to_xarray(before) - to_xarray(after)
    assert joined.shape == before.shape
    assert not joined.any()
    coarse = open_volume(str(target), level=1)
    half = [Fraction(1, 2)] * 3
    np.testing.assert_allclose(coarse.origin_um, after.placement.position_um(half, before.voxel_size), atol=1e-9)


def test_coordinates_of_a_cut_out_are_those_of_the_whole(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", grey((9, 10, 200)))
    volume = open_volume(str(tmp_path / "v.npy"), voxel_size_um=(0.1, 0.7, 1 / 3))
    part = lay(volume, Turn(), (2, 3, 50), (5, 5, 120))
    assert part.voxel_size
    inside = (
        Placement((0.0, 0.0, 0.0)).starting_at((2, 3, 50), part.voxel_size).coordinates_um(part.voxel_size, part.shape)
    )
    whole = AT_ORIGIN.coordinates_um(part.voxel_size, volume.shape)
    for own, axis, start in zip(inside[:2], whole[:2], (2, 3), strict=True):
        np.testing.assert_array_equal(own, axis[start : start + 5])
