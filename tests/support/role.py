"""A service on loopback that lends credentials for a while, like those that give a container or a machine its role."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from tests.support.services import S3


class Role:
    """What the service lends: the keys of the S3 server, with a token that says when they end."""

    def __init__(self, s3: S3) -> None:
        self._s3 = s3
        self.url = ""
        #: Seconds that the next credentials live.
        self.life = 3600.0
        self.is_away = False
        #: While it is clear, a question stays without an answer.
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.questions = 0

    @property
    def environment(self) -> dict[str, str]:
        return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": self.url}

    def lend(self) -> dict[str, str]:
        ends = time.time() + self.life
        return {
            "AccessKeyId": self._s3.access_key,
            "SecretAccessKey": self._s3.secret_key,
            "Token": f"ends-{ends:.3f}",
            "Expiration": datetime.fromtimestamp(ends, UTC).isoformat(),
        }


def credentials_end(url: str) -> float:
    """When the credentials end that this URL was signed with, by the wall clock."""
    (token,) = parse_qs(urlsplit(url).query)["X-Amz-Security-Token"]
    return float(token.removeprefix("ends-"))


@contextmanager
def running_role(s3: S3) -> Iterator[Role]:
    role = Role(s3)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            role.questions += 1
            role.may_answer.wait()
            self.send_response(HTTPStatus.SERVICE_UNAVAILABLE if role.is_away else HTTPStatus.OK)
            self.end_headers()
            self.wfile.write(b"" if role.is_away else json.dumps(role.lend()).encode())

        def log_message(self, *_: object) -> None:
            """Nothing: the test's output is for the server's."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        role.url = f"http://127.0.0.1:{server.server_address[1]}/credentials"
        thread = threading.Thread(target=server.serve_forever, name="role", daemon=True)
        thread.start()
        try:
            yield role
        finally:
            role.may_answer.set()
            server.shutdown()
            thread.join()
