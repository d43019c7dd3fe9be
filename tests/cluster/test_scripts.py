"""Every script that goes to SLURM, as text; and that a shell reads it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cluster.profile import EXAMPLES, SlurmProfile, read_profile
from cluster.slurm import name_of
from cluster.submit import all_scripts
from tests.cluster.test_profile import PLAIN, slurm
from tests.workflows.conftest import Command

RUN = Path("/data/a run")
NAME = name_of(RUN)

WORKERS = f"""\
#!/usr/bin/env bash

#SBATCH -J {NAME}
#SBATCH -p normal
#SBATCH -A bone
#SBATCH -n 1
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH -t 01:00:00
#SBATCH --output='/data/a run/jobs/%x-%j.log'
#SBATCH --no-requeue
#SBATCH --qos=long

module load python
export DASK_DISTRIBUTED__WORKER__MEMORY__TARGET=False
export DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False
export DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE=False
export DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE=0.98
export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False
export TMPDIR="/scratch/$USER"
mkdir -p "$TMPDIR"
if (set -u; : "/scratch/$USER/cache") 2>/dev/null; then export VOXCALIPER_CACHE="/scratch/$USER/cache"; \
else echo "voxcaliper: warning: VOXCALIPER_CACHE is left out, because a variable in it is not set here" >&2; fi
export VOXCALIPER_CACHE_SIZE="21474836480"
exec python3 -m distributed.cli.dask_worker tls://DRIVER:PORT --name {NAME}-N --nthreads 1\
 --memory-limit 1932735283 --nworkers 4 --nanny --death-timeout 120 --local-directory "$TMPDIR"\
 --lifetime 3000s --lifetime-stagger 200s --worker-class cluster.closed.ClosedWorker --no-dashboard --interface ib0\
 --protocol tls --tls-ca-file '/data/a run/jobs/credentials-NEW/ca.pem'\
 --tls-cert '/data/a run/jobs/credentials-NEW/certificate.pem' --tls-key '/data/a run/jobs/credentials-NEW/key.pem'
"""

DRIVER = f"""\
#!/usr/bin/env bash

#SBATCH --job-name={NAME}-driver
#SBATCH --output='/data/a run/jobs/%x-%j.log'
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@180
#SBATCH --partition=normal
#SBATCH --account=bone
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=4096M
#SBATCH --time=2-00:00:00

module load python
exec python3 -P -m workflows.cli resume '/data/a run' --profile '/data/a run/jobs/profile.toml' --requeue
"""

FULL = """\
partition = "normal"
account = "bone"
setup = ["module load python"]
python = "python3"
scratch = "/scratch/$USER"
cache = "/scratch/$USER/cache"
cache_size = "20 GiB"
interface = "ib0"
directives = ["--qos=long"]
"""


def test_workers_as_jobs(tmp_path: Path) -> None:
    driver, workers = all_scripts(slurm(FULL + '[driver]\nwalltime = "2-00:00:00"', tmp_path), RUN).values()
    assert workers == WORKERS
    assert driver == DRIVER


def test_workers_inside_the_allocation_of_the_driver(tmp_path: Path) -> None:
    profile = slurm(FULL + 'workers_as = "steps"\ngpus = 1\ngpu_memory = "8 GiB"', tmp_path)
    scripts = all_scripts(profile, RUN)
    driver, task = scripts.values()
    assert "#SBATCH --ntasks=2\n#SBATCH --cpus-per-task=4\n#SBATCH --mem-per-cpu=3072M\n" in driver
    assert "#SBATCH --gpus-per-task=1\n#SBATCH --time=01:00:00\n#SBATCH --qos=long\n" in driver
    assert "#SBATCH" not in task
    assert f"--name {NAME}-N-$SLURM_PROCID " in task
    assert "--lifetime" not in task, "it ends with the allocation"
    command = list(scripts)[1]
    assert "srun --ntasks=2 --cpus-per-task=4 --gpus-per-task=1 --kill-on-bad-exit=0" in command


@pytest.mark.parametrize("gpus", [1, 2])
def test_one_worker_for_each_gpu(tmp_path: Path, gpus: int) -> None:
    _, workers = all_scripts(slurm(f'gpus = {gpus}\ngpu_memory = "8 GiB"\npython = "echo"', tmp_path), RUN).values()
    assert f"#SBATCH --gres=gpu:{gpus}\n" in workers
    environment = {"CUDA_VISIBLE_DEVICES": "3,5"}
    done = subprocess.run(["bash", "-c", workers], env=environment, capture_output=True, text=True, check=True)
    started = sorted(done.stdout.splitlines())
    assert len(started) == gpus
    assert all(
        "--nthreads 4 " in line and f"--memory-limit {int(8 * 2**30 * 0.9) // gpus} " in line for line in started
    )
    if gpus == 2:
        assert [line.split("--name ")[1].split()[0] for line in started] == [f"{NAME}-N-3", f"{NAME}-N-5"]


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("workers_as", ["jobs", "steps"])
def test_a_shell_reads_every_script_and_none_holds_a_secret(example: Path, workers_as: str) -> None:
    profile = read_profile(example)
    assert isinstance(profile, SlurmProfile)
    for text in all_scripts(profile.model_copy(update={"workers_as": workers_as}), RUN).values():
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        assert "PRIVATE" not in text
        assert "BEGIN" not in text


def test_names_differ_from_run_to_run() -> None:
    names = {name_of(Path(path)) for path in ("/a/run", "/b/run", "/a/run 2")}
    assert len(names) == 3
    assert all(name.replace("-", "").replace("_", "").isalnum() for name in names)


def test_print_shows_every_script_and_starts_nothing(here: Command, mask: Path, tmp_path: Path) -> None:
    (tmp_path / "profile.toml").write_text(PLAIN)
    (tmp_path / "run.toml").write_text(f'workflow = "thickness"\nrun = "run"\nmask = "{mask}"\n')
    done = here("submit", tmp_path / "run.toml", "--profile", tmp_path / "profile.toml", "--print")
    assert done.code == 0, done
    assert done.out.count("#!/usr/bin/env bash") == 2
    assert f"resume {tmp_path / 'run'} --profile {tmp_path / 'run' / 'jobs' / 'profile.toml'} --requeue" in done.out
    assert not (tmp_path / "run").exists()


def sbatch_lines(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def test_memory_for_each_core_instead_of_each_node(tmp_path: Path) -> None:
    """Where sbatch says: Requesting memory by node is not supported. Use --mem-per-cpu."""
    driver, workers = all_scripts(slurm('memory_as = "per-cpu"\n[driver]\ncores = 3', tmp_path), RUN).values()
    assert [line for line in sbatch_lines(workers) if "--mem" in line] == ["--mem-per-cpu=2048M"]
    assert [line for line in sbatch_lines(driver) if "--mem" in line] == ["--mem-per-cpu=1366M"]
    assert "--memory-limit 1932735283 " in workers, "what a worker may use stays"
    steps = slurm('memory_as = "per-cpu"\nworkers_as = "steps"', tmp_path)
    assert "--mem-per-cpu=3072M" in sbatch_lines(next(iter(all_scripts(steps, RUN).values())))


@pytest.mark.parametrize("more", ["", 'memory_as = "per-cpu"\n', 'workers_as = "steps"\n'])
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--mem", ("--mem",)),
        ("--cpus-per-task", ("--cpus-per-task",)),
        ("--time", ("--time", "-t ")),
        ("--gres", ("--gres", "--gpus-per-task")),
    ],
)
def test_options_that_a_site_does_not_take_are_left_out(
    tmp_path: Path, option: str, words: tuple[str, ...], more: str
) -> None:
    text = 'gpus = 1\ngpu_memory = "8 GiB"\n' + more
    plain = [line for script in all_scripts(slurm(text, tmp_path), RUN).values() for line in sbatch_lines(script)]
    kept = [
        line
        for script in all_scripts(slurm(f'{text}leave_out = ["{option}"]\n', tmp_path), RUN).values()
        for line in sbatch_lines(script)
    ]
    assert kept == [line for line in plain if not line.startswith(words)] != plain


def test_what_takes_the_place_of_an_option_is_a_directive(tmp_path: Path) -> None:
    text = 'leave_out = ["--mem", "--cpus-per-task"]\ndirectives = ["--mem-per-cpu=2G", "--exclusive"]'
    _, workers = all_scripts(slurm(text, tmp_path), RUN).values()
    lines = sbatch_lines(workers)
    assert lines[-2:] == ["--mem-per-cpu=2G", "--exclusive"]
    assert not any(line.startswith(("--mem=", "--cpus-per-task")) for line in lines)


def test_print_shows_what_is_left_out(here: Command, mask: Path, tmp_path: Path) -> None:
    (tmp_path / "profile.toml").write_text(PLAIN + 'leave_out = ["--mem"]\n')
    (tmp_path / "run.toml").write_text(f'workflow = "thickness"\nrun = "run"\nmask = "{mask}"\n')
    done = here("submit", tmp_path / "run.toml", "--profile", tmp_path / "profile.toml", "--print")
    assert done.code == 0, done
    assert "#SBATCH --mem" not in done.out
    assert "#SBATCH --cpus-per-task=4" in done.out
