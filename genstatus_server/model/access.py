"""Login sessions, users and submissions: what their documents mean, and who may view what. Pure.

Parsing is as strict as possible: whatever is missing or of a wrong type grants nothing.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from genstatus_server.model.errors import AccessDenied, LoginRequired, NoSuchSubmission
from genstatus_server.model.jobs import Job, whole_number


@dataclass(frozen=True, slots=True)
class LoginSession:
    """A user's login. `expires_at` is aware."""

    user_id: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class User:
    """A user, and the codes of the agencies that they belong to."""

    user_id: int
    website_admin: bool
    cgac_codes: frozenset[str]
    frec_codes: frozenset[str]

    def may_view(self, submission: "Submission") -> bool:
        """Whether this user owns `submission`, is an admin, or belongs to its agency."""
        return (
            submission.user_id == self.user_id
            or self.website_admin
            or submission.cgac_code in self.cgac_codes
            or submission.frec_code in self.frec_codes
        )


@dataclass(frozen=True, slots=True)
class Submission:
    """The owner of a submission and its agency."""

    user_id: int | None
    cgac_code: str | None
    frec_code: str | None


def login_session_from_document(document: Mapping[str, Any] | None) -> LoginSession | None:
    """The login session in `document`; None where there is none, or none that can be used."""
    if document is None:
        return None
    user_id, expires_at = whole_number(document.get("user_id")), document.get("expires_at")
    if user_id is None or not isinstance(expires_at, datetime):
        return None
    return LoginSession(user_id, expires_at)


def user_from_document(document: Mapping[str, Any] | None) -> User | None:
    """The user in `document`; None where there is none."""
    user_id = whole_number(document.get("_id")) if document else None
    if document is None or user_id is None:
        return None
    affiliations = document.get("affiliations")
    valid = [each for each in affiliations if isinstance(each, Mapping)] if isinstance(affiliations, list) else []
    return User(
        user_id=user_id,
        website_admin=document.get("website_admin") is True,
        cgac_codes=_codes(each.get("cgac_code") for each in valid),
        frec_codes=_codes(each.get("frec_code") for each in valid),
    )


def submission_from_document(document: Mapping[str, Any] | None) -> Submission | None:
    """The submission in `document`; None where there is none."""
    if document is None:
        return None
    (cgac_code,), (frec_code,) = (_codes([document.get(name)]) or {None} for name in ("cgac_code", "frec_code"))
    return Submission(whole_number(document.get("user_id")), cgac_code, frec_code)


def _codes(values: Iterable[object]) -> frozenset[str]:
    # A null, empty or missing code is no code: it must not match another one.
    return frozenset(value for value in values if type(value) is str and value)


class AccessLookup(Protocol):
    """Documents as of one time. A document that does not exist is None, and for a job `NO_JOB`."""

    def session(self, token_hash: str) -> LoginSession | None: ...
    def user(self, user_id: int) -> User | None: ...
    def submission(self, submission_id: int) -> Submission | None: ...
    def job(self, submission_id: int, file_type: str) -> Job: ...


class Login(NamedTuple):
    """A caller who is logged in until `expires_at`. `token_hash` is the `_id` of the login session."""

    token_hash: str
    user: User
    expires_at: datetime

    def expires_in(self) -> float:
        """Seconds until the login session expires."""
        return (self.expires_at - datetime.now(UTC)).total_seconds()


def hash_token(session_token: str) -> str:
    """The `_id` of the login session of `session_token`: the SHA-256 of its bytes, in lower-case hex.

    The token is text as HTTP headers have it: bytes decoded as Latin-1. Raises `LoginRequired` where it is empty.
    """
    if not session_token:
        raise LoginRequired
    return hashlib.sha256(session_token.encode("latin-1")).hexdigest()


def login_of(lookup: AccessLookup, token_hash: str) -> Login:
    """The caller whose login session this is. Raises `LoginRequired`."""
    session = lookup.session(token_hash)
    if session is None or session.expires_at <= datetime.now(UTC):
        raise LoginRequired
    user = lookup.user(session.user_id)
    if user is None:
        raise LoginRequired
    return Login(token_hash, user, session.expires_at)


def check_access(lookup: AccessLookup, user: User, submission_id: int) -> None:
    """Raise `NoSuchSubmission` or `AccessDenied` unless `user` may view the submission."""
    submission = lookup.submission(submission_id)
    if submission is None:
        raise NoSuchSubmission
    if not user.may_view(submission):
        raise AccessDenied
