"""A service and a timer of systemd, of this user."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from cluster.schedule.task import Task, call, last_words, systemd_command, systemd_environment, task_name
from cluster.schedule.timing import Timing
from pipeline.errors import InputError, RunError, StorageError

SERVICE = """\
[Unit]
Description=voxcaliper: {about}

[Service]
Type=oneshot
{environment}ExecStart={command}
"""
TIMER = """\
[Unit]
Description=voxcaliper: {about}

[Timer]
{times}
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


def units(task: Task) -> dict[str, str]:
    """The text of each unit, by the name of its file."""
    name, about = task_name(task.subject), str(task.subject).replace("%", "%%")
    calendar = task.timing.calendar()
    times = (
        f"OnCalendar={calendar}\nPersistent=true"  # made up for where the machine was off
        if calendar
        else f"OnActiveSec={task.timing.seconds}s\nOnUnitActiveSec={task.timing.seconds}s"
    )
    service = SERVICE.format(about=about, environment=systemd_environment(task), command=systemd_command(task))
    return {f"{name}.service": service, f"{name}.timer": TIMER.format(about=about, times=times)}


class Units:
    """Timers of systemd, as a place for entries."""

    def missing(self) -> str | None:
        """Why there cannot be one here, None where there can."""
        try:
            _systemctl("show-environment")
        except RunError as error:
            return str(error)
        return None

    def refuses(self, timing: Timing) -> None:
        """Raises InputError where it cannot start something at these times."""
        if timing.calendar() is None and timing.at is not None:
            raise InputError(f"systemd cannot start something every {timing.every} at fixed times; leave --at out.")

    def install(self, task: Task) -> None:
        """Write the units in place of those of the same file, and start the timer. Raises RunError, StorageError."""
        for name, text in units(task).items():
            path = folder() / name
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_suffix(".new").write_bytes(text.encode("utf-8", "surrogateescape"))
                path.with_suffix(".new").replace(path)
            except OSError as error:
                raise StorageError(f"{path} cannot be written: {error.strerror}; mend it, then try again.") from error
        _systemctl("daemon-reload")
        _systemctl("enable", f"{task_name(task.subject)}.timer")
        _systemctl("restart", f"{task_name(task.subject)}.timer")

    def remove(self, subject: Path) -> bool:
        """Stop the timer of a file and remove its units; whether there were any. Raises RunError."""
        if self.installed(subject) is None:
            return False
        _systemctl("disable", "--now", f"{task_name(subject)}.timer")
        for ending in ("timer", "service"):
            (folder() / f"{task_name(subject)}.{ending}").unlink(missing_ok=True)
        _systemctl("daemon-reload")
        return True

    def installed(self, subject: Path) -> str | None:
        """The timer of a file, None where it has none."""
        try:
            return (folder() / f"{task_name(subject)}.timer").read_text(encoding="utf-8", errors="surrogateescape")
        except FileNotFoundError:
            return None

    def text(self, task: Task) -> str:
        """Both units, each under its name."""
        return "\n".join(f"# {folder() / name}\n{text}" for name, text in units(task).items())

    def where(self, task: Task) -> str:
        """Where the entry goes, as a person says it."""
        user = getpass.getuser()
        return (
            f"{folder()}, started by systemctl --user; it runs while {user} is logged in,"
            f" and always after: loginctl enable-linger {user}"
        )


def folder() -> Path:
    """Where systemd looks for the units of this user."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"


def _systemctl(*arguments: str) -> None:
    code, out, err = call(["systemctl", "--user", *arguments])
    if code:
        raise RunError(f"systemctl --user {arguments[0]} says: {last_words(code, out, err)}.")
