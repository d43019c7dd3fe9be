"""Lookalikes: equal confusion matrices, structures that differ, and the same voxels on every machine."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, label

from pipeline.errors import InputError
from pipeline.geometry import Index, VoxelSize
from workflows.lookalikes import Lookalikes, Mask, lookalikes

SHAPE: Index = (64, 72, 80)
NEIGHBOURS_26 = np.ones((3, 3, 3))


@pytest.fixture(scope="module")
def sponges() -> Lookalikes:
    return lookalikes(SHAPE)


def pieces(mask: Mask) -> int:
    return int(label(mask, NEIGHBOURS_26)[1])


def test_confusion_matrices_are_identical(sponges: Lookalikes) -> None:
    matrices = set()
    for prediction in sponges.predictions.values():
        assert prediction.dtype == np.bool_
        assert prediction.shape == SHAPE
        matrices.add(tuple(np.bincount((2 * sponges.reference + prediction).reshape(-1), minlength=4).tolist()))
    assert len(sponges.predictions) >= 3
    (matrix,) = matrices
    _, false_positive, false_negative, true_positive = matrix
    dice = 2 * true_positive / (2 * true_positive + false_positive + false_negative)
    assert false_positive == false_negative
    assert dice == pytest.approx(0.8, abs=1e-4)


def test_the_voxels_are_the_same_on_every_machine(sponges: Lookalikes) -> None:
    digest = hashlib.sha256()
    for mask in (sponges.reference, *sponges.predictions.values()):
        digest.update(np.packbits(mask).tobytes())
    assert digest.hexdigest() == "f116974945eea4e55833386ec9b2ff932a05bafd5abcfbef3ff81382bd6b9b86"


def test_the_voxel_size_changes_no_voxel(sponges: Lookalikes) -> None:
    coarse = lookalikes(SHAPE, VoxelSize((3.0, 0.7, 0.7)))
    assert coarse.voxel_size.um == (3.0, 0.7, 0.7)
    assert sponges.voxel_size.um == (10.0, 10.0, 10.0)
    np.testing.assert_array_equal(coarse.reference, sponges.reference)
    for name, mask in coarse.predictions.items():
        np.testing.assert_array_equal(mask, sponges.predictions[name])


def test_salt_and_pepper_falls_to_pieces(sponges: Lookalikes) -> None:
    assert pieces(sponges.predictions["salt and pepper"]) > 20 * pieces(sponges.reference)


def test_a_ragged_border_is_wrong_at_the_surface_only(sponges: Lookalikes) -> None:
    wrong = sponges.predictions["ragged border"] != sponges.reference
    for inside in (sponges.reference, ~sponges.reference):
        assert (np.asarray(distance_transform_edt(inside))[wrong & inside] == 1).all()


def test_thick_parts_are_thicker(sponges: Lookalikes) -> None:
    reference, thick = (
        np.asarray(distance_transform_edt(mask))
        for mask in (sponges.reference, sponges.predictions["thick parts thicker"])
    )
    assert thick.max() > 1.2 * reference.max()
    assert thick[thick > 0].mean() > 1.2 * reference[reference > 0].mean()


def test_a_slab_is_full_and_an_end_is_empty(sponges: Lookalikes) -> None:
    slab = sponges.predictions["slab added"]
    assert slab[SHAPE[0] // 4].all()
    assert not slab[-3:].any()
    between = slice(SHAPE[0] // 2, SHAPE[0] // 2 + 4)
    np.testing.assert_array_equal(slab[between], sponges.reference[between])


def test_a_sponge_too_small_for_thick_struts_is_refused() -> None:
    with pytest.raises(InputError, match="at least 64 voxels"):
        lookalikes((96, 96, 63))
