"""Folders in places that several users share: this user's own, reached through nothing that others may exchange."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def make_own(folder: Path) -> str:
    """Make a folder with mode 0700 where there is none; "" where it is this user's alone, else what is wrong with it.

    It must belong to this user, be no link, and let nobody else in; and none of the folders around it may be writable
    by everybody, unless only owners may rename what is in it (the sticky bit, as /tmp has it): others could put their
    own in its place. Raises OSError where it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        return "is not a folder of this user alone (mode 0700)"
    for above in {*folder.absolute().parents, *Path(os.path.realpath(folder)).parents}:
        mode = above.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            return f"lies in {above}, where everybody may rename it (mode {stat.S_IMODE(mode):o}, not sticky)"
    return ""
