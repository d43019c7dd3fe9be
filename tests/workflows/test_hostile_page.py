"""The page of a run beside the dashboard, of hostile names, in a browser: no script of them runs, no request leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from distributed import Client
from playwright.sync_api import Browser
from pydantic import BaseModel

from cluster.observed import show_page
from cluster.open import open_cluster
from cluster.profile import LocalProfile
from pipeline.plain_text import lines
from tests.results.pages import BROWSER
from tests.results.test_hostile_names import WITH_CONTROLS, browser, check
from workflows.config import StagePlan, ThicknessConfig
from workflows.run_folder import create_run
from workflows.run_state import RunState
from workflows.status_page import new_address, status_page

__all__ = ["browser"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium, and there is none (make test-browser installs it)"),
]


class Plan(BaseModel):
    """As much of a plan as the page reads."""

    stages: tuple[StagePlan, ...]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with open_cluster(LocalProfile(workers=1), folder=tmp_path_factory.mktemp("cluster")) as (client, _):
        yield client


@pytest.mark.parametrize("name", WITH_CONTROLS)
def test_the_page_of_a_run(browser: Browser, client: Client, tmp_path: Path, name: str) -> None:
    stage = StagePlan(name=name.encode("ascii", "ignore").decode(), tasks=2, memory_bytes=1)
    run = create_run(Path(f"{tmp_path}/{name}"), ThicknessConfig(mask="mask"), Plan(stages=(stage,)))
    now = datetime.now(UTC)
    said = RunState(
        state="stopped", sentence=stage.name, process=os.getpid(), host=stage.name, began=now, said=now, workers=1,
        threads=1, where=stage.name, device=stage.name,
    )  # fmt: skip
    run.status.write_text(said.model_dump_json())
    page = status_page(run.path)
    assert lines(page) == page, "no control character"
    check(browser, show_page(client, new_address(), partial(status_page, run.path)))
