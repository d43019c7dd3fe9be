"""Programs that keep tables of cron as the real ones do, in files of a test."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.profile import LocalProfile
from cluster.schedule.task import Task
from cluster.schedule.timing import timing_of
from tests.workflows.conftest import here, scheduler

__all__ = ["here", "scheduler"]

TRICKY = (
    "plain",
    "a b",
    "it's",
    'say "so"',
    "100%",
    "a\\%b",
    "a\\\\%b",
    "$HOME `id` $(id)",
    "%%",
    "ünï",
    "a;b&c|d>e",
    "#x",
)

CRONTAB = """\
#!/bin/sh
# As cron's: a table from standard input or a file; it ends with a line break.
case "$1" in
-l) [ -e "{store}" ] || { echo "no crontab for $(id -un)" >&2; exit 1; }; cat "{store}";;
-r) rm "{store}";;
-) cat >"{store}.new"
   [ -z "$(tail -c1 "{store}.new")" ] || { echo "new crontab file is missing newline before EOF" >&2; exit 1; }
   mv "{store}.new" "{store}";;
*) exit 2;;
esac
"""
SCRONTAB = """\
#!/bin/sh
# As SLURM's: a table from standard input; options are cut at blanks.
[ -z "$SCRON_OFF" ] || { echo "scrontab: fatal: scrontab is disabled on this cluster" >&2; exit 1; }
case "$1" in
-l) [ -e "{store}" ] || { echo "no crontab for $(id -un)"; exit 1; }; cat "{store}";;
-r) rm "{store}";;
-) cat >"{store}.new"
   if grep -q -e '^#SCRON .*[[:blank:]\\"]' -e "^#SCRON .*'" -e '^#SCRON --signal=B' "{store}.new"; then
       echo "There are errors in your crontab."; exit 1
   fi
   if grep -q nowhere "{store}.new"; then
       printf '%s\n' "There was an issue with the job submission on lines 5-9" \
           "The error code return was: Invalid partition name specified" "The error message was: (null)"
       exit 1
   fi
   mv "{store}.new" "{store}";;
*) exit 2;;
esac
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a program on a PATH that holds nothing else but the system's; returns the file that stands for its table."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", os.pathsep.join((str(folder), "/usr/bin", "/bin")))

    def add(name: str, text: str) -> Path:
        table = tmp_path / f"{name}.table"
        (folder / name).write_text(text.replace("{store}", str(table)))
        (folder / name).chmod(0o755)
        return table

    return add


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., Task]:
    """A task about a file RELEASE.toml, with changes."""

    def make(every: str = "1d", at: str | None = None, **changes: Any) -> Task:
        subject = changes.pop("subject", tmp_path / "RELEASE.toml")
        values: dict[str, Any] = {
            "subject": subject,
            "arguments": ("atlas", "unattended", str(subject)),
            "logs": tmp_path / "logs",
            "timing": timing_of(every, at),
            "profile": LocalProfile(),
        }
        return Task(**{**values, **changes})

    return make


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of the interpreter: a program in a folder with a tricky name that writes its words, a line each."""
    program = tmp_path / 'an "interpreter" % it\'s' / "python"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return program
