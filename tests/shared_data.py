"""Real volumes that lie beside the project, in ../shared/data. They are optional: without them their tests skip."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared_data(name: str) -> Path:
    """The path of a shared file or folder, such as "cotton/cotton_test_volume.tif".

    Skips the test that asks where there is no shared data at all; a name that is missing from it is an error.
    """
    if not FOLDER.is_dir():
        pytest.skip(f"needs the optional shared data ({name}), and there is no folder ../shared/data")
    path = FOLDER / name
    if not path.exists():
        raise FileNotFoundError(f"the shared data hold no {name}: correct the name in the test")
    return path
