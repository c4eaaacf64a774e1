"""What systemd is told, on a real datagram socket, and what the unit file tells systemd."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import closing
from pathlib import Path

import pytest

from genstatus_server.server.system import notify
from genstatus_server.settings import load_settings
from tests.support.processes import DEADLINE, credentials, flags_for, running_server
from tests.support.services import S3

UNIT = Path(__file__).parents[2] / "conf" / "genstatus-server.service"
EXECUTABLE = "/opt/genstatus_server/bin/genstatus"


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd would listen on."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(DEADLINE)
        yield made


@pytest.mark.parametrize("processes", ["1", "2"])
def test_systemd_is_told_when_it_listens_and_when_it_stops(
    tmp_path: Path, mongodb_uri: str, database_name: str, s3: S3, listening: socket.socket, processes: str
) -> None:
    flags = flags_for(mongodb_uri, database_name, s3, processes=processes)
    environment = credentials(s3) | {"NOTIFY_SOCKET": listening.getsockname()}
    with running_server(tmp_path, flags, environment) as server:
        assert listening.recv(100) == b"READY=1"
        assert server.ask("/livez")[0] == 200
        assert server.end() == 0
        assert listening.recv(100) == b"STOPPING=1"
    listening.settimeout(0)
    with pytest.raises(BlockingIOError):  # Nobody else has said a word.
        listening.recv(100)


def test_an_abstract_socket_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"genstatus-tests-{os.getpid()}"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as made:
        made.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        notify("READY=1")
        assert made.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "vsock:2:1234"])
def test_where_nobody_listens_nothing_happens(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


def test_the_unit_fits_the_defaults_of_the_server() -> None:
    unit = ConfigParser(strict=False, interpolation=None)  # A setting may be given twice.
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # Names as they are.
    unit.read_string(UNIT.read_text())
    service, defaults = unit["Service"], load_settings({}, {})
    assert service["Type"] == "notify"
    assert service["ExecStart"].startswith(f"{EXECUTABLE} serve ")
    assert float(service["TimeoutStopSec"]) > defaults.drain_timeout + 2
    assert int(service["LimitNOFILE"]) > defaults.max_waits + 1000


@pytest.fixture
def analyze() -> str:
    """Debian's package systemd is too heavy to install for two checks: they run where it is there, in CI too."""
    return shutil.which("systemd-analyze") or pytest.skip("systemd-analyze is not installed")


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path, analyze: str) -> None:
    installed = tmp_path / UNIT.name
    installed.write_text(UNIT.read_text().replace(EXECUTABLE, "/bin/true"))  # It has to be there.
    found = subprocess.run([analyze, "verify", installed], capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stderr) == (0, "")


def test_systemd_finds_little_that_the_unit_leaves_open(analyze: str) -> None:
    """The exposure is 0 to 100, printed as 0.0 to 10.0; what is left is mostly that it may use the network."""
    command = [analyze, "security", "--offline=true", "--threshold=15", str(UNIT)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stdout
