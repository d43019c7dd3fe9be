"""What the tests of commands have, here too."""

from __future__ import annotations

from tests.workflows.conftest import here, mask

__all__ = ["here", "mask"]
