"""The command line."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

import typer

from cluster.profile import Profile
from pipeline.engine import Progress
from pipeline.errors import InputError, VoxcaliperError
from pipeline.geometry import VoxelSize
from pipeline.plain_text import PlainLines, one_line
from workflows import cluster_commands, comparison_commands
from workflows.atlas.commands import atlas
from workflows.atlas.inventory_command import inventory
from workflows.config import ThicknessConfig
from workflows.lock import BUSY, LockedError
from workflows.options import (
    BlockOption,
    BorderOption,
    BoxOption,
    ChannelOption,
    DeviceOption,
    IgnorePlaceOption,
    KeepOption,
    LabelOption,
    LevelOption,
    MapOption,
    MaskArgument,
    ProfileOption,
    QuietOption,
    RegionsOption,
    RestartOption,
    RunOption,
    SchedulerOption,
    ThresholdOption,
    TimeOption,
    UnencryptedOption,
    VoxelSizeOption,
    WorkersOption,
    block_shape_of,
    border_of,
    box_of,
    device_of,
    offer_of,
    profile_of,
    say,
    threshold_of,
    voxel_size_of,
    warn_of,
)
from workflows.outlet import drain
from workflows.progress import reporter
from workflows.run_folder import RunFolder

app = typer.Typer(
no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip
INTERRUPTED = 130
"""The exit code that typer gives a KeyboardInterrupt, as shells do."""


def _config(
    mask: str, level: int, label: int | None, threshold: str | None, voxel_size_um: str | None, border: str,
    regions: str | None, map_kind: str, box: str | None, ignore_place: bool, block_shape: str | None, device: str, *,
    keep_scratch: bool, channel: str | None, time: int | None,
) -> ThicknessConfig:  # fmt: skip
    if map_kind not in ("thickness", "squared-radius", "none"):
        raise InputError(f"--map must be thickness, squared-radius or none, but {map_kind!r} was given.")
    from pipeline.volume.opening import absolute_location

    return ThicknessConfig(
        mask=absolute_location(mask),
        level=level,
        channel=channel,
        time=time,
        label=label,
        threshold=threshold_of(threshold),
        voxel_size_um=voxel_size_of(voxel_size_um),
        border=border_of(border),
        regions=absolute_location(regions) if regions is not None else None,
        map=map_kind,
        box=box_of(box),
        ignore_place=ignore_place,
        block_shape=block_shape_of(block_shape),
        device=device_of(device),
        keep_scratch=keep_scratch,
    )


@app.command()
def thickness(
    mask: MaskArgument, run: RunOption, level: LevelOption = 0, channel: ChannelOption = None, time: TimeOption = None,
    label: LabelOption = None,
    threshold: ThresholdOption = None, voxel_size_um: VoxelSizeOption = None, border: BorderOption = "unknown",
    regions: RegionsOption = None, map_kind: MapOption = "thickness", box: BoxOption = None,
    ignore_place: IgnorePlaceOption = False, block_shape: BlockOption = None,
    workers: WorkersOption = None, scheduler: SchedulerOption = None, profile: ProfileOption = None,
    unencrypted: UnencryptedOption = False, device: DeviceOption = "auto",
    keep_scratch: KeepOption = False, restart: RestartOption = False, quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Measure the exact local thickness of a mask.

    Leaves a map, statistics, a histogram and a report in the run folder.
    """
    from workflows.on_workers import carry_out
    from workflows.run_folder import run_to_restart
    from workflows.run_thickness import execute, reopen, start
    from workflows.run_thickness import restart as restart_thickness

    config = _config(
        mask, level, label, threshold, voxel_size_um, border, regions, map_kind, box, ignore_place,
        block_shape, device,
        keep_scratch=keep_scratch, channel=channel, time=time,
    )  # fmt: skip
    old = run_to_restart(run, config) if restart else None
    statistics = carry_out(
        profile_of(profile, workers, scheduler, unencrypted=unencrypted),
        run=run,
        device=config.device,
        begin=partial(restart_thickness, old) if old else partial(start, config, run),
        again=reopen,
        execute=partial(execute, say=say),
        quiet=quiet,
    )
    _print_results(run.absolute(), statistics)


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="Folder of a run that was stopped.")], workers: WorkersOption = None,
    scheduler: SchedulerOption = None, profile: ProfileOption = None,
    unencrypted: UnencryptedOption = False, quiet: QuietOption = False,
    requeue: Annotated[
        bool, typer.Option("--requeue", help="For batch jobs: shortly before the walltime, stop and be requeued.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Remove all that the run made, and measure anew as run.json says.")
    ] = False,
) -> None:  # fmt: skip
    """Go on with a run that was stopped: finished blocks are kept."""
    from workflows.run_folder import open_run_folder, tidy
    from workflows.run_state import sweep

    folder = open_run_folder(run)
    if restart and requeue:
        raise InputError(
            "--restart and --requeue exclude each other: a job that is requeued would begin anew each time."
        )
    if folder.is_complete and not restart:
        tidy(folder)
        sweep(folder)
        say(f"{run} is complete already; its report is {folder.report}")
        return
    workers_of = profile_of(profile, workers, scheduler, unencrypted=unencrypted)
    if requeue:
        cluster_commands.heed_walltime()
    try:
        _go_on(workers_of, folder, restart=restart, quiet=quiet)
    except cluster_commands.WalltimeNearError:
        cluster_commands.requeue_this_job()


def _go_on(workers_of: Profile, folder: RunFolder, *, restart: bool, quiet: bool) -> None:
    from workflows.on_workers import carry_out
    from workflows.run_thickness import execute, reopen
    from workflows.run_thickness import restart as restart_thickness

    if folder.workflow != "thickness":
        comparison_commands.go_on(workers_of, folder, restart=restart, quiet=quiet)
        return
    statistics = carry_out(
        workers_of,
        run=folder.path,
        device=folder.common.device,
        begin=partial(restart_thickness, folder) if restart else lambda offer: (folder, reopen(folder, offer)),
        again=reopen,
        execute=partial(execute, say=say),
        quiet=quiet,
    )
    _print_results(folder.path, statistics)


@app.command()
def status(
    run: Annotated[Path, typer.Argument(help="Folder of a run, at work or not.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Show how far a run is, how long it takes yet, and where to watch it; from any machine that sees its folder."""
    from workflows.run_folder import open_run_folder
    from workflows.status import describe_status, run_status

    found = run_status(open_run_folder(run))
    print(json.dumps(found, indent=2) if as_json else describe_status(found))


@app.command()
def verify(
    what: Annotated[
        Path,
        typer.Argument(metavar="RUN|OUTPUT|RELEASE.toml", help="A run, or a release, of which every current version."),
    ],
) -> None:
    """Read every file of a run, and say which are not as they were when it was complete."""
    from workflows.verify_command import verify_what

    if not verify_what(what):
        raise typer.Exit(1)


app.command()(comparison_commands.compare)
app.command()(comparison_commands.statistics)
app.command()(comparison_commands.detect)
app.command()(comparison_commands.score_detections)
app.command()(cluster_commands.submit)
app.command()(inventory)
app.add_typer(cluster_commands.cluster_app, name="cluster")
app.add_typer(atlas, name="atlas")

plan_app = typer.Typer(help="Show what a run would do, and refuse what does not fit.", no_args_is_help=True)
app.add_typer(plan_app, name="plan")


@plan_app.command("thickness")
def plan_thickness(
    mask: MaskArgument, level: LevelOption = 0, channel: ChannelOption = None, time: TimeOption = None,
    label: LabelOption = None, threshold: ThresholdOption = None,
    voxel_size_um: VoxelSizeOption = None, border: BorderOption = "unknown", regions: RegionsOption = None,
    map_kind: MapOption = "thickness", box: BoxOption = None,
    ignore_place: IgnorePlaceOption = False, block_shape: BlockOption = None, workers: WorkersOption = None,
    scheduler: SchedulerOption = None, profile: ProfileOption = None,
    unencrypted: UnencryptedOption = False, device: DeviceOption = "auto",
) -> None:  # fmt: skip
    """Blocks, stages, bytes and memory of a thickness run; nothing is measured."""
    from workflows.plan_thickness import check_memory, choose_blocks, describe_plan, make_plan, open_job

    config = _config(
        mask, level, label, threshold, voxel_size_um, border, regions, map_kind, box, ignore_place,
        block_shape, device,
        keep_scratch=False, channel=channel, time=time,
    )  # fmt: skip
    offer = offer_of(profile_of(profile, workers, scheduler, unencrypted=unencrypted), config.device)
    nowhere = Path("run").absolute()
    job = open_job(config, nowhere, device=offer.device)
    if config.block_shape is None:
        job = choose_blocks(job, nowhere, offer)
    warn_of(job.volumes.values())
    print(describe_plan(job, make_plan(job), offer))
    check_memory(job, offer)


plan_app.command("compare")(comparison_commands.plan_comparison)


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(help="Zarr, HDF5, NRRD, NIfTI, TIFF, a folder of slices or any other volume (path or URL)."),
    ],
    target: Annotated[Path, typer.Argument(help="TARGET.ome.zarr, which must not exist.")],
    voxel_size_um: VoxelSizeOption = None,
    block_shape: BlockOption = None,
    channel: ChannelOption = None,
    time: TimeOption = None,
    labels: Annotated[bool, typer.Option("--labels", help="The pyramid holds the most frequent values.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write although the disk seems to have less room.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Write a volume as OME-Zarr 0.5 with a pyramid.

    The store is sharded and checksummed.
    Coarser levels hold the mean (grey, default), the most frequent value (--labels) or any (bool).
    """
    from pipeline.volume.opening import Choice
    from workflows.convert_volume import convert as convert_volume

    size = voxel_size_of(voxel_size_um)
    with reporter(quiet=quiet) as progress:
        convert_volume(
            source,
            target,
            voxel_size=VoxelSize(size) if size and len(size) == 3 else size,
            block_shape=block_shape_of(block_shape),
            kind="labels" if labels else "auto",
            choice=Choice(channel=channel, time=time),
            report_progress=lambda stage, done, total: progress.stage(Progress(stage, done, total, done, total)),
            warn=warn_of,
            say=partial(say, quiet=quiet),
            force=force,
        )
    print(target)


@app.command()
def info(
    volume: Annotated[str, typer.Argument(help="Zarr, N5, folder of slices, TIFF, NIfTI or .npy (path or URL).")],
    level: LevelOption = 0,
    voxel_size_um: VoxelSizeOption = None,
    channel: ChannelOption = None,
    time: TimeOption = None,
) -> None:
    """Print what a volume is."""
    from pipeline.volume.opening import Choice, check_chosen, open_volume
    from workflows.convert_volume import describe_volume

    choice = Choice(channel=channel, time=time)
    opened = open_volume(volume, level=level, voxel_size_um=voxel_size_of(voxel_size_um), **choice)
    check_chosen([opened], choice)
    warn_of([opened])
    print(describe_volume(opened))


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the phantom and the run go.")] = Path("voxcaliper-demo"),
    side: Annotated[int, typer.Option(help="Voxels along each side of the phantom.", min=64)] = 256,
    workers: WorkersOption = None,
    quiet: QuietOption = False,
) -> None:
    """Measure a vascular phantom of known diameters and compare."""
    from workflows.demonstrate import demonstrate

    shown = demonstrate(folder, side=side, workers=workers, quiet=quiet, say=lambda text: say(text, quiet=quiet))
    _print_results(shown.run.path, shown.statistics)
    diameters = [row.designed_um for row in shown.comparison.rows]
    print(f"phantom     {len(diameters)} tubes of {min(diameters):.4g} to {max(diameters):.4g} µm; the mean thickness")
    print(
        f"            of a tube differs by {shown.largest_difference_voxels:.2f} voxels at the most from its diameter"
    )
    print(f"map         {shown.run.map} (any OME-Zarr 0.5 viewer)")
    print(f"lookalikes  {shown.lookalikes} (four segmentations, one Dice, different structures)")
    print("try next")
    print(f"  voxcaliper info {shown.mask}")
    print(f"  voxcaliper plan thickness {shown.mask} --block-shape 64")
    print(f"  voxcaliper thickness {shown.mask} --run {shown.run.path.with_name('closed')} --border closed")
    page = shown.lookalikes.parent
    print(f"  voxcaliper compare {page / 'reference.ome.zarr'} {page / 'slab-added.ome.zarr'} --run {page / 'again'}")
    print("  voxcaliper convert YOUR.tif yours.ome.zarr --voxel-size-um 7.5")


def _print_results(run: Path, statistics: Mapping[str, Any]) -> None:
    thickness_um = statistics["thickness_um"]
    print(f"foreground  {statistics['foreground_voxels']:,} of {statistics['volume_voxels']:,} voxels")
    if thickness_um["mean"] is not None:
        print(f"thickness   mean {thickness_um['mean']:.6g} µm, median {thickness_um['quantiles']['0.5']:.6g} µm")
        print(f"            from {thickness_um['minimum']:.6g} to {thickness_um['maximum']:.6g} µm")
    else:
        print("thickness   none: there is no foreground")
    print(f"report      {run / 'report.html'}")
    print(f"results     {run}")


def _print_version(asked: bool) -> None:
    if asked:
        print(version("voxcaliper"))
        raise typer.Exit


@app.callback()
def voxcaliper(
    show_version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Calipers for whole organs: exact local thickness of masks of any size."""


def main() -> None:
    """Run the command line. Exit code 0 only when everything asked for is on disk; otherwise 1 with one sentence.

    BUSY instead of 1 where another process is at work on the same folder.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what ends a batch job is to end in order, too
    out, err = PlainLines(sys.stdout), PlainLines(sys.stderr)
    with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
        _run()


def _run() -> None:
    try:
        app()
    except VoxcaliperError as error:
        say(f"voxcaliper: {one_line(str(error))}")
        sys.exit(BUSY if isinstance(error, LockedError) else 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say(f"voxcaliper: {where}{error.strerror or error}; make room or mend it, then start or resume the run.")
        sys.exit(1)
    except MemoryError:
        say(
            "voxcaliper: the memory of this process is used up; `voxcaliper plan` shows what a run takes, so give"
            " smaller blocks, or start it where there is more."
        )
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            say(
                "voxcaliper: interrupted; go on with `voxcaliper resume` on the run folder, a release with"
                " `voxcaliper atlas run`."
            )
        raise
    finally:
        drain()


if __name__ == "__main__":
    main()
