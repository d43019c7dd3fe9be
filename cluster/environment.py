"""Variables that a profile gives to the driver and, through Dask, to workers that run already or begin later."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from distributed import Client, Worker, WorkerPlugin

from cluster.profile import Profile


def settle_environment(profile: Profile) -> None:
    """Take the variables of a profile for this process and those that it starts."""
    os.environ.update(_expanded(profile.cache_environment))


class Environment(WorkerPlugin):
    """Sets variables in every worker, also in those that come later; values may name variables of the worker."""

    name = "voxcaliper-environment"

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = variables
        self.before: dict[str, str | None] = {}

    def setup(self, worker: Worker) -> None:
        """Called by Dask in each worker."""
        self.before = {name: os.environ.get(name) for name in self.variables}
        os.environ.update(_expanded(self.variables))

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


def _expanded(variables: dict[str, str]) -> dict[str, str]:
    return {name: os.path.expandvars(value) for name, value in variables.items()}
