"""Answering a request about jobs: headers, URLs and the body."""

import asyncio
from collections.abc import Sequence
from typing import Final

from genstatus_server.hold.registry import HoldResult
from genstatus_server.model.jobs import Job
from genstatus_server.web import retry
from genstatus_server.web.asked import Asked
from genstatus_server.web.base import BaseHandler, date_now

_RETRY_AFTER: Final = {
    None: lambda: retry.POLL,
    HoldResult.SETTLED: lambda: retry.DEADLINE,
    HoldResult.DEADLINE: lambda: retry.DEADLINE,
    HoldResult.DRAINING: retry.draining,
    HoldResult.SHED: retry.shed,
}


class AnsweringHandler(BaseHandler):
    """Answers about jobs. A subclass says what the body is."""

    def encode(self, asked: Asked, jobs: Sequence[Job], urls: Sequence[str | None]) -> bytes:
        """The body of the answer; each job has its URL, None where it is not finished."""
        raise NotImplementedError

    async def answer(
        self, asked: Asked, jobs: Sequence[Job], urls: Sequence[str | None], result: HoldResult | None = None
    ) -> None:
        """Answer; `result` is why only now, None to one who did not ask to wait."""
        if result is not None:
            self.log_fields["wait_result"] = result.value
        self.log_fields["generation_status"] = ",".join([job.generation_status for job in jobs])
        self._set_headers(asked, jobs, result)
        body = self.encode(asked, jobs, urls)
        if result is not None:
            # Thousands may be answered in this turn of the loop: all answers go out first, and what has to be noted of
            # each follows in the next turn.
            self.set_header("Date", date_now())  # Tornado's is that of the request.
            self.set_header("Content-Length", len(body))
            self.write(body)
            self.flush()
            await asyncio.sleep(0)
            body = b""
        self.finish(body)

    def _set_headers(self, asked: Asked, jobs: Sequence[Job], result: HoldResult | None) -> None:
        if result is not None:
            self.set_header("X-Wait-Result", result)
        if _is_to_ask_again(jobs, result):
            self.set_header("Retry-After", _RETRY_AFTER[result]())
        if asked.preferred_wait:
            self.set_header("Preference-Applied", f"wait={self.seconds(asked):g}")

    def seconds(self, asked: Asked) -> float:
        """The length of the hold that is asked for."""
        settings = self.services.settings
        return min(asked.timeout or settings.wait_default, settings.wait_max)


def _is_to_ask_again(jobs: Sequence[Job], result: HoldResult | None) -> bool:
    """Also where nothing waits, but a caller waited in vain for it to differ from what it knows."""
    return result not in {None, HoldResult.SETTLED} or not all(job.is_settled for job in jobs)
