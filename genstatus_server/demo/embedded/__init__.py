"""MongoDB and S3 for a machine that has neither: for trying and testing, never for production.

Both run as processes of their own, on loopback, with their data in a folder that lasts; both end with the process that
started them, however that ends.
"""

import asyncio
import json
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from genstatus_server.demo.embedded.mongod import running_mongod
from genstatus_server.demo.embedded.process import make_private_folder
from genstatus_server.demo.embedded.s3 import bucket_folder, running_s3
from genstatus_server.model.errors import StartupError

__all__ = ["EmbeddedServices", "embedded_services", "running_mongod", "running_s3"]

S3_BUCKET: Final = "genstatus"
S3_REGION: Final = "us-east-1"


@dataclass(frozen=True)
class EmbeddedServices:
    """How to reach what `embedded_services` started; None for what was not started."""

    mongodb_uri: str | None
    s3_endpoint_url: str | None
    s3_access_key: str
    s3_secret_key: str = field(repr=False)
    s3_region: str = S3_REGION
    s3_bucket: str = S3_BUCKET


@asynccontextmanager
async def embedded_services(
    data_dir: Path, *, mongodb: bool = True, s3: bool = True
) -> AsyncIterator[EmbeddedServices]:
    """Run MongoDB and S3, both at once, with their data in `data_dir` while the block lasts.

    Raises StartupError, with one clear line, where either cannot be started.
    """
    access_key, secret_key = _s3_keys(data_dir)
    async with AsyncExitStack() as stack:

        async def start_mongodb() -> str:
            return await stack.enter_async_context(running_mongod(data_dir / "mongodb"))

        async def start_s3() -> str:
            folder = data_dir / "s3"
            make_private_folder(bucket_folder(folder, S3_BUCKET))
            return await stack.enter_async_context(running_s3(folder, access_key=access_key, secret_key=secret_key))

        try:
            async with asyncio.TaskGroup() as group:
                mongodb_task = group.create_task(start_mongodb()) if mongodb else None
                s3_task = group.create_task(start_s3()) if s3 else None
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None  # one line for the operator; the other one is rarely another reason
        yield EmbeddedServices(
            mongodb_uri=mongodb_task.result() if mongodb_task else None,
            s3_endpoint_url=s3_task.result() if s3_task else None,
            s3_access_key=access_key,
            s3_secret_key=secret_key,
        )


def _s3_keys(data_dir: Path) -> tuple[str, str]:
    """The S3 key pair in `data_dir`: random, made at the first start, readable by its owner only."""
    path = data_dir / "s3-keys.json"
    make_private_folder(data_dir)
    try:
        if not path.exists():
            _write_keys(path)
        keys = json.loads(path.read_text())
        return str(keys["access_key"]), str(keys["secret_key"])
    except OSError as error:
        raise StartupError(f"Cannot use the data folder {data_dir}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StartupError(f"{path} is damaged: remove it, and the next start makes a new one") from error


def _write_keys(path: Path) -> None:
    keys = {"access_key": f"GS{secrets.token_hex(9).upper()}", "secret_key": secrets.token_urlsafe(30)}
    new = path.with_suffix(f".{os.getpid()}.new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(keys, file)
    new.replace(path)  # whole or not at all
