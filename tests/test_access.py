"""Who is who, and who may see what, with a store that says what the test wants."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from genstatus_server.access import Login, check_access, check_anew, log_in, log_in_again
from genstatus_server.documents import LoginSession, Submission, User
from genstatus_server.errors import AccessDenied, LoginRequired, NoSuchSubmission, ServiceUnavailable
from genstatus_server.store import Store

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
    """Stands for the store. `reads` are the collections that were asked, and whether anew."""

    session: LoginSession | None = field(default_factory=lambda: LoginSession(11, in_future()))
    person: User | None = OWNER
    document: Submission | None = SUBMISSION
    error: Exception | None = None
    reads: list[tuple[str, bool]] = field(default_factory=list)

    async def login_session(self, token_hash: str, *, anew: bool = False) -> LoginSession | None:
        self._read("sessions", anew=anew)
        return self.session if token_hash == HASH else None

    async def user(self, user_id: int, *, anew: bool = False) -> User | None:
        self._read("users", anew=anew)
        return self.person if self.person and self.person.user_id == user_id else None

    async def submission(self, submission_id: int, *, anew: bool = False) -> Submission | None:
        self._read("submissions", anew=anew)
        return self.document if submission_id == 1 else None

    def _read(self, collection: str, *, anew: bool) -> None:
        self.reads.append((collection, anew))
        if self.error:
            raise self.error

    @property
    def store(self) -> Store:
        return cast("Store", self)


async def test_a_token_is_known_by_its_hash_alone() -> None:
    documents = Documents()
    login = await log_in(documents.store, TOKEN)
    assert (login.user, login.token_hash) == (OWNER, HASH)
    assert TOKEN not in repr(login)
    assert 3590 < login.expires_in() <= 3600


async def test_without_a_token_nothing_is_read() -> None:
    documents = Documents()
    with pytest.raises(LoginRequired):
        await log_in(documents.store, "")
    assert documents.reads == []


@pytest.mark.parametrize("token", ["A TOKEN", "a token ", HASH, "a tokén"])
async def test_another_token_is_no_login(token: str) -> None:
    with pytest.raises(LoginRequired):
        await log_in(Documents().store, token)


@pytest.mark.parametrize(
    "documents",
    [
        lambda: Documents(session=None),
        lambda: Documents(session=LoginSession(11, in_future(-1))),
        lambda: Documents(session=LoginSession(12, in_future())),
        lambda: Documents(person=None),
    ],
    ids=["no session", "an expired one", "another's", "no user"],
)
async def test_who_is_not_logged_in(documents: Callable[[], Documents]) -> None:
    with pytest.raises(LoginRequired):
        await log_in_again(documents().store, HASH)
    with pytest.raises(LoginRequired):
        await check_anew(documents().store, Login(HASH, OWNER, in_future()), 1)


async def test_of_an_expired_session_the_user_is_not_read() -> None:
    documents = Documents(session=LoginSession(11, in_future(-1)))
    with pytest.raises(LoginRequired):
        await log_in_again(documents.store, HASH)
    assert documents.reads == [("sessions", False)]


def user(user_id: int = 15, *, admin: bool = False, cgac: str = "", frec: str = "") -> User:
    codes = [frozenset({code} if code else ()) for code in (cgac, frec)]
    return User(user_id, website_admin=admin, cgac_codes=codes[0], frec_codes=codes[1])


@pytest.mark.parametrize("person", [user(11), user(admin=True), user(cgac="097"), user(frec="1601")])
async def test_who_may_view(person: User) -> None:
    await check_access(Documents().store, person, 1)


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
async def test_who_may_not_view(person: User, submission: Submission) -> None:
    with pytest.raises(AccessDenied):
        await check_access(Documents(document=submission).store, person, 1)


async def test_what_does_not_exist_is_told_to_whoever_is_logged_in() -> None:
    for person in (OWNER, STRANGER, user(admin=True)):
        with pytest.raises(NoSuchSubmission):
            await check_access(Documents(document=None).store, person, 1)


# Before an answer leaves a hold


async def test_everything_is_read_anew() -> None:
    documents = Documents(session=LoginSession(11, in_future(60)))
    renewed = await check_anew(documents.store, Login(HASH, OWNER, in_future()), 1)
    assert sorted(documents.reads) == [("sessions", True), ("submissions", True), ("users", True)]
    assert renewed.expires_in() <= 60, "the session is the one of now"


async def test_the_user_of_now_decides() -> None:
    was = user(11, admin=True)
    documents = Documents(person=user(11), document=Submission(14, None, None))
    with pytest.raises(AccessDenied):
        await check_anew(documents.store, Login(HASH, was, in_future()), 1)


async def test_a_session_that_was_handed_to_another_user_is_over() -> None:
    documents = Documents(session=LoginSession(14, in_future()))
    with pytest.raises(LoginRequired):
        await check_anew(documents.store, Login(HASH, OWNER, in_future()), 1)


async def test_a_lost_login_is_told_before_a_submission_that_is_gone() -> None:
    with pytest.raises(LoginRequired):
        await check_anew(Documents(session=None, document=None).store, Login(HASH, OWNER, in_future()), 1)


async def test_what_cannot_be_read_grants_nothing() -> None:
    documents = Documents(error=ServiceUnavailable())
    attempts: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: log_in(documents.store, TOKEN),
        lambda: check_access(documents.store, OWNER, 1),
        lambda: check_anew(documents.store, Login(HASH, OWNER, in_future()), 1),
    )
    for attempt in attempts:
        with pytest.raises(ServiceUnavailable):
            await attempt()
