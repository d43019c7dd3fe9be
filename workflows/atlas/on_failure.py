"""The command that is called when an unattended run failed: words, no shell, with what it needs to know around it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

SECONDS = 60.0
"""So long it may take."""


def call_on_failure(
    command: Sequence[str], text: str, environment: Mapping[str, str], folder: Path, log: BinaryIO | None
) -> str:
    """Call the command; one sentence about what went wrong with it, "" where nothing did.

    text : its standard input. environment : variables for it, beside those of this process. folder : where it runs, so
    that ./notify is a file beside the manifest. log : where its own words go, None for those of this process.
    """
    what = f"The command on_failure ({command[0]})"
    with tempfile.TemporaryFile() as file:
        file.write(text.encode("utf-8", "surrogateescape"))
        file.seek(0)
        try:
            process = subprocess.Popen(  # noqa: S603  the words of the manifest
                list(command), stdin=file, stdout=log, stderr=log, cwd=folder if folder.is_dir() else None,
                env={**os.environ, **environment}, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return f"{what} cannot be started: {error.strerror}."
    try:
        code = process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"{what} was ended after {SECONDS:g} s."
    return f"{what} ended with exit code {code}." if code else ""
