"""RUN.toml: the same run as from the command line, and what is said about files that are not one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.profile import SlurmProfile
from pipeline.errors import InputError
from tests.workflows.conftest import Command, noise, store
from workflows.cluster_commands import _start
from workflows.run_file import read_run_file

PROFILE = SlurmProfile.model_validate(
    {"kind": "slurm", "jobs": 1, "cores": 1, "memory": "8 GiB", "walltime": "01:00:00"}
)
THICKNESS = """\
workflow = "thickness"
run = "from-file"
mask = "mask.ome.zarr"
threshold = [0]
voxel_size_um = 2
block_shape = [32, 32, 16]
border = "closed"
device = "cpu"
"""
COMPARE = """\
workflow = "compare"
run = "from-file"
reference = "mask.ome.zarr"
prediction = "mask.ome.zarr"
tolerances_um = [0, 25]
parts = ["thickness"]
"""
STATISTICS = 'workflow = "statistics"\nrun = "from-file"\nreference = "mask.ome.zarr"\n'


@pytest.mark.parametrize(
    ("text", "command"),
    [
        (
            THICKNESS,
            "thickness MASK --threshold 0 --voxel-size-um 2 --block-shape 32,32,16 --border closed --device cpu",
        ),
        (COMPARE, "compare MASK MASK --tolerance-um 0,25 --measures thickness"),
        (
            COMPARE + "ignore_label = 255\n",
            "compare MASK MASK --tolerance-um 0,25 --measures thickness --ignore-label 255",
        ),
        (STATISTICS, "statistics MASK"),
    ],
    ids=["thickness", "compare", "ignoring", "statistics"],
)
def test_a_run_from_a_file_is_that_of_the_command_line(
    here: Command, tmp_path: Path, text: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = store(tmp_path / "mask.ome.zarr", noise((32, 32, 32)).astype("uint8"))
    (tmp_path / "run.toml").write_text(text)
    config, run = read_run_file(tmp_path / "run.toml")
    assert run == tmp_path / "from-file"
    _start(config, run, PROFILE)

    def begun(_profile: object, **options: object) -> None:
        """The run is made, and nobody works on it."""
        from cluster.open import foretold

        options["begin"](foretold(PROFILE, "cpu"))  # type: ignore[operator]
        raise InputError("That is enough.")

    monkeypatch.setattr("workflows.on_workers.carry_out", begun)
    arguments = [str(mask) if word == "MASK" else word for word in command.split()]
    assert "That is enough" in here(*arguments, "--run", tmp_path / "typed", "--quiet").failure()
    assert (run / "run.json").read_bytes() == (tmp_path / "typed" / "run.json").read_bytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mask = ", "is not TOML: "),
        ('mask = "a"', "must say workflow = 'thickness' or 'compare' or 'statistics', but it does not"),
        ('workflow = "measure"', "but 'measure' was given"),
        ('workflow = "thickness"', 'must name the folder of the run, for example run = "bone-run"'),
        ('workflow = "thickness"\nrun = "run"', "mask: field required"),
        (THICKNESS + "blocks = 3", "blocks is no key of it; there are run, level, voxel_size_um"),
        (THICKNESS + 'map = "radius"', "map: input should be 'thickness', 'squared-radius' or 'none'"),
        (
            THICKNESS.replace("[32, 32, 16]", "[32, 32]"),
            "cannot be used: block_shape: --block-shape takes 1 or 3 values, but '32,32' has 2",
        ),
    ],
)
def test_one_sentence_with_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(InputError) as raised:
        read_run_file(tmp_path / "run.toml")
    sentence = str(raised.value)
    assert words in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_a_profile_of_another_kind(here: Command, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(THICKNESS)
    (tmp_path / "profile.toml").write_text('kind = "local"\n')
    done = here("submit", tmp_path / "run.toml", "--profile", tmp_path / "profile.toml")
    assert 'is of kind "local"; a run is submitted to kind = "slurm"' in done.failure()
