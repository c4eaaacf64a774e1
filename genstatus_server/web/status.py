"""The two status routes: `GET /v1/check_generation_status/` and `GET /v1/generation_statuses/`.

Each request is answered at once or held, from its parameters to its answer.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from genstatus_server.hold.holds import LAST_CHECK_SECONDS, Hold, WaitResult, deadline_of, hold_until_settled
from genstatus_server.model.access import Login, hash_token
from genstatus_server.model.errors import InvalidRequest, ServiceUnavailable
from genstatus_server.model.jobs import GenerationStatus, Job
from genstatus_server.mongo.queries import SESSIONS, USERS
from genstatus_server.web.answers import encode_answer, encode_answer_about_several, entity_tag, opaque_tags
from genstatus_server.web.base import CLIENT_GONE, POLL_SECONDS, BaseHandler, date_now, retry_after
from genstatus_server.web.check import CHECK_SECONDS, StatusChecker, load_login
from genstatus_server.web.params import Query, StatusParams, parse_params_of_one, parse_params_of_several, parse_request


class StatusHandler(BaseHandler):
    """Answers at once, or holds. A subclass parses the parameters and encodes the answer."""

    _hold: Hold | None = None
    _requests_wait = False
    #: The value of `Preference-Applied`; empty where no `Prefer` header requested the hold.
    _preference = ""

    @staticmethod
    def parse_params(query: Query, prefer: Sequence[str]) -> StatusParams:
        """The request parameters. Raises `InvalidRequest`."""
        raise NotImplementedError

    def encode(self, params: StatusParams, jobs: Sequence[Job], urls: Sequence[str | None]) -> bytes:
        """The body of the answer. `urls` has a URL for each job, None where it is not finished."""
        raise NotImplementedError

    def on_connection_close(self) -> None:
        """The client went away: its hold ends at once."""
        super().on_connection_close()
        if self._hold is not None:
            self._hold.end(WaitResult.GONE)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Like the base class. If a hold was requested, say so: `X-Wait-Result: error`, `Preference-Applied`."""
        if self._requests_wait:
            self.set_header("X-Wait-Result", WaitResult.ERROR)
        if self._preference:
            self.set_header("Preference-Applied", self._preference)
        super().write_error(status_code, **kwargs)

    async def get(self) -> None:
        """Log in, check, and answer; or hold in between."""
        params, self._requests_wait = parse_request(self.parse_params, self.request)
        token_hash = hash_token(self.request.headers.get("X-Session-ID", ""))
        if isinstance(params, InvalidRequest):  # The error goes only to callers who are logged in.
            self._log_login(await load_login(self.services.documents, token_hash, self.arrived + CHECK_SECONDS))
            raise params
        if params.preferred_wait:
            self._preference = f"wait={self._wait_seconds(params):g}"
        checker = StatusChecker(
            self.services, token_hash, params, self._ends_wait_for_any(params) if params.any_file else None
        )
        if not params.wait:
            await self._answer_at_once(params, checker, self.arrived + CHECK_SECONDS, None)
            return
        # The first check of a short hold ends with the hold, or little later.
        first_deadline = self.arrived + min(CHECK_SECONDS, self._wait_seconds(params) + LAST_CHECK_SECONDS)
        login = await checker.read_login(first_deadline)
        if self._has_room(login):
            await self._answer_held(params, checker, login, first_deadline)
        else:
            await self._answer_at_once(params, checker, first_deadline, WaitResult.SHED)

    async def _answer_at_once(
        self, params: StatusParams, checker: StatusChecker, deadline: float, result: WaitResult | None
    ) -> None:
        """Answer without a hold. `result` is why there is none; None where none was requested."""
        try:
            checked = await checker.check(deadline)
        finally:
            if checker.login is not None:
                self._log_login(checker.login, params)
        if result is WaitResult.SHED:
            if checked.is_settled:
                result = WaitResult.SETTLED
            else:
                self.services.metrics.shed.inc()
        urls = await checker.sign(checked, self.arrived + 2 * CHECK_SECONDS)
        self.finish(self._encode_with_headers(params, checked.jobs, urls, result))

    async def _answer_held(
        self, params: StatusParams, checker: StatusChecker, login: Login, first_deadline: float
    ) -> None:
        # `params` has the values: ten thousand holds would keep a second copy of each.
        self.request.query_arguments = {}
        result, sent_at = WaitResult.ERROR, None
        try:
            with self.services.holds.hold((*checker.keys, (USERS, login.user.user_id))) as hold:
                self._hold = hold
                if self.is_client_gone:
                    hold.end(WaitResult.GONE)
                checked, urls, result = await hold_until_settled(
                    hold,
                    checker,
                    deadline=deadline_of(self.arrived, self._wait_seconds(params)),
                    first_deadline=first_deadline,
                    retry_on=ServiceUnavailable,
                )
            if urls is None:
                self.set_status(CLIENT_GONE)
            else:
                self._send(self._encode_with_headers(params, checked.jobs, urls, result))
                sent_at = asyncio.get_running_loop().time()
                # Thousands may be answered in this turn of the loop. All answers are sent before the log and the
                # metrics of the first.
                await asyncio.sleep(0)
        finally:
            self._log_login(login, params)  # Not before: ten thousand holds would keep it.
            self._record_end(hold, result, sent_at)
        self.finish()

    def _send(self, body: bytes) -> None:
        """Send the whole answer, without its end as Tornado sees it: `finish` writes the log record, too."""
        self.set_header("Date", date_now())  # Tornado set it when the request came.
        self.set_header("Content-Length", len(body))
        self.write(body)
        self.flush()

    def _has_room(self, login: Login) -> bool:
        holds, settings = self.services.holds, self.services.settings
        held_of_session = holds.of((SESSIONS, login.token_hash))
        return len(holds) < settings.max_waits and len(held_of_session) < settings.max_waits_per_session

    def _log_login(self, login: Login, params: StatusParams | None = None) -> None:
        """Add the caller and the parameters to the log record."""
        self.log_fields["user_id"] = login.user.user_id
        if params is not None:
            self.log_fields["submission_id"] = params.submission_id
            self.log_fields["file_type"] = ",".join(params.file_types)

    def _record_end(self, hold: Hold, result: WaitResult, sent_at: float | None) -> None:
        """Add the end of the hold to the log record and to the metrics. `sent_at` is the loop's time of its answer."""
        self.services.metrics.hold_seconds.labels(result.value).observe(hold.held_seconds)
        self.log_fields["wait_result"], self.log_fields["held_ms"] = result.value, round(1000 * hold.held_seconds, 2)
        if result is WaitResult.SETTLED and hold.woken_at is not None and sent_at is not None:
            self.services.metrics.wake_seconds.observe(sent_at - hold.woken_at)

    def _encode_with_headers(
        self, params: StatusParams, jobs: Sequence[Job], urls: Sequence[str | None], result: WaitResult | None
    ) -> bytes:
        """The body of the answer; its headers are set. `result` is why the wait ended, None without `wait`."""
        if result is not None:
            self.log_fields["wait_result"] = result.value
            self.set_header("X-Wait-Result", result)
        statuses = [job.generation_status for job in jobs]
        self.log_fields["generation_status"] = ",".join(statuses)
        # A hold with `If-None-Match` may reach its deadline although no job is `waiting`. Its answer has it too.
        if result not in {None, WaitResult.SETTLED} or GenerationStatus.WAITING in statuses:
            self.set_header("Retry-After", POLL_SECONDS if result is None else retry_after(result))
        if self._preference:
            self.set_header("Preference-Applied", self._preference)
        return self.encode(params, jobs, urls)

    def _ends_wait_for_any(self, params: StatusParams) -> Callable[[Sequence[Job]], bool]:
        """What ends a wait for any of several files: a change of the answer that the client has, if it names one."""
        cached = opaque_tags(self.request.headers.get_list("If-None-Match"))
        if not cached:
            return first_leaves_waiting()
        return lambda jobs: cached.isdisjoint(opaque_tags([entity_tag(params.submission_id, params.file_types, jobs)]))

    def _wait_seconds(self, params: StatusParams) -> float:
        """The length of the requested hold, at most `wait_max`."""
        settings = self.services.settings
        return min(params.timeout or settings.wait_default, settings.wait_max)


class GenerationStatusHandler(StatusHandler):
    """The status of one file, at once or when it is settled."""

    @staticmethod
    def parse_params(query: Query, prefer: Sequence[str]) -> StatusParams:
        return parse_params_of_one(query, prefer)

    def encode(self, params: StatusParams, jobs: Sequence[Job], urls: Sequence[str | None]) -> bytes:
        return encode_answer(jobs[0], params.file_types[0], urls[0], self.services.settings.generated_at_format)


class GenerationStatusesHandler(StatusHandler):
    """The status of several files of a submission, in one request and one hold."""

    @staticmethod
    def parse_params(query: Query, prefer: Sequence[str]) -> StatusParams:
        return parse_params_of_several(query, prefer)

    def encode(self, params: StatusParams, jobs: Sequence[Job], urls: Sequence[str | None]) -> bytes:
        self.set_header("ETag", entity_tag(params.submission_id, params.file_types, jobs))
        return encode_answer_about_several(
            params.submission_id, params.file_types, jobs, urls, self.services.settings.generated_at_format
        )


def first_leaves_waiting() -> Callable[[Sequence[Job]], bool]:
    """What ends the wait when the first of the files that are `waiting` at the first check has left it."""
    waiting: list[int] = []

    def ends_wait(jobs: Sequence[Job]) -> bool:
        nonlocal waiting
        if not waiting:  # Also where a job that was cached as settled is generated once more.
            waiting = [place for place, job in enumerate(jobs) if not job.is_settled]
        return not waiting or any(jobs[place].is_settled for place in waiting)

    return ends_wait
