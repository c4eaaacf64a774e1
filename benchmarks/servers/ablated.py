"""The server with one of its optimisations switched off, to measure what that one gains.

    ablated.py SWITCH ARGUMENT…

The switches stand here and not in the product. Each replaces what is quick by what is straightforward.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from genstatus_server.cli import main
from genstatus_server.mongo import cache, documents, loader
from genstatus_server.s3 import presigner
from genstatus_server.server import app
from genstatus_server.telemetry import log
from genstatus_server.web import listener, params, status

SWITCHES: dict[str, Callable[[], None]] = {}


def switch(function: Callable[[], None]) -> Callable[[], None]:
    """Register `function` as the switch of its name."""
    SWITCHES[function.__name__] = function
    return function


def replace(where: Any, name: str, value: Any) -> None:
    """Set an attribute that exists. Raises AttributeError where the product has changed."""
    getattr(where, name)
    setattr(where, name, value)


@switch
def cached_documents() -> None:
    """Every request reads."""
    replace(cache.DocumentCache, "lookup", lambda _self, _keys: None)


@switch
def applied_updates() -> None:
    """An update drops its document, and whoever waits reads again."""
    original = vars(cache)["document_after"]

    def document_after(key: Any, document: Any, event: Any) -> Any:
        return None if event["operationType"] == "update" else original(key, document, event)

    replace(cache, "document_after", document_after)


@switch
def batched_reads() -> None:
    """Each request has a query of its own."""

    class SingleLoader:
        def __init__(self, read: Callable[[Any], Any]) -> None:
            self._read = read

        async def load(self, keys: Any, _deadline: float) -> Mapping[Any, Any]:
            found: Mapping[Any, Any] = await self._read(tuple(keys))
            return found

        async def close(self) -> None:
            pass

    replace(loader, "BatchLoader", SingleLoader)
    replace(documents, "BatchLoader", SingleLoader)


@switch
def cached_urls() -> None:
    """Each request has its URL signed."""
    replace(presigner, "_CACHED_URLS", 1)
    original = presigner.Presigner.presigned_url

    async def presigned_url(self: presigner.Presigner, job: Any) -> str:
        self.urls.clear()
        return await original(self, job)

    replace(presigner.Presigner, "presigned_url", presigned_url)


@switch
def direct_signature() -> None:
    """The S3 client builds a whole request for each URL."""

    async def sign(self: Any, bucket: str, key: str, disposition: str, expires: int, _credentials: object) -> str:
        wanted = {"Bucket": bucket, "Key": key, "ResponseContentDisposition": disposition}
        url: str = await vars(self)["_client"].generate_presigned_url("get_object", Params=wanted, ExpiresIn=expires)
        return url

    replace(presigner.UrlSigner, "sign", sign)


@switch
def encoded_answers() -> None:
    """Each answer is encoded anew."""
    replace(status, "encode_answer", status.encode_answer.__wrapped__)  # type: ignore[attr-defined]


@switch
def parsed_queries() -> None:
    """Each query is parsed anew."""
    replace(listener, "parse_query", vars(params)["_parse_query"])
    replace(params, "_parse_cached", vars(params)["_parse_cached"].__wrapped__)


@switch
def answers_first() -> None:
    """The record of each held request is written before the next is answered."""

    async def no_turn(_seconds: float) -> None:
        pass

    class Asyncio:
        sleep = staticmethod(no_turn)

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

    replace(status, "asyncio", Asyncio())


@switch
def log_thread() -> None:
    """Each record is rendered, scrubbed and written at once."""

    def write(self: Any, level: str, action: str, fields: Mapping[str, Any]) -> None:
        record = log.Record(level, action, fields, time.time())
        vars(log.LogWriter)["_write_out"](self, list(vars(log.LogWriter)["_rendered"](self, [record])))

    replace(log.LogWriter, "write", write)


@switch
def garbage_collector() -> None:
    """Python's own thresholds."""
    replace(app, "_tune_garbage_collector", lambda: None)


if __name__ == "__main__":
    SWITCHES[sys.argv.pop(1)]()
    main()
