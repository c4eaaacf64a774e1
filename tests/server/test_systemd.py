"""Notifications to systemd, and what the unit file tells systemd."""

import errno
import os
import shutil
import socket
import subprocess
from configparser import ConfigParser
from contextlib import closing, suppress
from pathlib import Path

import pytest

from genstatus_server.model.errors import StartupError
from genstatus_server.server.system import notify, open_sockets
from genstatus_server.settings import load_settings

UNIT = Path(__file__).parents[2] / "conf" / "genstatus-server.service"
EXECUTABLE = "/opt/genstatus_server/bin/genstatus"


def test_notify_sends_to_an_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"genstatus-tests-{os.getpid()}"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as made:
        made.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        notify("READY=1")
        assert made.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "vsock:2:1234"])
def test_notify_does_nothing_where_nobody_listens(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


def test_notify_does_not_wait_for_a_systemd_that_does_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The trap: the loop stood still for ever."""
    address = str(tmp_path / "notify")
    with (
        closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as full,
        closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as writer,
    ):
        full.bind(address)
        writer.setblocking(False)  # noqa: FBT003 - the standard library's
        with suppress(BlockingIOError):
            while True:
                writer.sendto(b"x", address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify("READY=1")


def test_notify_does_nothing_without_file_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setattr(socket, "socket", none_left)
    notify("STOPPING=1")


def test_number_of_passed_sockets_must_be_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "one")
    with pytest.raises(StartupError, match="LISTEN_FDS is no number"):
        open_sockets(load_settings({}, {}))


def test_unit_fits_the_defaults_of_the_server() -> None:
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


def test_unit_passes_systemd_analyze_verify(tmp_path: Path, analyze: str) -> None:
    installed = tmp_path / UNIT.name
    installed.write_text(UNIT.read_text().replace(EXECUTABLE, "/bin/true"))  # It has to be there.
    found = subprocess.run([analyze, "verify", installed], capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stderr) == (0, "")


def test_unit_passes_systemd_analyze_security(analyze: str) -> None:
    """The exposure is 0 to 100, printed as 0.0 to 10.0; what is left is mostly that it may use the network."""
    command = [analyze, "security", "--offline=true", "--threshold=15", str(UNIT)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stdout
