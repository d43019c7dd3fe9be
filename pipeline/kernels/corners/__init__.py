"""How often each label has each of the 256 codes of a 2×2×2 neighbourhood, all labels in one pass.

A corner is where eight voxels meet; corner k of an axis lies between the voxels k − 1 and k. Its code for a label has
a bit for each of the eight voxels that has the label, 128 for the one with the lowest (z, y, x), then along x, y and
z down to 1 for the highest: the code of google-deepmind's surface-distance. Surface area and Euler number are sums of
a table over the codes, and every corner belongs to one block, so the counts of blocks add up. Label 0 stands for the
foreground, the mask of any label at all.
"""

from pipeline.kernels.corners.cpu import count_corner_codes

__all__ = ["count_corner_codes"]
