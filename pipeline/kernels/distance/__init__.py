"""Exact squared distance to the background, one axis after the other, block by block.

The squared Euclidean distance is separable: along x, then y, then z, every column is replaced by the lower
envelope of the parabolas that stand on its voxels (Felzenszwalb & Huttenlocher 2012, Meijster et al. 2000; all
intersections are integers here). A column that is cut by block faces needs of the blocks beyond only the parabolas
that are the lowest somewhere on this side of the face: `export_parabolas` finds them, `relax_parabolas` lowers a
column by them. A parabola that is nowhere lowest beyond the face can never matter there, so any radius is exact.

Layout: a column axis is the middle one of a contiguous array (outer, n, inner); x is (z·y, x, 1), y is (z, y, x)
and z is (1, z, y·x). Distances are int32 or int64 in units of unit_um²; UNREACHED stands for "no background yet".
"""

from pipeline.kernels.distance.cpu import (
    distance_along_lines,
    envelope_along_columns,
    export_parabolas,
    relax_parabolas,
    relax_wall,
    unreached,
)

__all__ = [
    "distance_along_lines",
    "envelope_along_columns",
    "export_parabolas",
    "relax_parabolas",
    "relax_wall",
    "unreached",
]
