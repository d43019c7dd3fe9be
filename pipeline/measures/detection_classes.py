"""The classes of detected points: their names, what else stands for them, and the labels that a volume has for them.

Words are compared without regard to case. A table is a file:

    CSV    a header with `class` and any of `alias`, `label`; a row per word, empty cells left out, a class in as many
           rows as it needs
    JSON   an object: class → an alias, a label (a number), or a list of them. nnU-Net's dataset.json is one, too: its
           "labels" count, class → number or, as before version 2, number → class
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.plain_text import plain_cell

Pair = tuple[str, str]
"""A class, and a word that stands for it."""


@dataclass(frozen=True)
class ClassTable:
    """The classes that points may have. names : what stands for a class, in small letters -> the class."""

    names: Mapping[str, str]

    @staticmethod
    def of(pairs: Iterable[Pair], where: str) -> ClassTable:
        """A table out of classes and words. Raises InputError, which begins with `where`, for a word of two classes."""
        names: dict[str, str] = {}
        spelled: dict[str, str] = {}
        for category, word in pairs:
            name = spelled.setdefault(category.casefold(), category)
            other = names.setdefault(word.casefold(), name)
            if other != name:
                raise InputError(f"{where}: {word!r} stands for the classes {other} and {name}; name one of them.")
        if not names:
            raise InputError(f"{where} names no class; write a line for each.")
        return ClassTable(names)

    @property
    def classes(self) -> list[str]:
        """The classes, in their order."""
        return list(dict.fromkeys(self.names.values()))

    @property
    def labels(self) -> dict[int, str]:
        """Label of a volume -> its class."""
        return {int(word): name for word, name in self.names.items() if _is_label(word)}

    def find(self, word: str, where: str) -> str:
        """The class that a word stands for. Raises InputError, which begins with `where`, for an unknown one."""
        name = self.names.get(word.casefold())
        if name is None:
            raise InputError(
                f"{where}: the class {word!r} is none of {', '.join(self.classes)}; correct it, give other classes with"
                " --classes FILE, or take classes as they are with --any-class."
            )
        return name


def _is_label(word: str) -> bool:
    return word.isascii() and word.isdecimal() and int(word) > 0


BUGNIST = ClassTable.of(
    [(name, name) for name in ("sl", "bc", "ma", "gh", "ac", "bp", "bf", "cf", "bl", "ml", "wo", "pp")]
    + [("bp", "gp")],
    "BugNIST",
)
"""The classes of the BugNIST challenge, where gp counts as bp."""


def read_classes(path: Path) -> ClassTable:
    """The table in a file, see the module. Raises InputError, one sentence with the file, where it is none."""
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; give a CSV or JSON file.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; save the classes as CSV or JSON in UTF-8.") from error
    pairs = _of_json(text, path) if text.lstrip().startswith(("{", "[")) else _of_csv(text, path)
    return ClassTable.of(pairs, str(path))


def _of_csv(text: str, path: Path) -> Iterator[Pair]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        if header.count("class") != 1 or not set(header) <= {"class", "alias", "label"}:
            raise InputError(f"{path}, line 1: the header must name class, and may name alias and label.")
        for row in rows:
            cells = [plain_cell(cell.strip()) for cell in row]
            if not any(cells):
                continue
            where = f"{path}, line {rows.line_num}"
            if len(cells) != len(header):
                raise InputError(f"{where}: {len(cells)} values, but the header names {len(header)}; mend the line.")
            category = cells[header.index("class")]
            if not category:
                raise InputError(f"{where}: the class is empty; name it.")
            yield category, category
            for name, cell in zip(header, cells, strict=True):
                if name == "label" and cell and not _is_label(cell):
                    raise InputError(f"{where}: the label is {cell!r}; labels are whole numbers of at least 1.")
                if name != "class" and cell:
                    yield category, cell
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.line_num}: this is not CSV ({error}); mend the line.") from error


def _of_json(text: str, path: Path) -> Iterator[Pair]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); mend it.") from error
    if isinstance(content, Mapping) and isinstance(content.get("labels"), Mapping):
        content = content["labels"]
    if not isinstance(content, Mapping):
        raise InputError(f'{path} must hold an object such as {{"bp": ["gp", 6]}}: class, and what stands for it.')
    numbered = all(key.isdecimal() for key in content) and all(isinstance(value, str) for value in content.values())
    for key, value in content.items():
        category, words = (value, [int(key)]) if numbered else (key, value if isinstance(value, list) else [value])
        yield category, category
        for word in words:
            if word is not None and (word != 0 or isinstance(word, bool)):  # 0 is the background's
                yield category, _word(word, category, path)


def _word(word: Any, category: str, path: Path) -> str:
    if isinstance(word, str) and word.strip():
        return word.strip()
    if isinstance(word, int) and not isinstance(word, bool) and word > 0:
        return str(word)
    raise InputError(f"{path}: {word!r} stands for the class {category}; give a word, or a label of at least 1.")
