"""Which blocks travel together: neighbours along x, some seconds of work, and few enough to leave everybody some.

What is not handed out yet is kept as runs of block numbers (C order), so a stage of a million blocks is a few integers.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

BATCH_SECONDS = 5.0
"""What a batch should take: much longer than the scheduler takes for it, much shorter than anybody waits."""
MOST_BLOCKS = 4096
"""Blocks of a batch, at the most: bounds the message that tells of them."""
SHARES_PER_THREAD = 4
"""A batch takes at most this part of a thread's share of what is left, so the last ones are short."""


@dataclass
class Pace:
    """Seconds that a block takes, by the latest batches: each counts half as much as the next."""

    blocks: float = 0.0
    seconds: float = 0.0

    def note(self, blocks: int, seconds: float) -> None:
        self.blocks = self.blocks / 2 + blocks
        self.seconds = self.seconds / 2 + seconds

    def batch_size(self, left: int, threads: int) -> int:
        """Blocks that make a batch; one while nothing is known. left : blocks; threads : that share them."""
        fair = left // (SHARES_PER_THREAD * threads)
        if not self.blocks:
            return 1
        enough = int(min(BATCH_SECONDS * self.blocks / max(self.seconds, 1e-9), MOST_BLOCKS))
        return max(1, min(enough, fair))


class Backlog:
    """The blocks of a stage that nobody works on. row : blocks along x."""

    def __init__(self, blocks: int, row: int) -> None:
        self._runs = deque([range(blocks)] if blocks else [])
        self._row = row
        self._left = blocks

    def __len__(self) -> int:
        return self._left

    def take(self, most: int) -> range:
        """The next blocks, at most so many: part of a row of blocks along x, or whole rows."""
        run = self._runs.popleft()
        to_row_end = min(len(run), self._row - run.start % self._row)
        if most < to_row_end:
            pieces = -(-to_row_end // most)
            taken = -(-to_row_end // pieces)
        elif run.start % self._row:
            taken = to_row_end
        else:
            taken = min(most, len(run))
            if taken < len(run):
                taken -= (run.start + taken) % self._row
        if taken < len(run):
            self._runs.appendleft(run[taken:])
        self._left -= taken
        return run[:taken]

    def give_back(self, blocks: range) -> None:
        """Blocks that were taken and not done."""
        if blocks:
            self._runs.append(blocks)
            self._left += len(blocks)
