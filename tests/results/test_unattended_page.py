"""The page about an unattended run: complete, escaped, short, and the same in a browser."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.report.unattended import LISTED, EntryLine, UnattendedContent, render_text, write_unattended
from tests.results.pages import BROWSER, Page, dom_of

BEGAN = datetime(2026, 11, 26, 2, 30, 1, tzinfo=UTC)
ENTRIES = (
    EntryLine("kidney/thickness", "made", "mask: content", 4321.5, 3 << 40, "../entries/kidney/report.html"),
    EntryLine("lung/<b>", "failed", "chunk 0/1 is missing & gone."),
    EntryLine("brain/statistics", "waiting", "It takes 2 TiB."),
    EntryLine("heart/compare", "kept"),
)


def content(**changes: Any) -> UnattendedContent:
    values: dict[str, Any] = {
        "name": "kidneys & hearts",
        "manifest": "/data/RELEASE.toml",
        "outcome": "failed",
        "began": BEGAN,
        "ended": BEGAN + timedelta(hours=5, minutes=12),
        "exit_code": 1,
        "log": "/data/out/logs/1.log",
        "root": "/data/out",
        "free_bytes": 5 << 30,
        "release": "2026-11-26T023003Z",
        "index": "../index.html",
        "following": datetime(2026, 11, 27, 2, 30),  # noqa: DTZ001  the wall's
        "troubles": ("The <disk> is full.",),
        "entries": ENTRIES,
    }
    return UnattendedContent(**{**values, **changes})


def test_the_text_says_everything_on_one_page() -> None:
    assert (
        render_text(content())
        == """\
kidneys & hearts: something failed (1 made, 1 failed, 1 waiting, 1 kept)

began     2026-11-26 02:30:01, took 5 h 12 min
next      2026-11-27 02:30:00
disk      5.00 GiB left
results   /data/out
index     /data/out/index.html
log       /data/out/logs/1.log
manifest  /data/RELEASE.toml

- The <disk> is full.

failed:
- lung/<b>: chunk 0/1 is missing & gone.

waiting:
- brain/statistics: It takes 2 TiB.

made:
- kidney/thickness (1 h 12 min): mask: content
"""
    )


def test_the_page_says_the_same_and_escapes_it(tmp_path: Path) -> None:
    write_unattended(tmp_path, content())
    page = Page((tmp_path / "summary.html").read_text())
    for words in (
        "Something failed. It runs again on Friday, 27 November 2026 at 02:30.", "The <disk> is full.",
        "lung/<b> chunk 0/1 is missing & gone.", "brain/statistics It takes 2 TiB.", "3.00\u202fTiB", "5.00\u202fGiB",
        "5\u202fh 12\u202fmin",
    ):  # fmt: skip
        assert words in page.text
    assert page.links == ["../entries/kidney/report.html", "../index.html"]
    assert (tmp_path / "summary.txt").read_text() == render_text(content())


def test_a_release_of_many_entries_stays_one_page(tmp_path: Path) -> None:
    many = tuple(EntryLine(f"n{number}/thickness", "failed", "It is gone.") for number in range(1000))
    text = write_unattended(tmp_path, content(entries=many))
    assert text.count("It is gone.") == LISTED
    assert f"- and {1000 - LISTED} more\n" in text
    page = Page((tmp_path / "summary.html").read_text())
    assert page.text.count("It is gone.") == LISTED
    assert f"And {1000 - LISTED} more." in page.text


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    nothing = content(entries=(), troubles=(), following=None, index=None, log="", free_bytes=None, outcome="stopped")
    text = write_unattended(tmp_path, nothing)
    assert text.startswith("kidneys & hearts: stopped before its end\n")
    assert "next      nothing starts it again\ndisk      – left\n" in text
    page = Page((tmp_path / "summary.html").read_text())
    assert "Stopped before its end. Nothing starts it again." in page.text
    assert "could not be written" in page.text
    assert not page.links


@pytest.mark.skipif(BROWSER is None, reason="needs chromium, which is not installed")
def test_a_browser_shows_it_offline(tmp_path: Path) -> None:
    write_unattended(tmp_path, content())
    dom = dom_of(tmp_path / "summary.html")
    assert "<li>The <disk> is full.</li>" in dom
    assert dom.count("<dt>") == 6
