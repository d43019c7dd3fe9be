"""Topology out of merged counts: Betti numbers and how far a prediction is from its reference. All integers.

A mask is a union of closed voxels, so its pieces are joined by 26 neighbours and its complement by 6:
b0 = components (26), b2 = cavities = components (6) of the padded complement − 1, and χ = b0 − b1 + b2 gives the
number of handles, b1 = b0 + b2 − χ26. Nothing is undefined: an empty mask has the Betti numbers 0, 0, 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.components import Connectivity


@dataclass(frozen=True)
class Topology:
    """Topology of one mask.

    components : number of components by connectivity, 6, 18 and 26.
    cavities : 6-components of the padded complement, less one (b2).
    euler_number : Euler number of the union of closed voxels (χ26).
    """

    components: Mapping[Connectivity, int]
    cavities: int
    euler_number: int

    @property
    def betti(self) -> tuple[int, int, int]:
        """Components, handles and cavities: b0, b1, b2."""
        pieces = self.components[26]
        return pieces, pieces + self.cavities - self.euler_number, self.cavities


def topology_measures(reference: Topology, prediction: Topology) -> dict[str, Any]:
    """The topology of a label by its names in comparison.json; the Betti errors are |prediction − reference|."""
    sides = {"reference": reference, "prediction": prediction}
    errors = [abs(p - r) for r, p in zip(reference.betti, prediction.betti, strict=True)]
    return {
        "euler_number": {name: side.euler_number for name, side in sides.items()},
        "components": {
            str(connectivity): {name: side.components[connectivity] for name, side in sides.items()}
            for connectivity in sorted(reference.components)
        },
        "betti": {name: list(side.betti) for name, side in sides.items()},
        "betti_error": errors,
    }
