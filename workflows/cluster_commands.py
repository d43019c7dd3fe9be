"""The commands for clusters: a run as a batch job, and what is wrong with a profile."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cluster.open import foretold
from cluster.profile import EXAMPLES, Profile, SlurmProfile, read_profile
from pipeline.errors import InputError, RunError
from workflows.config import ComparisonConfig, ThicknessConfig
from workflows.options import QuietOption, RestartOption, say
from workflows.run_file import read_run_file
from workflows.run_folder import RunFolder, open_run_folder

EXAMPLE_NAMES = ", ".join(sorted(path.stem for path in EXAMPLES.glob("*.toml")))
ProfileArgument = Annotated[Path, typer.Argument(help="TOML file that says where workers run.")]


def submit(
    run_file: Annotated[Path, typer.Argument(metavar="RUN.toml", help="What to measure; its keys are in the README.")],
    profile: Annotated[Path, typer.Option("--profile", help="TOML file that says where workers run (kind slurm).")],
    show: Annotated[bool, typer.Option("--print", help="Print every script; start and submit nothing.")] = False,
    restart: RestartOption = False,
    quiet: QuietOption = False,
) -> None:
    """Start or resume a run as a batch job of SLURM.

    The job drives the run: it plans nothing anew, starts the workers, and goes on by itself when it is requeued.
    """
    from cluster.submit import all_scripts, driver_in_queue, submit_driver

    config, run = read_run_file(run_file)
    where = read_profile(profile)
    if not isinstance(where, SlurmProfile):
        raise InputError(f'{profile} is of kind "{where.kind}"; a run is submitted to kind = "slurm".')
    if show:
        for purpose, text in all_scripts(where, run).items():
            print(f"# ---- {purpose}\n{text}")
        return
    if (run / "run.json").exists():
        folder = open_run_folder(run)
        if folder.configuration() != config:
            raise RunError(f"{run} is a run with another configuration; name another folder in {run_file}.")
        if folder.is_complete and not restart:
            say(f"{run} is complete already; its report is {folder.report}")
            return
        if number := driver_in_queue(run):
            raise RunError(f"{run} is driven by job {number} already; wait for it, or end it with: scancel {number}.")
        if restart:
            _start(config, run, where, old=folder)
    else:
        _start(config, run, where)
    number = submit_driver(where, run, profile.read_text(encoding="utf-8"))
    say(f"jobs      {run / 'jobs'} holds the script and the logs", quiet=quiet)
    print(number)


def _start(
    config: ThicknessConfig | ComparisonConfig, run: Path, profile: Profile, *, old: RunFolder | None = None
) -> None:  # fmt: skip
    """Plan the run and make its folder here, so that what cannot be done is refused before it waits in a queue.

    old : the run that lies there and begins anew.
    """
    from workflows.run_comparison import restart_comparison, start_comparison
    from workflows.run_thickness import restart, start

    offer = foretold(profile, config.device)
    assert offer is not None
    if isinstance(config, ThicknessConfig):
        restart(old, offer) if old else start(config, run, offer)
    else:
        restart_comparison(old, offer) if old else start_comparison(config, run, offer)


class WalltimeNearError(KeyboardInterrupt):
    """SLURM warns a driver that its walltime is near."""


def heed_walltime() -> None:
    """From now on, SLURM's warning (SIGUSR1) stops this process in order, as Ctrl-C does."""

    def stop(_number: int, _frame: object) -> NoReturn:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        raise WalltimeNearError

    signal.signal(signal.SIGUSR1, stop)


def requeue_this_job() -> None:
    """The job of this process ends and starts again in its turn; there it resumes the run."""
    from cluster.submit import requeue

    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        raise InputError("--requeue is for the job of `voxcaliper submit`, and this process is in none.")
    say(f"the walltime of job {job} is near: it is requeued and goes on by itself")
    requeue(job)


cluster_app = typer.Typer(help="Profiles: where workers run.", no_args_is_help=True)


@cluster_app.command()
def example(
    name: Annotated[str, typer.Argument(help=f"One of {EXAMPLE_NAMES}.")],
) -> None:
    """Print a commented profile, to be kept in a file and adapted."""
    path = EXAMPLES / f"{name}.toml"
    if not path.exists():
        raise InputError(f"There is no example {name!r}; there are {EXAMPLE_NAMES}.")
    print(path.read_text(encoding="utf-8"), end="")


@cluster_app.command()
def check(
    profile: ProfileArgument,
    store: Annotated[Path, typer.Option(help="Folder where runs shall lie; a file is written there.")] = Path(),
    minutes: Annotated[float, typer.Option(help="How long the job may wait in the queue.", min=0.1)] = 10,
) -> None:
    """Try a profile with one small job, and say what is wrong with it.

    Measures how soon a worker is there, and how fast it writes to the store and reads from it.
    """
    from cluster.check import check_profile

    found = check_profile(read_profile(profile), store=store.absolute(), patience_seconds=60 * minutes, say=say)
    for fact in found.facts:
        print(f"ok     {fact}")
    for sentence in found.wrong:
        print(f"wrong  {sentence}")
    if found.wrong:
        raise typer.Exit(1)
    print(f"try    voxcaliper thickness MASK --run RUN --profile {profile}")
    print(f"or     voxcaliper submit RUN.toml --profile {profile}")
