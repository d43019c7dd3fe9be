"""Squared local radius by gathering: every tile collects the balls that reach it, largest first.

T(p) = max { D(q) : |p − q|² < D(q) } over the kept centres q, for a tile of TILE³ voxels at a time. Bricks of centres
that can reach the tile are visited in descending order of their largest D; the visit ends when that is no larger
than the smallest T of the tile's foreground. A centre is tested against all 4³ sub-tiles at once (does its ball
reach one whose smallest T is still below D?), and updates those that remain, 64 voxels at once. A maximum does not
depend on the order, so tiles, batches of centres and blocks may come in any order with the same result.

T (z, y, x) is updated in place, so centres can come in batches. Background voxels hold `sealed(dtype)` during the
gather, which no ball can raise and no minimum sees; `seal` and `unseal` put it there and take it away.
"""

from pipeline.kernels.thickness.cpu import TILE, gather, seal, sealed, still_useful, tile_minima, to_thickness, unseal

__all__ = ["TILE", "gather", "seal", "sealed", "still_useful", "tile_minima", "to_thickness", "unseal"]
