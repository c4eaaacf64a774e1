"""Debian's nginx with conf/nginx.conf, in which only places differ: ports, certificate, logs."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from genstatus_server.demo.embedded.process import free_port
from tests.support.proxy_process import find_program, running_proxy

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
    program = find_program("nginx")
    nginx = Nginx(free_port(), free_port(), folder / "ca.pem", folder)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(nginx.ca_file))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(folder / "certificate.pem"))
    (folder / "nginx.conf").write_text(_placed(nginx, servers))
    command = [program, "-c", str(folder / "nginx.conf"), "-p", str(folder), "-g", "daemon off;"]
    error_log = folder / "error.log"
    with running_proxy([*command, "-e", str(error_log)], nginx.https_port, error_log):
        yield nginx


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
