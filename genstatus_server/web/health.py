"""What operators and their machines ask: is it alive, is it ready, how is it doing."""

import asyncio
from typing import Final

from pymongo.errors import PyMongoError

from genstatus_server.mongo.change_stream import StreamState
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
        follower = self.services.follower
        parts: dict[str, object] = {
            "mongodb": "ok" if mongodb_answers else "down",
            "change_stream": follower.state.value,
            "signer": "ok" if can_sign else "no credentials",
        }
        if follower.views:
            parts["views"] = follower.views
        is_ready = mongodb_answers and can_sign and follower.state is not StreamState.DOWN
        if self.services.draining:
            parts["server"], is_ready = "draining", False
        self.set_status(200 if is_ready else 503)
        self.write_json(parts)

    async def _mongodb_answers(self) -> bool:
        if self.services.freshness.is_current():
            return True  # It has answered a moment ago.
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await self.services.mongodb.ping()
        except (PyMongoError, TimeoutError):
            return False
        return True


class MetricsHandler(BaseHandler):
    """Everything that is counted, in Prometheus' text format."""

    async def get(self) -> None:
        self.set_header("Content-Type", metrics.CONTENT_TYPE)
        self.write(await self.services.collect_metrics())
