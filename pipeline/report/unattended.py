"""One page about an unattended run: what was done, what went wrong, and what comes next."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pipeline import plain_text
from pipeline.files import write_whole
from pipeline.report import numbers
from pipeline.report.templates import rendered

OUTCOMES = ("made", "failed", "waiting", "kept")
HEADLINES = {"done": "all is well", "failed": "something failed", "stopped": "stopped before its end"}
TIME = "%Y-%m-%d %H:%M:%S"
LISTED = 40
"""So many entries of an outcome are listed; a page that is longer is not read."""


@dataclass(frozen=True)
class EntryLine:
    """An entry of a release. sentence : why it was made, or why not. report : where its report lies, from the page."""

    name: str
    outcome: Literal["made", "kept", "failed", "waiting"]
    sentence: str = ""
    seconds: float = 0.0
    bytes: int = 0
    report: str | None = None


@dataclass(frozen=True)
class UnattendedContent:
    """What the page says. troubles : sentences about the run as a whole. notes : what is good to know, no trouble.

    free_bytes, root : what the file system of the results has left, and where they are. index : the page of the
    release, from this page; None where there is none. following : when it runs next; None where nothing will start it.
    """

    name: str
    manifest: str
    outcome: Literal["done", "failed", "stopped"]
    began: datetime
    ended: datetime
    exit_code: int
    log: str
    root: str
    free_bytes: int | None
    release: str | None = None
    index: str | None = None
    following: datetime | None = None
    troubles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    entries: tuple[EntryLine, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Entries by outcome."""
        found = Counter[str](entry.outcome for entry in self.entries)
        return {outcome: found[outcome] for outcome in OUTCOMES}

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.ended - self.began).total_seconds()

    @property
    def title(self) -> str:
        """The whole page in one line."""
        counts = ", ".join(f"{number} {outcome}" for outcome, number in self.counts.items() if number)
        return f"{self.name}: {HEADLINES[self.outcome]}{f' ({counts})' if counts else ''}"

    def shown(self, outcome: str) -> list[EntryLine]:
        """The entries of an outcome that are listed."""
        return [entry for entry in self.entries if entry.outcome == outcome][:LISTED]


def render_text(content: UnattendedContent) -> str:
    """The page as plain text, as it goes into a mail."""
    following = f"{content.following:{TIME}}" if content.following else "nothing starts it again"
    lines = [
        content.title,
        "",
        f"began     {content.began:{TIME}}, took {_plain(numbers.duration(content.seconds))}",
        f"next      {following}",
        f"disk      {_plain(numbers.size(content.free_bytes))} left",
        f"results   {content.root}",
        *([f"index     {content.root}/index.html"] if content.index else []),
        f"log       {content.log or 'could not be written'}",
        f"manifest  {content.manifest}",
    ]
    if content.troubles:
        lines += ["", *(f"- {sentence}" for sentence in content.troubles)]
    for outcome in ("failed", "waiting", "made"):
        shown = content.shown(outcome)
        if shown:
            lines += ["", f"{outcome}:", *(f"- {_line(entry)}" for entry in shown)]
            if content.counts[outcome] > len(shown):
                lines.append(f"- and {content.counts[outcome] - len(shown)} more")
    if content.notes:
        lines += ["", *content.notes]
    return "\n".join(map(plain_text.one_line, lines)) + "\n"


def _line(entry: EntryLine) -> str:
    took = f" ({_plain(numbers.duration(entry.seconds))})" if entry.seconds else ""
    return f"{entry.name}{took}{f': {entry.sentence}' if entry.sentence else ''}"


def _plain(text: str) -> str:
    return text.replace(numbers.THIN, " ")


def write_unattended(folder: Path, content: UnattendedContent) -> str:
    """Write summary.txt and summary.html, each whole or not at all; returns the text. Raises StorageError."""
    text = render_text(content)
    write_whole(folder / "summary.txt", text)
    page = rendered("unattended.html.j2", content=content, headlines=HEADLINES, time=TIME)
    write_whole(folder / "summary.html", plain_text.lines(page))
    return text
