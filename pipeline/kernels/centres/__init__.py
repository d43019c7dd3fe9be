"""Ball centres that matter: prune those whose ball lies inside another one, pack the rest into cells and bricks.

Containment (exact): the ball of q is the set of voxels with |p − q|² < D(q). If it is contained in the ball of
another foreground voxel q + v, then q is never needed, because D(q + v) > D(q) on all of it; chains of containment
end at a kept ball. The test reads D alone, so a neighbour that lies in another block merely keeps more centres.
  * table test, small balls and the 26 neighbours: D(q + v) ≥ table_v[D(q)],
    table_v[d] = 1 + max { |p + v|² : |p|² ≤ d − 1 };
  * continuous test, any v and radius: with a = D' − D − |v|² + 1, contained if a > 2·|v|·√(D − 1).
Large balls are tested along the gradient of D too, where a better centre is most likely to be.

Layout: a block is cut into cells of CELL³ voxels and these into bricks of BRICK³; a cell's centres are stored brick
by brick (C order), largest D first, as D (int32 or int64) and position inside the brick (uint16, z·64 + y·8 + x).
"""

from pipeline.kernels.centres.cpu import BRICK, BRICKS_PER_CELL, CELL, containment_tables, count_kept, pack_cell, prune

__all__ = ["BRICK", "BRICKS_PER_CELL", "CELL", "containment_tables", "count_kept", "pack_cell", "prune"]
