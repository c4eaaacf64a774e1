"""A MongoDB as a careful operator runs it: TLS, and nobody in without a password."""

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymongo
import trustme

from genstatus_server.demo.embedded.mongod import find_mongod
from genstatus_server.demo.embedded.process import Program, free_port, is_listening, owned_folder, running, until
from tests.support.processes import wait_until
from tests.support.services import in_background

Client = pymongo.MongoClient[dict[str, Any]]

PASSWORD = "an-open-secret"


@dataclass(frozen=True)
class SecuredMongoDB:
    """A replica set of one that wants TLS and a login; `ca_file` is who has signed its certificate."""

    port: int
    ca_file: Path

    def uri(self, user: str, database: str = "admin", **options: str) -> str:
        given = {"replicaSet": "rs0", "authSource": database, "tls": "true", "tlsCAFile": str(self.ca_file)} | options
        query = "&".join(f"{name}={value}" for name, value in given.items() if value)
        return f"mongodb://{user}:{PASSWORD}@127.0.0.1:{self.port}/?{query}"

    def client(self, user: str, database: str = "admin") -> Client:
        return Client(self.uri(user, database))


@contextmanager
def secured_mongodb(folder: Path) -> Iterator[SecuredMongoDB]:
    """It runs while the block lasts; its user `root` may do everything."""
    mongodb = SecuredMongoDB(free_port(), folder / "ca.pem")
    with _in_background(folder, mongodb):
        # Who comes from this machine may start the set and make the first user, and nothing else.
        ca_file = str(mongodb.ca_file)
        with Client("127.0.0.1", mongodb.port, tls=True, tlsCAFile=ca_file, directConnection=True) as client:
            members = [{"_id": 0, "host": f"127.0.0.1:{mongodb.port}"}]
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
            wait_until(lambda: client.admin.command("hello")["isWritablePrimary"], "primary")
            client.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
        yield mongodb


def _in_background(folder: Path, mongodb: SecuredMongoDB) -> AbstractContextManager[None]:
    certificate, key_file = folder / "certificate.pem", folder / "key-file"
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(mongodb.ca_file))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    with os.fdopen(os.open(key_file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    options = {
        "--port": mongodb.port,
        "--replSet": "rs0",
        "--keyFile": key_file,
        "--tlsMode": "requireTLS",
        "--tlsCertificateKeyFile": certificate,
        "--tlsCAFile": mongodb.ca_file,
    }
    secured = [
        "--auth",
        "--tlsAllowConnectionsWithoutCertificates",
        *(str(each) for pair in options.items() for each in pair),
    ]
    small = ["--bind_ip", "127.0.0.1", "--nounixsocket", "--oplogSize", "64", "--wiredTigerCacheSizeGB", "0.25"]
    return in_background(_running(folder, mongodb.port, [*secured, *small]))


@asynccontextmanager
async def _running(folder: Path, port: int, arguments: list[str]) -> AsyncIterator[None]:
    (folder / "data").mkdir()
    command = [str(find_mongod()), "--dbpath", str(folder / "data"), *arguments]
    async with AsyncExitStack() as stack:
        program = Program("mongod", command, await stack.enter_async_context(owned_folder(folder)))
        await stack.enter_async_context(running(program, lambda: until(lambda: is_listening(port))))
        yield
