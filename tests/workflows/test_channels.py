"""Commands take a channel and a time point of an image that has several, and a run keeps them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pipeline.volume.opening import open_volume
from tests.volume.test_channels import VOXELS, ome_zarr
from tests.workflows.conftest import Command


def test_commands_take_a_channel(tmp_path: Path, here: Command, scheduler: str) -> None:
    mask = (VOXELS > 400).astype("u1")
    image = ome_zarr(tmp_path / "i.ome.zarr", mask, "0.5")
    chosen = ("--channel", "GFP", "--time", 1)
    for without in (["info", image], ["plan", "thickness", image], ["convert", image, tmp_path / "o.ome.zarr"]):
        assert "choose one with --time" in here(*without).failure()
    shown = here("info", image, *chosen)
    assert "channel     1\n" in shown.out
    assert "time        1\n" in shown.out
    assert here("plan", "thickness", image, *chosen).code == 0
    assert here("convert", image, tmp_path / "o.ome.zarr", *chosen, "-q").code == 0
    converted = open_volume(str(tmp_path / "o.ome.zarr"))
    np.testing.assert_array_equal(converted.read(converted.box), mask[1, 1])
    single = tmp_path / "o.ome.zarr"
    assert "has not several channels" in here("info", single, "--channel", 0).failure()
    common = ("--scheduler", scheduler, "--unencrypted", "-q")
    runs = {}
    for name, source, options in (("of", image, chosen), ("from", single, ())):
        assert here("thickness", source, "--run", tmp_path / name, *options, *common).code == 0
        runs[name] = json.loads((tmp_path / name / "statistics.json").read_text())
    assert runs["of"]["thickness_um"] == runs["from"]["thickness_um"]
    asked = json.loads((tmp_path / "of" / "run.json").read_text())
    assert (asked["channel"], asked["time"]) == ("GFP", 1)
    assert here("plan", "compare", single, image, *chosen).code == 0
    assert here("compare", single, image, *chosen, "--measures", "overlap", "--run", tmp_path / "c", *common).code == 0
    assert json.loads((tmp_path / "c" / "comparison.json").read_text())["overall"]["foreground"]["dice"] == 1
    for command in ("statistics", "detect"):
        assert here(command, image, *chosen, "--run", tmp_path / command, *common).code == 0
