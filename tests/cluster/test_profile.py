"""Profiles: what they may say, what is said about those that cannot be used, and what they offer."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cluster.environment import settle_environment, shell_lines
from cluster.open import foretold
from cluster.profile import (
    EXAMPLES,
    LocalProfile,
    SchedulerProfile,
    SlurmProfile,
    read_profile,
    walltime_seconds,
    with_more_memory,
)
from pipeline.errors import InputError
from tests.workflows.conftest import Command

PLAIN = 'kind = "slurm"\njobs = 2\ncores = 4\nmemory = "8 GiB"\nwalltime = "01:00:00"\n'
GIB = 2**30


def slurm(text: str = "", folder: Path | None = None) -> SlurmProfile:
    path = (folder or Path("/nonexistent")) / "profile.toml"
    path.write_text(PLAIN + text)
    profile = read_profile(path)
    assert isinstance(profile, SlurmProfile)
    return profile


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_are_commented_and_valid(path: Path, here: Command) -> None:
    profile = read_profile(path)
    assert isinstance(profile, SlurmProfile)
    assert foretold(profile, "auto") is not None
    assert here("cluster", "example", path.stem).out == path.read_text()
    assert path.read_text().count("#") > 5


def test_there_are_examples_for_cpu_gpu_and_preemption() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.toml")} == {"cpu", "gpu", "preemptible"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('kind = "pbs"', 'must say kind = "local", "scheduler" or "slurm", but \'pbs\' was given.'),
        ("jobs = 2", 'must say kind = "local", "scheduler" or "slurm", but it does not.'),
        ("kind = slurm", "is not TOML: Invalid value (at line 1, column 8)."),
        ('kind = "slurm"', "cannot be used: jobs is missing."),
        (
            PLAIN + "partitoin = 1",
            "partitoin is no key of it; there are cache, cache_size, refused_is_absent, kind, jobs, cor",
        ),
        (PLAIN.replace("8 GiB", "8G"), "memory: '8G' is no amount of memory; write a number and its unit"),
        (PLAIN.replace('"8 GiB"', "8"), "memory: 8 is no amount of memory"),
        (PLAIN.replace("01:00:00", "1h"), "walltime: '1h' is no time limit of SLURM; write 04:00:00 for hours"),
        (PLAIN.replace("01:00:00", "0:30"), "walltime: '0:30' is less than a minute"),
        (PLAIN.replace("jobs = 2", "jobs = 0"), "jobs: "),
        (PLAIN.replace("jobs = 2", "jobs = 1.5"), "jobs: "),
        (PLAIN + 'partition = "a b"', "partition: 'a b' holds characters that a script cannot take"),
        (PLAIN + 'scratch = "/tmp; rm -r x"', "scratch: '/tmp; rm -r x' holds characters"),
        (PLAIN + 'cache = "/tmp; rm -r x"', "cache: '/tmp; rm -r x' holds characters"),
        (PLAIN + "cache_size = 20", "cache_size: 20 is no amount of memory; write a number and its unit"),
        (PLAIN + 'directives = ["qos=long"]', "directives.0: 'qos=long' is no option of sbatch"),
        (
            PLAIN + 'leave_out = ["--qos"]',
            "leave_out.0: Input should be '--cpus-per-task', '--gres', '--mem'",
        ),
        (PLAIN + 'memory_as = "by node"', "memory_as: Input should be 'per-job' or 'per-cpu'"),
        (PLAIN + 'refused_is_absent = "maybe"', "refused_is_absent: Input should be a valid boolean"),
        (PLAIN + 'setup = ["a\\nb"]', "setup.0: 'a\\nb' is not one line of shell"),
        (PLAIN + "gpus = 1", "gpu_memory is missing: with gpus, say how much memory one has"),
        (PLAIN + "workers = 5", "cores: 4 are too few for 5 workers"),
        (PLAIN + 'gpus = 2\ngpu_memory = "8 GiB"\nworkers = 3', "workers: every GPU has one"),
        (PLAIN + 'shared_folder = "jobs"', "shared_folder: 'jobs' is a relative path"),
        (PLAIN + '[driver]\nmemroy = "1 GiB"', "driver.memroy is no key of it; there are partition, account"),
    ],
)
def test_one_sentence_with_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "profile.toml"
    path.write_text(text)
    with pytest.raises(InputError) as raised:
        read_profile(path)
    sentence = str(raised.value)
    assert sentence.startswith(f"The profile {path} ")
    assert words in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence.replace("a\nb", "")


def test_no_such_profile(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml cannot be read: No such file or directory; check its path"):
        read_profile(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5", 300), ("5:30", 330), ("1:00:00", 3600), ("1-0", 86400), ("2-12:30", 217800), ("1-00:00:01", 86401)],
)
def test_walltimes(text: str, seconds: int) -> None:
    assert walltime_seconds(text) == seconds


def test_what_a_profile_offers(tmp_path: Path) -> None:
    offer = foretold(slurm(folder=tmp_path), "auto")
    assert offer is not None
    assert (offer.count, offer.threads, offer.device) == (8, 8, "cpu")
    assert offer.memory_bytes == int(8 * GIB * 0.9) // 4
    gpus = slurm('gpus = 1\ngpu_memory = "40 GiB"', tmp_path)
    offer = foretold(gpus, "auto")
    assert offer is not None
    assert (offer.count, offer.threads, offer.device) == (2, 8, "gpu")
    assert {card.free_bytes for card in offer.cards} == {40 * GIB}
    on_cpu = foretold(gpus, "cpu")
    assert on_cpu is not None
    assert on_cpu.device == "cpu"
    with pytest.raises(InputError, match="the profile asks for no GPU"):
        foretold(slurm(folder=tmp_path), "gpu")
    assert foretold(SchedulerProfile(address="tcp://127.0.0.1:1"), "cpu") is None


def test_more_memory_a_task_until_there_is_no_more(tmp_path: Path) -> None:
    profile = slurm(folder=tmp_path)
    seen = []
    while profile is not None:
        offer = foretold(profile, "cpu")
        assert offer is not None
        seen.append((offer.count, offer.memory_bytes))
        roomier = with_more_memory(profile, offer.count)
        assert offer.more_memory == (roomier is not None)
        if roomier is None:
            break
        assert isinstance(roomier, SlurmProfile)
        profile = roomier
    memory = int(8 * GIB * 0.9)
    assert seen == [(8, memory // 4), (4, memory // 2), (2, memory)]
    assert with_more_memory(LocalProfile(), 5) == LocalProfile(workers=2)
    assert with_more_memory(LocalProfile(workers=1), 1) is None
    assert with_more_memory(SchedulerProfile(address="tcp://127.0.0.1:1"), 4) is None


@pytest.mark.parametrize("pair", [("--workers", "2"), ("--scheduler", "tcp://127.0.0.1:1")])
def test_one_way_to_say_where(here: Command, tmp_path: Path, pair: tuple[str, str]) -> None:
    profile = EXAMPLES / "cpu.toml"
    done = here("thickness", "mask", "--run", tmp_path / "run", "--profile", profile, *pair)
    assert "--profile, --workers and --scheduler exclude each other" in done.failure()


def test_every_kind_of_profile_takes_a_cache(tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    for kind in ('kind = "local"', 'kind = "scheduler"\naddress = "tcp://127.0.0.1:1"', PLAIN):
        path.write_text(kind + '\ncache = "$HOME/cache"\ncache_size = "1 GiB"\n')
        assert read_profile(path).cache_environment == {
            "VOXCALIPER_CACHE": "$HOME/cache",
            "VOXCALIPER_CACHE_SIZE": "1073741824",
        }
        path.write_text(kind + "\nrefused_is_absent = true\n")
        assert read_profile(path).cache_environment == {"VOXCALIPER_REFUSED_IS_ABSENT": "1"}
        assert shell_lines(read_profile(path)) == ['export VOXCALIPER_REFUSED_IS_ABSENT="1"']
        path.write_text(kind + "\ncache_size = 0\n")
        assert read_profile(path).cache_environment == {"VOXCALIPER_CACHE_SIZE": "0"}
        path.write_text(kind)
        assert read_profile(path).cache_environment == {}


def test_a_cache_that_names_no_folder_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver runs, a variable of the jobs need not be set."""
    monkeypatch.setenv("VOXCALIPER_CACHE", "as before")
    monkeypatch.setenv("VOXCALIPER_CACHE_SIZE", "0")
    monkeypatch.delenv("TMPDIR_OF_JOB", raising=False)
    for cache in ("$TMPDIR_OF_JOB/cache", "${TMPDIR_OF_JOB}/cache", "cache"):
        (sentence,) = settle_environment(LocalProfile(cache=cache, cache_size="1 GB"))
        assert f"because {cache} names no folder there" in sentence
        assert (os.environ["VOXCALIPER_CACHE"], os.environ["VOXCALIPER_CACHE_SIZE"]) == ("as before", "1000000000")
    monkeypatch.setenv("TMPDIR_OF_JOB", str(tmp_path))
    assert settle_environment(LocalProfile(cache="$TMPDIR_OF_JOB/cache")) == []
    assert os.environ["VOXCALIPER_CACHE"] == f"{tmp_path}/cache"


def test_scripts_leave_it_out_where_their_variable_is_not_set(tmp_path: Path) -> None:
    lines = shell_lines(LocalProfile(cache="$TMPDIR_OF_JOB/cache", cache_size=0))
    script = "\n".join(["set -e", *lines, 'echo "<$VOXCALIPER_CACHE><$VOXCALIPER_CACHE_SIZE>"'])
    for given, cache in (({}, ""), ({"TMPDIR_OF_JOB": str(tmp_path)}, f"{tmp_path}/cache")):
        path = {"PATH": os.environ["PATH"]}
        done = subprocess.run(["sh", "-c", script], env=path | given, capture_output=True, text=True, check=True)
        assert done.stdout == f"<{cache}><0>\n"
        assert ("VOXCALIPER_CACHE is left out, because a variable" in done.stderr) != bool(given)
