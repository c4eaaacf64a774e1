"""Debian's nginx with conf/nginx.conf, in which only places differ: ports, certificate, logs."""

import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from genstatus_server.demo.embedded.folder import free_port
from tests.support.processes import DEADLINE, wait_until
from tests.support.requirements import require

CONF = Path(__file__).parent.parent.parent / "conf" / "nginx.conf"


@dataclass(frozen=True)
class Nginx:
    """A running nginx; `ca_file` is who has signed its certificate."""

    https_port: int
    http_port: int
    ca_file: Path
    folder: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.https_port}"

    @property
    def log(self) -> str:
        return (self.folder / "access.log").read_text()


@contextmanager
def running_nginx(folder: Path, servers: Sequence[str]) -> Iterator[Nginx]:
    """`nginx` before `servers` (host:port) while the block lasts."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    require(program, "nginx is not installed (Debian: apt-get install nginx)")
    nginx = Nginx(free_port(), free_port(), folder / "ca.pem", folder)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(nginx.ca_file))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(folder / "certificate.pem"))
    (folder / "nginx.conf").write_text(_placed(nginx, servers))
    # In the foreground, so that it is this process that ends it.
    command = [str(program), "-c", str(folder / "nginx.conf"), "-p", str(folder), "-g", "daemon off;"]
    command += ["-e", str(folder / "error.log")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: process.poll() is not None or _listens(nginx.https_port), "nginx listens")
        assert process.poll() is None, (folder / "error.log").read_text()
        yield nginx
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE)


def _placed(nginx: Nginx, servers: Sequence[str]) -> str:
    text = CONF.read_text()
    text = text.replace("/etc/nginx/", f"{nginx.folder}/").replace("/var/log/nginx/", f"{nginx.folder}/")
    text = text.replace("/run/nginx.pid", f"{nginx.folder}/nginx.pid").replace(
        "worker_processes auto", "worker_processes 1"
    )
    text = text.replace("listen 80;", f"listen 127.0.0.1:{nginx.http_port};")
    text = text.replace("listen 443 ", f"listen 127.0.0.1:{nginx.https_port} ")
    # A test machine may not allow as many files.
    text = re.sub(r"worker_rlimit_nofile.*\n", "", text).replace("worker_connections 32768", "worker_connections 1000")
    line = re.search(r"( *server )127\.0\.0\.1:8888( .*\n)", text)
    assert line is not None
    text = text.replace(line[0], "".join(f"{line[1]}{server}{line[2]}" for server in servers))
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"    {name}_temp_path {nginx.folder}/{name};\n" for name in temporary)
    return text.replace("http {\n", f"http {{\n{paths}", 1)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
