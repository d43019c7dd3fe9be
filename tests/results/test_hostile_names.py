"""Pages whose names hold markup, in a browser: no script of them runs, and no request leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, sync_playwright

from pipeline.plain_text import lines
from pipeline.report import write_release, write_report
from pipeline.report.comparison import write_comparison
from pipeline.report.unattended import EntryLine, UnattendedContent, write_unattended
from tests.atlas.synthetic import release
from tests.results.comparisons import comparison_of, content_of, label_measures
from tests.results.pages import BROWSER
from tests.results.test_report import result_of, rich
from tests.results.test_unattended_page import content

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium, and there is none (make test-browser installs it)"),
]
PWNED = "document.title='pwned';new Image().src='http://192.0.2.1/'"
NAMES = [
    f'<img src="http://192.0.2.1/x" onerror="{PWNED}">',
    f"<script>{PWNED}</script>",
    f'"><svg onload="{PWNED}">',
    f"' autofocus onfocus='{PWNED}' x='",
    f"</script><script>{PWNED}</script>",
    f"</title><script>{PWNED}</script>",
    f'{{{{7*7}}}}<iframe srcdoc="<script>parent.{PWNED}</script>">',
    "<style>*{background:url(http://192.0.2.1/)}</style>",
    f"javascript:{PWNED}",
]
WITH_CONTROLS = [*NAMES, "=HYPERLINK('http://192.0.2.1/')", "\x1b]0;pwned\x07\r\n<b>\u202epwned\udcff"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


def check(browser: Browser, path: Path | str) -> None:
    """Open a page, a file or an address, press and point at everything, and look at what came of it."""
    address = path if isinstance(path, str) else path.as_uri()
    page = browser.new_context().new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.evaluate("for (const one of document.querySelectorAll('input,button,select,[tabindex]')) one.focus()")
    page.wait_for_timeout(100)
    assert [url for url in requests if not url.startswith(("data:", address))] == []
    assert page.title() != "pwned"
    live = "[onerror],[onload],[onfocus],[autofocus],[srcdoc],iframe,object,embed,img[src^=http]"
    assert page.locator(live).count() == 0
    inner = page.eval_on_selector_all("script,style", "nodes => nodes.map(node => node.textContent)")
    assert not [text for text in inner if "192.0.2.1" in text]
    links = page.eval_on_selector_all("a[href]", "nodes => nodes.map(node => node.getAttribute('href'))")
    assert not [link for link in links if link.strip().lower().startswith("javascript:")]
    shown = page.locator("html").inner_text()
    assert "192.0.2.1" in shown or "pwned" in shown, "the name stands there as text"


@pytest.mark.parametrize("name", NAMES)
def test_a_report_of_thickness(browser: Browser, tmp_path: Path, name: str) -> None:
    content = result_of(rich(), regions=3, title=name, provenance={"voxcaliper": name, "mask": name, name: name})
    write_report(tmp_path / "report.html", content)
    check(browser, tmp_path / "report.html")


@pytest.mark.parametrize("name", NAMES)
def test_a_report_of_a_comparison(browser: Browser, tmp_path: Path, name: str) -> None:
    compared = comparison_of({"1": label_measures()})
    write_comparison(
        tmp_path / "report.html",
        content_of(compared, title=name, slices_note=name, provenance={"reference": name, name: name}),
    )
    check(browser, tmp_path / "report.html")


@pytest.mark.parametrize("name", NAMES)
def test_the_page_of_a_release(browser: Browser, tmp_path: Path, name: str) -> None:
    content = release(6)
    hostile = [
        replace(entry, dataset=name, donor=name, organ=name, about=name, reason=name) for entry in content.entries
    ]
    write_release(tmp_path / "index.html", replace(content, title=name, entries=hostile))
    check(browser, tmp_path / "index.html")


@pytest.mark.parametrize("name", WITH_CONTROLS)
def test_the_page_of_an_unattended_run(browser: Browser, tmp_path: Path, name: str) -> None:
    texts = [write_unattended(tmp_path, _unattended(words)) for words in ("plain", name)]
    assert len(texts[0].splitlines()) == len(texts[1].splitlines()), "no name makes a line of its own"
    for shown in (texts[1], (tmp_path / "summary.html").read_text("utf-8")):
        assert lines(shown) == shown, "no control character"
    check(browser, tmp_path / "summary.html")


def _unattended(name: str) -> UnattendedContent:
    outcomes: tuple[Literal["made", "failed", "waiting"], ...] = ("made", "failed", "waiting")
    entries = tuple(EntryLine(name, outcome, name, 1.0, 1, f"../{name}") for outcome in outcomes)
    return content(
        name=name, manifest=name, log=name, root=name, release=name, troubles=(name,), notes=(name,), entries=entries
    )  # fmt: skip
