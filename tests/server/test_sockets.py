"""Where the server listens: addresses, Unix sockets, and the sockets that systemd passes."""

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
from genstatus_server.server.sockets import open_sockets, url_of
from genstatus_server.settings import load_settings
from tests.support.processes import (
    DEADLINE,
    ServerProcess,
    credentials,
    flags_for,
    run_command,
    running_server,
    wait_until,
)
from tests.support.services import S3

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


def listens(server: ServerProcess, count: int) -> bool:
    return len(server.records("listening")) == count


@pytest.mark.parametrize("processes", ["1", "2"])
def test_serve_listens_on_several_addresses_and_a_unix_socket(tmp_path: Path, s3: S3, processes: str) -> None:
    path = str(tmp_path / "server.sock")
    address = f"127.0.0.1, 127.0.0.2,unix:{path}"
    flags = flags_for(NO_MONGODB, "genstatus", s3, address=address, processes=processes)
    for _ in range(2):  # The second takes the place of the socket that the first has left behind.
        with running_server(tmp_path, flags, credentials(s3)) as server:
            wait_until(lambda: listens(server, 3 * int(processes)), "it listens")
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
def test_address_that_cannot_be_used_is_one_line_with_status_1(address: str, why: str) -> None:
    ended = run_command("serve", f"--address={address}", f"--mongodb-uri={NO_MONGODB}")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1)
    assert ended.stderr.startswith("genstatus: cannot listen on ")
    assert why in ended.stderr


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


@pytest.mark.parametrize("processes", ["1", "2"])
def test_restart_with_a_socket_of_systemd_refuses_nothing(tmp_path: Path, s3: S3, processes: str) -> None:
    flags = flags_for(NO_MONGODB, "genstatus", s3, processes=processes)
    statuses: list[object] = []
    is_over = threading.Event()
    with passed() as made:
        address = made.getsockname()

        def ask() -> None:
            while not is_over.is_set():
                try:
                    statuses.append(livez(address))
                except (OSError, http.client.HTTPException) as error:
                    statuses.append(error)

        @contextmanager
        def serving() -> Iterator[None]:
            """A server that has answered more requests, after those that had to wait for it."""
            prefix, descriptors, before = activation(made), [made.fileno()], len(statuses)
            with running_server(tmp_path, flags, credentials(s3), prefix=prefix, pass_fds=descriptors) as server:
                wait_until(lambda: listens(server, int(processes)), "it listens")
                assert server.records("listening")[0]["port"] == address[1]
                wait_until(lambda: len(statuses) > before + 20, "requests are answered")
                yield
                assert server.end() == 0

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            with serving():
                pass
            with serving():
                is_over.set()
                for client in clients:
                    client.join(DEADLINE)
        finally:
            is_over.set()
    assert set(statuses) == {200}


@pytest.mark.parametrize(("kind", "why"), [(socket.SOCK_DGRAM, "Accept=no"), (None, "no socket")])
def test_what_is_no_listening_socket_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, s3: S3, kind: int | None, why: str
) -> None:
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
