"""google-deepmind's surface-distance 0.1 as it is, under a NumPy that no longer has the names it uses.

Its distances and areas are of surface elements: corners between voxels that are not all alike. Axes and spacing are in
the order of the array, so (z, y, x) here. It warns of names that SciPy is going to drop, and divides 0 by 0 where a
mask is empty.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from tests.phantoms import Mask

pytest.importorskip("surface_distance", reason="surface-distance is a peer of the extra bench and is not installed")

Spacing = tuple[float, float, float]


@contextlib.contextmanager
def _as_it_was() -> Iterator[Any]:
    """The package, with the two names that NumPy 2 dropped, and without its warnings."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import surface_distance

        for name, value in (("Inf", np.inf), ("NaN", np.nan)):
            patch.setattr(np, name, value, raising=False)
        yield surface_distance


@dataclass(frozen=True)
class Surfels:
    """What surface-distance finds in a pair: distances (µm) and areas (µm²) of the elements of both surfaces."""

    found: dict[str, Any]

    @staticmethod
    def of(reference: Mask, prediction: Mask, spacing: Spacing) -> Surfels:
        with _as_it_was() as package:
            return Surfels(package.compute_surface_distances(reference, prediction, spacing))

    def robust_hausdorff(self, percent: float) -> float:
        return float(self._asked("compute_robust_hausdorff", percent))

    def surface_dice(self, tolerance: float) -> float:
        return float(self._asked("compute_surface_dice_at_tolerance", tolerance))

    def average_distances(self) -> tuple[float, float]:
        """From the reference to the prediction, and back."""
        there, back = self._asked("compute_average_surface_distance")
        return float(there), float(back)

    def _asked(self, name: str, *arguments: float) -> Any:
        with _as_it_was() as package:
            return getattr(package, name)(self.found, *arguments)


def areas_of_codes(spacing: Spacing) -> npt.NDArray[np.float64]:
    """The area of the elements at a corner by its code, (256,)."""
    with _as_it_was():
        from surface_distance import lookup_tables

        return cast("npt.NDArray[np.float64]", lookup_tables.create_table_neighbour_code_to_surface_area(spacing))
