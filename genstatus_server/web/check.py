"""Checks one request: access first, then the jobs, and signs what is finished."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from genstatus_server.hold.holds import Urls
from genstatus_server.model.access import Login, check_access, login_of
from genstatus_server.model.errors import LoginRequired, ServiceUnavailable
from genstatus_server.model.jobs import GenerationStatus, Job
from genstatus_server.mongo.cache import Lookup
from genstatus_server.mongo.documents import Documents
from genstatus_server.mongo.queries import JOBS, SESSIONS, SUBMISSIONS, Key
from genstatus_server.web.base import Services
from genstatus_server.web.params import StatusParams

#: Seconds that all reads of one check may take together.
CHECK_SECONDS: Final = 2.5

#: Whether the jobs, as they are now, end the request's wait. None: they do when none of them is `waiting`.
EndsWait = Callable[[Sequence[Job]], bool] | None


@dataclass(slots=True)
class StatusCheck:
    """The requested jobs, whether they settle the request, and the login that may view them.

    `is_confirmed` is False where a later check could not be made: then the request is not settled, whatever its jobs
    are.
    """

    jobs: Sequence[Job]
    is_settled: bool
    login: Login
    is_confirmed: bool = True

    @property
    def expires(self) -> float:
        """The loop's time at which the login session expires."""
        return asyncio.get_running_loop().time() + self.login.expires_in()

    def unconfirmed(self) -> "StatusCheck":
        """The same after another check could not be made."""
        return StatusCheck(self.jobs, is_settled=False, login=self.login, is_confirmed=False)


async def load_login(documents: Documents, token_hash: str, deadline: float) -> Login:
    """The caller whose login session this is. Raises `LoginRequired` and `ServiceUnavailable`."""
    return login_of(await documents.get(((SESSIONS, token_hash),), deadline), token_hash)


class StatusChecker:
    """Checks one request. Its answer depends on the documents of `keys` and on the user of the session.

    `login` is the caller as of the last check or `read_login`, None before.
    """

    __slots__ = ("_documents", "_ends_wait", "_params", "_presigner", "_token_hash", "keys", "login")

    def __init__(self, services: Services, token_hash: str, params: StatusParams, ends_wait: EndsWait) -> None:
        self._documents = services.documents
        self._presigner = services.presigner
        self._token_hash = token_hash
        self._params = params
        self._ends_wait = ends_wait
        self.login: Login | None = None
        self.keys: tuple[Key, ...] = (
            (SESSIONS, token_hash),
            (SUBMISSIONS, params.submission_id),
            *[(JOBS, (params.submission_id, file_type)) for file_type in params.file_types],
        )

    async def read_login(self, deadline: float) -> Login:
        """The caller, by the loop's time `deadline`. Raises `LoginRequired` and `ServiceUnavailable`."""
        self.login = await load_login(self._documents, self._token_hash, deadline)
        return self.login

    async def check(self, deadline: float) -> StatusCheck:
        """Check access and jobs, by the loop's time `deadline`.

        Raises `LoginRequired`, `NoSuchSubmission` or `AccessDenied`. If MongoDB cannot be read, raises
        `ServiceUnavailable`, or `LoginRequired` once the known login session has expired.
        """
        submission_id, jobs = self._params.submission_id, []
        lookup = self._documents.cache.lookup(self.keys) or await self._load(deadline)
        login = login_of(lookup, self._token_hash)
        if self.login is not None and login.user.user_id != self.login.user.user_id:
            raise LoginRequired
        self.login = login
        check_access(lookup, login.user, submission_id)
        for file_type in self._params.file_types:
            job = lookup.job(submission_id, file_type)
            is_finished = job.generation_status is GenerationStatus.FINISHED
            jobs.append(await self._presigner.signable(job) if is_finished else job)
        if self._ends_wait is not None:
            return StatusCheck(jobs, self._ends_wait(jobs), login)
        return StatusCheck(jobs, GenerationStatus.WAITING not in [job.generation_status for job in jobs], login)

    async def _load(self, deadline: float) -> Lookup:
        deadline = min(deadline, asyncio.get_running_loop().time() + CHECK_SECONDS)
        try:
            if self.login is None:
                await self.read_login(deadline)  # For a session that does not exist, nothing else is read.
            return await self._documents.load(self.keys, deadline)
        except ServiceUnavailable:
            if self.login is not None and self.login.expires_in() <= 0:
                raise LoginRequired from None
            raise

    async def sign(self, checked: StatusCheck, deadline: float) -> Urls:
        """The URLs of the files that are finished, by the loop's time `deadline`.

        Raises `ServiceUnavailable`, also where the last check failed, so that access may have ended.
        """
        if GenerationStatus.FINISHED not in [job.generation_status for job in checked.jobs]:
            return (None,) * len(checked.jobs)
        if not checked.is_confirmed:
            raise ServiceUnavailable
        try:
            async with asyncio.timeout_at(deadline):
                return [
                    await self._presigner.presigned_url(job)
                    if job.generation_status is GenerationStatus.FINISHED
                    else None
                    for job in checked.jobs
                ]
        except TimeoutError as cause:
            raise ServiceUnavailable from cause
