"""What two label volumes and a grey one say about each other, in one pass over a block.

Everything is kept per PAIR of (reference label, predicted label) that occurs and is not (0, 0): voxels, sums of the
coordinates, bounding box and the histogram of grey values. The numbers of a label of either volume are sums over its
pairs, so one look-up per run of voxels serves both volumes.

Labels and grey values are opaque patterns of one to eight bytes here, whatever their type: no value is ever rounded,
and the kernel is compiled once, not for each of a hundred combinations of types.
"""

from pipeline.kernels.structures.cpu import count_structures

__all__ = ["count_structures"]
