"""What the documents of `sessions`, `users` and `submissions` say. Pure; `jobs` has the job's.

As strict as they need be: whatever is missing or of a wrong type grants nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from genstatus_server.model.jobs import whole_number


@dataclass(frozen=True, slots=True)
class LoginSession:
    """A user's login. `expires_at` is aware."""

    user_id: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class User:
    """Who asks, and the agencies that they belong to."""

    user_id: int
    website_admin: bool
    cgac_codes: frozenset[str]
    frec_codes: frozenset[str]

    def may_view(self, submission: "Submission") -> bool:
        """Whether this user may see `submission`: its owner, an admin, or somebody of its agency."""
        return (
            submission.user_id == self.user_id
            or self.website_admin
            or submission.cgac_code in self.cgac_codes
            or submission.frec_code in self.frec_codes
        )


@dataclass(frozen=True, slots=True)
class Submission:
    """What a submission says of its owner and its agency."""

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
    known = [each for each in affiliations if isinstance(each, Mapping)] if isinstance(affiliations, list) else []
    return User(
        user_id=user_id,
        website_admin=document.get("website_admin") is True,
        cgac_codes=_codes(each.get("cgac_code") for each in known),
        frec_codes=_codes(each.get("frec_code") for each in known),
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
