"""The commands of releases: what would be done, do it, how far it is."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from workflows import cluster_commands
from workflows.atlas import schedule_commands
from workflows.atlas.manifest import EXAMPLE, profile_for, read_manifest
from workflows.atlas.report_command import report
from workflows.options import ProfileOption, QuietOption, SchedulerOption, UnencryptedOption, WorkersOption
from workflows.progress import duration

atlas = typer.Typer(help="Releases: many data sets, redone only where something changed.", no_args_is_help=True)
atlas.command()(report)
atlas.command()(schedule_commands.schedule)
atlas.command()(schedule_commands.unattended)

ManifestArgument = Annotated[Path, typer.Argument(metavar="RELEASE.toml", help="See `voxcaliper atlas example`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


@atlas.command()
def example() -> None:
    """Print a commented manifest, to be kept in a file and adapted."""
    print(EXAMPLE.read_text(encoding="utf-8"), end="")


@atlas.command()
def plan(
    manifest: ManifestArgument, profile: ProfileOption = None, workers: WorkersOption = None,
    scheduler: SchedulerOption = None, unencrypted: UnencryptedOption = False, as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Show which entries would be made and why, with blocks, bytes and time; nothing is read or written.

    Exit code 1 where an entry cannot be made.
    """
    from workflows.atlas.plan_release import Planner, describe
    from workflows.atlas.plan_release import as_json as json_of
    from workflows.atlas.root import Root

    wanted, entries = read_manifest(manifest)
    where = profile_for(wanted, profile, workers, scheduler, unencrypted=unencrypted)
    root = Root(wanted.output)
    root.check_owner(wanted.name, wanted.path)
    plans = Planner(root, where).plan_all(entries)
    if as_json:
        print(json.dumps([json_of(one) for one in plans], indent=2))
    else:
        print(describe(wanted, root, plans))
    if any(one.record.outcome == "failed" for one in plans):
        raise typer.Exit(1)


@atlas.command()
def run(
    manifest: ManifestArgument, profile: ProfileOption = None, workers: WorkersOption = None,
    scheduler: SchedulerOption = None, unencrypted: UnencryptedOption = False,
    keep: Annotated[int | None, typer.Option(help="Versions kept of an entry; default: the manifest's.", min=1)] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another process that works on the output.")] = False,
    requeue: Annotated[
        bool, typer.Option("--requeue", help="For batch jobs: shortly before the walltime, stop and be requeued.")
    ] = False,
    quiet: QuietOption = False,
) -> None:  # fmt: skip
    """Make every entry that is stale, publish it, and keep the others; a release that was stopped goes on.

    Exit code 1 where an entry failed or waits: the others are published, and the next run tries it again.
    """
    from workflows.atlas.run_release import run_release

    wanted, entries = read_manifest(manifest)
    where = profile_for(wanted, profile, workers, scheduler, unencrypted=unencrypted)
    if requeue:
        cluster_commands.heed_walltime()
    try:
        release = run_release(wanted, entries, where, keep=keep, wait=wait, quiet=quiet)
    except cluster_commands.WalltimeNearError:
        cluster_commands.requeue_this_job()
        return
    counts = Counter(entry.outcome for entry in release.entries)
    assert release.ended is not None
    took = duration((release.ended - release.began).total_seconds())
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    print(f"release     {release.identifier}: {told}, in {took}")
    for entry in release.entries:
        if entry.outcome in ("failed", "waiting"):
            print(f"{entry.outcome:<12}{entry.dataset}/{entry.workflow}: {entry.message}")
    print(f"index       {wanted.output / 'index.html'}")
    if counts["failed"] or counts["waiting"]:
        raise typer.Exit(1)


@atlas.command()
def status(
    manifest: Annotated[Path, typer.Argument(metavar="RELEASE.toml", help="The manifest, or the output folder.")],
    as_json: JsonOption = False,
) -> None:
    """Show how a release stands, and the run that is being made; from any machine that sees its output."""
    from workflows.atlas.release_status import describe_release, release_status, root_of

    found = release_status(root_of(manifest))
    print(json.dumps(found, indent=2) if as_json else describe_release(found))
