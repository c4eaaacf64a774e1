"""Looking for one request: access first, then the jobs, and both once more before an answer leaves a hold."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

from genstatus_server.access import Login, check_access, check_anew, log_in_again
from genstatus_server.errors import LoginRequired
from genstatus_server.jobs import Job
from genstatus_server.long_poll import Look
from genstatus_server.queries import JOBS, SESSIONS, SUBMISSIONS, USERS, JobId, Key
from genstatus_server.store import Store

#: Seconds that all reads of one look may take together.
LOOK_SECONDS: Final = 2.5

T = TypeVar("T")

#: Whether the jobs, as they are now, end the request's wait.
IsSettled = Callable[[Sequence[Job]], bool]


class Asked(Protocol):
    """What a request for one file and one for several have in common."""

    @property
    def submission_id(self) -> int: ...
    @property
    def file_type(self) -> str: ...
    @property
    def file_types(self) -> tuple[str, ...]: ...
    @property
    def wait(self) -> bool: ...
    @property
    def timeout(self) -> float | None: ...
    @property
    def preferred_wait(self) -> bool: ...


class Looker:
    """Looks at the jobs of one request, whose caller has logged in before."""

    def __init__(self, store: Store, login: Login, asked: Asked, is_settled: IsSettled) -> None:
        self._store = store
        self._login = login
        self._submission_id = asked.submission_id
        self._job_ids: Sequence[JobId] = [(asked.submission_id, file_type) for file_type in asked.file_types]
        self._is_settled = is_settled
        self.seconds = LOOK_SECONDS

    def keys(self) -> tuple[Key, ...]:
        """Everything that the answer depends on."""
        return (
            (SESSIONS, self._login.token_hash),
            (USERS, self._login.user.user_id),
            (SUBMISSIONS, self._submission_id),
            *((JOBS, job_id) for job_id in self._job_ids),
        )

    async def once(self) -> tuple[Job, ...]:
        """The jobs, for a request that does not wait: its caller has logged in just now."""
        await check_access(self._store, self._login.user, self._submission_id)
        return await self._jobs()

    async def __call__(self) -> Look:
        """What there is to see now. Raises `ServiceError`s, and TimeoutError after `seconds`."""
        async with asyncio.timeout(self.seconds):
            login = await log_in_again(self._store, self._login.token_hash)
            if login.user.user_id != self._login.user.user_id:
                raise LoginRequired
            await check_access(self._store, login.user, self._submission_id)
            jobs = await self._jobs()
            is_settled = self._is_settled(jobs)
            if is_settled:
                # The jobs may be newer than what the change stream has told of the login so far. A revocation that
                # was committed before a job was settled is seen by reads that begin after that was known; and a new
                # generation that has begun meanwhile by reading the jobs once more.
                login, jobs = await asyncio.gather(
                    check_anew(self._store, login, self._submission_id), self._jobs(anew=True)
                )
                is_settled = self._is_settled(jobs)
        return Look(jobs, is_settled, expires=asyncio.get_running_loop().time() + login.expires_in())

    async def _jobs(self, *, anew: bool = False) -> tuple[Job, ...]:
        return await _side_by_side([self._store.job(job_id, anew=anew) for job_id in self._job_ids])


async def _side_by_side(all_of: Sequence[Awaitable[T]]) -> tuple[T, ...]:
    if len(all_of) == 1:  # It needs no task.
        return (await all_of[0],)
    return tuple(await asyncio.gather(*all_of))
