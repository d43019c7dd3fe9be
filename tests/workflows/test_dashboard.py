"""A run in a real browser: its stages by name and how far they are, as `voxcaliper status` has them."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.workflows.conftest import Command
from tests.workflows.runs import STAGES, receipts, running
from workflows.run_folder import RunFolder
from workflows.run_state import read_state

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, and there is none (make test-browser installs it)"),
]

SHOWN_PROGRESS = """
() => {
    for (const document of window.Bokeh?.documents ?? []) {
        for (const model of document._all_models.values()) {
            const data = model.data instanceof Map ? Object.fromEntries(model.data) : model.data;
            if (data && data["show-name"] && data["show-name"].length) {
                return {names: [...data["show-name"]], all: [...data["all"]]};
            }
        }
    }
    return null;
}
"""
"""What Dask's panel Progress draws on its canvas: names of tasks, and how many it knows of each."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(60_000)
    yield page
    page.close()


def shown_stages(page: Page) -> list[dict[str, Any]]:
    """The table of the page: name, blocks, of how many, and whether it is marked."""
    rows = page.locator("tbody tr")
    found = []
    for row in (rows.nth(n) for n in range(rows.count())):
        cells = row.locator("td").all_inner_texts()
        bar = row.locator("progress")
        assert bar.get_attribute("value") == cells[2].replace(",", "")
        marked = row.get_attribute("class") == "at-work"
        found.append({"name": cells[0], "blocks": int(cells[2]), "of_blocks": int(cells[3]), "at work": marked})
    return found


def test_a_run_is_watched(mask: Path, here: Command, page: Page, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    arguments = ("thickness", mask, "--run", run.path, "--block-shape", "16", "--workers", "2", "--quiet")
    with running(tmp_path, *arguments) as command:
        command.wait_until(lambda: len(receipts(run.path, "centres")) >= 8)
        workers = command.workers()
        for worker in workers:  # the run stands still while it is looked at
            worker.send_signal(signal.SIGSTOP)
        command.wait_until(lambda: (said := read_state(run)) is not None and said.stage == "centres")

        found = json.loads(here("status", run.path, "--json").out)
        assert (found["state"], found["stage"]) == ("running", "centres")
        page.goto(found["process"]["page"])
        assert shown_stages(page) == [
            {key: stage[key] for key in ("name", "blocks", "of_blocks")} | {"at work": stage["name"] == "centres"}
            for stage in found["stages"]
        ]
        assert [stage["name"] for stage in found["stages"]][: len(STAGES)] == list(STAGES)
        assert [stage["blocks"] for stage in found["stages"]][:3] == [64, 64, 64]
        assert 8 <= found["stages"][3]["blocks"] < 64
        assert page.locator("#state").inner_text() == "running"
        assert page.locator("#left").inner_text().startswith("left: about ")
        page.screenshot(path=tmp_path / "page.png")

        page.get_by_role("link", name="status").click()
        panel = page.wait_for_function(SHOWN_PROGRESS).json_value()
        assert panel["names"] == [found["stage"]], "Dask shows what is in flight"
        assert 1 <= panel["all"][0] <= 64 - found["stages"][3]["blocks"]
        page.wait_for_timeout(1000)  # until the canvas is drawn
        page.screenshot(path=tmp_path / "status.png")

        for worker in workers:
            worker.send_signal(signal.SIGCONT)
        done = command.finished()
    assert (done.code, done.err) == (0, ""), done
    found = json.loads(here("status", run.path, "--json").out)
    assert found["state"] == "complete"
    assert all(stage["finished"] for stage in found["stages"])
