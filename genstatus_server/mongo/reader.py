"""Reads documents, and says what they say."""

from collections.abc import Mapping, Sequence
from typing import Any

from bson.errors import BSONError
from pymongo.errors import PyMongoError

from genstatus_server.model.errors import ServiceUnavailable
from genstatus_server.mongo import client as mongodb
from genstatus_server.mongo.queries import FIELDS, Document, Key, by_id, parse, query_for
from genstatus_server.telemetry.metrics import Metrics


class Reader:
    """Reads the documents of one database, and counts the reads."""

    def __init__(self, database: mongodb.Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics

    async def read(self, keys: Sequence[Key]) -> Mapping[Key, Any]:
        """What the documents of `keys` say, in one query. Raises `ServiceUnavailable`."""
        wanted: dict[str, list[Any]] = {}
        for collection, key in keys:
            wanted.setdefault(collection, []).append(key)
        if not wanted:
            return {}
        for collection in wanted:
            self._metrics.mongodb_reads.labels(collection).inc()
        queries = {collection: (query_for(collection, ids), FIELDS[collection]) for collection, ids in wanted.items()}
        try:
            documents = await mongodb.find(self._database, queries)
        except (PyMongoError, BSONError) as cause:
            raise ServiceUnavailable from cause
        found = {collection: by_id(collection, documents[collection]) for collection in wanted}
        return await self._parse(keys, found)

    async def _parse(self, keys: Sequence[Key], found: Mapping[str, Mapping[Any, Document]]) -> Mapping[Key, Any]:
        parsed: dict[Key, Any] = {}
        for collection, key in keys:
            document = found[collection].get(key)
            if document is None and None in found[collection]:
                # A job that does not say whose it is: each key by itself finds out.
                if len(keys) > 1:
                    parsed |= await self.read([(collection, key)])
                    continue
                document = found[collection][None]
            parsed[collection, key] = parse(collection, key, document)
        return parsed
