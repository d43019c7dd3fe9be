"""Parcels give back what was put in, or say that they are damaged; they never give back anything else."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.errors import DamagedError, StorageError
from pipeline.parcels import PIECE_BYTES, Shelf, open_parcel, write_parcel

in_one_folder = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
any_array = arrays.arrays(
    dtype=st.sampled_from([np.dtype(t) for t in ("?", "u1", "u2", "u4", "<i4", "<i8", "<f4", "<f8")]),
    shape=arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=7),
)


@in_one_folder
@given(
    summary=st.dictionaries(st.text(), json_values, max_size=3),
    content=st.dictionaries(st.text(), any_array, max_size=4),
)
def test_round_trip(tmp_path: Path, summary: dict[str, Any], content: dict[str, npt.NDArray[Any]]) -> None:
    path = tmp_path / "a.parcel"
    size = write_parcel(path, summary, content)
    parcel = open_parcel(path)
    assert path.stat().st_size == size == parcel.stored_bytes
    assert parcel.summary == summary
    assert set(parcel.arrays) == set(content)
    for name, array in content.items():
        found = parcel.read(name)
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        assert found.tobytes() == array.tobytes()
        assert found.flags.writeable
    assert list(tmp_path.iterdir()) == [path]


@in_one_folder
@given(parts=st.lists(arrays.arrays(np.int32, st.integers(0, 9)), max_size=5))
def test_parts_are_joined(tmp_path: Path, parts: list[npt.NDArray[np.int32]]) -> None:
    write_parcel(tmp_path / "a.parcel", {}, {"joined": iter(parts)})
    found = open_parcel(tmp_path / "a.parcel").read("joined")
    assert found.tolist() == [value for part in parts for value in part.tolist()]


def test_views_and_large_arrays(tmp_path: Path) -> None:
    large = np.random.default_rng(0).integers(0, 256, 2 * PIECE_BYTES + 5).astype(np.uint8)
    turned = np.arange(24, dtype=np.int64).reshape(2, 3, 4).T[::-1]
    write_parcel(tmp_path / "a.parcel", {}, [("large", large), ("turned", turned)])
    parcel = open_parcel(tmp_path / "a.parcel")
    assert len(parcel.arrays["large"]["pieces"]) == 3
    assert np.array_equal(parcel.read("large"), large)
    assert np.array_equal(parcel.read("turned"), turned)


def test_arrays_that_are_made_while_they_are_written(tmp_path: Path) -> None:
    """One after the other, each gone before the next is made; the summary is what it is at the end."""
    summary: dict[str, Any] = {"sum": 0}
    alive: list[weakref.ref[Any]] = []

    def made() -> Iterator[tuple[str, npt.NDArray[Any]]]:
        for n in range(3):
            assert all(one() is None for one in alive)
            array = np.full(1000, n)
            alive.append(weakref.ref(array))
            summary["sum"] += int(array.sum())
            yield str(n), array
            del array

    write_parcel(tmp_path / "a.parcel", summary, made())
    parcel = open_parcel(tmp_path / "a.parcel")
    assert parcel.summary == {"sum": 3000}
    assert [int(parcel.read(name)[0]) for name in ("0", "1", "2")] == [0, 1, 2]


def test_a_shelf_opens_a_parcel_once_and_anew_when_it_is_another(tmp_path: Path) -> None:
    shelf = Shelf(entries=4)
    paths = [tmp_path / f"{n}.parcel" for n in range(3)]
    for path in paths:
        write_parcel(path, {"n": 1}, CONTENT)
    first = [shelf.open(path) for path in paths]
    assert [shelf.open(path) is parcel for path, parcel in zip(paths[1:], first[1:], strict=True)] == [True, True]
    assert shelf.open(paths[0]) is not first[0], "the one that was opened longest ago made room"
    write_parcel(paths[0], {"n": 2}, CONTENT)
    assert shelf.open(paths[0]).summary == {"n": 2}
    content = paths[0].read_bytes()
    paths[0].write_bytes(content[:-1] + b"?")
    with pytest.raises(StorageError):
        shelf.open(paths[0])
    paths[0].unlink()
    with pytest.raises(FileNotFoundError):
        shelf.open(paths[0])


CONTENT: dict[str, npt.NDArray[Any]] = {
    "noise": np.random.default_rng(0).integers(0, 9, (3, 4, 5)).astype(np.int32),
    "even": np.zeros(1000, np.uint8),
}


def read_all(path: Path) -> dict[str, npt.NDArray[Any]]:
    parcel = open_parcel(path)
    return {name: parcel.read(name) for name in parcel.arrays}


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.parcel"
    write_parcel(path, {"n": 1}, CONTENT)
    content = path.read_bytes()
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(DamagedError, match=r"a\.parcel cannot be read"):
                read_all(path)
            with pytest.raises(DamagedError):
                open_parcel(path).check()


def test_a_piece_of_another_parcel_is_found(tmp_path: Path) -> None:
    """Whole frames of the same length at the same place: each decodes without a word."""
    paths = [tmp_path / f"{n}.parcel" for n in range(2)]
    for n, path in enumerate(paths):
        write_parcel(path, {}, {"a": np.full(4096, n, np.uint8), "b": np.full(4096, 7, np.uint8)})
    first, second = (open_parcel(path).arrays["a"]["pieces"][0] for path in paths)
    assert first[:2] == second[:2]
    content = bytearray(paths[0].read_bytes())
    content[: first[1]] = paths[1].read_bytes()[: first[1]]
    paths[0].write_bytes(content)
    with pytest.raises(DamagedError, match="checksum does not match"):
        open_parcel(paths[0]).read("a")
    assert open_parcel(paths[0]).read("b").tolist() == [7] * 4096


def test_a_parcel_says_of_what_it_is(tmp_path: Path) -> None:
    write_parcel(tmp_path / "a.parcel", {}, {}, "key mask 0.1.2")
    assert open_parcel(tmp_path / "a.parcel").of == "key mask 0.1.2"


def test_every_cut_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.parcel"
    write_parcel(path, {"n": 1}, CONTENT)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(StorageError, match=r"a\.parcel cannot be read"):
            open_parcel(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00" * 64, b"vxparcel", b"\xff" * 40])
def test_what_is_no_parcel(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.parcel").write_bytes(content)
    with pytest.raises(StorageError, match=r"delete it and run `voxcaliper resume`"):
        open_parcel(tmp_path / "a.parcel")


def test_no_parcel(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_parcel(tmp_path / "a.parcel")


def test_a_failed_write_leaves_the_old_parcel(tmp_path: Path) -> None:
    path = tmp_path / "a.parcel"
    write_parcel(path, {"n": 1}, CONTENT)

    def parts() -> Any:
        yield np.ones(9, np.uint8)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_parcel(path, {"n": 2}, {"joined": parts()})
    assert open_parcel(path).summary == {"n": 1}
    assert list(tmp_path.iterdir()) == [path]
