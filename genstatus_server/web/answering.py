"""Answering a request about jobs: headers, URLs and the body."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from genstatus_server.hold.hold import WaitResult
from genstatus_server.model.errors import ServiceUnavailable
from genstatus_server.model.jobs import GenerationStatus, Job
from genstatus_server.web import retry
from genstatus_server.web.asked import Asked
from genstatus_server.web.base import BaseHandler, date_now
from genstatus_server.web.response_cache import Parts

if TYPE_CHECKING:
    from tornado.concurrent import Future

_RETRY_AFTER: Final = {
    None: lambda: retry.POLL,
    WaitResult.SETTLED: lambda: retry.DEADLINE,
    WaitResult.DEADLINE: lambda: retry.DEADLINE,
    WaitResult.DRAINING: retry.draining,
    WaitResult.SHED: retry.shed,
}
#: The results, also of one who did not wait, whose answers are the same for all; elsewhere `Retry-After` is random.
_ALIKE: Final = frozenset({None, WaitResult.SETTLED, WaitResult.DEADLINE})
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
        if result in _ALIKE and self._is_plain(asked):
            self._answer_like_others(asked, jobs, urls, result)
            return
        self._set_headers(asked, jobs, result)
        self.finish(self.encode(asked, jobs, urls))

    def flush(self, include_footers: bool = False) -> "Future[None]":  # noqa: FBT001, FBT002 - Tornado's signature
        """As Tornado's, but what is on its way already is not written once more."""
        return super().flush(include_footers) if self._written is None else self._written

    def _set_headers(self, asked: Asked, jobs: Sequence[Job], result: WaitResult | None) -> None:
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

    def _is_plain(self, asked: Asked) -> bool:
        """Whether the answer is the same, byte for byte, for all who ask for the same; but for date and request id."""
        request, services = self.request, self.services
        is_usual = request.method == "GET" and request.version == "HTTP/1.1" and not services.draining
        stays = request.headers.get("Connection", "keep-alive").lower() == "keep-alive"
        has_origin = bool(services.settings.cors_origins) and "Origin" in request.headers
        return is_usual and stays and not has_origin and not asked.preferred_wait

    def _answer_like_others(
        self, asked: Asked, jobs: Sequence[Job], urls: Sequence[str | None], result: WaitResult | None
    ) -> None:
        """With the bytes that others who ask the same get."""

        def put_together(date: str, request_id: str) -> Parts:
            self._set_headers(asked, jobs, result)
            body = self.encode(asked, jobs, urls)
            self.set_header("Content-Length", len(body))
            self._headers["Date"], self._headers["X-Request-ID"] = date, request_id
            return self._headers.get_all(), body

        question = type(self), asked.submission_id, asked.file_types, result
        answer = self.services.shared_answers.bytes_for(
            question, (jobs, urls), put_together, date=date_now(), request_id=self.request_id
        )
        assert self.request.connection is not None  # noqa: S101 - as Tornado's own `finish` says.
        self._written = self.request.connection.write(answer)
        self._headers_written = True
        if result is None:
            self.finish()
            return
        self._auto_finish = False  # Tornado would finish it where `get` ends before that.
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
