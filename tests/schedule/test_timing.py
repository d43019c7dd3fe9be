"""Intervals and times: those that cron, systemd and a chain of jobs mean are those that we mean."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.schedule.timing import timing_of
from pipeline.errors import InputError

NOW = datetime(2026, 11, 26, 13, 47, 12)  # noqa: DTZ001  a Thursday, on the wall
INTERVALS = ("1m", "5m", "30m", "60m", "1h", "6h", "12h", "24h", "1d", "7d", "1w", "168h")
UNEVEN = ("7h", "36h", "2d", "45m", "2w", "90m", "25m")
moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1))  # noqa: DTZ001
times = st.one_of(st.none(), st.tuples(st.integers(0, 23), st.integers(0, 59)).map(lambda t: f"{t[0]}:{t[1]:02}"))


def fires(fields: str, moment: datetime) -> bool:
    """Whether cron and scrontab start a line with these fields in this minute.

    They agree on numbers and on steps of *, and not on steps of a range, which scrontab counts from 0.
    """

    def holds(field: str, value: int) -> bool:
        if found := re.fullmatch(r"\*(?:/([2-9]|[1-5]\d))?", field):
            return value % int(found[1] or 1) == 0
        return value in {int(number) for number in field.split(",")}

    minute, hour, day, month, weekday = fields.split()
    assert (day, month) == ("*", "*")
    sunday_first = moment.isoweekday() % 7
    return holds(minute, moment.minute) and holds(hour, moment.hour) and holds(weekday, sunday_first)


@given(st.sampled_from(INTERVALS), times, moments)
def test_cron_means_the_same_times(every: str, at: str | None, now: datetime) -> None:
    timing = timing_of(every, at)
    fields = timing.cron_fields()
    following = timing.following(now)
    assert now < following <= now + timedelta(seconds=timing.seconds)
    assert following.second == 0
    assert fires(fields, following)
    minute = now.replace(second=0, microsecond=0)
    between = min(int((following - minute) / timedelta(minutes=1)), 200)
    assert not any(fires(fields, following - timedelta(minutes=back)) for back in range(1, between))


@given(st.sampled_from((*INTERVALS, *UNEVEN, "10s", "15s")), times, moments)
def test_times_follow_each_other_without_drift(every: str, at: str | None, now: datetime) -> None:
    timing = timing_of(every, at)
    first = timing.following(now)
    late = timedelta(seconds=timing.seconds - 1)
    assert timing.following(first) == timing.following(first + late) == first + timedelta(seconds=timing.seconds)
    if at is not None and timing.seconds % 86400 == 0:
        assert f"{first:%H:%M}" == at.rjust(5, "0")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("every", [*INTERVALS, "10s", "15s"])
@pytest.mark.parametrize("at", [None, "7:05", "23:59"])
def test_systemd_means_the_same_times(every: str, at: str | None) -> None:
    timing = timing_of(every, at)
    calendar = timing.calendar()
    assert calendar is not None
    done = subprocess.run(
        ["systemd-analyze", "calendar", f"--base-time={NOW:%Y-%m-%d %H:%M:%S}", "--iterations=3", calendar],
        capture_output=True, text=True, check=True, env={"TZ": "UTC", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    found = re.findall(r"(?:Next elapse|Iter. #\d|Iteration #\d): \w+ (\S+ \S+) UTC", done.stdout)
    expected = [timing.following(NOW)]
    while len(expected) < 3:
        expected.append(timing.following(expected[-1]))
    assert found == [f"{each:%Y-%m-%d %H:%M:%S}" for each in expected], done.stdout


@pytest.mark.parametrize("every", UNEVEN)
def test_what_cron_cannot_say_is_refused_with_what_it_can(every: str) -> None:
    timing = timing_of(every)
    with pytest.raises(InputError, match=rf"cannot start something every {every}: they know 1w, 1d, .* --on sbatch"):
        timing.cron_fields()
    assert timing.calendar() is None


@pytest.mark.parametrize(
    ("every", "at", "fields"),
    [
        ("1d", None, "30 2 * * *"),
        ("1w", "sun 02:30", "30 2 * * 0"),
        ("1w", "Fri 23:05", "5 23 * * 5"),
        ("6h", None, "0 */6 * * *"),
        ("6h", "02:30", "30 2,8,14,20 * * *"),
        ("1h", "10:15", "15 * * * *"),
        ("30m", None, "*/30 * * * *"),
        ("20m", "0:05", "5,25,45 * * * *"),
        ("1m", None, "* * * * *"),
    ],
)
def test_fields_as_a_person_would_write_them(every: str, at: str | None, fields: str) -> None:
    assert timing_of(every, at).cron_fields() == fields


@pytest.mark.parametrize("every", ["", "daily", "1", "0d", "-1d", "1.5h", "1y", "9s", "1d\n", "1 d"])
def test_intervals_that_are_none(every: str) -> None:
    with pytest.raises(InputError, match="--every takes a whole number and m, h, d or w"):
        timing_of(every)


@pytest.mark.parametrize(
    ("every", "at"), [("1d", "25:00"), ("1d", "2"), ("1d", "noon"), ("1d", "02:60"), ("1w", "x 1:00")]
)
def test_times_that_are_none(every: str, at: str) -> None:
    with pytest.raises(InputError, match="--at takes a time of day"):
        timing_of(every, at)


def test_a_day_goes_with_weeks_alone() -> None:
    with pytest.raises(InputError, match="names a day, which goes with whole weeks alone"):
        timing_of("1d", "mon 02:30")
