"""What is read off a block of component numbers: their labels, their sums and boxes, and which of them touch.

Component numbers are uint32 arrays (z, y, x) with the components 1 … n and 0 where there is none. Nothing here knows
other blocks.
"""

from pipeline.kernels.components.cpu import adjacent_pairs, describe, join, labels_of, only_neighbour, reduce_forests

__all__ = ["adjacent_pairs", "describe", "join", "labels_of", "only_neighbour", "reduce_forests"]
