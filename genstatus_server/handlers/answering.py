"""Answering a request about jobs: headers, URLs and the body."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tornado.httputil import HTTPHeaders

from genstatus_server import retry
from genstatus_server.errors import ServiceUnavailable
from genstatus_server.handlers.base import BaseHandler, date_now
from genstatus_server.handlers.look import Asked
from genstatus_server.jobs import GenerationStatus, Job
from genstatus_server.long_poll import WaitResult

if TYPE_CHECKING:
    from tornado.concurrent import Future

_RETRY_AFTER: Final = {
    None: lambda: retry.POLL,
    WaitResult.SETTLED: lambda: retry.DEADLINE,
    WaitResult.DEADLINE: lambda: retry.DEADLINE,
    WaitResult.DRAINING: retry.draining,
    WaitResult.SHED: retry.shed,
}
_FINISHED: Final = GenerationStatus.FINISHED


class AnsweringHandler(BaseHandler):
    """Answers about jobs. A subclass says what the body is."""

    _written: "Future[None] | None" = None

    def encode(self, asked: Asked, jobs: Sequence[Job], urls: Sequence[str | None]) -> bytes:
        """The body of the answer; each job has its URL, None where it is not finished."""
        raise NotImplementedError

    async def urls_of(self, jobs: Sequence[Job], latest: float | None = None) -> Sequence[str | None]:
        """The URLs of those that are finished. Raises `ServiceUnavailable`, at the loop's time `latest` at last."""
        at_once = self.urls_at_once(jobs)
        if at_once is not None:
            return at_once
        return [await self._url_of(job, latest) if job.generation_status is _FINISHED else None for job in jobs]

    def urls_at_once(self, jobs: Sequence[Job]) -> Sequence[str | None] | None:
        """The same without waiting for anything; None where it takes that."""
        urls: list[str | None] = []
        for job in jobs:
            is_finished = job.generation_status is _FINISHED
            url = self.services.presigner.url_at_once(job) if is_finished else None
            if is_finished and url is None:
                return None
            urls.append(url)
        return urls

    def answer(
        self, asked: Asked, jobs: Sequence[Job], urls: Sequence[str | None], result: WaitResult | None = None
    ) -> None:
        """Answer; `result` is why only now, None to one who did not ask to wait."""
        if result is not None:
            self.log_fields["wait_result"] = result.value
        self.log_fields["generation_status"] = ",".join([job.generation_status for job in jobs])
        is_to_ask_again = _is_to_ask_again(jobs, result)
        if result is WaitResult.SETTLED and not is_to_ask_again and self._is_plain():
            self._answer_like_others(asked, jobs, urls)
            return
        if result is not None:
            self.set_header("Date", date_now())  # Where it was held, that of its arrival stands there.
            self.set_header("X-Wait-Result", result)
        if is_to_ask_again:
            self.set_header("Retry-After", _RETRY_AFTER[result]())
        if result is not None and self.services.draining:
            self.set_header("Connection", "close")
        self.finish(self.encode(asked, jobs, urls))

    def flush(self, include_footers: bool = False) -> "Future[None]":  # noqa: FBT001, FBT002 - Tornado's signature
        """As Tornado's, but what is on its way already is not written once more."""
        return super().flush(include_footers) if self._written is None else self._written

    def _is_plain(self) -> bool:
        """Whether the answer is the same, byte for byte, for all who ask for the same; but for the request's id."""
        request, headers = self.request, self.request.headers
        is_usual = request.method == "GET" and request.version == "HTTP/1.1" and not self.services.draining
        stays = headers.get("Connection", "keep-alive").lower() == "keep-alive"
        return is_usual and stays and "Origin" not in headers and "Prefer" not in headers

    def _answer_like_others(self, asked: Asked, jobs: Sequence[Job], urls: Sequence[str | None]) -> None:
        """With the bytes that others who wait for the same get. It is finished in the loop's next turn."""
        self._auto_finish = False  # Tornado would finish it where `get` ends before that.

        def put_together() -> tuple[HTTPHeaders, bytes]:
            self.set_header("Date", date_now())
            self.set_header("X-Wait-Result", WaitResult.SETTLED)
            body = self.encode(asked, jobs, urls)
            self.set_header("Content-Length", len(body))
            return self._headers, body

        about = type(self), asked.submission_id, asked.file_types, tuple(jobs), tuple(urls), date_now()
        answer = self.services.shared_answer.bytes_for(self.request_id, about, put_together)
        assert self.request.connection is not None  # noqa: S101 - as Tornado's own `finish` says.
        self._written = self.request.connection.write(answer)
        # Thousands may be answered in this turn of the loop: first all of them, then what has to be noted of each.
        asyncio.get_running_loop().call_soon(self.finish)

    async def _url_of(self, job: Job, latest: float | None) -> str:
        try:
            async with asyncio.timeout_at(latest):
                return await self.services.presigner.presigned_url(job)
        except TimeoutError as cause:
            raise ServiceUnavailable from cause


def _is_to_ask_again(jobs: Sequence[Job], result: WaitResult | None) -> bool:
    """Also where nothing waits, but a caller waited in vain for it to differ from what it knows."""
    return result not in {None, WaitResult.SETTLED} or not all(job.is_settled for job in jobs)
