"""Files and folders of an output root: listed, removed, linked and read so that a kill at any moment leaves no half.

Links lead elsewhere: nothing is listed, and so nothing removed, behind one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.errors import StorageError
from pipeline.files import is_temporary, temporary_name

R = TypeVar("R", bound=BaseModel)


def folder_bytes(folder: Path, *, without: str = "") -> int:
    """Bytes of all files below a folder, links not followed; 0 where there is none. without : a file at its top."""
    total, waiting = 0, [str(folder)]
    while waiting:
        top = waiting.pop()
        try:
            with os.scandir(top) as found:
                for one in found:
                    if one.is_dir(follow_symlinks=False):
                        waiting.append(one.path)
                    elif not (top == str(folder) and one.name == without):
                        total += one.stat(follow_symlinks=False).st_size
        except OSError:  # removed meanwhile, or closed to us
            continue
    return total


def folders_in(folder: Path) -> list[str]:
    """Names of the real folders in a real folder; none where there is none that can be listed."""
    return [name for name in names_in(folder) if (folder / name).is_dir() and not (folder / name).is_symlink()]


def names_in(folder: Path) -> list[str]:
    """Names of what lies in a real folder; none where there is none that can be listed."""
    try:
        return [] if folder.is_symlink() else sorted(os.listdir(folder))
    except OSError:
        return []


def sweep(folder: Path) -> None:
    """Remove what has a temporary name of ours: the next time, where something keeps it now."""
    for name in names_in(folder):
        if is_temporary(name):
            remove(folder / name)


def remove(path: Path) -> None:
    """Remove a file or folder; first its name, so that nobody finds half of it.

    What cannot be removed (a file that a reader has open on NFS, say) keeps a temporary name, and mend tries it again.
    """
    with contextlib.suppress(OSError):
        doomed = path
        if not is_temporary(path.name):
            doomed = Path(temporary_name(path))
            os.rename(path, doomed)
        if doomed.is_symlink() or not doomed.is_dir():
            doomed.unlink()
        else:
            shutil.rmtree(doomed, ignore_errors=True)


def replace_link(path: Path, target: str) -> None:
    """Replace a symbolic link in one step. Raises StorageError where the file system has none."""
    temporary = temporary_name(path)
    try:
        os.symlink(target, temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(
            f"{path} cannot point to {target}: {error.strerror}; an output needs a file system with symbolic links."
        ) from error


def read_record(kind: type[R], path: Path) -> R | None:
    """A record; None where there is none or it is damaged, which then counts as not made. Raises StorageError."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValidationError, UnicodeDecodeError):
        return None
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> StorageError:
    """The sentence about a file that is there and cannot be read."""
    return StorageError(f"{path} cannot be read: {error.strerror or error}; mend it or the permissions there.")
