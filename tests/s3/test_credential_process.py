"""A `credential_process`, also one that hangs."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from genstatus_server.model.errors import ServiceUnavailable
from genstatus_server.s3 import credential_process
from genstatus_server.s3.credentials import RefreshingCredentials, aws_chain
from tests.support.proc import is_running
from tests.support.processes import DEADLINE, running_server, wait_until
from tests.support.server import until

pytestmark = pytest.mark.one_python  # Its waits are those of MongoDB, S3 and AWS.

BY_SOURCE_PROFILE = """
role_arn = arn:aws:iam::123456789012:role/reports
source_profile = program
[profile program]
"""


class HangingProgram:
    """A program that starts another, and then both never end."""

    def __init__(self, folder: Path) -> None:
        self.pids, path = folder / "pids", folder / "hangs.py"
        path.write_text(
            "import os, subprocess, time\n"
            "other = subprocess.Popen(['sleep', '600'])\n"
            f"with open({str(self.pids)!r}, 'w') as file:\n"
            "    file.write(f'{os.getpid()} {other.pid}.')\n"
            "time.sleep(600)\n"
        )
        self.command = [sys.executable, str(path)]

    def is_running(self) -> bool:
        """Whether both have started."""
        return self.pids.exists() and self.pids.read_text().endswith(".")

    def wait_ended(self) -> None:
        for pid in self.pids.read_text().rstrip(".").split():
            wait_until(lambda: not is_running(int(pid)), f"{pid} is gone")  # noqa: B023 - it is called here.


@pytest.fixture
def program(tmp_path: Path) -> HangingProgram:
    return HangingProgram(tmp_path)


@pytest.mark.parametrize("profile", ["", BY_SOURCE_PROFILE], ids=["default", "source_profile"])
async def test_hanging_credential_process_is_ended_as_a_time_out(
    profile: str, program: HangingProgram, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(f"[default]{profile}\ncredential_process = {' '.join(program.command)}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    runner = f"{sys.executable} -P {credential_process.__file__} 5"
    monkeypatch.setattr("genstatus_server.s3.credentials._PROCESS_RUNNER", runner)
    credentials = RefreshingCredentials(aws_chain("us-west-2"), needed=30)
    with structlog.testing.capture_logs() as records:
        with pytest.raises(ServiceUnavailable):
            await credentials.get()
        await until(lambda: records, what="the time-out of the program")
    (record,) = records
    assert record["event"] == "credentials_not_fetched"
    assert record["cause"].endswith("time-out: no answer within 5 s")
    assert program.is_running()
    program.wait_ended()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_credential_process_that_hangs_ends_with_the_server(
    number: signal.Signals, program: HangingProgram, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {' '.join(program.command)}\n")
    environment = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    flags = ["--port", "0", "--mongodb-uri", "mongodb://127.0.0.1:1/", "--s3-bucket", "reports"]
    with running_server(tmp_path, [*flags, "--s3-region", "us-west-2"], environment) as server:
        wait_until(program.is_running, "the program has started")
        server.end(number)
        program.wait_ended()


def run(*command: str, seconds: float = DEADLINE) -> "subprocess.CompletedProcess[str]":
    arguments = [sys.executable, "-P", str(credential_process.__file__), str(seconds), *command]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=2 * DEADLINE)


def test_credential_process_passes_on_what_the_command_says() -> None:
    ended = run(sys.executable, "-c", "import sys; print('out'); sys.exit('error')")
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "out\n", "error\n")


def test_credential_process_names_a_command_that_is_not_there(tmp_path: Path) -> None:
    ended = run(str(tmp_path / "nothing"))
    assert (ended.returncode, ended.stderr) == (1, f"{tmp_path / 'nothing'}: No such file or directory\n")
