"""Nothing of a run answers another user of the machine: not its ports, not its pages, not its files."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from cluster.open import open_cluster
from cluster.profile import LocalProfile
from tests.cluster import intruder
from tests.workflows.runs import ROOT, Running, all_gone, environment, receipts, running, started_scheduler
from workflows.run_folder import RunFolder
from workflows.run_state import read_state

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user of this machine")
SECRET = "not-a-key-but-nobody-else-shall-see-it"  # noqa: S105

# In every Python of the runs: a block takes so long that others can look on.
DAWDLING = """
import os, time
if os.environ.get("DAWDLE_SECONDS"):
    import pipeline.ledger
    filed = pipeline.ledger.write_parcel

    def dawdle(path, *arguments):
        time.sleep(float(os.environ["DAWDLE_SECONDS"]))
        return filed(path, *arguments)

    pipeline.ledger.write_parcel = dawdle
"""


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every user may look into, as home folders often are, and runs that take their time."""
    folder = Path(tempfile.mkdtemp(prefix="shown-"))
    folder.chmod(0o755)
    (folder / "start").mkdir()
    (folder / "start" / "sitecustomize.py").write_text(DAWDLING)
    monkeypatch.setenv("PYTHONPATH", f"{folder / 'start'}{os.pathsep}{ROOT}")
    monkeypatch.setattr("tests.workflows.runs.environment", lambda: {**os.environ})
    monkeypatch.setenv("DAWDLE_SECONDS", "0.5")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    before = os.umask(0o022)
    yield folder
    os.umask(before)
    shutil.rmtree(folder)


def listening(processes: list[psutil.Process]) -> set[int]:
    """Ports at which processes listen, each on 127.0.0.1; they listen at no named socket either."""
    found = set()
    names = {line.split()[6]: line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]}
    for process in processes:
        for connection in process.net_connections():
            if connection.status == psutil.CONN_LISTEN:
                assert connection.laddr.ip == "127.0.0.1"
                found.add(int(connection.laddr.port))
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            target = os.readlink(descriptor)
            if target.startswith("socket:["):
                flags = names.get(target[8:-1], [""] * 7)[3]
                assert not flags or int(flags, 16) & 0x10000 == 0, f"{process} accepts connections at a named socket"
    return found


def tried(**task: Any) -> dict[str, Any]:
    """What the other user reaches."""
    done = subprocess.run(
        [sys.executable, intruder.__file__], input=json.dumps(task), env=environment(), capture_output=True, text=True,
        check=False, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["user"] == intruder.USER
    return found


def keys_of(folder: Path) -> list[str]:
    """A line of each private key below a folder."""
    return [path.read_text().splitlines()[2] for path in folder.rglob("key.pem")]


def is_shut(command: Running, run: Path, folder: Path) -> None:
    """Nobody but its owner gets anything out of a run that is going on."""
    family = command.family()
    said = read_state(RunFolder(run))
    assert said is not None
    token = urlsplit(said.dashboard).path.split("/")[1]
    page = said.page.rsplit("/", 1)[1]
    web = urlsplit(said.dashboard).port
    ports, keys = listening(family), keys_of(run)
    assert web in ports
    assert len(ports) == 4, "a scheduler, its pages, and two workers"
    assert len(token) >= 22
    assert len(keys) == 1
    found = tried(
        ports=sorted(ports), web_ports=[web], processes=[process.pid for process in family], folders=[str(folder)],
        secrets=[token, page, *keys, SECRET],
    )  # fmt: skip
    assert [address for address, answer in found["asked"].items() if not str(answer).startswith("refused: ")] == []
    assert set(found["requested"].values()) == {404}
    assert [port for port, answer in found["shaken"].items() if answer == "open"] == []
    assert str(run / "status.json") in found["seen"], "what is no secret may be read"
    assert [name for name in found["seen"] if "credentials-" in name or name.endswith("private.json")] == []
    assert found["secrets"] == []


@as_root
def test_another_user_gets_nothing_of_a_run(mask: Path, shown: Path) -> None:
    run = shown / "run"
    arguments = ("thickness", mask, "--run", run, "--block-shape", "32", "--workers", "2")
    with running(shown / "said", *arguments) as command:
        command.wait_until(lambda: len(receipts(run, "mask")) >= 1)
        family = command.family()
        is_shut(command, run, shown)
        done = command.finished()
    assert done.code == 0, done
    assert all_gone(family)
    assert not [path for path in run.rglob("*") if "credentials" in path.name or path.name == "private.json"]


@as_root
def test_another_user_gets_nothing_of_a_release(mask: Path, shown: Path) -> None:
    (shown / "profile.toml").write_text('kind = "local"\nworkers = 2\n')
    (shown / "release.toml").write_text(
        'name = "closed"\noutput = "out"\nprofile = "profile.toml"\n[defaults]\nworkflows = ["thickness"]\n'
        f'[[dataset]]\nname = "a"\nmask = "{mask}"\nblock_shape = 32\n'
    )
    run = shown / "out" / "entries" / "a" / "thickness" / "work"
    with running(shown / "said", "atlas", "run", shown / "release.toml") as command:
        command.wait_until(lambda: len(receipts(run, "mask")) >= 1)
        is_shut(command, run, shown)
        done = command.finished()
    assert done.code == 0, done
    assert not [path for path in shown.rglob("*") if "credentials" in path.name or path.name == "private.json"]


@as_root
def test_the_other_user_gets_into_what_is_open(tmp_path: Path, shown: Path) -> None:
    """The same attempts succeed where nothing is closed, so that they mean something where they fail."""
    (shown / "open").write_text(SECRET)
    with started_scheduler(tmp_path, workers=1) as processes:
        port = urlsplit(processes.address).port
        assert port is not None
        found = tried(
            ports=[port], web_ports=[], processes=[os.getpid()], folders=[str(shown)], secrets=[SECRET]
        )  # fmt: skip
    assert found["asked"][f"tcp://127.0.0.1:{port}"]["type"] == "Scheduler"
    assert found["secrets"] == [str(shown / "open")]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the dashboard of local workers."""
    with open_cluster(LocalProfile(workers=1), folder=tmp_path_factory.mktemp("run")) as (client, _):
        yield client.dashboard_link


def answer(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    """The status and body of an answer."""
    host = urlsplit(address).netloc
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        answered = connection.getresponse()
        body = b"" if answered.status == 101 else answered.read()  # a websocket has no end
        answered.close()
        return answered.status, body.decode("utf-8", "replace")
    finally:
        connection.close()


def test_the_dashboard_is_there_for_those_with_its_address(address: str) -> None:
    path = urlsplit(address).path
    status, body = answer(address, path)
    assert status == 200
    assert "Bokeh" in body
    assert answer(address, path.replace("status", "statics/css/base.css"))[0] == 200
    assert answer(address, path.replace("status", "profile"))[0] == 200


def test_the_dashboard_serves_no_page_that_shows_or_changes_more(address: str) -> None:
    path = urlsplit(address).path
    pages = ("info/main/workers.html", "info/main/logs.html", "json/identity.json", "metrics", "health", "eventstream",
             "sitemap.json", "proxy/80/127.0.0.1/", "api/v1/retire_workers", "statics/no.css")  # fmt: skip
    assert {page: answer(address, path.replace("status", page))[0] for page in pages} == dict.fromkeys(pages, 404)
    for above in ("statics/../scheduler/info.py", "statics/..%2fscheduler%2finfo.py"):
        assert answer(address, path.replace("status", above))[0] == 403, "no other file"
    methods = ("POST", "PUT", "DELETE", "PATCH", "OPTIONS")
    assert {method: answer(address, path, method)[0] for method in methods} == dict.fromkeys(methods, 404)


@pytest.mark.parametrize(
    ("origin", "status"), [("http://127.0.0.1:1", 404), ("https://example.org", 404), ("null", 404), ("", 101)]
)
def test_the_websocket_is_for_the_page_itself(address: str, origin: str, status: int) -> None:
    parts = urlsplit(address)
    page = answer(address, parts.path)[1]
    token = page.split('"token":"')[1].split('"')[0]
    headers = {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol": f"bokeh, {token}",
        "Origin": origin or f"http://{parts.netloc}",
    }  # fmt: skip
    assert answer(address, f"{parts.path}/ws", **headers)[0] == status


def test_workers_here_listen_with_credentials_alone(tmp_path: Path) -> None:
    with open_cluster(LocalProfile(workers=2), folder=tmp_path) as (client, _):
        processes = client.run(os.getpid)
        assert all(worker.startswith("tls://127.0.0.1:") for worker in processes)
        assert {f"tls://127.0.0.1:{port}" for port in listening(list(map(psutil.Process, processes.values())))} == set(
            processes
        )
        (own,) = tmp_path.iterdir()
        assert own.stat().st_mode & 0o777 == 0o700
    assert not list(tmp_path.iterdir())
