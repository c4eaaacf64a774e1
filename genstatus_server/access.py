"""Who asks (token -> login session -> user) and whether they may see a submission.

Asked before anything about a job is read or said, and again before an answer leaves a hold.
"""

import asyncio
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from genstatus_server.documents import LoginSession, Submission, User
from genstatus_server.errors import AccessDenied, LoginRequired, NoSuchSubmission
from genstatus_server.store import Store


@dataclass(frozen=True, slots=True)
class Login:
    """A caller who is logged in. `token_hash` is what the store knows the login session by."""

    token_hash: str
    user: User
    expires_at: datetime

    def expires_in(self) -> float:
        """Seconds until the login session expires."""
        return (self.expires_at - datetime.now(UTC)).total_seconds()


async def log_in(store: Store, session_token: str) -> Login:
    """The caller with this token, as its header came: bytes decoded as Latin-1. Raises `LoginRequired`."""
    if not session_token:
        raise LoginRequired
    return await log_in_again(store, hashlib.sha256(session_token.encode("latin-1")).hexdigest())


async def log_in_again(store: Store, token_hash: str) -> Login:
    """The caller whose token has this hash. Raises `LoginRequired`."""
    login_session = await store.login_session(token_hash)
    if login_session is None or login_session.expires_at <= datetime.now(UTC):
        raise LoginRequired
    user = await store.user(login_session.user_id)
    return _login(token_hash, login_session, user)


async def check_access(store: Store, user: User, submission_id: int) -> None:
    """Whether `user` may see the submission. Raises `NoSuchSubmission` or `AccessDenied`."""
    _check(user, await store.submission(submission_id))


async def check_anew(store: Store, login: Login, submission_id: int) -> Login:
    """All of the above once more, by reads that begin now and run side by side. Raises the same errors."""
    login_session, user, submission = await asyncio.gather(
        store.login_session(login.token_hash, anew=True),
        store.user(login.user.user_id, anew=True),
        store.submission(submission_id, anew=True),
    )
    renewed = _login(login.token_hash, login_session, user)
    _check(renewed.user, submission)
    return renewed


def _login(token_hash: str, login_session: LoginSession | None, user: User | None) -> Login:
    is_over = login_session is None or login_session.expires_at <= datetime.now(UTC)
    if login_session is None or is_over or user is None or user.user_id != login_session.user_id:
        raise LoginRequired
    return Login(token_hash, user, login_session.expires_at)


def _check(user: User, submission: Submission | None) -> None:
    if submission is None:
        raise NoSuchSubmission
    if not user.may_view(submission):
        raise AccessDenied
