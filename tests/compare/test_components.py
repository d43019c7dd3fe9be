"""Components, cavities and Betti numbers: equal to scipy and to plain homology, whatever the blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import cavities, components
from pipeline.components import CONNECTIVITIES, Connectivity
from pipeline.geometry import BlockGrid, Box, Index
from pipeline.measures.topology import Topology, topology_measures
from tests.compare.blockwise import (
    closed_cells,
    counted_cavities,
    counted_components,
    cut_volumes,
    diagonal_chain,
    euler_number,
    homology,
    label_volumes,
    plain_cavities,
    plain_components,
    serpentine,
    shell,
    torus,
)
from tests.phantoms import noise

ODD_BLOCKS: list[Index] = [(7, 11, 13), (4, 4, 4), (1, 5, 30), (30, 1, 1), (30, 30, 30)]


@given(cut=cut_volumes(largest=17), connectivity=st.sampled_from(CONNECTIVITIES))
@example(cut=(diagonal_chain((9, 9, 9), 3), (3, 3, 3)), connectivity=26)
@example(cut=(diagonal_chain((9, 9, 9), 3)[::-1], (3, 3, 3)), connectivity=26)
@example(cut=(diagonal_chain((9, 9, 9), 3)[:, ::-1], (1, 1, 1)), connectivity=26)
@example(cut=(diagonal_chain((9, 9, 9), 2)[:, ::-1], (9, 3, 3)), connectivity=18)
@example(cut=(serpentine((9, 9, 9)), (2, 2, 2)), connectivity=6)
def test_components_are_those_of_scipy(cut: tuple[npt.NDArray[Any], Index], connectivity: Connectivity) -> None:
    labels, block_shape = cut
    assert counted_components(labels, block_shape, connectivity) == plain_components(labels, connectivity)


@given(cut=cut_volumes(largest=17))
def test_cavities_are_components_of_the_padded_complement(cut: tuple[npt.NDArray[Any], Index]) -> None:
    labels, block_shape = cut
    pieces, found = counted_cavities(labels, block_shape)
    assert found == plain_cavities(labels)
    assert pieces == plain_components(labels, 6)


@given(labels=label_volumes(largest=5), side=st.integers(1, 4))
def test_betti_numbers_are_ranks_of_homology(labels: npt.NDArray[Any], side: int) -> None:
    blocks = (side, side, side)
    _, holes = counted_cavities(labels, blocks)
    counts = {c: counted_components(labels, blocks, c) for c in CONNECTIVITIES}
    for label in counts[26]:
        mask = labels == label
        topology = Topology({c: counts[c][label] for c in counts}, holes.get(label, 0), euler_number(mask))
        assert topology.betti == homology(mask)


@pytest.mark.parametrize("block_shape", ODD_BLOCKS)
def test_smooth_noise_with_labels(block_shape: Index) -> None:
    tissue = np.stack([noise((24, 31, 29), 1.2, seed) for seed in range(4)]).argmax(axis=0)
    labels = np.array([0, 7, 2**33, 2**62], np.int64)[tissue]
    for connectivity in CONNECTIVITIES:
        assert counted_components(labels, block_shape, connectivity) == plain_components(labels, connectivity)
    assert counted_cavities(labels, block_shape)[1] == plain_cavities(labels)


SHAPES: dict[str, tuple[npt.NDArray[np.bool_], tuple[int, int, int]]] = {
    "empty": (np.zeros((5, 6, 7), np.bool_), (0, 0, 0)),
    "full": (np.ones((5, 6, 7), np.bool_), (1, 0, 0)),
    "one voxel": (np.ones((1, 1, 1), np.bool_), (1, 0, 0)),
    "torus": (torus((9, 21, 21), 6.0, 2.5), (1, 1, 0)),
    "shell": (shell((15, 15, 15), 6.5, 4.5), (1, 0, 1)),
    "shell in a shell": (shell((25, 25, 25), 11.5, 9.5) | shell((25, 25, 25), 6.5, 4.5), (2, 0, 2)),
    "tunnel through everything": (np.pad(np.zeros((6, 1, 1), np.bool_), ((0, 0), (3, 3), (3, 3)), constant_values=True),
                                  (1, 1, 0)),
    "diagonal chain": (diagonal_chain((9, 9, 9), 3), (1, 0, 0)),
    "serpentine": (serpentine((9, 9, 9)), (1, 0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("block_shape", ODD_BLOCKS)
@pytest.mark.parametrize("name", SHAPES)
def test_betti_numbers_of_known_shapes(name: str, block_shape: Index) -> None:
    mask, expected = SHAPES[name]
    _, holes = counted_cavities(mask, block_shape)
    counts = {c: counted_components(mask, block_shape, c).get(1, 0) for c in CONNECTIVITIES}
    topology = Topology(counts, holes.get(1, 0), euler_number(mask))
    assert topology.betti == expected


@pytest.mark.parametrize("block_shape", ODD_BLOCKS)
def test_shells_of_different_labels_in_each_other(block_shape: Index) -> None:
    labels = np.zeros((25, 25, 25), np.uint16)
    labels[shell(labels.shape, 12.0, 10.0)] = 300
    labels[shell(labels.shape, 10.0, 6.0)] = 20
    labels[shell(labels.shape, 6.0, 4.0)] = 300
    labels[12, 12, 12] = 5
    assert counted_cavities(labels, block_shape)[1] == {300: 2, 20: 1}


def test_a_cavity_may_hold_a_wall_of_other_labels_across_blocks() -> None:
    """The cavity of 1 holds 2 and 3 side by side, cut by a block border: one cavity, not two."""
    labels = np.ones((6, 6, 6), np.uint8)
    labels[1:5, 1:5, 1:3] = 2
    labels[1:5, 1:5, 3:5] = 3
    assert counted_cavities(labels, (6, 6, 3))[1] == {1: 1}
    assert counted_cavities(labels, (3, 4, 6))[1] == {1: 1}


def test_salt_noise_vanishes_in_its_block() -> None:
    volume = (np.random.default_rng(3).random((20, 20, 40)) < 0.2).astype(np.uint8)
    grid = BlockGrid((20, 20, 40), (20, 20, 20))
    box = grid.box((0, 0, 0))
    found = components.label_components(volume[box.slices], 6, background=True)
    inside = ~components.open_components(found, box, grid.shape)
    arrays = cavities.block_cavities(volume[box.slices], box, grid.shape)
    assert np.count_nonzero(inside) > 500
    assert len(arrays["label"]) == np.count_nonzero(~inside)
    assert len(arrays["edges"]) < 2 * len(arrays["label"])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_every_value_of_a_dtype_in_use(dtype: type[Any]) -> None:
    values = np.arange(np.iinfo(dtype).max + 1).astype(dtype)
    labels = np.repeat(np.repeat(values.reshape(1, 16, -1), 3, axis=0), 2, axis=1)
    labels[1] = labels[1, ::-1]
    assert counted_cavities(labels, (2, 5, 7)) == (plain_components(labels, 6), plain_cavities(labels))


def test_labels_up_to_64_bits() -> None:
    top = 2**64 - 1
    labels = np.zeros((5, 5, 5), np.uint64)
    labels[1:4, 1:4, 1:4] = top
    labels[2, 2, 2] = 2**63
    labels[0, 0, 0] = 1
    for block_shape in ODD_BLOCKS[1:4]:
        assert counted_cavities(labels, block_shape) == ({1: 1, 2**63: 1, top: 1}, {top: 1})
        assert counted_components(labels, block_shape, 26) == {1: 1, 2**63: 1, top: 1}


def test_labels_may_fill_64_bits() -> None:
    labels = np.full((2, 2, 3), 2**64 - 1, np.uint64)
    labels[:, :, 1] = 0
    assert components.label_components(labels, 26).label.tolist() == [2**64 - 1] * 2


def test_a_block_is_only_what_it_shows_others() -> None:
    """Closed components are counted, open ones become nodes; planes exist where another block goes on."""
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1, 1, 1] = 9
    labels[3, 3, 0] = 9
    labels[3, 0, 3] = 8
    box = Box((0, 0, 0), (4, 4, 4))
    _, arrays = components.block_components(labels, box, (4, 4, 5), 26)
    assert arrays["label"].tolist() == [8]
    assert (arrays["final-label"].tolist(), arrays["final-count"].tolist()) == ([9], [2])
    assert [name for name in arrays if name.startswith("face")] == ["face-2-high"]
    assert np.argwhere(arrays["face-2-high"]).tolist() == [[3, 0]]


@given(parts=st.lists(st.lists(st.tuples(st.integers(1, 2**64 - 1), st.integers(1, 9)), max_size=6), max_size=4))
def test_tables_of_counts_merge_in_any_order(parts: list[list[tuple[int, int]]]) -> None:
    tables = [
        (np.array([label for label, _ in part], np.uint64), np.array([n for _, n in part], np.int64)) for part in parts
    ]
    label, count = components.add_counts(tables)
    expected: dict[int, int] = {}
    for key, n in (row for part in parts for row in part):
        expected[key] = expected.get(key, 0) + n
    assert dict(zip(label.tolist(), count.tolist(), strict=True)) == expected
    backwards = components.add_counts([components.add_counts(tables[1:]), *tables[:1]])
    assert np.array_equal(backwards[0], label)
    assert np.array_equal(backwards[1], count)


def test_topology_by_its_names() -> None:
    reference = Topology({6: 3, 18: 2, 26: 1}, cavities=2, euler_number=-4)
    prediction = Topology({6: 1, 18: 1, 26: 1}, cavities=0, euler_number=1)
    assert topology_measures(reference, prediction) == {
        "euler_number": {"reference": -4, "prediction": 1},
        "components": {
            "6": {"reference": 3, "prediction": 1},
            "18": {"reference": 2, "prediction": 1},
            "26": {"reference": 1, "prediction": 1},
        },
        "betti": {"reference": [1, 7, 2], "prediction": [1, 0, 0]},
        "betti_error": [0, 7, 2],
    }


def test_the_plain_homology_knows_its_shapes() -> None:
    ring = np.ones((1, 3, 3), np.bool_)
    ring[0, 1, 1] = False
    hollow = np.ones((3, 3, 3), np.bool_)
    hollow[1, 1, 1] = False
    assert homology(ring) == (1, 1, 0)
    assert homology(hollow) == (1, 0, 1)
    assert len(closed_cells(ring)[1, 1, 1]) == 8
