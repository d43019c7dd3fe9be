"""What the commands have in common: options, how their text is read, and what is said while they work."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import typer

from cluster.local import DeviceChoice, Workers
from cluster.open import foretold, open_cluster
from cluster.profile import LocalProfile, Profile, SchedulerProfile, read_profile
from pipeline.engine import Client
from pipeline.errors import InputError
from pipeline.geometry import Index, VoxelSize
from pipeline.plain_text import lines, one_line
from pipeline.volume.opening import Volume
from workflows.config import BoxChoice
from workflows.outlet import standard_error


def numbers(text: str, *, name: str, counts: tuple[int, ...]) -> tuple[float, ...]:
    """The numbers of a comma-separated option."""
    try:
        values = tuple(float(part) for part in text.replace(" ", ",").split(",") if part)
    except ValueError as error:
        raise InputError(f"{name} takes numbers separated by commas, but {text!r} was given.") from error
    if len(values) not in counts:
        raise InputError(f"{name} takes {' or '.join(map(str, counts))} values, but {text!r} has {len(values)}.")
    return values


def voxel_size_of(text: str | None) -> tuple[float, float, float] | tuple[float, float] | None:
    """--voxel-size-um: one length, three (z, y, x), or two of one plane (y, x), in µm."""
    if text is None:
        return None
    values = numbers(text, name="--voxel-size-um", counts=(1, 2, 3))
    if len(values) == 2:
        return VoxelSize((values[0], *values)).um[1:]
    z, y, x = values * (3 // len(values))
    return VoxelSize((z, y, x)).um


def block_shape_of(text: str | None) -> Index | None:
    """--block-shape: one side or three (z, y, x), in voxels."""
    if text is None:
        return None
    values = numbers(text, name="--block-shape", counts=(1, 3))
    if any(not value.is_integer() or value < 1 for value in values):
        raise InputError(f"--block-shape takes whole numbers of at least 1, but {text!r} was given.")
    z, y, x = (int(value) for value in values * (3 // len(values)))
    return z, y, x


def threshold_of(text: str | None) -> tuple[float] | tuple[float, float] | None:
    """--threshold: LOW or LOW,HIGH, in grey values."""
    if text is None:
        return None
    low, *high = numbers(text, name="--threshold", counts=(1, 2))
    return (low, high[0]) if high else (low,)


MaskArgument = Annotated[
    str, typer.Argument(help="Volume with the mask: Zarr, N5, folder of slices, TIFF, NIfTI or .npy (path or URL).")
]
RunOption = Annotated[Path, typer.Option("--run", help="Folder of the run: configuration, ledger, log and results.")]
LevelOption = Annotated[int, typer.Option(help="Level of the pyramid to measure.", min=0)]
LabelOption = Annotated[int | None, typer.Option(help="Foreground is this value (default: any value but 0).")]
ThresholdOption = Annotated[
    str | None, typer.Option(metavar="LOW[,HIGH]", help="Foreground is LOW < value (≤ HIGH), for grey volumes.")
]
VoxelSizeOption = Annotated[
    str | None,
    typer.Option(
        "--voxel-size-um", metavar="UM|Z,Y,X", help="Voxel size (of one plane also Y,X); default: from the metadata."
    ),
]
ChannelOption = Annotated[
    str | None, typer.Option(metavar="N|NAME", help="Channel of an image with several, from 0, or its name.")
]
TimeOption = Annotated[int | None, typer.Option(metavar="N", help="Time point of an image with several.", min=0)]
BorderOption = Annotated[str, typer.Option(help="What lies outside of the volume: unknown or closed (background).")]
RegionsOption = Annotated[str | None, typer.Option(help="Label volume of the same grid: statistics per label too.")]
MapOption = Annotated[str, typer.Option("--map", help="What to store: thickness (µm), squared-radius or none.")]
BoxOption = Annotated[
    str | None,
    typer.Option(help="Where volumes are cut-outs of one grid: reference (its box) or common (what all hold)."),
]
IgnorePlaceOption = Annotated[
    bool, typer.Option("--ignore-place", help="Lay volumes on each other voxel by voxel, wherever they lie.")
]
BlockOption = Annotated[
    str | None, typer.Option("--block-shape", metavar="N|Z,Y,X", help="Voxels of a block; default: from the memory.")
]
WorkersOption = Annotated[int | None, typer.Option(help="Worker processes; default: one per core.", min=1)]
SchedulerOption = Annotated[str | None, typer.Option(help="Address of a running Dask scheduler to use instead.")]
ProfileOption = Annotated[
    Path | None, typer.Option("--profile", help="TOML file that says where workers run; see `voxcaliper cluster`.")
]
UnencryptedOption = Annotated[
    bool, typer.Option("--unencrypted", help="Take a scheduler although it is not encrypted.")
]
DeviceOption = Annotated[str, typer.Option(help="Where the kernels run: auto (GPU where there is one), cpu or gpu.")]
RestartOption = Annotated[
    bool, typer.Option("--restart", help="Where this run lies in the folder already: remove what it made, begin anew.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print the results only.")]
KeepOption = Annotated[bool, typer.Option("--keep-scratch", help="Keep the intermediate files.")]


def profile_of(profile: Path | None, workers: int | None, scheduler: str | None, *, unencrypted: bool) -> Profile:
    """--profile, --workers and --scheduler, of which one is enough."""
    if sum(given is not None for given in (profile, workers, scheduler)) > 1:
        raise InputError("--profile, --workers and --scheduler exclude each other; give one of them.")
    if profile is not None:
        return read_profile(profile)
    if scheduler is not None:
        return SchedulerProfile(address=scheduler, unencrypted=unencrypted)
    return LocalProfile(workers=workers)


def offer_of(profile: Profile, device: DeviceChoice) -> Workers:
    """What the workers of a profile offer; a running cluster is asked, nothing is started."""
    offer = foretold(profile, device)
    if offer is not None:
        return offer
    with open_cluster(profile, device=device, say=say) as (_, running):
        return running


def device_of(text: str) -> DeviceChoice:
    """--device."""
    if text in ("auto", "cpu", "gpu"):
        return text  # type: ignore[return-value]
    raise InputError(f"--device must be auto, cpu or gpu, but {text!r} was given.")


def border_of(text: str) -> Literal["unknown", "closed"]:
    """--border."""
    if text in ("unknown", "closed"):
        return text  # type: ignore[return-value]
    raise InputError(f"--border must be unknown or closed, but {text!r} was given.")


def box_of(text: str | None) -> BoxChoice | None:
    """--box."""
    if text in (None, "reference", "common"):
        return text  # type: ignore[return-value]
    raise InputError(f"--box must be reference or common, but {text!r} was given.")


def say(text: str, *, quiet: bool = False) -> None:
    """To standard error, where answers do not go."""
    if not quiet:
        print(lines(text), file=standard_error(), flush=True)


def warn_of(volumes: Iterable[Volume]) -> None:
    """Say what is wrong in the metadata of volumes and was read all the same."""
    for warning in sorted({text for volume in volumes for text in volume.warnings}):
        say(f"voxcaliper: warning: {one_line(warning)}")


def introduce(client: Client, offer: Workers, *, quiet: bool) -> None:
    """Where the kernels run, and where to watch."""
    cards = ", ".join(sorted({card.name for card in offer.cards}))
    say(f"device    {f'GPU ({len(offer.cards)} × {cards})' if cards else 'CPU'}", quiet=quiet)
    say(f"dashboard {shown(client.dashboard_link)}", quiet=quiet)


def shown(dashboard: str) -> str:
    """The address of a dashboard for a terminal; a log, which others may read, does not get one with a token."""
    if sys.stderr.isatty() or urlsplit(dashboard).path.count("/") < 2:
        return dashboard
    return f"{urlsplit(dashboard).netloc}, its whole address: `voxcaliper status`"
