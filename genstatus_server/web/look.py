"""Looking for one request: access first, then the jobs, and both once more before an answer leaves a hold."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from genstatus_server.hold.hold import Look
from genstatus_server.model.access import Login, check_access, log_in
from genstatus_server.model.documents import User
from genstatus_server.model.errors import LoginRequired, ServiceError
from genstatus_server.model.jobs import Job
from genstatus_server.mongo.queries import JOBS, SESSIONS, SUBMISSIONS, USERS, Find, Key
from genstatus_server.mongo.store import Store
from genstatus_server.web.asked import Asked

#: Seconds that all reads of one look may take together.
LOOK_SECONDS: Final = 2.5

#: Whether the jobs, as they are now, end the request's wait.
IsSettled = Callable[[Sequence[Job]], bool]


def see_jobs(find: Find, user: User, asked: Asked) -> tuple[Job, ...]:
    """The jobs that are asked about, if `user` may see them. Raises `NoSuchSubmission` or `AccessDenied`."""
    check_access(find, user, asked.submission_id)
    return tuple([find(JOBS, (asked.submission_id, file_type)) for file_type in asked.file_types])


class Looker:
    """Looks at the jobs of one request that waits, whose caller has logged in before."""

    __slots__ = ("_asked", "_is_settled", "_login", "_store", "keys")

    def __init__(self, store: Store, login: Login, asked: Asked, is_settled: IsSettled) -> None:
        self._store = store
        self._login = login
        self._asked = asked
        self._is_settled = is_settled
        #: Everything that the answer depends on.
        self.keys: tuple[Key, ...] = (
            (SESSIONS, login.token_hash),
            (USERS, login.user.user_id),
            (SUBMISSIONS, asked.submission_id),
            *((JOBS, (asked.submission_id, file_type)) for file_type in asked.file_types),
        )

    async def __call__(self, until: float) -> Look:
        until = min(until, asyncio.get_running_loop().time() + LOOK_SECONDS)
        look = await self._store.see(self._see, until)
        if not look.is_settled or self._is_told(look):
            return look
        # The jobs may be newer than what the change stream has told of the login so far. A revocation that was
        # committed before a job was settled is seen by a read that begins after that was known, and so is a new
        # generation that has begun meanwhile.
        return self._see(await self._store.read_anew(self.keys, until))

    def at_once(self) -> Look | None:
        """The same where nothing has to be read for it; None where it has, or where nothing may be seen."""
        if len(self._asked.file_types) > 1:
            return None  # The change stream tells of one job at a time.
        look = self._store.share((self.keys, self._is_settled), self._look_at_once)
        is_over = look is not None and asyncio.get_running_loop().time() >= look.expires
        return self._look_at_once() if is_over else look

    def _look_at_once(self) -> Look | None:
        try:
            look = self._store.see_at_once(self._see)
        except ServiceError:
            return None
        return look if look and (not look.is_settled or self._is_told(look)) else None

    def _is_told(self, look: Look) -> bool:
        """Whether the change stream told what settles it: then it has told every revocation before that, too."""
        job_ids = [(self._asked.submission_id, file_type) for file_type in self._asked.file_types]
        return len(job_ids) == 1 and self._store.is_told(job_ids[0], look.jobs[0])

    def _see(self, find: Find) -> Look:
        login = log_in(find, self._login.token_hash)
        if login.user.user_id != self._login.user.user_id:
            raise LoginRequired
        jobs = see_jobs(find, login.user, self._asked)
        expires = asyncio.get_running_loop().time() + login.expires_in()
        return Look(jobs, self._is_settled(jobs), expires=expires)
