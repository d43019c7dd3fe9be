"""Count the voxels of every (label, squared radius): the mergeable summary of a block of thickness."""

from pipeline.kernels.tally.cpu import count_pairs

__all__ = ["count_pairs"]
