"""What is kept of how a run went on its workers: Dask's performance report, or the reason why there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client

from cluster import observed


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as opened:
        yield opened


@pytest.fixture
def short_runs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observed, "WORTH_REPORTING_SECONDS", 0.0)


@pytest.mark.usefixtures("short_runs_too")
def test_a_report_appears_whole_and_names_the_tasks(client: Client, tmp_path: Path) -> None:
    said: list[str] = []
    with observed.reported(tmp_path / "performance.html", said.append):
        client.submit(time.sleep, 0.1, key=("distance-y-of-a-run", 0)).result()
    assert said == []
    assert [path.name for path in tmp_path.iterdir()] == ["performance.html"]
    assert "distance-y-of-a-run" in (tmp_path / "performance.html").read_text("utf-8")


@pytest.mark.usefixtures("client", "short_runs_too")
def test_a_report_that_cannot_be_written_is_noted(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").touch()
    with observed.reported(tmp_path / "file" / "performance.html", said.append):
        pass
    assert len(said) == 1
    assert said[0].startswith("no performance report: ")


@pytest.mark.usefixtures("client")
def test_a_short_run_and_one_that_fails_have_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with observed.reported(tmp_path / "performance.html", said.append):
        pass
    monkeypatch.setattr(observed, "WORTH_REPORTING_SECONDS", 0.0)
    with pytest.raises(ZeroDivisionError), observed.reported(tmp_path / "performance.html", said.append):
        raise ZeroDivisionError
    assert said == []
    assert list(tmp_path.iterdir()) == []
