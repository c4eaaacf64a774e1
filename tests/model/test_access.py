"""Who is who, and who may see what, by documents that are what the test wants."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from genstatus_server.model.access import (
    LoginSession,
    Submission,
    User,
    check_access,
    hash_token,
    login_of,
    submission_from_document,
    user_from_document,
)
from genstatus_server.model.errors import AccessDenied, LoginRequired, NoSuchSubmission
from genstatus_server.model.jobs import Job

TOKEN = "a token"
HASH = hashlib.sha256(TOKEN.encode()).hexdigest()
NOBODY = frozenset[str]()
OWNER = User(11, website_admin=False, cgac_codes=NOBODY, frec_codes=NOBODY)
STRANGER = User(15, website_admin=False, cgac_codes=frozenset({"020"}), frec_codes=NOBODY)
SUBMISSION = Submission(11, "097", "1601")


def in_future(seconds: float = 3600) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


@dataclass
class Documents:
    """A lookup in which there is one document of each kind. `found` are the kinds that were looked up."""

    login: LoginSession | None = field(default_factory=lambda: LoginSession(11, in_future()))
    person: User | None = OWNER
    document: Submission | None = SUBMISSION
    found: list[str] = field(default_factory=list)

    def session(self, token_hash: str) -> LoginSession | None:
        self.found.append("session")
        return self.login if token_hash == HASH else None

    def user(self, user_id: int) -> User | None:
        self.found.append("user")
        return self.person if self.person and self.person.user_id == user_id else None

    def submission(self, submission_id: int) -> Submission | None:
        return self.document if submission_id == 1 else None

    def job(self, submission_id: int, file_type: str) -> Job:
        raise NotImplementedError


def test_login_of_uses_the_hash_of_a_token() -> None:
    assert hash_token(TOKEN) == HASH
    login = login_of(Documents(), HASH)
    assert (login.user, login.token_hash) == (OWNER, HASH)
    assert 3590 < login.expires_in() <= 3600


def test_login_of_refuses_an_empty_token() -> None:
    with pytest.raises(LoginRequired):
        hash_token("")


@pytest.mark.parametrize("token", ["A TOKEN", "a token ", HASH, "a tokén"])
def test_login_of_refuses_another_token(token: str) -> None:
    with pytest.raises(LoginRequired):
        login_of(Documents(), hash_token(token))


@pytest.mark.parametrize(
    "documents",
    [
        lambda: Documents(login=None),
        lambda: Documents(login=LoginSession(11, in_future(-1))),
        lambda: Documents(login=LoginSession(12, in_future())),
        lambda: Documents(person=None),
    ],
    ids=["no session", "an expired one", "another's", "no user"],
)
def test_login_of_refuses_without_session_or_user(documents: Callable[[], Documents]) -> None:
    with pytest.raises(LoginRequired):
        login_of(documents(), HASH)


def test_session_is_over_at_the_moment_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            assert tz is UTC
            return moment

    monkeypatch.setattr("genstatus_server.model.access.datetime", Clock)
    with pytest.raises(LoginRequired):
        login_of(Documents(login=LoginSession(11, moment)), HASH)
    assert login_of(Documents(login=LoginSession(11, moment + timedelta(milliseconds=1))), HASH).user is OWNER


def test_login_of_does_not_read_the_user_of_an_expired_session() -> None:
    documents = Documents(login=LoginSession(11, in_future(-1)))
    with pytest.raises(LoginRequired):
        login_of(documents, HASH)
    assert documents.found == ["session"]


def user(user_id: int = 15, *, admin: bool = False, cgac: str = "", frec: str = "") -> User:
    codes = [frozenset({code} if code else ()) for code in (cgac, frec)]
    return User(user_id, website_admin=admin, cgac_codes=codes[0], frec_codes=codes[1])


@pytest.mark.parametrize("person", [user(11), user(admin=True), user(cgac="097"), user(frec="1601")])
def test_check_access_admits_owner_admin_and_agency(person: User) -> None:
    check_access(Documents(), person, 1)


@pytest.mark.parametrize(
    ("person", "submission"),
    [
        (user(), SUBMISSION),
        (user(cgac="020"), SUBMISSION),
        (user(cgac="1601"), SUBMISSION),
        (user(frec="097"), SUBMISSION),
        (user(), Submission(None, None, None)),
        (user(cgac="097"), Submission(11, None, "097")),
    ],
)
def test_check_access_refuses_all_others(person: User, submission: Submission) -> None:
    with pytest.raises(AccessDenied):
        check_access(Documents(document=submission), person, 1)


def test_check_access_names_a_missing_submission_to_every_user() -> None:
    for person in (OWNER, STRANGER, user(admin=True)):
        with pytest.raises(NoSuchSubmission):
            check_access(Documents(document=None), person, 1)


def affiliations(*each: object) -> dict[str, object]:
    return {"_id": 11, "affiliations": list(each)}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"_id": 11}, user(11)),
        ({"_id": 11.0, "website_admin": True}, user(11, admin=True)),
        ({"_id": 11, "website_admin": 1}, user(11)),
        (affiliations({"cgac_code": "097"}), user(11, cgac="097")),
        (affiliations({"frec_code": "1601"}, "097", None), user(11, frec="1601")),
        (affiliations({"cgac_code": "097", "frec_code": "1601"}), user(11, cgac="097", frec="1601")),
        (affiliations({"cgac_code": ""}, {"cgac_code": None}, {"cgac_code": 97}, {}), user(11)),
        ({"_id": 11, "affiliations": {"cgac_code": "097"}}, user(11)),
        ({"_id": 11, "affiliations": None}, user(11)),
    ],
)
def test_user_from_document_grants_only_what_is_certain(document: dict[str, object], expected: User) -> None:
    assert user_from_document(document) == expected


@pytest.mark.parametrize("document", [None, {}, {"_id": None}, {"_id": "11"}, {"_id": True}])
def test_user_from_document_needs_a_whole_number(document: dict[str, object] | None) -> None:
    assert user_from_document(document) is None


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"user_id": 11, "cgac_code": "097"}, Submission(11, "097", None)),
        ({"user_id": 11.0, "frec_code": "1601"}, Submission(11, None, "1601")),
        ({"cgac_code": "097", "frec_code": "1601"}, Submission(None, "097", "1601")),
        ({"user_id": "11", "cgac_code": "", "frec_code": 1601}, Submission(None, None, None)),
        ({}, Submission(None, None, None)),
        (None, None),
    ],
)
def test_submission_from_document_grants_only_what_is_certain(
    document: dict[str, object] | None, expected: Submission | None
) -> None:
    assert submission_from_document(document) == expected
