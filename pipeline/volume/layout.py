"""Whether the chunks of an array lie where its document says: a cheap look at the first stored objects.

By the letter of Zarr, chunks under other names are absent, so that all voxels are the fill value, without a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice

from pipeline.errors import InputError
from pipeline.volume.stored_objects import PAGE
from pipeline.volume.stores import RefusedError, Store

CHUNK = re.compile(r"(c[./])?\d+([./]\d+)*")
"""What chunks are called in all layouts there are."""


def check_layout(store: Store, folder: str, is_object: Callable[[str], bool], example: str) -> tuple[str, ...]:
    """A warning where nothing of an array is stored; nothing where that cannot be told with one request.

    folder : of the array in the store. is_object : whether a key is one of its objects. example : the first of them.
    Raises InputError where none of the first PAGE objects is one of the array, but some are called as chunks are.
    """
    if not store.can_list:
        return ()
    where, other = store.address(folder), None
    try:
        for key, _ in islice(store.list(folder), PAGE):
            if is_object(key):
                return ()
            own = key.removeprefix(folder).lstrip("/")
            other = other or (own if CHUNK.fullmatch(own) else None)
    except RefusedError:  # objects may be open to us although the list of them is not
        return ()
    if other is not None:
        raise InputError(
            f"{where} holds chunks with names like {other}, but its document asks for names like"
            f" {example}, of which there is none: all voxels would read as the fill"
            " value; mend the document (dimension_separator, chunk_key_encoding), or write the volume again."
        )
    return (f"{where} has no stored chunk: every voxel reads as the fill value.",)
