"""The painter that real volumes are compared with equals the definition itself."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.kernels.reference import squared_local_radius
from tests.peers import painter
from tests.phantoms import Mask, masks


@settings(max_examples=40)
@given(mask=masks(largest=18), spacing=st.sampled_from([(1, 1, 1), (30, 7, 7), (1, 2, 3)]), closed=st.booleans())
def test_the_painter_equals_the_definition(mask: Mask, spacing: painter.Spacing, *, closed: bool) -> None:
    if mask.all() and not closed:
        return
    weights = (spacing[0] ** 2, spacing[1] ** 2, spacing[2] ** 2)
    exact = squared_local_radius(mask, weights, closed=closed)
    assert np.array_equal(painter.squared_local_radius(mask, spacing, closed=closed), exact)
