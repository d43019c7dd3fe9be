"""Variables that a profile gives to the driver and, through Dask, to workers that run already or begin later."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator

from distributed import Client, Worker, WorkerPlugin

from cluster.profile import Profile

logger = logging.getLogger("distributed.worker")


def settle_environment(profile: Profile) -> list[str]:
    """Take the variables of a profile for this process and those that it starts; a sentence on each left out."""
    variables, left_out = _expanded(profile.cache_environment)
    os.environ.update(variables)
    return left_out


def shell_lines(profile: Profile) -> list[str]:
    """The same for the script of a job, which has variables of its own."""
    lines = []
    for name, value in profile.cache_environment.items():
        export = f'export {name}="{value}"'
        said = f"voxcaliper: warning: {name} is left out, because a variable in it is not set here"
        safely = f'if (set -u; : "{value}") 2>/dev/null; then {export}; else echo "{said}" >&2; fi'
        lines.append(safely if "$" in value else export)
    return lines


class Environment(WorkerPlugin):
    """Sets variables in every worker, also in those that come later; values may name variables of the worker."""

    name = "voxcaliper-environment"

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = variables
        self.before: dict[str, str | None] = {}

    def setup(self, worker: Worker) -> None:
        """Called by Dask in each worker."""
        self.before = {name: os.environ.get(name) for name in self.variables}
        variables, left_out = _expanded(self.variables)
        os.environ.update(variables)
        for sentence in left_out:
            logger.warning(sentence)

    def teardown(self, worker: Worker) -> None:
        """Called by Dask where a worker goes on without us."""
        for name, value in self.before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def environment_of_workers(client: Client, profile: Profile) -> Iterator[None]:
    """The variables of a profile in workers that run already, as long as this context lasts."""
    variables = profile.cache_environment
    if not variables:
        yield
        return
    client.register_plugin(Environment(variables))
    try:
        yield
    finally:
        client.unregister_worker_plugin(Environment.name)


def _expanded(variables: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Variables with those of this process in them, and a sentence on each that names no folder here."""
    found, left_out = {}, []
    for name, value in variables.items():
        text = os.path.expandvars(value)
        if "$" in text or not (text.isdecimal() or os.path.isabs(text)):
            left_out.append(
                f"{name} is left out on {socket.gethostname()}, because {value} names no folder there: a variable is"
                " not set, or the path is not absolute."
            )
        else:
            found[name] = text
    return found, left_out
