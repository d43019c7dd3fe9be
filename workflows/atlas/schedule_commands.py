"""The commands that start a release by the clock: a schedule, and what it starts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import InputError
from workflows.atlas.manifest import profile_for, read_manifest
from workflows.options import say

ManifestArgument = Annotated[Path, typer.Argument(metavar="RELEASE.toml", help="The manifest of the release.")]
EveryOption = Annotated[
    str | None, typer.Option("--every", metavar="INTERVAL", help="How often: 30m, 6h, 1d, 1w …; without: show it.")
]
AtOption = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="[DAY ]HH:MM", help="One of its times; default: 02:30 (1w: sun 02:30), under 1d 00:00."
    ),
]


def schedule(
    manifest: ManifestArgument, every: EveryOption = None, at: AtOption = None,
    on: Annotated[
        str | None,
        typer.Option("--on", help="scrontab, sbatch, cron or systemd; default: the first of them that is there."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--sbatch", metavar="OPTION", help="Of sbatch, for the job (--sbatch=--qos=long); repeatable."),
    ] = None,
    install: Annotated[bool, typer.Option("--install", help="Put the entry in place of the one there is.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Take the entry out, and end its job.")] = False,
) -> None:  # fmt: skip
    """Print the entry that runs a release again and again, or put it in place; without --every, show the one there is.

    A run that finds another at work skips its turn. What runs left is in ROOT/logs: see `voxcaliper atlas unattended`.
    """
    from cluster.schedule.places import PLACES, installed_anywhere, place_for, remove_everywhere
    from cluster.schedule.task import Task, needed_environment
    from cluster.schedule.timing import timing_of

    subject = Path(os.path.abspath(manifest))
    if remove:
        if every is not None or install:
            raise InputError("--remove stands alone; leave --every and --install out.")
        places = remove_everywhere(subject)
        print(f"removed from {', '.join(places)}" if places else f"{subject} has no schedule here")
        return
    if every is None:
        if install or at is not None:
            raise InputError("--every is missing: say how often, for example --every 1d.")
        found = installed_anywhere(subject)
        for name, entry in found.items():
            print(f"# {name}\n{entry}", end="")
        if not found:
            print(f"{subject} has no schedule here; make one with --every 1d --install")
        return
    timing = timing_of(every, at)
    wanted, _ = read_manifest(subject)
    profile = profile_for(wanted)
    logs = wanted.output / "logs"
    task = Task(
        subject=subject,
        arguments=("atlas", "unattended", str(subject), *timing.words, "--logs", str(logs)),
        logs=logs,
        timing=timing,
        profile=profile,
        options=tuple(option or ()),
        environment=needed_environment(profile),
    )
    name = place_for(timing, on, to_install=install)
    place = PLACES[name]
    print(place.text(task), end="")
    if not install:
        say(place.missing() or f"{name} would have it in {place.where(task)}; --install puts it there")
        return
    logs.mkdir(parents=True, exist_ok=True)  # SLURM makes no folder for what a job prints
    for other in remove_everywhere(subject, but=name):
        say(f"removed from {other}")
    place.install(task)
    say(f"installed in {place.where(task)}; it runs first at {timing.upcoming():%Y-%m-%d %H:%M:%S}")


def unattended(
    manifest: ManifestArgument, every: EveryOption = None, at: AtOption = None,
    logs: Annotated[Path | None, typer.Option(help="Where logs go if the manifest cannot be read.")] = None,
    requeue: Annotated[
        bool, typer.Option("--requeue", help="For batch jobs: shortly before the walltime, stop and be requeued.")
    ] = False,
) -> None:  # fmt: skip
    """Run a release that nobody watches; this is what a schedule starts.

    Leaves a log of the run, last.json with its exit status, and summary.html in OUTPUT/logs, and calls the manifest's
    on_failure command where something failed. --every and --at say when the schedule starts the next run.
    Exit code 0: all is made or kept; 1: something failed or waits for room; 75: another process is at work on the
    output; 130: stopped in order.
    """
    from cluster.schedule.timing import timing_of
    from workflows.atlas.unattended import run_unattended

    timing = timing_of(every, at) if every is not None else None
    raise typer.Exit(run_unattended(manifest, timing=timing, logs=logs, requeue=requeue))
