"""Files that are there whole or not at all, however the writer ends: a temporary name beside, then a rename.

And the checksums by which what became of them later is told.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from pipeline.errors import StorageError

PARTIAL = ".partial"
"""Ending of the temporary names; what carries it and belongs to no living process may be removed."""
SUM_BYTES = 1 << 20
"""So much of a file is held while it is summed up."""
_TEMPORARY = re.compile(r".+\.[0-9a-f]{32}\.partial")


def temporary_name(path: Path | str) -> str:
    """A name beside a path that nobody else has."""
    return f"{path}.{uuid4().hex}{PARTIAL}"


def is_temporary(name: str) -> bool:
    """Whether a name is one of temporary_name, and not of somebody else who calls things partial."""
    return _TEMPORARY.fullmatch(name) is not None


@contextlib.contextmanager
def whole_file(path: Path, *, flush: bool = True) -> Iterator[BinaryIO]:
    """A binary file to write, which gets its name when the block ends without an error. Raises OSError as it comes.

    flush : wait until the disk has it, under its name; not needed for what carries checksums and can be made again.
    """
    temporary = temporary_name(path)
    try:
        with _opened(temporary) as file:
            yield file
            if flush:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if flush:
            sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _opened(path: str) -> BinaryIO:
    """A new file, and its folders where they are not there yet: a folder takes many files, so they mostly are."""
    try:
        return open(path, "wb")
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return open(path, "wb")


def write_whole(path: Path, text: str) -> None:
    """Write a UTF-8 text file. Raises StorageError where it cannot be written."""
    try:
        with whole_file(path) as file:
            file.write(text.encode("utf-8"))
    except OSError as error:
        raise StorageError(
            f"{path} could not be written: {error.strerror or error}; make room or mend the permissions there,"
            " then resume the run."
        ) from error


def write_json(path: Path, content: Any, *, sort_keys: bool = False) -> None:
    """Write a JSON file; equal contents give equal bytes. Raises StorageError where it cannot be written."""
    text = json.dumps(content, indent=2, sort_keys=sort_keys, allow_nan=False, ensure_ascii=False)
    write_whole(path, text + "\n")


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder, where its file system can say so (power may be cut)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_sum(path: Path, *, durable: bool = False) -> tuple[int, str]:
    """Bytes of a file, and their SHA-256 in hexadecimal digits. Raises OSError as it comes.

    durable : wait until the disk has them; its name may need sync_folder, which is dear where many files share one.
    """
    summed, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(SUM_BYTES):
            summed.update(piece)
            size += len(piece)
        if durable:
            os.fsync(file.fileno())
    return size, summed.hexdigest()


def json_sum(content: Any) -> str:
    """SHA-256 of what is ready for JSON: equal contents have equal ones, in whatever order their keys are."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def as_text(file: BinaryIO) -> Iterator[io.TextIOWrapper]:
    """A binary file as text that leaves it open."""
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    try:
        yield text
    finally:
        text.flush()
        text.detach()
