"""Debian's apache2 as a proxy that compresses answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genstatus_server.demo.embedded.process import free_port
from tests.support.proxy_process import find_program, running_proxy

_CONF = """
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
User www-data
Group www-data
PidFile {folder}/apache2.pid
ErrorLog {folder}/error.log
{modules}
SetOutputFilter DEFLATE
ProxyPass / http://{server}/
"""
_MODULES = ("mpm_event", "authz_core", "filter", "deflate", "proxy", "proxy_http")


@contextmanager
def running_apache(folder: Path, server: str) -> Iterator[str]:
    """The URL of an apache2 before `server` (host:port) while the block lasts."""
    program, port = find_program("apache2"), free_port()
    modules = [f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in _MODULES]
    conf, log = folder / "apache2.conf", folder / "error.log"
    conf.write_text(_CONF.format(port=port, folder=folder, modules="\n".join(modules), server=server))
    with running_proxy([program, "-d", str(folder), "-f", str(conf), "-D", "FOREGROUND"], port, log):
        yield f"http://127.0.0.1:{port}"
