"""`genstatus demo`: the server on an embedded MongoDB and S3, with sample data and a sample worker."""

import asyncio
import contextlib
import os
import shlex
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.request import getproxies

import click
from tornado.httpclient import AsyncHTTPClient, HTTPError

from genstatus_server.demo.samples import Storage, curl_lines, seed
from genstatus_server.mongo.schema import initialize
from genstatus_server.server.app import run_app
from genstatus_server.server.run import begin, unless_stopped, with_embedded
from genstatus_server.server.system import Shutdown, open_sockets, url_of, within_file_limit
from genstatus_server.settings import BadSettings, Settings, with_flags

_POLL_SECONDS: Final = 0.05


@click.command()
@with_flags()
def demo(config: str | None, **flags: str | None) -> None:
    """Run the server on an embedded MongoDB and S3, with sample data and a worker that keeps finishing a job."""
    settings = begin(config, flags)
    asyncio.run(run_demo(settings, open_sockets(settings)))


async def run_demo(settings: Settings, sockets: Sequence[socket.socket]) -> None:
    """Run until a signal. Raises `StartupError`, and `BadSettings` where a MongoDB of one's own is configured."""
    if settings.mongodb_uri or settings.s3_bucket or settings.s3_region or settings.s3_endpoint_url:
        raise BadSettings(["demo: brings its own MongoDB and S3; run `genstatus serve` for yours, or unset them"])
    settings = within_file_limit(settings)
    shutdown = Shutdown(settings.shutdown_delay)
    shutdown.handle_signals()
    async with AsyncExitStack() as stack:
        started = await unless_stopped(shutdown, with_embedded(stack, settings))
        if started is None:
            return
        settings, s3_keys = started
        access_key, secret_key = s3_keys or (None, None)
        bucket, region, endpoint_url = settings.s3_bucket or "", settings.s3_region, settings.s3_endpoint_url
        storage = Storage(bucket, region, endpoint_url, access_key, secret_key)
        await asyncio.to_thread(_fill, settings, storage)
        await stack.enter_async_context(_sample_worker(settings, storage))
        worker_file = await asyncio.to_thread(_write_worker_file, settings, storage)
        printing = asyncio.create_task(_print_when_ready(url_of(sockets[0]), worker_file, shutdown))
        stack.callback(printing.cancel)
        await run_app(settings, sockets, shutdown, s3_keys=s3_keys)
        await printing  # Cancelled in the midst of a fetch, it would leave an error in the log.


def _fill(settings: Settings, storage: Storage) -> None:
    uri = settings.mongodb_uri or ""
    for _ in initialize(uri, settings.mongodb_database):
        pass
    seed(uri, settings.mongodb_database, storage)


def worker_environment(settings: Settings, storage: Storage) -> dict[str, str]:
    """The environment in which a worker works on the demo's MongoDB and S3."""
    proxies = getproxies()
    environment = {
        "GENSTATUS_MONGODB_URI": settings.mongodb_uri,
        "GENSTATUS_MONGODB_DATABASE": settings.mongodb_database,
        "GENSTATUS_S3_BUCKET": storage.bucket,
        "GENSTATUS_S3_REGION": storage.region,
        "GENSTATUS_S3_ENDPOINT_URL": storage.endpoint_url,
        "AWS_DEFAULT_REGION": storage.region,
        "AWS_ENDPOINT_URL_S3": storage.endpoint_url,
        "AWS_ACCESS_KEY_ID": storage.access_key,
        "AWS_SECRET_ACCESS_KEY": storage.secret_key,
        # The other terminal has a proxy where this one has; no proxy reaches this machine's loopback.
        "no_proxy": ",".join(filter(None, [proxies.get("no"), "127.0.0.1"])) if proxies else None,
    }
    return {name: value for name, value in environment.items() if value}


def _write_worker_file(settings: Settings, storage: Storage) -> Path:
    path = Path(settings.data_dir, "worker.env").absolute()
    write_worker_file(path, worker_environment(settings, storage))
    return path


def write_worker_file(path: Path, environment: Mapping[str, str]) -> None:
    """Write `environment` for a shell to read; only its owner may, for it has the key of the demo's S3."""
    path.touch(mode=0o600)
    path.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in environment.items()), "utf-8")


@asynccontextmanager
async def _sample_worker(settings: Settings, storage: Storage) -> AsyncIterator[None]:
    """The worker, in a separate process like a real one. It ends when its stdin does, so it needs no guard."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "genstatus_server.demo.worker"),
        env=os.environ | worker_environment(settings, storage),
        stdin=PIPE,
        start_new_session=True,  # Ctrl-C in the terminal is for the server, which then ends the worker.
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _print_when_ready(base_url: str, worker_file: Path, shutdown: Shutdown) -> None:
    while not (base_url.startswith("http:") and await _is_ready(base_url)):
        if shutdown.is_set():
            return
        await asyncio.sleep(_POLL_SECONDS)
    click.echo(f"\nReady at {base_url} - paste these into another terminal; Ctrl-C here stops everything.\n")
    click.echo(curl_lines(base_url))
    click.echo(f"A worker of your own, on the same jobs:\n\n    {worker_line(worker_file)}\n")


def worker_line(worker_file: Path) -> str:
    """What to paste to run the example of a worker; this process runs in the folder of the sources."""
    command = shlex.join([sys.executable, str(Path("examples/worker.py").absolute())])
    return f"(set -a; . {shlex.quote(str(worker_file.absolute()))}; exec {command})"


async def _is_ready(base_url: str) -> bool:
    try:
        await AsyncHTTPClient().fetch(f"{base_url}/readyz")
    except (HTTPError, OSError):
        return False
    return True
