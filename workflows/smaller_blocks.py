"""A run begins again in smaller blocks where those of its plan fit no worker, or no card, after all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from cluster.local import Workers
from pipeline.comparison import ComparisonJob
from pipeline.errors import DeviceMemoryError, LostWorkersError
from pipeline.files import write_json
from pipeline.job import ThicknessJob
from workflows.run_folder import RunFolder
from workflows.watching import Watch

J = TypeVar("J", ThicknessJob, ComparisonJob)
Totals = dict[str, dict[str, Any]]


def in_blocks_that_fit(
    measure: Callable[[J], Totals], job: J, smaller: Callable[[J], J | None], *, workers: Workers, watch: Watch,
    say: Callable[[str], None],
) -> tuple[Totals, J]:  # fmt: skip
    """What `measure` returns, and the job in whose blocks it was done.

    smaller : plans the run anew in the next smaller blocks; None where the plan may not choose them or has none.
    Raises what `measure` raises; of workers that died, only where no task could have more memory beside fewer others.
    """
    while True:
        try:
            return measure(job), job
        except (DeviceMemoryError, LostWorkersError) as error:
            if isinstance(error, LostWorkersError) and workers.more_memory:
                raise  # fewer tasks at a time come first: they need no block again
            found = smaller(job)
            if found is None:
                raise
            job = found
            retold = f"{error} The run begins again with blocks of {job.grid.block_shape} voxels."
        watch.log.warning(retold)
        say(retold)
        watch.look_again()


def begin_again(run: RunFolder, leftovers: Iterable[Path], plan: BaseModel) -> None:
    """Remove what larger blocks left, and file the plan of smaller ones."""
    for folder in leftovers:
        shutil.rmtree(folder, ignore_errors=True)
    write_json(run.path / "plan.json", plan.model_dump(mode="json"))
