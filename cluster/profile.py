"""Where the workers of a run come from: one TOML file, or what the command line says instead.

Three kinds: processes on this machine, a scheduler that runs somewhere, and jobs of SLURM. The files in
cluster/profiles are commented examples of the last one.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from dask.utils import parse_bytes
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import InputError
from pipeline.plain_text import is_plain

EXAMPLES = Path(__file__).with_name("profiles")
WALLTIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
MEMORY = re.compile(r"\d+(\.\d+)? ?[kKMGT]i?B")
GPU_THREADS = (4, 16)
"""Fewest and most threads of a worker with a GPU: some read and write while one computes."""
JOB_MEMORY_SHARE = 0.9
"""Share of a job's memory that its workers may use; the rest is for the processes that watch over them."""


def walltime_seconds(text: str) -> int:
    """Seconds of a time limit in SLURM's ways of writing: MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS."""
    found = WALLTIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no time limit of SLURM; write 04:00:00 for hours, 2-00:00:00 for days")
    days, first, second, third = (int(part) if part else 0 for part in found.groups())
    with_hours = found[1] or found[4]
    total = ((days * 24 + first) * 60 + second) * 60 + third if with_hours else first * 60 + second
    if total < 60:
        raise ValueError(f"{text!r} is less than a minute; write 04:00:00 for hours, 2-00:00:00 for days")
    return total


def _walltime(text: Any) -> str:
    walltime_seconds(text if isinstance(text, str) else repr(text))
    return str(text)


def _memory(text: Any) -> int:
    if isinstance(text, str) and MEMORY.fullmatch(text.strip()):
        return int(parse_bytes(text.strip()))
    raise ValueError(f'{text!r} is no amount of memory; write a number and its unit, for example "64 GiB" or "64 GB"')


def _cache_size(text: Any) -> int:
    return 0 if text in (0, "0") and text is not False else _memory(text)


def _directive(text: Any) -> str:
    if isinstance(text, str) and text.startswith("-") and is_plain(text):
        return text
    raise ValueError(f'{text!r} is no option of sbatch; write each as on its command line, for example "--qos=long"')


def _line(text: Any) -> str:
    if isinstance(text, str) and is_plain(text.replace("\t", " ")):
        return text
    raise ValueError(f"{text!r} is not one line of shell")


def _interpreter(text: Any) -> str:
    if isinstance(text, str) and is_plain(text) and not set(text) & set(";&|<>()`\"'\\"):
        return text
    raise ValueError(f"{text!r} is no interpreter and its options; what else prepares the environment goes into setup")


def _path(text: Any) -> Path:
    path = Path(str(text)).expanduser()
    if not is_plain(str(text)):
        raise ValueError(f"{text!r} holds a line break or another control character; rename it")
    if path.is_absolute():
        return path
    raise ValueError(f"{text!r} is a relative path; jobs run in other folders, so write it from / or ~ on")


Walltime = Annotated[str, BeforeValidator(_walltime)]
Memory = Annotated[int, BeforeValidator(_memory)]
"""Bytes; in the file a number with its unit."""
CacheSize = Annotated[int, BeforeValidator(_cache_size)]
"""Bytes; in the file a number with its unit, or 0."""
Name = Annotated[str, Field(pattern=r"^[\w.,:@+-]+$")]
Scratch = Annotated[str, Field(pattern=r"^[\w./${}-]+$")]
Directive = Annotated[str, BeforeValidator(_directive)]
LeftOut = Literal["--cpus-per-task", "--gres", "--mem", "--ntasks", "--time"]
Line = Annotated[str, BeforeValidator(_line)]
Interpreter = Annotated[str, BeforeValidator(_interpreter)]
AbsolutePath = Annotated[Path, BeforeValidator(_path)]
Count = Annotated[int, Field(ge=1, strict=True)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Workers(_Section):
    """What profiles of every kind may say.

    cache, cache_size : folder (of the machine where a worker runs) and size of what is kept of remote stores, 0 for
        nothing; None for what the environment says (VOXCALIPER_CACHE, VOXCALIPER_CACHE_SIZE), else a default.
    refused_is_absent : objects of a remote store that it refuses (403) count as not stored; False for what the
        environment says (VOXCALIPER_REFUSED_IS_ABSENT).
    """

    cache: Scratch | None = None
    cache_size: CacheSize | None = None
    refused_is_absent: bool = False

    @property
    def cache_environment(self) -> dict[str, str]:
        """The same as variables, for the driver and every worker. The folder may hold variables of the shell."""
        refused = "1" if self.refused_is_absent else None
        given = {
            "VOXCALIPER_CACHE": self.cache,
            "VOXCALIPER_CACHE_SIZE": self.cache_size,
            "VOXCALIPER_REFUSED_IS_ABSENT": refused,
        }
        return {name: str(value) for name, value in given.items() if value is not None}


class LocalProfile(_Workers):
    """Worker processes on this machine. workers : how many, None for one per core or card."""

    kind: Literal["local"] = "local"
    workers: Count | None = None


class SchedulerProfile(_Workers):
    """A scheduler that runs already. address : tls://HOST:PORT, or tcp://HOST:PORT where unencrypted says so.

    ca_file, certificate, key : PEM files to log in with; without them those of Dask's own configuration count.
    unencrypted : take a tcp:// address, where all users of the machine and of the way can read and run everything.
    """

    kind: Literal["scheduler"] = "scheduler"
    address: str
    ca_file: AbsolutePath | None = None
    certificate: AbsolutePath | None = None
    key: AbsolutePath | None = None
    unencrypted: bool = False


class DriverProfile(_Section):
    """The job that drives a run; partition, account and walltime are the workers' where they are not given."""

    partition: Name | None = None
    account: Name | None = None
    cores: Count = 1
    memory: Memory = 4 << 30
    walltime: Walltime | None = None
    directives: tuple[Directive, ...] = ()


class SlurmProfile(_Workers):
    """Workers as jobs of SLURM.

    jobs : how many to keep running. cores, memory, gpus, walltime : of each. workers : processes in each, None for one
    per core or GPU. threads : of each process, None for one, or for several that share a GPU.
    gpu_memory : of one GPU, because plans are made before any job runs.
    setup : lines of shell that prepare the environment. python : the interpreter there, None for this one.
    scratch : a local folder of the node. interface : network interface of workers and driver.
    directives : further options of sbatch. leave_out : options that are not written, where a site does not take them;
        "--mem" is any request for memory. memory_as : "per-job", or "per-cpu" (--mem-per-cpu).
    preemptible : jobs are often taken away, so blocks get more tries.
    workers_as : "jobs", or "steps" inside the allocation of the driver, where compute nodes may not submit.
    shared_folder : where credentials and logs of jobs go, None for the folder of the run; every node must see it.
    """

    kind: Literal["slurm"]
    jobs: Count
    cores: Count
    memory: Memory
    walltime: Walltime
    partition: Name | None = None
    account: Name | None = None
    workers: Count | None = None
    threads: Count | None = None
    gpus: Annotated[int, Field(ge=0, strict=True)] = 0
    gpu_memory: Memory | None = None
    setup: tuple[Line, ...] = ()
    python: Interpreter | None = None
    scratch: Scratch | None = None
    interface: Name | None = None
    directives: tuple[Directive, ...] = ()
    leave_out: tuple[LeftOut, ...] = ()
    memory_as: Literal["per-job", "per-cpu"] = "per-job"
    preemptible: bool = False
    workers_as: Literal["jobs", "steps"] = "jobs"
    shared_folder: AbsolutePath | None = None
    driver: DriverProfile = DriverProfile()

    @model_validator(mode="after")
    def _agrees(self) -> SlurmProfile:
        if self.gpus and self.gpu_memory is None:
            raise ValueError('gpu_memory is missing: with gpus, say how much memory one has, for example "40 GiB"')
        if self.gpus and self.workers not in (None, self.gpus):
            raise ValueError(f"workers: every GPU has one, so leave it out or write {self.gpus}")
        if self.processes > self.cores:
            raise ValueError(f"cores: {self.cores} are too few for {self.processes} workers")
        return self

    def kept(self, options: Iterable[str]) -> list[str]:
        """Options of sbatch or srun without those that are left out."""
        names = {"--mem-per-cpu": "--mem", "--gpus-per-task": "--gres"}
        named = ((option, option.partition("=")[0]) for option in options)
        return [option for option, name in named if names.get(name, name) not in self.leave_out]

    def memory_option(self, memory: int, cores: int) -> str:
        """The option of sbatch that asks for so many bytes for so many cores."""
        per_cpu = self.memory_as == "per-cpu"
        return f"--mem{'-per-cpu' if per_cpu else ''}={math.ceil(memory / (cores if per_cpu else 1) / 2**20)}M"

    @property
    def processes(self) -> int:
        """Workers in a job."""
        return self.gpus or self.workers or self.cores

    @property
    def threads_each(self) -> int:
        """Threads of a worker."""
        if self.threads is not None or not self.gpus:
            return self.threads or 1
        return min(max(self.cores // self.gpus, GPU_THREADS[0]), GPU_THREADS[1])

    @property
    def worker_memory(self) -> int:
        """Bytes that a worker may use."""
        return int(self.memory * JOB_MEMORY_SHARE) // self.processes

    @property
    def seconds(self) -> int:
        """The walltime."""
        return walltime_seconds(self.walltime)


Profile = LocalProfile | SchedulerProfile | SlurmProfile
KINDS: dict[str, type[LocalProfile | SchedulerProfile | SlurmProfile]] = {
    "local": LocalProfile,
    "scheduler": SchedulerProfile,
    "slurm": SlurmProfile,
}


def with_more_memory(profile: Profile, count: int) -> Profile | None:
    """The same with half as many tasks at a time, so that each has twice the memory; None where that is not possible.

    count : of workers that there were, for a local profile that does not say it.
    """
    if isinstance(profile, LocalProfile) and count > 1:
        return profile.model_copy(update={"workers": count // 2})
    if isinstance(profile, SlurmProfile) and profile.threads_each > 1:
        return profile.model_copy(update={"threads": profile.threads_each // 2})
    if isinstance(profile, SlurmProfile) and not profile.gpus and profile.processes > 1:
        return profile.model_copy(update={"workers": profile.processes // 2})
    return None


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The content of a TOML file that is called `what`. Raises InputError, one sentence, where it is not one."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The {what} {path} cannot be read: {error.strerror}; check its path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"The {what} {path} is not TOML: {str(error).rstrip('.')}.") from error


def read_profile(path: Path) -> Profile:
    """The profile in a TOML file. Raises InputError, one sentence with file and key, where it is not one."""
    content = read_toml(path, "profile")
    kind = content.get("kind")
    if kind not in KINDS:
        found = f"{kind!r} was given" if kind is not None else "it does not"
        raise InputError(f'The profile {path} must say kind = "local", "scheduler" or "slurm", but {found}.')
    try:
        return KINDS[kind].model_validate(content)
    except ValidationError as error:
        raise InputError(f"The profile {path} cannot be used: {_first(error, KINDS[kind])}.") from error


def _first(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing that is wrong, as a person says it."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        section = DriverProfile if len(first["loc"]) > 1 else model
        return f"{key} is no key of it; there are {', '.join(section.model_fields)}"
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == "string_pattern_mismatch":
        return f"{key}: {first['input']!r} holds characters that a script cannot take"
    text = first["msg"].removeprefix("Value error, ")
    return f"{key}: {text}" if key else text
