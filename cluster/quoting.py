"""What went wrong, as the log of a worker says it."""

from __future__ import annotations

import re
from pathlib import Path

LOG_BYTES = 64 << 10
QUOTED_CHARACTERS = 300
TELLING = re.compile(
    r"error|exception|not found|no such|denied|killed|cannot|could not|failed|fatal|timed out|quota|no space|exceeded"
    r"|refused|unable|out of memory|cancelled",
    re.IGNORECASE,
)
HARMLESS = re.compile(r"^Traceback| - INFO - |^\s*$")


def quote(log: Path) -> str:
    """The last line of a log that tells what went wrong, or its last line; "" where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    lines = [line.strip() for line in lines if not HARMLESS.search(line)]
    telling = [line for line in lines if TELLING.search(line)]
    return (telling or lines or [""])[-1][:QUOTED_CHARACTERS]
