"""Every entry as text, started as cron, a job or systemd would start it, and put among other entries."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.profile import SlurmProfile
from cluster.schedule.chain import script
from cluster.schedule.places import PLACES, installed_anywhere, place_for, remove_everywhere
from cluster.schedule.tables import CRONTAB, SCRONTAB, entry_of, marks, with_entry
from cluster.schedule.task import BROKEN, Task, cron_command, needed_environment, task_name
from cluster.schedule.timing import timing_of
from cluster.schedule.units import units
from pipeline.errors import InputError, RunError
from tests.cluster.test_profile import slurm
from tests.schedule.conftest import CRONTAB as CRONTAB_PROGRAM
from tests.schedule.conftest import SCRONTAB as SCRONTAB_PROGRAM
from tests.schedule.conftest import TRICKY
from tests.schedule.test_timing import moments

Tasks = Callable[..., Task]
Programs = Callable[..., Path]
OTHERS = "# mine\nMAILTO=me@example.org\n\n*/5 * * * *\techo 'a b' \\% >/dev/null  \n"
PLAIN = ["-P", "-m", "workflows.cli", "atlas", "unattended"]


def as_cron(command: str) -> str:
    """What cron gives to the shell: until the first % without a backslash, and that backslash is dropped."""
    text, escaped = "", False
    for letter in command:
        if escaped:
            text, escaped = (text[:-1] if letter == "%" else text) + letter, False
        elif letter == "%":
            break
        else:
            text, escaped = text + letter, letter == "\\"
    return text


def started(*command: str, folder: Path = Path("/")) -> list[str]:
    """The lines that a command prints in an environment as bare as cron's."""
    environment = {"PATH": "/usr/bin:/bin", "LOGNAME": "me"}
    done = subprocess.run([*command], env=environment, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", TRICKY)
@pytest.mark.usefixtures("echo")
def test_cron_starts_the_command_whatever_its_path(task: Tasks, tmp_path: Path, name: str) -> None:
    subject = tmp_path / name / "RELEASE.toml"
    one = task(subject=subject, environment={"PATH": f"/opt/{name}:/usr/bin:/bin"})
    begin, line, end = CRONTAB.text(one).splitlines()
    assert begin == f"# voxcaliper atlas {subject} begin"
    assert end == f"# voxcaliper atlas {subject} end"
    fields, command = line.split(" * * * ")
    assert fields == "30 2"
    assert started("/bin/sh", "-c", as_cron(command)) == [*PLAIN, str(subject)]


@given(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=20))
def test_no_letter_is_lost_on_the_way_through_cron_and_the_shell(name: str) -> None:
    one = Task(Path("/r"), ("x", name), Path("/l"), timing_of("1d"), slurm_profile())
    command = as_cron(cron_command(one))
    done = subprocess.run(["/bin/sh", "-c", f'set -- {command}; printf %s "$6"'], capture_output=True, check=True)
    assert done.stdout.decode() == name


def slurm_profile() -> SlurmProfile:
    return SlurmProfile(kind="slurm", jobs=1, cores=1, memory="1 GiB", walltime="01:00:00")


@pytest.mark.parametrize("name", TRICKY)
@pytest.mark.usefixtures("echo")
def test_scrontab_starts_the_command_whatever_its_path(task: Tasks, tmp_path: Path, name: str) -> None:
    """SLURM writes the command into a script of /bin/sh."""
    subject = tmp_path / name / "RELEASE.toml"
    subject.parent.mkdir()
    lines = SCRONTAB.text(task(subject=subject, logs=subject.parent, at="4:05")).splitlines()
    fields, command = lines[-2].split(" * * * ")
    assert fields == "5 4"
    (tmp_path / "script").write_text(f"#!/bin/sh\nSLURM_JOB_ID=7\n{command}\n")
    assert not started("/bin/sh", str(tmp_path / "script"))
    assert (subject.parent / "job-7.log").read_text().splitlines() == [*PLAIN, str(subject)]


def test_scrontab_cuts_options_at_blanks(task: Tasks) -> None:
    with pytest.raises(InputError, match="takes no blanks or quotes in an option, and '--comment=a b' has some"):
        SCRONTAB.text(task(options=("--exclude=node[1-3]", "--comment=a b")))


def test_an_entry_of_scrontab_asks_for_what_the_profile_says(task: Tasks, tmp_path: Path) -> None:
    profile = slurm(
        'partition = "normal"\npython = "python3"\nsetup = ["echo ready"]\n[driver]\nmemory = "2 GiB"', tmp_path
    )
    subject = Path("/data/RELEASE.toml")
    one = task("6h", subject=subject, logs=Path("/data/out 1/logs"), profile=profile, options=("--qos=long",))
    assert (
        SCRONTAB.text(one)
        == f"""\
# voxcaliper atlas /data/RELEASE.toml begin
#SCRON --job-name={task_name(subject)}
#SCRON --partition=normal
#SCRON --ntasks=1
#SCRON --cpus-per-task=1
#SCRON --mem=2048M
#SCRON --time=01:00:00
#SCRON --qos=long
#SCRON --output=/dev/null
0 */6 * * * exec bash -c 'echo ready; exec python3 -P -m workflows.cli atlas unattended /data/RELEASE.toml'\
 >>'/data/out 1/logs'/job-"$SLURM_JOB_ID".log 2>&1
# voxcaliper atlas /data/RELEASE.toml end
"""
    )


SBATCH = (
    '#!/bin/sh\necho "$1" >>"{store}"\n[ ! -e "{store}.refuse" ] || { echo "sbatch: error: no more" >&2; exit 1; }\n'
)
SQUEUE = '#!/bin/sh\ncat "{store}" 2>/dev/null || :\n'
DATE = '#!/bin/sh\n[ "$1" = "+%F %T" ] && cat "{store}" || exec /bin/date "$@"\n'


@pytest.mark.parametrize("name", TRICKY)
@pytest.mark.usefixtures("echo")
def test_a_job_submits_its_successor_then_runs(task: Tasks, programs: Programs, tmp_path: Path, name: str) -> None:
    submitted, queue, clock = programs("sbatch", SBATCH), programs("squeue", SQUEUE), programs("date", DATE)
    clock.write_text("2026-11-26 13:47:12\n")
    subject = tmp_path / name / "RELEASE.toml"
    one = task("7h", "02:30", subject=subject)
    job = tmp_path / "job"
    job.write_text(script(one))
    run = subprocess.run(["bash", str(job)], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [*PLAIN, str(subject), "--requeue"]
    following = one.timing.following(datetime(2026, 11, 26, 13, 47, 12))  # noqa: DTZ001  on the wall
    assert submitted.read_text() == f"--begin={following:%Y-%m-%dT%H:%M:%S}\n"
    queue.write_text("17\n")
    subprocess.run(["bash", str(job)], capture_output=True, check=True)
    assert len(submitted.read_text().splitlines()) == 1, "one waits already"


@given(st.sampled_from(["1m", "7h", "36h", "1d", "3d", "1w", "10s"]), moments)
def test_the_shell_counts_the_times_as_we_do(every: str, now: datetime) -> None:
    one = Task(Path("/r"), ("x",), Path("/l"), timing_of(every), slurm_profile())
    line = next(line.strip() for line in script(one).splitlines() if line.strip().startswith("begin="))
    wall = int(now.replace(microsecond=0, tzinfo=ZoneInfo("UTC")).timestamp())
    done = subprocess.run(
        ["bash", "-c", f"now={wall}; {line}; echo $begin"],
        capture_output=True,
        text=True,
        check=True,
        env={"TZ": "Asia/Kolkata"},
    )
    assert done.stdout.strip() == f"{one.timing.following(now):%Y-%m-%dT%H:%M:%S}"


def test_a_chain_that_breaks_says_so_to_what_it_runs(task: Tasks, programs: Programs) -> None:
    submitted = programs("sbatch", SBATCH)
    programs("squeue", SQUEUE)
    submitted.with_suffix(".table.refuse").touch()
    text = script(task()).replace("sleep", ": sleep")
    before, _ = text.split("exec ")
    done = subprocess.run(["bash", "-c", f'{before}\necho "[${BROKEN}]"'], capture_output=True, text=True, check=True)
    assert done.stdout == "[sbatch: error: no more]\n"
    assert len(submitted.read_text().splitlines()) == 4, "tried again after growing pauses"
    programs("squeue", "#!/bin/sh\nexit 1\n")
    done = subprocess.run(["bash", "-c", f'{before}\necho "[${BROKEN}]"'], capture_output=True, text=True, check=True)
    assert done.stdout == "[squeue does not answer]\n"
    assert len(submitted.read_text().splitlines()) == 4, "no second one where nobody knows of the first"


def test_a_script_of_the_chain(task: Tasks, tmp_path: Path) -> None:
    profile = slurm('python = "python3"\nsetup = ["module load python"]\nworkers_as = "steps"', tmp_path)
    text = script(task(subject=Path("/data/RELEASE.toml"), profile=profile))
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert "#SBATCH --ntasks=2\n#SBATCH --cpus-per-task=4\n" in text, "the workers are steps in its allocation"
    assert "#SBATCH --dependency=singleton\n#SBATCH --requeue\n" in text
    assert text.index("sbatch --begin") < text.index("module load python"), "whatever the environment, there is a next"
    assert text.endswith("exec python3 -P -m workflows.cli atlas unattended /data/RELEASE.toml --requeue\n")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("name", TRICKY)
@pytest.mark.parametrize("every", ["1d", "7h"])
@pytest.mark.usefixtures("echo")
def test_systemd_reads_its_units(task: Tasks, tmp_path: Path, name: str, every: str) -> None:
    subject = tmp_path / name / "RELEASE.toml"
    texts = units(task(every, subject=subject, environment={"PATH": f"/opt/{name}:/bin"}))
    for file, text in texts.items():
        (tmp_path / file).write_text(text)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / file) for file in texts)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    about_ours = [line for line in verified.stderr.splitlines() if task_name(subject) in line]
    assert not about_ours, verified.stderr
    service, timer = texts.values()
    assert ("OnCalendar=*-*-* 02:30:00\nPersistent=true" if every == "1d" else "OnUnitActiveSec=25200s") in timer
    assert unquoted(next(line for line in service.splitlines() if line.startswith("ExecStart="))[10:])[2:] == [
        *PLAIN, str(subject),
    ]  # fmt: skip


def unquoted(line: str) -> list[str]:
    r"""The words of a unit's command, as systemd's manual has it: in double quotes, \\ before a letter, %% and $$."""
    words, word, letters = [], None, iter(line)
    for letter in letters:
        if letter == '"':
            if word is not None:
                words.append(word)
            word = "" if word is None else None
        elif word is None:
            assert letter == " "
        elif letter in "\\%$":
            following = next(letters)
            assert letter in ("\\", following)
            word += following
        else:
            word += letter
    return words


@pytest.mark.parametrize("letter", ["\n", "\r", "\0", "\x7f"])
def test_control_characters_are_refused(task: Tasks, letter: str) -> None:
    with pytest.raises(InputError, match="holds a line break or another control character; rename it"):
        task(subject=Path(f"/data/a{letter}b.toml"))


def test_a_line_longer_than_cron_takes_is_refused(task: Tasks) -> None:
    with pytest.raises(InputError, match=r"and crontab takes 990; move /x+"):
        cron_command(task(subject=Path("/" + "x" * 1000)))


@given(st.lists(st.sampled_from([*OTHERS.splitlines(keepends=True), "a\n", "#\n"])).map("".join), st.integers(0, 3))
def test_entries_come_and_go_and_the_other_lines_stay(table: str, position: int) -> None:
    ours, other = Path("/a/R+ 1.toml"), Path("/a/R+ 1.toml begin")
    entries = {each: "{}one\n{}".format(*marks(each)) for each in (ours, other)}
    both = with_entry(with_entry(table, ours, entries[ours]), other, entries[other])
    assert both == table + entries[ours] + entries[other]
    lines = table.splitlines(keepends=True)
    amid = "".join([*lines[:position], *entries[ours].splitlines(keepends=True), *lines[position:]])
    assert with_entry(amid, ours, "") == table
    replaced = with_entry(amid, ours, entries[ours].replace("one", "two"))
    assert replaced == table + entries[ours].replace("one", "two")
    assert (entry_of(amid, ours), entry_of(amid, other)) == (entries[ours], None)


def test_a_table_with_half_an_entry_is_left_alone() -> None:
    for mark in marks(Path("/r")):
        with pytest.raises(RunError, match="without its counterpart; take it out first"):
            with_entry(f"{OTHERS}{mark}more\n", Path("/r"), "")


@pytest.mark.parametrize("program", ["crontab", "scrontab"])
def test_installed_replaced_and_removed(program: str, task: Tasks, programs: Programs) -> None:
    place = {"crontab": CRONTAB, "scrontab": SCRONTAB}[program]
    table = programs(program, {"crontab": CRONTAB_PROGRAM, "scrontab": SCRONTAB_PROGRAM}[program])
    one, more = task("1d"), task("6h")
    place.install(one)
    assert table.read_text() == place.text(one)
    assert place.remove(one.subject)
    assert not table.exists(), "a table without lines is none"
    others = OTHERS.encode() + b"# \xff no UTF-8\n"
    table.write_bytes(others)
    place.install(one)
    place.install(one)
    place.install(more)
    assert table.read_bytes() == others + place.text(more).encode()
    assert place.installed(one.subject) == place.text(more)
    assert place.remove(one.subject)
    assert not place.remove(one.subject)
    assert place.installed(one.subject) is None
    assert table.read_bytes() == others


def test_a_table_that_does_not_take_the_entry_stays(task: Tasks, programs: Programs) -> None:
    table = programs("scrontab", SCRONTAB_PROGRAM)
    table.write_text(OTHERS)
    said = r"scrontab does not take the entry: There .* on lines 5-9; The error code .* Invalid partition name"
    with pytest.raises(RunError, match=said):
        SCRONTAB.install(task(options=("--partition=nowhere",)))
    assert table.read_text() == OTHERS


def test_the_first_place_that_is_there_is_taken(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    daily, uneven = timing_of("1d"), timing_of("7h")
    programs("systemctl", "#!/bin/sh\necho 'Failed to connect to bus: No medium found' >&2\nexit 1\n")
    programs("squeue", "#!/bin/sh\necho 'squeue: error: no controller' >&2\nexit 1\n")
    reasons = r"scrontab is not found .* squeue says: .*no controller\. crontab is not .*No medium found\.$"
    with pytest.raises(InputError, match=f"^Nothing here starts commands by the clock: {reasons}"):
        place_for(daily)
    for name in PLACES:  # nothing is here, but its entry can be read
        assert place_for(daily, name, to_install=False) == name
        with pytest.raises(RunError):
            place_for(daily, name)
    programs("systemctl", "#!/bin/sh\n")
    assert place_for(daily) == "systemd"
    programs("crontab", CRONTAB_PROGRAM)
    assert place_for(daily) == "cron"
    assert place_for(uneven) == "systemd"
    programs("squeue", SQUEUE)
    assert place_for(daily) == place_for(uneven) == "sbatch"
    programs("scrontab", SCRONTAB_PROGRAM)
    assert place_for(daily) == "scrontab"
    assert place_for(uneven) == "sbatch"
    monkeypatch.setenv("SCRON_OFF", "1")
    assert place_for(daily) == "sbatch"
    with pytest.raises(RunError, match=r"scrontab -l says: .*disabled on this cluster"):
        place_for(daily, "scrontab")
    with pytest.raises(InputError, match="cannot start something every 7h"):
        place_for(uneven, "cron")
    with pytest.raises(InputError, match="--on must be one of scrontab, sbatch, cron, systemd, but 'at' was given"):
        place_for(daily, "at")
    with pytest.raises(InputError, match="systemd cannot start something every 7h at fixed times; leave --at out"):
        place_for(timing_of("7h", "02:30"), "systemd")


def test_timers_of_systemd_are_installed_and_removed(
    task: Tasks, programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    called = programs("systemctl", '#!/bin/sh\necho "$*" >>"{store}"\n')
    one, name = task("7h"), task_name(tmp_path / "RELEASE.toml")
    PLACES["systemd"].install(one)
    folder = tmp_path / "config" / "systemd" / "user"
    assert {path.name: path.read_text() for path in folder.iterdir()} == units(one)
    assert called.read_text().splitlines()[-2:] == [f"--user enable {name}.timer", f"--user restart {name}.timer"]
    assert installed_anywhere(one.subject) == {"systemd": units(one)[f"{name}.timer"]}
    assert remove_everywhere(one.subject) == ["systemd"]
    assert not list(folder.iterdir())
    assert f"--user disable --now {name}.timer" in called.read_text()
    assert remove_everywhere(one.subject) == []


def test_commands_of_slurm_are_found_where_cron_would_not_look(
    programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs("sbatch", SBATCH)
    monkeypatch.setenv("SLURM_CONF", "/etc/here.conf")
    profile = slurm("", tmp_path)
    assert needed_environment(profile) == {
        "PATH": f"{tmp_path / 'programs'}:/usr/bin:/bin", "SLURM_CONF": "/etc/here.conf",
    }  # fmt: skip
