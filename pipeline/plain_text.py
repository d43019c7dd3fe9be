r"""Names out of files and of people, as text that nothing runs: in terminals, in tables, in scripts.

Terminal: control characters are shown as escapes (\x1b, \n). Tables: a text cell that a spreadsheet would take for a
formula (it begins with = + - @, a tab or a carriage return, and is no number) gets an apostrophe in front, which
spreadsheets hide; whoever reads our tables takes it off again (`plain_cell`). A carriage return is escaped. Scripts:
such words are refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from pipeline.errors import InputError

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet runs."""
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)")
INVISIBLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode's categories of controls, halves of characters, and ends of lines and paragraphs."""
TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of what follows, so that a name is shown as another one."""


def _is_hidden(letter: str) -> bool:
    return letter in TURNING or unicodedata.category(letter) in INVISIBLE


def one_line(text: str) -> str:
    """A text as one line for a terminal: what would move the cursor, change colours or break the line is escaped."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(letter) if _is_hidden(letter) else letter for letter in text)


def lines(text: str) -> str:
    """As `one_line`, of a text with several lines, whose ends and tabs stay."""
    return "".join(part if part in "\n\t" else one_line(part) for part in re.split(r"([\n\t])", text))


def _escaped(letter: str) -> str:
    if 0xDC80 <= ord(letter) <= 0xDCFF:  # a byte of a file's name that is no UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


class PlainLines:
    """A stream of text that passes no control character on, beside the ends of lines and tabs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As of any stream; the number of characters given."""
        self._stream.write(lines(text))
        return len(text)

    def writelines(self, parts: Iterable[str]) -> None:
        for part in parts:
            self.write(part)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def unwrapped(stream: TextIO) -> TextIO:
    """The stream behind a `PlainLines`, for what draws on a terminal itself."""
    return stream._stream if isinstance(stream, PlainLines) else stream  # noqa: SLF001  of the class above


def is_plain(text: str) -> bool:
    """Whether a text has no line break and no other control character."""
    return not any(map(_is_hidden, text))


def check_words(what: str, words: Iterable[str]) -> None:
    """Raise InputError where words that become text of a script hold a line break or another control character."""
    for word in words:
        if not is_plain(word):
            raise InputError(f"{what} {word!r} holds a line break or another control character; rename it.")


def safe_cell(value: Any) -> Any:
    """What is written into a cell of a table: texts that a spreadsheet would run get an apostrophe, all else stays.

    A carriage return, which readers of CSV take for the end of a row, is written as its escape.
    """
    if isinstance(value, str) and "\r" in value:
        value = value.replace("\r", "\\r")
    if isinstance(value, str) and value.startswith(FORMULA) and not NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def safe_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """As `safe_cell`, of all cells."""
    return {name: safe_cell(value) for name, value in row.items()}


def plain_cell(text: str) -> str:
    """What a cell of a table says: the inverse of `safe_cell`."""
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULA) else text
