"""Who asks (token -> login session -> user) and whether they may see a submission. Pure.

Asked before anything about a job is read or said, and again before an answer leaves a hold. Documents come through a
`Find`, so that the rules are the same for what is remembered and for what was read this moment.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from genstatus_server.model.documents import User
from genstatus_server.model.errors import AccessDenied, LoginRequired, NoSuchSubmission
from genstatus_server.mongo.queries import SESSIONS, SUBMISSIONS, USERS, Find


@dataclass(slots=True)
class Login:
    """A caller who is logged in, until `expires_at`. `token_hash` is what the login session is known by."""

    token_hash: str
    user: User
    expires_at: datetime

    def expires_in(self) -> float:
        """Seconds until the login session expires."""
        return (self.expires_at - datetime.now(UTC)).total_seconds()


def hash_of(session_token: str) -> str:
    """What a login session is known by; the token is as its header came: bytes decoded as Latin-1.

    Raises `LoginRequired` where there is no token.
    """
    if not session_token:
        raise LoginRequired
    return hashlib.sha256(session_token.encode("latin-1")).hexdigest()


def log_in(find: Find, token_hash: str) -> Login:
    """The caller whose token has this hash. Raises `LoginRequired`."""
    login_session = find(SESSIONS, token_hash)
    if login_session is None or login_session.expires_at <= datetime.now(UTC):
        raise LoginRequired
    user = find(USERS, login_session.user_id)
    if user is None:
        raise LoginRequired
    return Login(token_hash, user, login_session.expires_at)


def check_access(find: Find, user: User, submission_id: int) -> None:
    """Whether `user` may see the submission. Raises `NoSuchSubmission` or `AccessDenied`."""
    submission = find(SUBMISSIONS, submission_id)
    if submission is None:
        raise NoSuchSubmission
    if not user.may_view(submission):
        raise AccessDenied
