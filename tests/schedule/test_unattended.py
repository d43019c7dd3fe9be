"""Unattended runs: what they leave behind and whom they tell, whatever happens to them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.schedule.task import BROKEN
from pipeline.errors import InputError
from tests.atlas.releases import Atlas, labels
from tests.results.pages import Page
from tests.schedule.conftest import CRONTAB
from tests.schedule.test_entries import as_cron
from tests.workflows.conftest import Command
from tests.workflows.runs import ROOT, running
from workflows.atlas import on_failure, run_logs, unattended
from workflows.atlas.on_failure import call_on_failure
from workflows.atlas.root_lock import root_locked
from workflows.atlas.run_logs import LastRun, RunLogs
from workflows.atlas.unattended import run_unattended
from workflows.lock import BUSY

VARIABLES = "^VOXCALIPER_(EXIT|LOG|RELEASE|SUMMARY)="
TELL = ["sh", "-c", f'cat >>told; env | grep -E "{VARIABLES}" | sort >>told; echo "I told"; exit 7']
Stub = Callable[[str], None]


@pytest.fixture
def atlas(here: Command, scheduler: str, tmp_path: Path) -> Atlas:
    """A release of one mask that tells of failures into a file beside the manifest, where telling fails, too."""
    folder = tmp_path / "it's an atlas, 100%"
    folder.mkdir()
    made = Atlas(
        folder, here, f'kind = "scheduler"\naddress = "{scheduler}"\nunencrypted = true\n', head={"on_failure": TELL}
    )
    made.add("one", labels(1), workflows=["statistics"])
    made.write()
    return made


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    """Puts a program in place of the release."""
    return lambda text: monkeypatch.setattr(unattended, "RELEASE", (sys.executable, "-c", text))


def told(atlas: Atlas) -> str:
    path = atlas.folder / "told"
    return path.read_text() if path.exists() else ""


def logs(atlas: Atlas) -> RunLogs:
    return RunLogs(atlas.root / "logs")


def last(atlas: Atlas) -> LastRun:
    found = logs(atlas).last()
    assert found is not None
    return found


def test_cron_runs_a_release(atlas: Atlas, programs: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of the table, in an environment without HOME, in the folder /."""
    table = programs("crontab", CRONTAB)
    table.write_text("0 0 * * * true\n")
    shown = atlas.call("atlas", "schedule", atlas.manifest, "--every", "1d", "--on", "cron")
    assert (shown.code, table.read_text()) == (0, "0 0 * * * true\n"), "nothing is installed unasked"
    assert "cron would have it in the crontab of " in shown.err
    done = atlas.call("atlas", "schedule", atlas.manifest, "--every", "1d", "--on", "cron", "--install")
    assert done.code == 0, done
    assert table.read_text() == f"0 0 * * * true\n{shown.out}"
    assert atlas.call("atlas", "schedule", atlas.manifest).out == f"# cron\n{shown.out}"

    line = as_cron(shown.out.splitlines()[1].removeprefix("30 2 * * * "))
    bare = {"PATH": "/usr/bin:/bin", "LOGNAME": "me", "SHELL": "/bin/sh", "PYTHONPATH": str(ROOT)}
    monkeypatch.chdir("/")
    ran = subprocess.run(["/bin/sh", "-c", line], env=bare, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", ""), "cron has nothing to send"
    assert atlas.outcomes() == {"one/statistics": "made"}
    left = last(atlas)
    assert (left.exit_code, left.made, left.failed, left.release) == (0, 1, 0, atlas.release().identifier)
    assert left.following is not None
    assert (left.following.hour, left.following.minute) == (2, 30)
    assert left.log is not None
    assert "one/statistics: made in" in Path(left.log).read_text()
    page = Page((atlas.root / "logs" / "summary.html").read_text())
    assert "All is well. It runs again on " in page.text
    assert all((atlas.root / "logs" / link).exists() for link in page.links)
    assert {os.path.basename(link) for link in page.links} == {"index.html", "report.html"}
    assert not told(atlas)

    assert atlas.call("atlas", "schedule", atlas.manifest, "--remove").out == "removed from cron\n"
    assert table.read_text() == "0 0 * * * true\n"


def test_somebody_is_told_of_entries_that_fail(atlas: Atlas) -> None:
    atlas.lose("one")
    done = atlas.call("atlas", "unattended", atlas.manifest)
    assert done.code == 1
    left = last(atlas)
    assert (left.outcome, left.failed, left.troubles, left.following) == ("failed", 1, (), None)
    summary = (atlas.root / "logs" / "summary.txt").read_text()
    assert re.search(r"^failed:\n- one/statistics: .*one\.ome\.zarr", summary, re.MULTILINE), summary
    assert summary in done.err, "cron sends what is said"
    assert told(atlas) == summary + (
        f"VOXCALIPER_EXIT=1\nVOXCALIPER_LOG={left.log}\nVOXCALIPER_RELEASE={atlas.manifest}\n"
        f"VOXCALIPER_SUMMARY={atlas.root / 'logs' / 'summary.html'}\n"
    )
    assert left.log is not None
    assert (
        Path(left.log).read_text().endswith("I told\nvoxcaliper: The command on_failure (sh) ended with exit code 7.\n")
    )


def test_a_run_that_fails_beside_its_entries_says_both(atlas: Atlas) -> None:
    atlas.lose("one")
    (atlas.root / "index.html").mkdir(parents=True)
    assert atlas.call("atlas", "unattended", atlas.manifest).code == 1
    left = last(atlas)
    assert (left.failed, len(left.troubles)) == (1, 1)
    assert f"{atlas.root / 'index.html'} could not be written" in left.troubles[0]
    assert left.troubles[0] in told(atlas)


def test_a_turn_is_skipped_while_another_process_is_at_work(atlas: Atlas, stub: Stub) -> None:
    atlas.root.mkdir()
    with root_locked(atlas.root):
        done = atlas.call("atlas", "unattended", atlas.manifest)
    assert (done.code, done.out, done.err) == (BUSY, "", "")
    (line,) = logs(atlas).skipped()
    assert line.endswith(f"{atlas.root} is being worked on by process {os.getpid()} on {os.uname().nodename};"
                         " wait for it or stop it.")  # fmt: skip
    stub(f"raise SystemExit({BUSY})")
    for turn in (2, 3, 4):
        assert run_unattended(atlas.manifest) == BUSY
        assert len(logs(atlas).skipped()) == turn
        assert ("test: 3 starts in a row were skipped. " in told(atlas)) == (turn >= 3)
    assert told(atlas).count("VOXCALIPER_EXIT=75\n") == 1, "once"
    assert not logs(atlas).logs()
    assert logs(atlas).last() is None
    stub("")
    assert run_unattended(atlas.manifest) == 0
    assert "was at work: 4, " in (atlas.root / "logs" / "summary.txt").read_text()
    assert not logs(atlas).skipped()


def test_two_unattended_runs_at_once(atlas: Atlas) -> None:
    with logs(atlas).locked():
        done = atlas.call("atlas", "unattended", atlas.manifest)
    assert (done.code, done.out, done.err) == (BUSY, "", "")
    assert f"{atlas.root} is being worked on by process {os.getpid()} on " in logs(atlas).skipped()[0]


def test_a_run_that_was_killed_is_told_of_by_the_next(atlas: Atlas, tmp_path: Path) -> None:
    with running(tmp_path / "commands", "atlas", "unattended", atlas.manifest) as command:
        command.wait_until(lambda: bool(logs(atlas).logs()) and bool(logs(atlas).logs()[0].stat().st_size))
        family = command.family()
        os.killpg(command.process.pid, signal.SIGKILL)
        psutil.wait_procs(family, timeout=20)
    killed = logs(atlas).logs()[0]
    assert run_unattended(atlas.manifest) == 0
    assert (
        f"The run before ended without a word, killed or with its machine; {killed} is its log. It goes on now."
        in told(atlas)
    )
    assert "The run before ended without a word" in (atlas.root / "logs" / "summary.txt").read_text()
    assert run_unattended(atlas.manifest) == 0
    assert told(atlas).count("ended without a word") == 1


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("import os; os.kill(os.getpid(), 9)", "The run was killed by SIGKILL; if nobody did that, memory ran out."),
        ("raise ValueError('x')", "The run ended with exit code 1; it said last: “ValueError: x”."),
        ("raise SystemExit(4)", "The run ended with exit code 4 and without a word."),
        ("raise SystemExit('voxcaliper: The disk is full.')", "The disk is full."),
    ],
)
def test_a_release_that_dies(atlas: Atlas, stub: Stub, program: str, sentence: str) -> None:
    stub(program)
    assert run_unattended(atlas.manifest) == 1
    assert last(atlas).troubles[0].startswith(sentence)
    assert f"- {sentence}" in told(atlas)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_that_is_stopped_is_no_failure(atlas: Atlas, stub: Stub, number: signal.Signals) -> None:
    stub(
        "import os, signal, time\nsignal.signal(signal.SIGTERM, lambda *_: os._exit(130))\n"
        f"os.kill(os.getppid(), {int(number)})\ntime.sleep(20)"
    )
    assert run_unattended(atlas.manifest) == 130
    assert (last(atlas).outcome, last(atlas).exit_code) == ("stopped", 130)
    assert not told(atlas)
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL, "handlers are as they were"


def test_a_manifest_that_cannot_be_read(atlas: Atlas, stub: Stub) -> None:
    """Logs go where the schedule says, and the command is the last one that was known."""
    whole = atlas.manifest.read_text()
    atlas.manifest.write_text("datasets = 3\n")
    with pytest.raises(InputError, match="cannot be used"):
        run_unattended(atlas.manifest)
    assert run_unattended(atlas.manifest, logs=atlas.root / "logs") == 1
    assert "cannot be used" in last(atlas).troubles[0]
    assert not told(atlas), "nobody knows whom to tell"
    atlas.manifest.write_text(whole)
    stub("")
    assert run_unattended(atlas.manifest) == 0
    atlas.manifest.unlink()
    stub("raise SystemExit('voxcaliper: There is no manifest.')")
    assert run_unattended(atlas.manifest, logs=atlas.root / "logs") == 1
    assert told(atlas).startswith("test: something failed\n")
    assert last(atlas).on_failure == tuple(TELL)


def test_a_chain_without_a_successor_is_a_failure(atlas: Atlas, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BROKEN, "sbatch: error: no more")
    stub("")
    assert atlas.call("atlas", "unattended", atlas.manifest, "--every", "1d").code == 1
    assert last(atlas).troubles == ("No job follows this one, install the schedule again: sbatch: error: no more",)
    assert "next      nothing starts it again\n" in told(atlas)


def test_logs_that_cannot_be_written_are_told_of(atlas: Atlas) -> None:
    atlas.root.mkdir()
    (atlas.root / "logs").write_text("in the way")
    done = atlas.call("atlas", "unattended", atlas.manifest)
    assert done.code == 1
    assert f"{atlas.root / 'logs'} cannot be made: File exists; mend it" in told(atlas)
    assert f"{atlas.root / 'logs'} cannot be made" in done.err


def test_a_status_that_cannot_be_written_keeps_nobody_from_being_told(atlas: Atlas, stub: Stub) -> None:
    stub("")
    (atlas.root / "logs" / "summary.txt").mkdir(parents=True)
    assert run_unattended(atlas.manifest) == 1
    assert "summary.txt could not be written: Is a directory" in told(atlas)


def test_logs_are_bounded(atlas: Atlas, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_logs, "KEPT", 3)
    folder = atlas.root / "logs"
    folder.mkdir(parents=True)
    for day in range(10, 18):
        (folder / f"2020-01-{day}T000000-1.log").touch()
        (folder / f"job-{day}.log").touch()
        os.utime(folder / f"job-{day}.log", (day, day))
    stub("print('hello')")
    run_unattended(atlas.manifest)
    kept = [path.name for path in logs(atlas).logs()]
    assert kept[:2] == ["2020-01-16T000000-1.log", "2020-01-17T000000-1.log"]
    assert Path(last(atlas).log or "").read_text() == "hello\n"
    assert len(kept) == 3
    assert sorted(path.name for path in folder.glob("job-*")) == ["job-15.log", "job-16.log", "job-17.log"]


def test_a_command_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It and what it started are ended; what it does not read is no error."""
    monkeypatch.setattr(on_failure, "SECONDS", 0.5)
    command = ["sh", "-c", "sleep 60 & echo $! >child; wait"]
    assert (
        call_on_failure(command, "x" * 10**6, {}, tmp_path, None)
        == "The command on_failure (sh) was ended after 0.5 s."
    )
    child = int((tmp_path / "child").read_text())
    gone = not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    assert gone or psutil.wait_procs([psutil.Process(child)], timeout=10)[0]
    assert call_on_failure(["true"], "x" * 10**6, {}, tmp_path, None) == ""
    assert "(no-such-program) cannot be started: No such" in call_on_failure(
        ["no-such-program"], "", {}, tmp_path, None
    )
    (tmp_path / "notify").write_text("#!/bin/sh\ncat >noted\n")
    (tmp_path / "notify").chmod(0o755)
    assert call_on_failure(["./notify"], "µ", {}, tmp_path, None) == ""
    assert (tmp_path / "noted").read_text() == "µ"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--install"], "--every is missing: say how often, for example --every 1d."),
        (["--at", "2:00"], "--every is missing"),
        (["--remove", "--every", "1d"], "--remove stands alone"),
        (["--every", "1d", "--on", "at"], "--on must be one of"),
        (["--every", "7h", "--on", "cron"], "cron and scrontab cannot start something every 7h"),
    ],
)
def test_options_that_do_not_go_together(atlas: Atlas, options: list[str], sentence: str) -> None:
    assert sentence in atlas.call("atlas", "schedule", atlas.manifest, *options).failure()


def test_a_run_without_a_log_makes_no_older_one_look_killed(atlas: Atlas, stub: Stub) -> None:
    stub("")
    run_unattended(atlas.manifest)
    assert logs(atlas).killed() is None
    later = datetime.now().astimezone() + timedelta(seconds=1)  # names of logs tell seconds
    logs(atlas).write_last(last(atlas).model_copy(update={"log": None, "began": later}))
    assert logs(atlas).killed() is None
    atlas.root.rename(atlas.root.with_name("moved"))
    assert RunLogs(atlas.root.with_name("moved") / "logs").killed() is None
    (atlas.root.with_name("moved") / "logs" / "2999-01-01T000000-1.log").touch()
    assert RunLogs(atlas.root.with_name("moved") / "logs").killed() is not None


def test_last_json_says_what_programs_need(atlas: Atlas, stub: Stub) -> None:
    stub("")
    run_unattended(atlas.manifest)
    content: dict[str, Any] = json.loads((atlas.root / "logs" / "last.json").read_text())
    assert content["exit_code"] == 0
    assert datetime.fromisoformat(content["began"]) <= datetime.fromisoformat(content["ended"])
