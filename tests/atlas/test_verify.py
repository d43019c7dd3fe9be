"""`voxcaliper verify` of a release: every current version, and no other."""

from __future__ import annotations

from pathlib import Path

from tests.atlas.releases import Atlas, change_voxel, labels
from tests.workflows.conftest import Command
from tests.workflows.runs import flip


def test_every_current_version_is_read(here: Command, scheduler: str, tmp_path: Path) -> None:
    atlas = Atlas(
        tmp_path, here, f'kind = "scheduler"\naddress = "{scheduler}"\nunencrypted = true\n', head={"keep": 2}
    )
    atlas.add("one", labels(0), workflows=["statistics"])
    atlas.add("two", labels(1), workflows=["thickness"])
    assert atlas.run().code == 0
    old = atlas.versions("one/statistics")
    change_voxel(atlas.volume("one"))
    assert atlas.run().code == 0
    for what in (atlas.root, atlas.manifest):
        done = here("verify", what)
        assert (done.code, done.err) == (0, ""), done
        assert [line.split()[:2] for line in done.out.splitlines()] == [
            ["whole", "one/statistics"], ["whole", "two/thickness"]
        ]  # fmt: skip
    flip(atlas.entry("one/statistics") / "versions" / old[0] / "statistics.json", 40)
    assert here("verify", atlas.root).code == 0, "nobody is shown the older one"
    version = atlas.entry("two/thickness") / "current"
    shard = next(path for path in (version / "thickness.ome.zarr" / "0" / "c").rglob("*") if path.is_file())
    flip(shard, 40)
    done = here("verify", atlas.manifest)
    assert done.code == 1
    assert str(shard.relative_to(version)) in done.out
    assert "whole    one/statistics" in done.out
    flip(shard, 40)
    assert here("verify", atlas.root).code == 0
    (version / "statistics.json").unlink()
    done = here("verify", atlas.root)
    assert done.code == 1
    assert "damaged  two/thickness has no current version that is whole" in done.out
