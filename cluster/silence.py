"""How long a worker has not answered.

Only the time is counted in which this process ran itself: one that was stopped, or a machine that slept, blames nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

SILENT_SECONDS = 90.0
"""A worker that does not answer for so long is taken for lost: it is ended, and its blocks are done again."""
LONGEST_TICK_SECONDS = 2.0
"""More is not counted for one look, whatever the clock says."""


@dataclass
class Silence:
    """seconds : since a worker was heard of. heard : when that was, by the clock of the scheduler."""

    seconds: float = 0.0
    heard: float | None = None

    def hear(self, heard: float | None, elapsed: float) -> None:
        """Take in when the scheduler heard last of the worker, None where it does not know it."""
        if heard is not None and heard != self.heard:
            self.heard, self.seconds = heard, 0.0
        else:
            self.seconds += min(elapsed, LONGEST_TICK_SECONDS)
