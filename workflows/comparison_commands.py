"""The commands that compare and describe segmentations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.profile import Profile
from pipeline.errors import InputError
from pipeline.job import PARTS, ObjectKind, Part
from workflows.config import ComparisonConfig
from workflows.options import (
    BlockOption,
    BorderOption,
    BoxOption,
    ChannelOption,
    DeviceOption,
    IgnorePlaceOption,
    KeepOption,
    LevelOption,
    ProfileOption,
    QuietOption,
    RegionsOption,
    RestartOption,
    RunOption,
    SchedulerOption,
    TimeOption,
    UnencryptedOption,
    VoxelSizeOption,
    WorkersOption,
    block_shape_of,
    border_of,
    box_of,
    device_of,
    numbers,
    offer_of,
    profile_of,
    say,
    voxel_size_of,
    warn_of,
)
from workflows.run_folder import RunFolder

EVERYTHING = ",".join(PARTS)
ReferenceArgument = Annotated[str, typer.Argument(help="Volume with the reference labels (path or URL).")]
PredictionArgument = Annotated[str, typer.Argument(help="The predicted labels, on the same grid.")]
LabelsOption = Annotated[
    str | None, typer.Option("--label", metavar="N[,N…]", help="Labels to compare; default: all but 0.")
]
IgnoreOption = Annotated[
    str | None,
    typer.Option("--ignore-label", metavar="N", help="Leave out voxels where the reference holds this label."),
]
ToleranceOption = Annotated[
    str, typer.Option("--tolerance-um", metavar="UM[,UM…]", help="Tolerances of the normalised surface distance.")
]
WidthOption = Annotated[
    str, typer.Option("--boundary-width", metavar="N[,N…]", help="Widths of the boundary IoU, in voxels.")
]
ImageOption = Annotated[str | None, typer.Option(help="Grey volume of the same grid: intensities per label too.")]
MeasuresOption = Annotated[
    str, typer.Option(metavar="KIND[,KIND…]", help=f"Any of {', '.join(PARTS)}; overlap is always there.")
]
ObjectsOption = Annotated[str, typer.Option(help="Match objects: none, components or labels.")]
ClassesOption = Annotated[
    Path | None,
    typer.Option("--classes", metavar="FILE", help="CSV (class, alias, label) or JSON (class: label or aliases)."),
]
MapsOption = Annotated[bool, typer.Option("--maps/--no-maps", help="Store maps of thickness and of its difference.")]


def whole_numbers(text: str, *, name: str, least: int) -> tuple[int, ...]:
    """The whole numbers of a comma-separated option, however large."""
    try:
        values = tuple(int(part) for part in text.replace(" ", ",").split(",") if part)
    except ValueError as error:
        raise InputError(f"{name} takes whole numbers separated by commas, but {text!r} was given.") from error
    if not values or min(values) < least:
        raise InputError(f"{name} takes whole numbers of at least {least}, but {text!r} was given.")
    return values


def parts_of(text: str) -> tuple[Part, ...]:
    """--measures."""
    named = {part.strip() for part in text.split(",")}
    if unknown := sorted(named - set(PARTS)):
        raise InputError(f"--measures takes any of {', '.join(PARTS)}, but {', '.join(unknown)} was given.")
    return tuple(part for part in PARTS if part in named or part == "overlap")


def objects_of(text: str) -> ObjectKind:
    """--objects."""
    if text in ("none", "components", "labels"):
        return text  # type: ignore[return-value]
    raise InputError(f"--objects must be none, components or labels, but {text!r} was given.")


def ignore_label_of(text: str | None) -> int | None:
    """--ignore-label."""
    if text is None:
        return None
    labels = whole_numbers(text, name="--ignore-label", least=1)
    if len(labels) > 1:
        raise InputError(f"--ignore-label takes one whole number, but {text!r} was given.")
    return labels[0]


def class_names_of(path: Path | None) -> dict[int, str]:
    """--classes of a command that finds labels."""
    from pipeline.measures.detection_classes import read_classes

    if path is None:
        return {}
    labels = read_classes(path).labels
    if not labels:
        raise InputError(
            f"{path} has the label of no class; give numbers beside the names, under the header class,label."
        )
    return labels


def comparison_config(
    reference: str, prediction: str | None, level: int, labels: str | None, tolerances: str, widths: str,
    voxel_size_um: str | None, image: str | None, regions: str | None, measures: str, objects: str, border: str,
    maps: bool, block_shape: str | None, device: str, *, keep_scratch: bool, box: str | None = None,
    ignore_place: bool = False, ignore_label: str | None = None, classes: Path | None = None,
    channel: str | None = None, time: int | None = None,
) -> ComparisonConfig:  # fmt: skip
    """The configuration out of the options."""
    from pipeline.volume.opening import absolute_location

    return ComparisonConfig(
        workflow="compare" if prediction is not None else "statistics",
        reference=absolute_location(reference),
        prediction=absolute_location(prediction) if prediction is not None else None,
        image=absolute_location(image) if image is not None else None,
        regions=absolute_location(regions) if regions is not None else None,
        level=level,
        channel=channel,
        time=time,
        labels=whole_numbers(labels, name="--label", least=1) if labels is not None else None,
        tolerances_um=numbers(tolerances, name="--tolerance-um", counts=tuple(range(1, 100))),
        boundary_widths=whole_numbers(widths, name="--boundary-width", least=1),
        voxel_size_um=voxel_size_of(voxel_size_um),
        parts=parts_of(measures),
        objects=objects_of(objects),
        border=border_of(border),
        maps=maps,
        box=box_of(box),
        ignore_place=ignore_place,
        block_shape=block_shape_of(block_shape),
        device=device_of(device),
        keep_scratch=keep_scratch,
        ignore_label=ignore_label_of(ignore_label),
        class_names=class_names_of(classes),
    )


def compare(
    reference: ReferenceArgument, prediction: PredictionArgument, run: RunOption, level: LevelOption = 0,
    channel: ChannelOption = None, time: TimeOption = None,
    label: LabelsOption = None, tolerance_um: ToleranceOption = "0", boundary_width: WidthOption = "1,2",
    voxel_size_um: VoxelSizeOption = None, image: ImageOption = None, regions: RegionsOption = None,
    measures: MeasuresOption = EVERYTHING, objects: ObjectsOption = "none", border: BorderOption = "unknown",
    maps: MapsOption = True, box: BoxOption = None, ignore_place: IgnorePlaceOption = False,
    block_shape: BlockOption = None, workers: WorkersOption = None,
    scheduler: SchedulerOption = None, profile: ProfileOption = None, unencrypted: UnencryptedOption = False,
    device: DeviceOption = "auto", keep_scratch: KeepOption = False, restart: RestartOption = False,
    quiet: QuietOption = False, ignore_label: IgnoreOption = None,
) -> None:  # fmt: skip
    """Compare a predicted segmentation with a reference.

    Overlap, surface distances, topology and thickness, per label and overall, exact for every blocking.
    """
    config = comparison_config(
        reference, prediction, level, label, tolerance_um, boundary_width, voxel_size_um, image, regions, measures,
        objects, border, maps, block_shape, device,
        keep_scratch=keep_scratch, box=box, ignore_place=ignore_place, ignore_label=ignore_label,
        channel=channel, time=time,
    )  # fmt: skip
    workers_of = profile_of(profile, workers, scheduler, unencrypted=unencrypted)
    print_comparison(run, start_and_finish(config, run, workers_of, restart=restart, quiet=quiet))


def statistics(
    labels: Annotated[str, typer.Argument(help="Volume with labels (path or URL).")],
    run: RunOption, image: ImageOption = None, level: LevelOption = 0, channel: ChannelOption = None,
    time: TimeOption = None, label: LabelsOption = None,
    voxel_size_um: VoxelSizeOption = None, box: BoxOption = None, ignore_place: IgnorePlaceOption = False,
    block_shape: BlockOption = None, workers: WorkersOption = None,
    scheduler: SchedulerOption = None, profile: ProfileOption = None,
    unencrypted: UnencryptedOption = False, restart: RestartOption = False, quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Describe every structure of a label volume, in one pass.

    Volume, centroid, bounding box and, with --image, the grey values inside.
    """
    config = comparison_config(
        labels, None, level, label, "0", "1", voxel_size_um, image, None, "overlap", "none", "unknown", False,
        block_shape, "cpu",
        keep_scratch=False, box=box, ignore_place=ignore_place, channel=channel, time=time,
    )  # fmt: skip
    workers_of = profile_of(profile, workers, scheduler, unencrypted=unencrypted)
    print_structures(run, start_and_finish(config, run, workers_of, restart=restart, quiet=quiet))


def detect(
    labels: Annotated[str, typer.Argument(help="Volume with labels (path or URL); a label is a class.")],
    run: RunOption, level: LevelOption = 0, channel: ChannelOption = None, time: TimeOption = None,
    label: LabelsOption = None, voxel_size_um: VoxelSizeOption = None,
    block_shape: BlockOption = None, workers: WorkersOption = None, scheduler: SchedulerOption = None,
    profile: ProfileOption = None, unencrypted: UnencryptedOption = False, restart: RestartOption = False,
    quiet: QuietOption = False, classes: ClassesOption = None,
) -> None:  # fmt: skip
    """Find the centre of every connected component (26 neighbours), with its class.

    A class is the name that --classes has for a label, or the label itself.
    """
    config = comparison_config(
        labels, None, level, label, "0", "1", voxel_size_um, None, None, "overlap", "components", "unknown", False,
        block_shape, "cpu",
        keep_scratch=False, classes=classes, channel=channel, time=time,
    )  # fmt: skip
    workers_of = profile_of(profile, workers, scheduler, unencrypted=unencrypted)
    print_structures(run, start_and_finish(config, run, workers_of, restart=restart, quiet=quiet))


def score_detections(
    reference: Annotated[Path, typer.Argument(help="CSV of true centres: volume, class, z, y, x.")],
    prediction: Annotated[Path, typer.Argument(help="CSV of predicted centres, likewise.")],
    classes: ClassesOption = None,
    any_class: Annotated[bool, typer.Option("--any-class", help="Take classes as they are; none is unknown.")] = False,
) -> None:
    """Score detected points as the BugNIST challenge does, as JSON.

    Classes are the challenge's, those of --classes, or any; case does not matter.
    """
    from pipeline.measures.detection_classes import BUGNIST, read_classes
    from pipeline.measures.detections import bugnist_score, read_points

    if any_class and classes is not None:
        raise InputError("--classes and --any-class exclude each other; give one of them.")
    table = None if any_class else BUGNIST if classes is None else read_classes(classes)
    score = bugnist_score(read_points(reference, table), read_points(prediction, table), table)
    print(json.dumps(score, indent=2, allow_nan=False))


def plan_comparison(
    reference: ReferenceArgument, prediction: PredictionArgument, level: LevelOption = 0,
    channel: ChannelOption = None, time: TimeOption = None, label: LabelsOption = None,
    boundary_width: WidthOption = "1,2", voxel_size_um: VoxelSizeOption = None, image: ImageOption = None,
    regions: RegionsOption = None, measures: MeasuresOption = EVERYTHING, objects: ObjectsOption = "none",
    border: BorderOption = "unknown", maps: MapsOption = True, box: BoxOption = None,
    ignore_place: IgnorePlaceOption = False, block_shape: BlockOption = None,
    workers: WorkersOption = None, scheduler: SchedulerOption = None, profile: ProfileOption = None,
    unencrypted: UnencryptedOption = False, device: DeviceOption = "auto", ignore_label: IgnoreOption = None,
) -> None:  # fmt: skip
    """Blocks, stages, bytes and memory of a comparison; nothing is measured."""
    from workflows.plan_comparison import check_comparison_memory, describe_comparison, make_comparison_plan
    from workflows.run_comparison import plan_of, task_counts

    config = comparison_config(
        reference, prediction, level, label, "0", boundary_width, voxel_size_um, image, regions, measures, objects,
        border, maps, block_shape, device,
        keep_scratch=False, box=box, ignore_place=ignore_place, ignore_label=ignore_label,
        channel=channel, time=time,
    )  # fmt: skip
    offer = offer_of(profile_of(profile, workers, scheduler, unencrypted=unencrypted), config.device)
    job = plan_of(config, Path("run").absolute(), offer)
    warn_of(job.volumes.values())
    print(describe_comparison(job, make_comparison_plan(job, task_counts(job)), offer))
    check_comparison_memory(job, offer)


def start_and_finish(
    config: ComparisonConfig, run: Path, profile: Profile, *, restart: bool, quiet: bool
) -> dict[str, Any]:  # fmt: skip
    """Start a run of this configuration and see it to its end; returns the contents of the main result file."""
    from workflows.on_workers import carry_out
    from workflows.run_comparison import execute_comparison, reopen_comparison, restart_comparison, start_comparison
    from workflows.run_folder import run_to_restart

    old = run_to_restart(run, config) if restart else None
    return carry_out(
        profile,
        run=run,
        device=config.device,
        begin=partial(restart_comparison, old) if old else partial(start_comparison, config, run),
        again=reopen_comparison,
        execute=partial(execute_comparison, say=say),
        quiet=quiet,
    )


def go_on(profile: Profile, folder: RunFolder, *, restart: bool, quiet: bool) -> None:
    """Go on with a run that was stopped, and print what it found."""
    from workflows.on_workers import carry_out
    from workflows.run_comparison import execute_comparison, reopen_comparison, restart_comparison

    results = carry_out(
        profile,
        run=folder.path,
        device=folder.common.device,
        begin=partial(restart_comparison, folder)
        if restart
        else lambda offer: (folder, reopen_comparison(folder, offer)),
        again=reopen_comparison,
        execute=partial(execute_comparison, say=say),
        quiet=quiet,
    )
    (print_comparison if folder.workflow == "compare" else print_structures)(folder.path, results)


def print_structures(run: Path, results: Mapping[str, Any]) -> None:
    """How many structures there are, and where they are described."""
    print(f"labels      {len(results['labels'])}")
    print(f"results     {run / 'statistics.json'}")
    print(f"table       {run / 'statistics.csv'}")
    points = run / "detections.csv"
    if points.exists():
        with points.open(encoding="utf-8") as lines:
            print(f"objects     {sum(1 for _ in lines) - 1}")
        print(f"points      {points}")
    print(f"report      {run / 'report.html'}")


def print_comparison(run: Path, results: Mapping[str, Any]) -> None:
    """The short of a comparison, and where the rest is."""
    from pipeline.report import disagreements

    labels, overall = results["labels"], results["overall"]
    print(f"labels      {len(labels)}")
    print(f"foreground  Dice {_short(overall['foreground']['dice'])}, IoU {_short(overall['foreground']['iou'])}")
    if len(labels) > 1:
        print(f"average     Dice {_short(overall['label_averaged']['dice'])} over the labels")
    for found in disagreements(results, results["voxel_size_um"])[:5]:
        print(f"look at     {found.sentence}")
    print(f"report      {run / 'report.html'}")
    print(f"results     {run}")


def _short(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
