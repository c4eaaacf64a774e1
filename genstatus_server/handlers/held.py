"""A request that may be held: what the routes of one file and of several have in common."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

from tornado.escape import parse_qs_bytes

from genstatus_server import retry
from genstatus_server.access import Login, hash_of, log_in
from genstatus_server.errors import InvalidRequest, ServiceUnavailable
from genstatus_server.handlers.base import CLIENT_GONE, BaseHandler
from genstatus_server.handlers.look import LOOK_SECONDS, Asked, IsSettled, Looker, see_jobs
from genstatus_server.jobs import GenerationStatus, Job
from genstatus_server.long_poll import LAST_LOOK_SECONDS, Look, WaitResult, deadline_of, hold
from genstatus_server.queries import SESSIONS, Find
from genstatus_server.schemas import asks_to_wait
from genstatus_server.waiters import Waiter

Query = Mapping[str, Sequence[bytes]]
Understand = Callable[[Query, Sequence[str]], Asked]

#: Seconds that a signature may take at the end of a hold, behind the last look.
_LAST_SIGNATURE_SECONDS: Final = 0.08

_RETRY_AFTER: Final = {
    None: lambda: retry.POLL,
    WaitResult.SETTLED: lambda: retry.DEADLINE,
    WaitResult.DEADLINE: lambda: retry.DEADLINE,
    WaitResult.DRAINING: retry.draining,
    WaitResult.SHED: retry.shed,
}


_FINISHED: Final = GenerationStatus.FINISHED
#: Queries that are remembered, and the characters that are few enough for it.
_REMEMBERED: Final = 4096
_USUAL_LENGTH: Final = 96


class HeldHandler(BaseHandler):
    """Answers at once, or holds. A subclass says what is asked, what settles it, and what the answer is."""

    _waiter: Waiter | None = None
    _is_client_gone = False
    _is_wait = False

    @staticmethod
    def understand(query: Query, prefer: Sequence[str]) -> Asked:
        """What is asked. Raises `InvalidRequest`."""
        raise NotImplementedError

    def settles(self, asked: Asked) -> IsSettled:
        """What ends the wait."""
        raise NotImplementedError

    def encode(self, asked: Asked, jobs: Sequence[Job], urls: Sequence[str | None]) -> bytes:
        """The body of the answer; each job has its URL, None where it is not finished."""
        raise NotImplementedError

    async def get(self) -> None:
        try:
            await self._get()
        except TimeoutError as cause:
            raise ServiceUnavailable from cause

    def on_connection_close(self) -> None:
        """The client went away: its hold is freed at once, or ends as soon as it begins."""
        self._is_client_gone = True
        if self._waiter is not None:
            self._waiter.leave()

    def set_default_headers(self) -> None:
        super().set_default_headers()
        if self._is_wait:
            self.set_header("X-Wait-Result", WaitResult.ERROR)

    async def _get(self) -> None:
        asked = self._understand()
        token_hash = hash_of(self.request.headers.get("X-Session-ID", ""))

        def see(find: Find) -> tuple[Login, Asked, Sequence[Job] | None]:
            login = log_in(find, token_hash)
            self.log_fields["user_id"] = login.user.user_id
            if isinstance(asked, InvalidRequest):  # That is told only to who is logged in.
                raise asked
            self.log_fields["submission_id"], self.log_fields["file_type"] = asked.submission_id, asked.file_type
            return login, asked, None if asked.wait else see_jobs(find, login.user, asked)

        login, valid, jobs = await self.services.store.see(see, self._first_look_ends(asked))
        if jobs is None:
            await self._wait(login, valid)
        else:
            await self._answer(valid, jobs, None)

    def _understand(self) -> Asked | InvalidRequest:
        """What is asked, or what is wrong with it."""
        query, prefer = self.request.query_arguments, self.request.headers.get_list("Prefer")
        is_usual = not prefer and len(self.request.query) <= _USUAL_LENGTH
        asked = _usual(self.understand, self.request.query) if is_usual else None
        self._is_wait = asked.wait if asked else asks_to_wait(query, prefer)
        try:
            return asked or self.understand(query, prefer)
        except InvalidRequest as error:
            return error

    def _seconds(self, asked: Asked) -> float:
        """The length of the hold."""
        settings = self.services.settings
        return min(asked.timeout or settings.wait_default, settings.wait_max)

    def _first_look_ends(self, asked: Asked | InvalidRequest) -> float:
        """The loop's time by which there is something to answer. The answer to a short hold may not come later."""
        seconds = LOOK_SECONDS
        if not isinstance(asked, InvalidRequest) and asked.wait:
            seconds = min(seconds, self._seconds(asked) + LAST_LOOK_SECONDS)
        return self.arrived + seconds

    async def _wait(self, login: Login, asked: Asked) -> None:
        seconds = self._seconds(asked)
        look = Looker(self.services.store, login, asked, self.settles(asked))
        look.seconds = self._first_look_ends(asked) - asyncio.get_running_loop().time()
        if asked.preferred_wait:
            self.set_header("Preference-Applied", f"wait={seconds:g}")
        if self._has_room(login):
            await self._hold(asked, look, seconds)
            return
        seen = await look()
        if not seen.is_settled:
            self.services.metrics.shed.inc()
        await self._answer(asked, seen.jobs, WaitResult.SETTLED if seen.is_settled else WaitResult.SHED)

    def _has_room(self, login: Login) -> bool:
        waiters, settings = self.services.waiters, self.services.settings
        held_of_session = waiters.count((SESSIONS, login.token_hash))
        return len(waiters) < settings.max_waits and held_of_session < settings.max_waits_per_session

    async def _hold(self, asked: Asked, look: Looker, seconds: float) -> None:
        result = WaitResult.ERROR
        metrics = self.services.metrics
        with self.services.waiters.waiting_for(*look.keys) as self._waiter:
            if self._is_client_gone:
                self._waiter.leave()
            try:
                seen, result, urls = await self._signed(look, self._waiter, deadline_of(self.arrived, seconds))
            finally:
                held = asyncio.get_running_loop().time() - self._waiter.registered_at
                metrics.hold_seconds.labels(result.value).observe(held)
                self.log_fields["wait_result"], self.log_fields["held_ms"] = result.value, round(1000 * held, 2)
        if result is WaitResult.GONE:
            self.set_status(CLIENT_GONE)
            return
        await self._answer(asked, seen.jobs, result, urls)
        if result is WaitResult.SETTLED and self._waiter.woken_at is not None:
            metrics.wake_seconds.observe(asyncio.get_running_loop().time() - self._waiter.woken_at)

    async def _signed(
        self, look: Looker, waiter: Waiter, deadline: float
    ) -> tuple[Look, WaitResult, Sequence[str | None]]:
        """What the hold ends with, and the URLs of it. A signature may take a while, and what it is for may change."""
        while True:
            seen, result = await hold(look, waiter, deadline)
            latest = max(asyncio.get_running_loop().time(), deadline) + _LAST_SIGNATURE_SECONDS
            urls = [] if result is WaitResult.GONE else await self._urls_of(seen.jobs, latest)
            if result is not WaitResult.SETTLED or not waiter.is_woken:
                return seen, result, urls

    async def _answer(
        self,
        asked: Asked,
        jobs: Sequence[Job],
        result: WaitResult | None,
        urls: Sequence[str | None] | None = None,
    ) -> None:
        if urls is None:
            urls = await self._urls_of(jobs)
        if result is not None:
            self.set_header("X-Wait-Result", result)
            self.log_fields["wait_result"] = result.value
        self.log_fields["generation_status"] = ",".join([job.generation_status for job in jobs])
        if _is_to_ask_again(jobs, result):
            self.set_header("Retry-After", _RETRY_AFTER[result]())
        if result is WaitResult.DRAINING:
            self.set_header("Connection", "close")
        self.finish(self.encode(asked, jobs, urls))

    async def _urls_of(self, jobs: Sequence[Job], latest: float | None = None) -> Sequence[str | None]:
        """The URLs of those that are finished. Raises `TimeoutError` at the loop's time `latest`."""
        return [await self._url_of(job, latest) if job.generation_status is _FINISHED else None for job in jobs]

    async def _url_of(self, job: Job, latest: float | None) -> str:
        presigner = self.services.presigner
        url = presigner.remembered_url(job)
        if url is None:
            async with asyncio.timeout_at(latest):
                url = await presigner.presigned_url(job)
        return url


def _is_to_ask_again(jobs: Sequence[Job], result: WaitResult | None) -> bool:
    """Also where nothing waits, but a caller waited in vain for it to differ from what it knows."""
    return result not in {None, WaitResult.SETTLED} or not all(job.is_settled for job in jobs)


# Clients ask the same again and again.
@lru_cache(_REMEMBERED)
def _usual(understand: Understand, query: str) -> Asked | None:
    """What is asked with `query`; None where that is wrong, and for `understand` to say why."""
    try:
        return understand(parse_qs_bytes(query, keep_blank_values=True), ())
    except InvalidRequest:
        return None
