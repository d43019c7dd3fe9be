"""What a block knows of the surface of a mask: its elements, the distances found at them, and the layers below it.

Two kinds of surface elements: surface voxels (mask voxels with a background voxel among their six neighbours) and
corners of voxels whose eight voxels are neither all background nor all mask. The code of a corner (z, y, x) has a bit
for each voxel around it, most significant first: (z−1, y−1, x−1), (z−1, y−1, x), (z−1, y, x−1), (z−1, y, x),
(z, y−1, x−1), (z, y−1, x), (z, y, x−1), (z, y, x), the order of google-deepmind/surface-distance.

Masks are uint8 of 0 and 1 (z, y, x). Layers are found by looking at most `reach` voxels far, which is exact below it.
"""

from pipeline.kernels.surface.cpu import (
    UNREACHABLE,
    chebyshev_depth,
    corner_codes,
    count_distances,
    count_layers,
    mixed_corners,
    squared_depth,
    surface_voxels,
)

__all__ = [
    "UNREACHABLE",
    "chebyshev_depth",
    "corner_codes",
    "count_distances",
    "count_layers",
    "mixed_corners",
    "squared_depth",
    "surface_voxels",
]
