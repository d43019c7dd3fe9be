"""Who is let in: a scheduler and a worker as they run on a cluster, here on 127.0.0.1, and those who try."""

from __future__ import annotations

import os
import re
import socket
import ssl
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client
from distributed.security import Security

from cluster.open import open_cluster
from cluster.profile import SchedulerProfile, SlurmProfile
from cluster.security import address_of, is_here, security_for, temporary_credentials
from cluster.slurm import SlurmJobs, WorkerJob
from cluster.watch import Watch
from pipeline.errors import InputError, RunError, StorageError
from tests.cluster.test_closed import as_root, listening, tried
from tests.workflows.runs import environment

PROFILE = SlurmProfile.model_validate(
    {"kind": "slurm", "jobs": 1, "cores": 1, "memory": "1 GiB", "walltime": "10:00", "interface": "lo"}
)


class Started:
    """A cluster as `open_cluster` starts it, and one worker, started by the script that would go to SLURM."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.folder = folder
        self.credentials = stack.enter_context(temporary_credentials(folder))
        arguments = {"name": "test", "logs": folder, "host": "127.0.0.1", "dashboard": "127.0.0.1:0"}
        self.cluster: Any = stack.enter_context(SlurmJobs(PROFILE, self.credentials, **arguments))  # type: ignore[arg-type]
        self.address: str = self.cluster.scheduler.address
        job = WorkerJob(
            self.address, "test-1", profile=PROFILE, credentials=self.credentials, job_name="test", logs=folder
        )
        self.script = str(job.job_script())  # type: ignore[no-untyped-call]
        with (folder / "worker.log").open("wb") as log:
            self.worker = subprocess.Popen(["bash", "-c", self.script], stdout=log, stderr=log, env=environment())
        stack.callback(self.worker.wait, 30)
        stack.callback(self.worker.terminate)
        limit = time.monotonic() + 120
        while not self.cluster.scheduler.workers:
            assert self.worker.poll() is None, (folder / "worker.log").read_text()
            assert time.monotonic() < limit, (folder / "worker.log").read_text()
            time.sleep(0.05)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with ExitStack() as stack:
        yield Started(stack, tmp_path_factory.mktemp("cluster") / "jobs")


def test_those_with_the_credentials_are_let_in(started: Started) -> None:
    assert started.address.startswith("tls://127.0.0.1:")
    with Client(started.address, security=started.credentials, timeout=10) as client:
        assert client.submit(sum, (1, 2, 3)).result() == 6


@pytest.fixture(params=["scheduler", "worker"])
def port(request: pytest.FixtureRequest, started: Started) -> str:
    """The address of what listens."""
    return started.address if request.param == "scheduler" else next(iter(started.cluster.scheduler.workers))


@pytest.mark.parametrize("plain", [False, True], ids=["other credentials", "plain TCP"])
def test_another_client_is_refused(port: str, plain: bool) -> None:
    address = port.replace("tls://", "tcp://") if plain else port
    security = {} if plain else {"security": Security.temporary()}
    with pytest.raises(OSError, match="in <TCP|imed out" if plain else "TLS certificate does not match"):
        Client(address, timeout=3, **security)


@pytest.mark.parametrize("certificate", [False, True], ids=["no certificate", "another's certificate"])
def test_a_client_that_does_not_care_who_answers_is_refused(port: str, certificate: bool, tmp_path: Path) -> None:
    host, number = port.removeprefix("tls://").split(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate:
        with temporary_credentials(tmp_path) as others:
            own = others.get_tls_config_for_role("client")
            context.load_cert_chain(own["cert"], own["key"])
    with socket.create_connection((host, int(number)), timeout=10) as plain:
        words = "unknown ca|bad signature|decrypt error" if certificate else "certificate required"
        refused = pytest.raises(ssl.SSLError, match=f"(?i){words.replace(' ', '.')}")
        with refused, context.wrap_socket(plain) as connection:
            connection.recv(1)  # with TLS 1.3 the answer to a certificate comes with the first byte


def test_the_credentials_are_for_their_owner_alone(started: Started) -> None:
    (folder,) = started.folder.glob("credentials-*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = list(folder.iterdir())
    assert sorted(path.name for path in files) == ["ca.pem", "certificate.pem", "key.pem"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert "PRIVATE KEY" in (folder / "key.pem").read_text()


def test_no_key_is_in_a_script_a_log_or_a_command_line(started: Started) -> None:
    (folder,) = started.folder.glob("credentials-*")
    lines = [line for path in folder.iterdir() for line in path.read_text().splitlines() if len(line) > 40]
    shown = [started.script, (started.folder / "worker.log").read_text()]
    shown += [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    for process in [psutil.Process(started.worker.pid), *psutil.Process(started.worker.pid).children(recursive=True)]:
        shown += [f"{name}={value}" for name, value in process.environ().items()]
    assert lines
    assert any(str(folder) in text for text in shown), "the files are named"
    assert not [text for text in shown for line in lines if line in text]


def test_ports_bind_where_stated(started: Started) -> None:
    """With interface = "lo": the scheduler, its dashboard, nanny and worker on 127.0.0.1, and nowhere else."""
    worker = psutil.Process(started.worker.pid)
    bound = [
        connection.laddr.ip
        for process in [worker, *worker.children(recursive=True)]
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert bound == ["127.0.0.1"] * 2, "a nanny and a worker, and no web server"
    scheduler = started.cluster.scheduler
    ports = {int(started.address.rsplit(":", 1)[1]), scheduler.http_server.port}
    listening = [c.laddr for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN]
    assert ports <= {address.port for address in listening}
    assert {address.ip for address in listening if address.port in ports} == {"127.0.0.1"}


@as_root
def test_another_user_gets_nothing_of_a_cluster(started: Started) -> None:
    worker = psutil.Process(started.worker.pid)
    family = [worker, *worker.children(recursive=True)]
    scheduler = started.cluster.scheduler
    own = {int(started.address.rsplit(":", 1)[1]), scheduler.http_server.port}
    (folder,) = started.folder.glob("credentials-*")
    found = tried(
        ports=sorted(listening(family) | own), web_ports=[scheduler.http_server.port],
        processes=[process.pid for process in family], folders=[str(started.folder)],
        secrets=[scheduler.token, (folder / "key.pem").read_text().splitlines()[2]],
    )  # fmt: skip
    assert len(found["shaken"]) == 4, "scheduler, its pages, nanny, worker"
    assert [address for address, answer in found["asked"].items() if not str(answer).startswith("refused: ")] == []
    assert set(found["requested"].values()) == {404}
    assert "open" not in found["shaken"].values()
    assert found["secrets"] == []


def test_a_worker_that_does_not_answer_is_replaced(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its nanny, in the same job, ends it and starts another."""
    monkeypatch.setattr("cluster.watch.SILENT_SECONDS", 3.0)
    said: list[str] = []
    watch = Watch(started.cluster, 1, said.append)
    with Client(started.address, security=started.credentials, timeout=10) as client:
        ((address, frozen),) = client.run(os.getpid).items()
        psutil.Process(frozen).suspend()
        limit = time.monotonic() + 120
        while address in started.cluster.scheduler.workers or not started.cluster.scheduler.workers:
            assert time.monotonic() < limit
            started.cluster.sync(watch._end_silent, 0.5)
            time.sleep(0.5)
        assert frozen not in client.run(os.getpid).values()
    assert not psutil.pid_exists(frozen)
    assert len(said) == 1
    assert "it did not answer for" in said[0]
    assert watch.counts["lost"] == 1


def test_credentials_go_with_their_cluster(tmp_path: Path) -> None:
    (tmp_path / "credentials-of-a-killed-driver").mkdir()
    with temporary_credentials(tmp_path):
        assert len(list(tmp_path.iterdir())) == 1, "what a killed driver left is gone"
    assert not list(tmp_path.iterdir())


def test_a_file_system_that_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: str(tmp_path / "shared"))
    (tmp_path / "shared").mkdir(mode=0o755)
    with pytest.raises(StorageError, match="the mode 755"), temporary_credentials(tmp_path):
        pass
    assert not (tmp_path / "shared").exists()


@pytest.mark.parametrize(
    ("address", "here"),
    [("tcp://127.0.0.1:8786", True), ("tcp://localhost:8786", True), ("tcp://[::1]:8786", True),
     ("127.0.0.1:8786", True), ("tcp://192.0.2.7:8786", False), ("tcp://no-such-host.invalid:8786", False)],
)  # fmt: skip
def test_what_is_on_this_machine(address: str, here: bool) -> None:
    assert is_here(address) == here


def test_an_unencrypted_scheduler_elsewhere_has_to_be_meant() -> None:
    address = "tcp://192.0.2.7:8786"
    with pytest.raises(InputError, match=re.escape(f"{address} is not encrypted, so anyone on the way to it can")):
        security_for(SchedulerProfile(address=address))
    assert security_for(SchedulerProfile(address=address, unencrypted=True)) is None


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:8786", "localhost:8786", "ws://[::1]:8786"])
def test_an_unencrypted_scheduler_here_has_to_be_meant(address: str) -> None:
    with pytest.raises(InputError, match="is not encrypted, so every user of this machine can read everything and run"):
        security_for(SchedulerProfile(address=address))
    assert security_for(SchedulerProfile(address=address, unencrypted=True)) is None


def test_an_unencrypted_scheduler_that_is_meant_brings_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.running.CONNECT_SECONDS", 0.2)
    said: list[str] = []
    profile = SchedulerProfile(address="tcp://127.0.0.1:9", unencrypted=True)
    with pytest.raises(RunError, match="No Dask scheduler answers"), open_cluster(profile, say=said.append):
        pass
    assert said == [
        "warning: the connection to tcp://127.0.0.1:9 is not encrypted; every user of this machine can run code"
    ]


def test_a_tls_scheduler_needs_credentials(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="asks for credentials; name ca_file, certificate and key"):
        security_for(SchedulerProfile(address="tls://192.0.2.7:8786"))
    missing = SchedulerProfile(address="tls://192.0.2.7:8786", ca_file=tmp_path / "none.pem")
    with pytest.raises(InputError, match=r"ca_file of the scheduler .* cannot be read"):
        security_for(missing)


def test_a_running_scheduler_is_reached_with_files(started: Started) -> None:
    (folder,) = started.folder.glob("credentials-*")
    profile = SchedulerProfile(
        address=started.address, ca_file=folder / "ca.pem", certificate=folder / "certificate.pem",
        key=folder / "key.pem",
    )  # fmt: skip
    with open_cluster(profile) as (client, offer):
        assert offer.count == 1
        assert client.submit(sum, (1, 2)).result() == 3


def test_an_interface_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"no network interface 'ib7' with an IPv4 address; it has .*lo"):
        address_of("ib7")
    assert address_of("lo") == "127.0.0.1"
