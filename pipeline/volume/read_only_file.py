"""What all files have in common that are read in parts, wherever their bytes come from."""

from __future__ import annotations

import io


class ReadOnlyFile(io.RawIOBase):
    """A position in so many bytes; what lies there, `readinto` says."""

    def __init__(self, size: int) -> None:
        self.size, self._position = size, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        position = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence] + offset
        if position < 0:
            raise OSError("before the beginning")
        self._position = position
        return position

    def tell(self) -> int:
        """As of any file."""
        return self._position

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True
