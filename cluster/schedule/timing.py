"""When something is started: an interval, and the fixed times of the wall clock that it stands for.

The times are counted from a Sunday's midnight in 1970, so they follow from the interval alone: nothing drifts, nothing
has to be remembered, and what is started late is followed by the next time of the same row. Wall clock: where clocks
change, a daily run stays at its time of day.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.errors import InputError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
MINUTE, HOUR, DAY, WEEK = (UNITS[unit] for unit in "mhdw")
SHORTEST = 10
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
SUNDAY = datetime(1970, 1, 4)  # noqa: DTZ001  the wall clock, wherever it hangs
NIGHT = "02:30"
"""The time of day of what runs once in a day or less often, where none is given."""
INTERVAL = re.compile(r"([1-9]\d{0,5})([smhdw])")
TIME = re.compile(r"(?:(sun|mon|tue|wed|thu|fri|sat) )?([01]?\d|2[0-3]):([0-5]\d)", re.IGNORECASE)


@dataclass(frozen=True)
class Timing:
    """Every so often. every, at : as they were given. seconds : the interval. offset : of its times, from SUNDAY on."""

    every: str
    at: str | None
    seconds: int
    offset: int

    @property
    def words(self) -> list[str]:
        """The options that say the same."""
        return ["--every", self.every, *(["--at", self.at] if self.at is not None else [])]

    def following(self, now: datetime) -> datetime:
        """The first time after now; both are what the clock on the wall shows, without a zone."""
        past = (now - SUNDAY) // timedelta(seconds=1) - self.offset
        return SUNDAY + timedelta(seconds=self.offset + past - past % self.seconds + self.seconds)

    def upcoming(self) -> datetime:
        """The first time from now on."""
        return self.following(datetime.now())  # noqa: DTZ005  what the wall shows

    def cron_fields(self) -> str:
        """Minute, hour, day of month, month and day of week, as in a crontab.

        Raises InputError where cron would not start it at exactly these times.
        """
        minute, hour, day = self.offset % HOUR // MINUTE, self.offset % DAY // HOUR, self.offset // DAY
        if self.seconds == WEEK:
            return f"{minute} {hour} * * {day}"
        if self.seconds == DAY:
            return f"{minute} {hour} * * *"
        if self.seconds % HOUR == 0 and DAY % self.seconds == 0:
            return f"{minute} {_steps(hour, self.seconds // HOUR, 23)} * * *"
        if self.seconds % MINUTE == 0 and HOUR % self.seconds == 0:
            return f"{_steps(self.offset // MINUTE, self.seconds // MINUTE, 59)} * * * *"
        raise InputError(
            f"cron and scrontab cannot start something every {self.every}: they know 1w, 1d, the hours that divide a"
            " day (1h, 2h, 3h, 4h, 6h, 8h, 12h) and the minutes that divide an hour (1m … 30m);"
            " take one of them, or --on sbatch or systemd."
        )

    def calendar(self) -> str | None:
        """The same for systemd's OnCalendar; None where only a clock that runs from the start can say it."""
        second, minute, hour = self.offset % MINUTE, self.offset % HOUR // MINUTE, self.offset % DAY // HOUR
        if self.seconds == WEEK:
            return f"{DAYS[self.offset // DAY].capitalize()} *-*-* {hour:02}:{minute:02}:00"
        if self.seconds == DAY:
            return f"*-*-* {hour:02}:{minute:02}:00"
        if self.seconds % HOUR == 0 and DAY % self.seconds == 0:
            return f"*-*-* {hour:02}/{self.seconds // HOUR}:{minute:02}:00"
        if self.seconds % MINUTE == 0 and HOUR % self.seconds == 0:
            return f"*-*-* *:{minute:02}/{self.seconds // MINUTE}:00"
        if MINUTE % self.seconds == 0:
            return f"*-*-* *:*:{second:02}/{self.seconds}"
        return None


def _steps(first: int, step: int, last: int) -> str:
    """Every so many from the first on, one by one where that is not 0: scrontab counts the steps of a range from 0."""
    if first:
        return ",".join(map(str, range(first, last + 1, step)))
    return "*" if step == 1 else f"*/{step}"


def timing_of(every: str, at: str | None = None) -> Timing:
    """--every and --at. Raises InputError where they do not say when."""
    found = INTERVAL.fullmatch(every)
    seconds = int(found[1]) * UNITS[found[2]] if found else 0
    if seconds < SHORTEST:
        raise InputError(
            f"--every takes a whole number and m, h, d or w (30m, 6h, 1d, 1w), not less than {SHORTEST}s,"
            f" but {every!r} was given."
        )
    time = TIME.fullmatch(at if at is not None else "00:00" if seconds % DAY else NIGHT)
    if time is None:
        raise InputError(f"--at takes a time of day (02:30), with 1w also a day (sun 02:30), but {at!r} was given.")
    if time[1] and seconds % WEEK:
        raise InputError(f"--at {at} names a day, which goes with whole weeks alone (1w), but --every is {every}.")
    day = DAYS.index(time[1].lower()) if time[1] else 0
    return Timing(every, at, seconds, (day * DAY + int(time[2]) * HOUR + int(time[3]) * MINUTE) % seconds)
