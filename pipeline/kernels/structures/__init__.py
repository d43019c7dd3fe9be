"""What two label volumes and a grey one say about each other, in one pass over a block.

Everything is kept per PAIR of (reference label, predicted label) that occurs and is not (0, 0): voxels, sums of the
coordinates, bounding box and the histogram of grey values. The numbers of a label of either volume are sums over its
pairs, so one look-up per run of voxels serves both volumes.

Labels and grey values are opaque unsigned patterns here: the station views signed integers and floats as the unsigned
integers of their width, so four types are compiled for each and no value is ever rounded.
"""

from pipeline.kernels.structures.cpu import count_structures

__all__ = ["count_structures"]
