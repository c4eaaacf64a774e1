"""Where the server listens: addresses, Unix sockets, and the sockets that systemd passes."""

import gc
import http.client
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from genstatus_server.model.errors import StartupError
from genstatus_server.server.system import open_sockets, url_of
from genstatus_server.settings import load_settings
from tests.support.processes import (
    DEADLINE,
    ServerProcess,
    credentials,
    flags_for,
    running_server,
    wait_until,
)
from tests.support.services import S3

pytestmark = pytest.mark.one_python

NO_MONGODB = "mongodb://127.0.0.1:1/"


def livez(address: str | tuple[str, int]) -> int:
    """The status of a request on a connection of its own, to a path or to a host and port."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with closing(http.client.HTTPConnection("localhost")) as connection, socket.socket(family) as client:
        client.settimeout(DEADLINE)
        client.connect(address)
        connection.sock = client
        connection.request("GET", "/livez")
        return connection.getresponse().status


def wait_listening(server: ServerProcess, count: int) -> None:
    wait_until(lambda: len(server.records("listening")) == count, "it listens")


def test_serve_listens_on_several_addresses_and_a_unix_socket(tmp_path: Path, s3: S3) -> None:
    path = str(tmp_path / "server.sock")
    address = f"127.0.0.1, 127.0.0.2,unix:{path}"
    for processes in (1, 2):  # The second takes the place of the socket that the first has left behind.
        flags = flags_for(NO_MONGODB, "genstatus", s3, address=address, processes=str(processes))
        with running_server(tmp_path, flags, credentials(s3)) as server:
            wait_listening(server, 3 * processes)
            records = server.records("listening")
            port = records[0]["port"]
            assert {record["url"] for record in records} == {
                f"http://127.0.0.1:{port}",
                f"http://127.0.0.2:{port}",
                f"unix:{path}",
            }
            for each in (("127.0.0.1", port), ("127.0.0.2", port), path):
                assert livez(each) == 200
            assert server.end() == 0
            assert "Traceback" not in server.log


def test_unix_socket_of_a_running_server_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "server.sock"
    settings = load_settings({"address": f"unix:{path}"}, {})
    umask = os.umask(0o027)
    try:
        (first,) = open_sockets(settings)
    finally:
        os.umask(umask)
    with first:
        assert url_of(first) == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        with pytest.raises(StartupError, match="in use"):
            open_sockets(settings)
    (second,) = open_sockets(settings)
    second.close()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("unix:/nowhere/at/all.sock", "No such file"),
        ("unix:/etc/hostname", "hostname"),
        ("no-such-host.invalid", "port 8888 of no-such-host.invalid"),
        ("192.0.2.1", "Cannot assign"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_open_sockets_names_an_unusable_address(address: str, why: str) -> None:
    with pytest.raises(StartupError, match=f"^cannot listen on .*{why}.*$"):
        open_sockets(load_settings({"address": address}, {}))
    gc.collect()  # Tornado does not close a socket that it cannot bind; Python warns of it here.


def test_open_sockets_leaves_no_unix_socket_where_another_address_is_unusable(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with pytest.raises(StartupError):
        open_sockets(load_settings({"address": f"unix:{path},no-such-host.invalid"}, {}))
    assert not path.exists()


@contextmanager
def passed(kind: int = socket.SOCK_STREAM) -> Iterator[socket.socket]:
    """A socket that systemd would listen on."""
    with socket.socket(socket.AF_INET, kind) as made:
        made.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            made.listen(4096)
        yield made


def activation(made: socket.socket) -> list[str]:
    """A command that becomes the server, with the socket as systemd passes it."""
    script = f'exec 3<&{made.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'
    return ["bash", "-c", script, "bash"]


def test_restart_under_systemd_refuses_nothing_and_notifies(tmp_path: Path, s3: S3) -> None:
    """A server of one process, then one of two, on a socket that systemd holds."""
    statuses: list[object] = []
    is_over = threading.Event()
    with passed() as made, closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(DEADLINE)
        address, environment = made.getsockname(), credentials(s3) | {"NOTIFY_SOCKET": notified.getsockname()}

        def ask() -> None:
            while not is_over.is_set():
                try:
                    statuses.append(livez(address))
                except (OSError, http.client.HTTPException) as error:
                    statuses.append(error)

        @contextmanager
        def serving(processes: int) -> Iterator[None]:
            """A server that has answered more requests, after those that had to wait for it."""
            flags = flags_for(NO_MONGODB, "genstatus", s3, processes=str(processes))
            prefix, descriptors, before = activation(made), [made.fileno()], len(statuses)
            with running_server(tmp_path, flags, environment, prefix=prefix, pass_fds=descriptors) as server:
                assert notified.recv(100) == b"READY=1"
                wait_listening(server, processes)
                assert server.records("listening")[0]["port"] == address[1]
                wait_until(lambda: len(statuses) > before + 20, "requests are answered")
                yield
                assert server.end() == 0
                assert notified.recv(100) == b"STOPPING=1"

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            with serving(1):
                pass
            with serving(2):
                is_over.set()
                for client in clients:
                    client.join(DEADLINE)
        finally:
            is_over.set()
        notified.settimeout(0)
        with pytest.raises(BlockingIOError):  # No other notification, of a child for instance.
            notified.recv(100)
    assert set(statuses) == {200}


@pytest.mark.parametrize(("kind", "why"), [(socket.SOCK_DGRAM, "Accept=no"), (None, "no socket")])
def test_serve_refuses_what_is_no_listening_socket(tmp_path: Path, s3: S3, kind: int | None, why: str) -> None:
    flags = flags_for(NO_MONGODB, "genstatus", s3)
    with passed(kind or socket.SOCK_STREAM) as made, (tmp_path / "file").open("w") as file:
        prefix = ["bash", "-c", activation(made)[2].replace(f"&{made.fileno()}", f"&{file.fileno()}"), "bash"]
        prefix = prefix if kind is None else activation(made)
        with running_server(tmp_path, flags, prefix=prefix, pass_fds=[made.fileno(), file.fileno()]) as server:
            assert server.process.wait(DEADLINE) == 1
            assert why in server.log
            assert len(server.log.splitlines()) == 1


def test_sockets_passed_to_another_process_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    monkeypatch.setenv("LISTEN_FDS", "1")
    (made,) = open_sockets(load_settings({"port": "0"}, {}))
    with made:
        assert made.family == socket.AF_INET
