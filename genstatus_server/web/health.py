"""What operators and their machines ask: is it alive, is it ready, how is it doing."""

import asyncio
from typing import Final

from pymongo.errors import PyMongoError

from genstatus_server.mongo import client as mongodb
from genstatus_server.mongo.change_stream import Watching
from genstatus_server.telemetry import metrics
from genstatus_server.web.base import BaseHandler

_PING_SECONDS: Final = 1.5


class LivezHandler(BaseHandler):
    """200 while the process runs."""

    async def get(self) -> None:
        self.write_json({"status": "ok"})


class ReadyzHandler(BaseHandler):
    """200 when requests can be answered, else 503 with which part fails."""

    async def get(self) -> None:
        mongodb_answers, can_sign = await asyncio.gather(
            self._mongodb_answers(), self.services.presigner.has_credentials()
        )
        watching = self.services.watcher.watching
        parts = {
            "mongodb": "ok" if mongodb_answers else "down",
            "change_stream": watching.value,
            "signer": "ok" if can_sign else "no credentials",
        }
        is_ready = mongodb_answers and can_sign and watching is not Watching.DOWN
        if self.services.draining:
            parts["server"], is_ready = "draining", False
        self.set_status(200 if is_ready else 503)
        self.write_json(parts)

    async def _mongodb_answers(self) -> bool:
        if self.services.watcher.is_fresh():
            return True  # It was heard a moment ago.
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await mongodb.ping(self.services.database)
        except (PyMongoError, TimeoutError):
            return False
        return True


class MetricsHandler(BaseHandler):
    """Everything that is counted, in Prometheus' text format."""

    async def get(self) -> None:
        self.set_header("Content-Type", metrics.CONTENT_TYPE)
        self.write(await self.services.collect_metrics())
