"""A request that may be held: what the routes of one file and of several have in common."""

import asyncio
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, Final

from genstatus_server.hold.hold import LAST_LOOK_SECONDS, Hold, WaitResult, deadline_of
from genstatus_server.hold.registry import Waiter
from genstatus_server.model.access import Login, hash_of, log_in
from genstatus_server.model.errors import InvalidRequest
from genstatus_server.model.jobs import Job
from genstatus_server.mongo.queries import SESSIONS, Find
from genstatus_server.web.answering import AnsweringHandler
from genstatus_server.web.asked import Asked, Query, understood
from genstatus_server.web.base import CLIENT_GONE
from genstatus_server.web.look import LOOK_SECONDS, IsSettled, Looker, see_jobs

#: Seconds that a signature may take at the end of a hold, behind the last look.
_LAST_SIGNATURE_SECONDS: Final = 0.06


class HeldHandler(AnsweringHandler):
    """Answers at once, or holds. A subclass says what is asked, what settles it, and what the answer is."""

    _hold: Hold | None = None
    _result: WaitResult | None = None
    _is_wait = False

    @staticmethod
    def understand(query: Query, prefer: Sequence[str]) -> Asked:
        """What is asked. Raises `InvalidRequest`."""
        raise NotImplementedError

    def settles(self, asked: Asked) -> IsSettled:
        """What ends the wait."""
        raise NotImplementedError

    def on_connection_close(self) -> None:
        """The client went away: its hold is freed at once, or ends as soon as it begins."""
        super().on_connection_close()
        if self._hold is not None:
            self._hold.waiter.leave()

    def set_default_headers(self) -> None:
        super().set_default_headers()
        if self._is_wait:
            self.set_header("X-Wait-Result", WaitResult.ERROR)

    async def get(self) -> None:
        asked, self._is_wait = understood(self.understand, self.request)
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
            await self.answer(valid, jobs, await self.urls_of(jobs))

    def _first_look_ends(self, asked: Asked | InvalidRequest) -> float:
        """The loop's time by which there is something to answer. The answer to a short hold may not come later."""
        seconds = LOOK_SECONDS
        if not isinstance(asked, InvalidRequest) and asked.wait:
            seconds = min(seconds, self.seconds(asked) + LAST_LOOK_SECONDS)
        return self.arrived + seconds

    async def _wait(self, login: Login, asked: Asked) -> None:
        seconds, look = self.seconds(asked), Looker(self.services.store, login, asked, self.settles(asked))
        if self._has_room(login):
            await self._begin_hold(asked, look, seconds)
            return
        seen = await look(self._first_look_ends(asked))
        if not seen.is_settled:
            self.services.metrics.shed.inc()
        result = WaitResult.SETTLED if seen.is_settled else WaitResult.SHED
        await self.answer(asked, seen.jobs, await self.urls_of(seen.jobs), result)

    def _has_room(self, login: Login) -> bool:
        waiters, settings = self.services.waiters, self.services.settings
        held_of_session = waiters.count((SESSIONS, login.token_hash))
        return len(waiters) < settings.max_waits and held_of_session < settings.max_waits_per_session

    async def _begin_hold(self, asked: Asked, look: Looker, seconds: float) -> None:
        self._auto_finish = False  # Tornado's: this request goes on behind the end of `get`.
        # It is understood by now, and ten thousand of them would keep it twice.
        self.request.arguments = self.request.query_arguments = {}
        waiter = self.services.waiters.register(look.keys)
        if self.is_client_gone:
            waiter.leave()
        self._hold = hold = Hold(look, waiter, deadline_of(self.arrived, seconds))
        await self._end_or_sleep(hold, asked, hold.begin(self._first_look_ends(asked)))

    async def _end_or_sleep(self, hold: Hold, asked: Asked, looking: Awaitable[WaitResult | None]) -> None:
        """From one sleep to the next, or to the answer. However the hold ends, it is released."""
        try:
            result, urls = await self._signed(hold, looking)
        except BaseException:
            self._release(hold, WaitResult.ERROR)
            raise
        if result is None:
            hold.sleep(partial(self._wake_up, hold, asked))
        else:
            await self._end(hold, asked, result, urls)

    def _wake_up(self, hold: Hold, asked: Asked) -> None:
        self._going_on = asyncio.create_task(self._go_on(hold, asked))

    async def _go_on(self, hold: Hold, asked: Asked) -> None:
        try:
            await self._end_or_sleep(hold, asked, hold.go_on())
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - whatever it is, it is answered.
            self._answer_error(hold, error)

    def _answer_error(self, hold: Hold, error: BaseException) -> None:
        """As Tornado answers what `get` raises."""
        self._release(hold, WaitResult.ERROR)
        about = type(error), error, error.__traceback__
        self.log_exception(*about)
        if not self._finished:
            self.send_error(exc_info=about)

    async def _end(self, hold: Hold, asked: Asked, result: WaitResult, urls: Sequence[str | None]) -> None:
        self._release(hold, result)
        if result is WaitResult.GONE:
            self.set_status(CLIENT_GONE)
            self.finish()
        else:
            await self.answer(asked, hold.seen.jobs, urls, result)

    def _release(self, hold: Hold, result: WaitResult) -> None:
        """The hold is over; the first result stands, whatever goes wrong with the answer."""
        if self._result is None:
            self.services.waiters.release(hold.waiter)
            self._result = result

    def finish(self, chunk: Any = None) -> Any:
        """Finish the answer, and note how it came to it where it was held."""
        if self._hold is not None and self._result is not None:
            self._note(self._hold.waiter, self._result)
            self._hold = None
        return super().finish(chunk)

    def _note(self, waiter: Waiter, result: WaitResult) -> None:
        metrics, now = self.services.metrics, asyncio.get_running_loop().time()
        held = now - waiter.registered_at
        metrics.hold_seconds.labels(result.value).observe(held)
        if result is WaitResult.SETTLED and waiter.woken_at is not None:
            metrics.wake_seconds.observe(now - waiter.woken_at)
        self.log_fields["wait_result"], self.log_fields["held_ms"] = result.value, round(1000 * held, 2)

    async def _signed(
        self, hold: Hold, looking: Awaitable[WaitResult | None]
    ) -> tuple[WaitResult | None, Sequence[str | None]]:
        """What the hold ends with, and the URLs of it. A signature may take a while, and what it is for may change."""
        result = await looking
        while result not in {None, WaitResult.GONE}:
            latest = max(asyncio.get_running_loop().time(), hold.deadline) + _LAST_SIGNATURE_SECONDS
            urls = await self.urls_of(hold.seen.jobs, latest)
            # A URL goes only to who may have it by now, also where the hold ends for another reason.
            if not hold.waiter.is_woken or (result is not WaitResult.SETTLED and not any(urls)):
                return result, urls
            result = await hold.go_on()
        return result, ()
