"""`genstatus worker run`, with real processes and signals."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from genstatus_server.cli import commands
from genstatus_server.jobs_writer import JobsWriter
from genstatus_server.jobs_writer.command import Options, work
from tests.jobs_writer.conftest import Database
from tests.support.embedded_processes import wait_until
from tests.support.proc import spawned_by
from tests.support.services import S3

SECONDS = 90.0
GENERATE = """
    import asyncio, os, signal, time
    from io import BytesIO

    def note(job, text):
        with open("notes.txt", "a") as notes:
            notes.write(f"{text} {job.submission_id} {os.getpid()}\\n")

    def generate(job):
        note(job, "began")
        if job.submission_id == 1 and job.attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if job.submission_id == 2:
            time.sleep(600)
        job.upload(BytesIO(b"a,b"))

    async def generate_async(job):
        note(job, "began")
        if job.submission_id == 2:
            await asyncio.sleep(600)
        await job.upload(BytesIO(b"a,b"))
"""


@contextmanager
def running(
    folder: Path, uri: str, name: str, s3: S3, *arguments: str, source: str = GENERATE, prefix: Sequence[str] = ()
) -> Iterator["subprocess.Popen[bytes]"]:
    (folder / "mine.py").write_text(textwrap.dedent(source))
    environment = {
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
        "AWS_DEFAULT_REGION": s3.region,
        "AWS_ENDPOINT_URL_S3": s3.endpoint_url,
        "GENSTATUS_MONGODB_URI": uri,
    }
    command = [sys.executable, "-m", "genstatus_server", "worker", "run", *arguments]
    command += ["--database", name, "--bucket", s3.bucket]
    with subprocess.Popen(
        [*prefix, *command], cwd=folder, env=os.environ | environment, stderr=subprocess.PIPE, process_group=0
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def notes(folder: Path) -> list[list[str]]:
    path = folder / "notes.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize("function", ["generate", "generate_async"])
def test_worker_run_drains_and_gives_back(
    mongodb_uri: str, initialized: Database, s3: S3, tmp_path: Path, function: str
) -> None:
    jobs, writer = initialized["jobs"], JobsWriter(initialized)
    writer.request(2, "E")
    with running(tmp_path, mongodb_uri, initialized.name, s3, f"mine:{function}", "--processes=2") as process:
        wait_until(lambda: bool(notes(tmp_path)), seconds=SECONDS)
        writer.request(3, "E")
        wait_until(lambda: jobs.count_documents({"status": "finished"}) == 1, seconds=SECONDS)
        process.send_signal(signal.SIGTERM)
        (busy,) = {int(pid) for _, submission, pid in notes(tmp_path) if submission == "2"}
        (idle,) = {int(pid) for _, submission, pid in notes(tmp_path) if submission == "3"}
        if idle != busy:
            wait_until(lambda: not Path(f"/proc/{idle}").exists(), seconds=SECONDS)
        assert process.poll() is None
        assert (jobs.find_one({"submission_id": 2}) or {})["status"] == "running"
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    found = jobs.find_one({"submission_id": 2}) or {}
    assert (found["status"], found["attempts"]) == ("waiting", 0)
    assert b"released: job " in log
    assert b"finished: job " in log


#: A job that goes on until it is told to end.
PATIENT = """
    import asyncio, pathlib, time

    def generate(job):
        pathlib.Path("began").touch()
        while not pathlib.Path("go").exists():
            time.sleep(0.05)
        job.finish(key="E.csv")

    async def generate_async(job):
        pathlib.Path("began").touch()
        while not pathlib.Path("go").exists():
            await asyncio.sleep(0.05)
        await job.finish(key="E.csv")
"""


@pytest.mark.one_python
@pytest.mark.parametrize("function", ["generate", "generate_async"])
@pytest.mark.parametrize("to_group", [False, True], ids=["parent", "group"])
def test_worker_run_drains_at_sighup(
    mongodb_uri: str, initialized: Database, s3: S3, tmp_path: Path, function: str, *, to_group: bool
) -> None:
    """Also where it comes twice, as from a terminal and its shell: the job is not given back."""
    JobsWriter(initialized).request(1, "E")
    arguments = (f"mine:{function}", "--processes=2")
    with running(tmp_path, mongodb_uri, initialized.name, s3, *arguments, source=PATIENT) as process:
        wait_until((tmp_path / "began").exists, seconds=SECONDS)
        before = spawned_by(process.pid)
        for _ in range(2):
            os.kill(-process.pid if to_group else process.pid, signal.SIGHUP)
            wait_until(lambda: len(spawned_by(process.pid)) < len(before), seconds=SECONDS)  # The idle one ends.
        assert process.poll() is None
        (tmp_path / "go").touch()
        _, log = process.communicate(timeout=SECONDS)
    assert (process.returncode, b"Traceback" in log) == (0, False)
    found = initialized["jobs"].find_one({}) or {}
    assert (found["status"], found["attempts"]) == ("finished", 1)


STOP_WHILE_IT_STARTS = """
    import os
    import signal

    os.kill(os.getpid(), signal.SIGUSR1)

    def generate(job):
        pass

    async def generate_async(job):
        pass
"""


@pytest.mark.parametrize("function", ["generate", "generate_async"])
def test_process_that_is_stopped_while_it_starts_ends(
    mongodb_uri: str, initialized: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """The trap: asyncio's handlers took the place of those that had noted the stop."""
    (tmp_path / "stops.py").write_text(textwrap.dedent(STOP_WHILE_IT_STARTS))
    monkeypatch.syspath_prepend(tmp_path)
    options = Options(f"stops:{function}", mongodb_uri, initialized.name, "reports", 60, None)
    process = multiprocessing.get_context("spawn").Process(target=work, args=(options,))
    process.start()
    process.join(SECONDS)
    try:
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()


@pytest.mark.one_python
def test_worker_run_goes_on_after_signals_that_are_not_for_it(
    mongodb_uri: str, initialized: Database, s3: S3, tmp_path: Path
) -> None:
    """SIGUSR1 and SIGUSR2, and the SIGHUP that nohup has ignored. A stop reaches its processes all the same."""
    JobsWriter(initialized).request(1, "E")
    with running(
        tmp_path, mongodb_uri, initialized.name, s3, "mine:generate", source=PATIENT, prefix=["nohup"]
    ) as process:
        wait_until((tmp_path / "began").exists, seconds=SECONDS)
        before = spawned_by(process.pid)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            process.send_signal(number)
        os.kill(-process.pid, signal.SIGHUP)
        (tmp_path / "go").touch()
        wait_until(lambda: initialized["jobs"].count_documents({"status": "finished"}) == 1, seconds=SECONDS)
        JobsWriter(initialized).request(2, "E")
        wait_until(lambda: initialized["jobs"].count_documents({"status": "finished"}) == 2, seconds=SECONDS)
        assert spawned_by(process.pid) == before
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)
    assert process.returncode == 0


STOP_AT_A_DEATH = """
    import os
    import signal

    wait_for_process = os.waitpid

    def waitpid(pid, options):
        ended, status = wait_for_process(pid, options)
        if ended:
            signal.raise_signal(signal.SIGTERM)
        return ended, status

    os.waitpid = waitpid

    def generate(job):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_worker_run_ends_by_a_signal_as_a_process_dies(
    mongodb_uri: str, initialized: Database, s3: S3, tmp_path: Path
) -> None:
    JobsWriter(initialized).request(1, "E")
    with running(
        tmp_path, mongodb_uri, initialized.name, s3, "mine:generate", "--processes=2", source=STOP_AT_A_DEATH
    ) as process:
        _, log = process.communicate(timeout=SECONDS)
    assert (process.returncode, b"Traceback" in log) == (0, False)


def test_worker_run_replaces_a_process_that_dies(
    mongodb_uri: str, initialized: Database, s3: S3, tmp_path: Path
) -> None:
    JobsWriter(initialized).request(1, "E")
    arguments = ("mine:generate", "--lease-seconds=2")
    with running(tmp_path, mongodb_uri, initialized.name, s3, *arguments) as process:
        wait_until(lambda: bool(initialized["jobs"].count_documents({"status": "finished"})), seconds=SECONDS)
        first, second = {int(pid) for _, _, pid in notes(tmp_path)}
        assert first != second
        process.kill()  # Then the processes end by themselves.
        _, log = process.communicate(timeout=SECONDS)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (first, second)), seconds=SECONDS)
    assert b"ended with -9" in log


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--uri=mongodb://", "--uri: Must provide at least one hostname"),
        ("--bucket=a bucket", "bucket must be"),
        ("--bucket=b--use1-az4--x-s3", "bucket must be"),
        ("--bucket=arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap", "bucket must be"),
        ("--lease-seconds=1e12", "lease"),
        ("--lease-seconds=0.5", "--lease-seconds"),
        ("--processes=0", "--processes"),
        ("--file-type=G", "--file-type"),
    ],
)
def test_worker_run_refuses_options_that_no_process_could_work_with(option: str, said: str) -> None:
    command = ["worker", "run", "os:getcwd", "--mongodb-uri=mongodb://127.0.0.1:1", option]
    shown = CliRunner().invoke(commands, command)
    assert shown.exit_code == 2
    assert said in shown.stderr


def test_worker_run_takes_the_options_of_the_server_by_their_names() -> None:
    shown = CliRunner().invoke(commands, ["worker", "run", "--help"]).stdout
    for name in ("mongodb-uri", "mongodb-database", "s3-bucket"):
        assert f"--{name} " in shown
        assert f"GENSTATUS_{name.replace('-', '_').upper()}" in shown


@pytest.mark.parametrize("name", ["mine", "mine:", "no.such:thing", "os:nothing", "os:sep", ":x"])
def test_worker_run_refuses_what_is_no_function(name: str) -> None:
    command = [sys.executable, "-m", "genstatus_server", "worker", "run", name, "--uri", "mongodb://127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == 2
    assert b"MODULE:FUNCTION" in done.stderr
    assert b"Traceback" not in done.stderr
