"""Plain requests: the status table, the body, every error and the order in which errors are told."""

from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

import pytest
from bson import Decimal128, ObjectId
from bson.datetime_ms import DatetimeMS
from structlog.testing import capture_logs
from tornado.httpclient import HTTPResponse

from tests.support.server import ROUTE, Server, body, remember
from tests.support.world import SUBMISSION, Document, World, in_future, token_hash

KEYS = ["job_id", "status", "file_type", "url", "size", "message", "generated_at"]
DATED_KEYS = ["job_id", "status", "file_type", "url", "size", "start", "end", "message", "generated_at"]

FINISHED: Document = {"status": "finished", "upload": {"status": "finished", "key": "1/D1.csv"}}

ANY_UPLOAD: list[Document | None] = [
    None,
    {"status": None},
    {"status": "waiting"},
    {"status": "running"},
    {"status": "finished", "key": "1/D1.csv"},
    {"status": "failed"},
    {"status": "unheard of"},
]
NOT_FAILED_UPLOAD = [upload for upload in ANY_UPLOAD if upload != {"status": "failed"}]

LOGIN_REQUIRED = {"message": "Login Required"}
NO_SUCH_SUBMISSION = {"message": "No such submission"}
FORBIDDEN = {"message": "User does not have permission to access that submission"}

LARGEST_ID = 2**63 - 1


def jobs_read(server: Server) -> float:
    """How often the collection of jobs has been asked."""
    return (
        server.services.metrics.registry.get_sample_value("genstatus_mongodb_reads_total", {"collection": "jobs"}) or 0
    )


async def public(server: Server, world: World, file_type: str = "D1", **fields: Any) -> Document:
    """The body of the answer, a 200, for a job with these fields; it has a submission and an id of its own."""
    number = 100 + await world.submissions.estimated_document_count()
    await world.submissions.insert_one({"_id": number, "user_id": 11})
    await world.jobs.insert_one({"_id": number, "submission_id": number, "file_type": file_type, **fields})
    response = await server.check(submission_id=number, file_type=file_type)
    assert response.code == HTTPStatus.OK, fields
    assert body(response)["job_id"] == number
    return body(response)


# The table of statuses


async def test_route_answers_invalid_without_a_job(server: Server) -> None:
    response = await server.check()
    assert response.code == HTTPStatus.OK
    expected = {
        "job_id": None,
        "status": "invalid",
        "file_type": "D1",
        "url": "#",
        "size": None,
        "start": "",
        "end": "",
    }
    assert body(response) == expected | {"message": "", "generated_at": None}


async def test_route_answers_invalid_for_a_ready_job(server: Server, world: World) -> None:
    for upload in ANY_UPLOAD:
        answer = await public(server, world, status="ready", upload=upload)
        assert (answer["status"], answer["url"], answer["message"]) == ("invalid", "#", ""), upload


@pytest.mark.parametrize("status", ["failed", "invalid"])
async def test_route_answers_failed_for_a_failed_job(server: Server, world: World, status: str) -> None:
    for upload in ANY_UPLOAD:
        answer = await public(server, world, status=status, upload=upload)
        assert (answer["status"], answer["url"]) == ("failed", "#"), upload
        assert answer["message"].strip()


async def test_route_answers_failed_for_a_failed_upload(server: Server, world: World) -> None:
    for status in ("waiting", "running", "finished"):
        answer = await public(server, world, status=status, upload={"status": "failed", "key": "1/D1.csv"})
        assert (answer["status"], answer["url"]) == ("failed", "#"), status
        assert answer["message"].strip()


@pytest.mark.parametrize("status", ["waiting", "running"])
async def test_route_answers_waiting_for_a_job_under_way(server: Server, world: World, status: str) -> None:
    for upload in NOT_FAILED_UPLOAD:
        answer = await public(server, world, status=status, upload=upload)
        assert (answer["status"], answer["url"], answer["message"]) == ("waiting", "#", ""), upload


async def test_route_answers_waiting_until_the_upload_is_finished(server: Server, world: World) -> None:
    for upload in (None, {}, {"status": None}, {"status": "waiting"}, {"status": "running"}):
        answer = await public(server, world, status="finished", upload=upload)
        assert (answer["status"], answer["url"]) == ("waiting", "#"), upload
    assert (await public(server, world, status="finished"))["status"] == "waiting"


async def test_route_answers_a_url_for_a_finished_upload(server: Server, world: World) -> None:
    answer = await public(server, world, **FINISHED, message="never shown")
    assert (answer["status"], answer["message"]) == ("finished", "")
    assert answer["url"].startswith("http")
    assert "/1/D1.csv?" in answer["url"]


async def test_failed_job_has_its_own_message_or_a_default(server: Server, world: World) -> None:
    assert (await public(server, world, status="failed", message="No data."))["message"] == "No data."
    for message in ("", "  ", None):
        assert (await public(server, world, status="failed", message=message))["message"].strip()


async def test_message_is_empty_unless_the_job_failed(server: Server, world: World) -> None:
    assert (await public(server, world, status="running", message="Half way."))["message"] == ""


# The body


@pytest.mark.parametrize(("file_type", "keys"), [("D1", DATED_KEYS), ("D2", DATED_KEYS), ("E", KEYS), ("F", KEYS)])
async def test_route_keeps_the_order_of_keys(server: Server, world: World, file_type: str, keys: list[str]) -> None:
    assert list(body(await server.check(file_type=file_type))) == keys
    for fields in (FINISHED, {"status": "waiting"}, {"status": "failed"}, {"status": "ready"}, {"status": "bogus"}):
        answer = await public(server, world, file_type, **fields, start=in_future(), end=in_future())
        assert list(answer) == keys, fields
        assert answer["file_type"] == file_type


async def test_route_answers_size_and_dates_in_any_status(server: Server, world: World) -> None:
    fields = {
        "size": 10240,
        "start": datetime(2026, 1, 2, 23, 59, tzinfo=UTC),
        "end": datetime(2026, 12, 31, tzinfo=UTC),
        "updated_at": datetime(2026, 3, 4, 5, 6, 7, 999000, tzinfo=UTC),
    }
    for status in ("running", "failed", "ready"):
        answer = await public(server, world, "D2", status=status, **fields)
        assert answer["size"] == 10240
        assert (answer["start"], answer["end"]) == ("01/02/2026", "12/31/2026")
        assert answer["generated_at"] == "03/04/2026 05:06:07"


async def test_route_answers_exact_sizes(server: Server, world: World) -> None:
    for size in (0, 1, 2**53 + 1, LARGEST_ID):
        assert (await public(server, world, status="running", size=size))["size"] == size


async def test_route_answers_null_or_empty_for_unknown_values(server: Server, world: World) -> None:
    unknown: Document = dict.fromkeys(("size", "start", "end", "updated_at", "message"))
    for fields in (unknown, {}):
        answer = await public(server, world, status="running", **fields)
        assert (answer["size"], answer["start"], answer["end"], answer["generated_at"]) == (None, "", "", None)


async def test_route_answers_years_below_1000_with_four_digits(server: Server, world: World) -> None:
    early = datetime(987, 6, 5, 4, 3, 2, tzinfo=UTC)
    dates: Document = {"start": datetime(1, 1, 1, tzinfo=UTC), "end": early, "updated_at": early}
    answer = await public(server, world, status="running", **dates)
    assert (answer["start"], answer["end"]) == ("01/01/0001", "06/05/0987")
    assert answer["generated_at"] == "06/05/0987 04:03:02"


async def test_route_answers_each_file_type_with_its_own_job(server: Server, world: World) -> None:
    for job_id, file_type in enumerate(("D1", "D2", "E", "F"), 200):
        await world.put_job(job_id, file_type)
    for job_id, file_type in enumerate(("D1", "D2", "E", "F"), 200):
        assert body(await server.check(file_type=file_type))["job_id"] == job_id


# Whole doubles, as the mongo shell writes


async def test_route_reads_whole_doubles_in_ids_as_integers(server: Server, world: World) -> None:
    await world.users.insert_one({"_id": 21.0})
    await world.sessions.insert_one({"_id": token_hash("shell"), "user_id": 21.0, "expires_at": in_future()})
    await world.submissions.insert_one({"_id": 7.0, "user_id": 21.0})
    job = {"_id": 300.0, "submission_id": 7.0, "file_type": "D1", "size": 10240.0, **FINISHED}
    await world.jobs.insert_one(job)
    response = await server.check("shell", submission_id=7)
    assert response.code == HTTPStatus.OK
    assert b'"job_id": 300,' in response.body
    assert b'"size": 10240,' in response.body
    assert body(response)["status"] == "finished"


async def test_route_treats_an_integer_and_its_double_as_one_user(server: Server, world: World) -> None:
    await world.sessions.insert_one({"_id": token_hash("shell"), "user_id": 11.0, "expires_at": in_future()})
    assert (await server.check("shell")).code == HTTPStatus.OK


# Parameters


async def is_refused(server: Server, name: str, *values: str) -> None:
    """Each of the values gets a 400 that names the parameter, and no other."""
    for value in values:
        response = await server.check(headers=None, **{name: value})
        assert response.code == HTTPStatus.BAD_REQUEST, value
        assert body(response)["message"].startswith(f"{name}: "), value
        assert list(body(response)["errors"]) == [name], value


async def test_route_refuses_an_invalid_submission_id(server: Server) -> None:
    await is_refused(server, "submission_id", "", "0", "-1", "+1", " 1", "1 ", "1_000", "1e3", "1.0", "0x1", "one")
    await is_refused(server, "submission_id", "nan", "\u0661", "\uff11", "1\0", "1\n", "9" * 20, "9" * 5000, "0" * 30)
    await is_refused(server, "submission_id", str(2**63))


async def test_route_accepts_a_valid_submission_id(server: Server) -> None:
    for submission_id in (LARGEST_ID, "0" * 40 + "2"):
        assert body(await server.check(submission_id=submission_id)) == NO_SUCH_SUBMISSION


async def test_route_refuses_an_unknown_file_type(server: Server) -> None:
    for file_type in (None, "", "d1", "D3", "A", "D1 ", " D1", "D1,D2", "D\uff11", "E\0"):
        response = await server.check(file_type=file_type)
        assert response.code == HTTPStatus.BAD_REQUEST, file_type
        assert body(response)["message"] == "file_type: Must be either D1, D2, E or F"
        assert body(response)["errors"] == {"file_type": ["Must be either D1, D2, E or F"]}


async def test_route_refuses_a_wait_that_is_no_boolean(server: Server) -> None:
    await is_refused(server, "wait", "", "yes", "no", "on", "t", "2", "-1", "true ", "\uff11", "truefalse")


async def test_route_accepts_every_boolean_for_wait(server: Server) -> None:
    for wait in ("true", "TRUE", "True", "tRuE", "1", "false", "FALSE", "False", "0"):
        response = await server.check(wait=wait)
        assert response.code == HTTPStatus.OK, wait
        assert ("X-Wait-Result" in response.headers) is (wait.lower() in {"true", "1"}), wait


async def test_route_refuses_an_invalid_timeout(server: Server) -> None:
    await is_refused(server, "timeout", "", "0", "0.0", "-1", "+1", " 1", "1 ", "1_0", "1e3", "inf", "nan", "one")
    await is_refused(server, "timeout", "\u0663", "1,5", "0x1", "1.2.3", ".")


async def test_route_accepts_a_valid_timeout(server: Server, world: World) -> None:
    await remember(server, world)
    for timeout in ("1", "0.5", "25", "025", "9" * 400):
        assert (await server.check(timeout=timeout, wait="true")).code == HTTPStatus.OK, timeout


@pytest.mark.parametrize("name", ["submission_id", "file_type", "wait", "timeout"])
async def test_route_refuses_repeated_parameters_and_invalid_utf8(server: Server, name: str) -> None:
    valid = {"submission_id": "1", "file_type": "D1", "wait": "true", "timeout": "1"}
    twice = f"{valid[name]}&{name}={valid[name]}", f"&{name}={valid[name]}", f"x&{name}=y"
    not_utf8 = "%ff", "1%ff", "%c3%28", "%ed%a0%80", "D1%80"
    for value in (*twice, *not_utf8):
        query = "&".join(f"{key}={value}" for key, value in (valid | {name: value}).items())
        response = await server.fetch(f"{ROUTE}?{query}", headers={"X-Session-ID": "owner"})
        assert response.code == HTTPStatus.BAD_REQUEST, value
        assert body(response)["message"].startswith(f"{name}: "), value
        assert list(body(response)["errors"]) == [name], value


async def test_route_ignores_unknown_parameters(server: Server) -> None:
    for extra in ("verbose=1", "&&", "=", "%ff=%fe", "x=%00", "wait%20=true", "session=1&session=2"):
        path = f"{ROUTE}?{extra}&submission_id={SUBMISSION}&file_type=D1"
        response = await server.fetch(path, headers={"X-Session-ID": "owner"})
        assert response.code == HTTPStatus.OK, extra
        assert "X-Wait-Result" not in response.headers, extra


async def test_route_ignores_any_number_of_unknown_parameters(server: Server) -> None:
    path = f"{ROUTE}?{'a=1&' * 5_000}submission_id={SUBMISSION}&file_type=D1"
    assert (await server.fetch(path, headers={"X-Session-ID": "owner"})).code == HTTPStatus.OK
    assert (await server.fetch(path)).code == HTTPStatus.UNAUTHORIZED


async def test_route_says_why_it_answers_an_invalid_wait(server: Server) -> None:
    for wait in ("wait=true&wait=true", "wait=true&timeout=0"):
        path = f"{ROUTE}?{wait}&submission_id={SUBMISSION}&file_type=D1"
        response = await server.fetch(path, headers={"X-Session-ID": "owner"})
        assert (response.code, response.headers["X-Wait-Result"]) == (HTTPStatus.BAD_REQUEST, "error"), wait
    response = await server.check(headers={"Prefer": "wait=2"}, wait="maybe")
    assert (response.code, response.headers["X-Wait-Result"]) == (HTTPStatus.BAD_REQUEST, "error")


async def test_route_names_every_invalid_parameter(server: Server) -> None:
    response = await server.check(submission_id="x", file_type="x", wait="x", timeout="x")
    assert body(response)["message"].startswith("submission_id: ")
    errors = body(response)["errors"]
    assert set(errors) == {"submission_id", "file_type", "wait", "timeout"}
    assert all(isinstance(why, str) and why for reasons in errors.values() for why in reasons)


async def test_route_requires_a_submission_id(server: Server) -> None:
    response = await server.check(submission_id=None)
    assert response.code == HTTPStatus.BAD_REQUEST
    assert body(response)["message"] == "submission_id is required"
    assert list(body(response)["errors"]) == ["submission_id"]


# The order of errors


async def test_route_requires_a_login_before_it_names_missing_parameters(server: Server) -> None:
    response = await server.check(None, submission_id=None, file_type="x")
    assert (response.code, body(response)) == (HTTPStatus.UNAUTHORIZED, LOGIN_REQUIRED)


async def test_route_requires_a_login_before_it_names_invalid_parameters(server: Server) -> None:
    response = await server.check("unknown", submission_id="x", wait="x")
    assert (response.code, body(response)) == (HTTPStatus.UNAUTHORIZED, LOGIN_REQUIRED)


async def test_route_names_missing_parameters_before_invalid_ones(server: Server) -> None:
    response = await server.check(submission_id=None, file_type="x", wait="x", timeout="x")
    assert body(response)["message"] == "submission_id is required"


async def test_route_checks_parameters_before_the_submission(server: Server) -> None:
    assert "file_type" in body(await server.check(submission_id=99, file_type="x"))["errors"]


async def test_route_checks_parameters_before_access(server: Server) -> None:
    response = await server.check("stranger", file_type="x")
    assert response.code == HTTPStatus.BAD_REQUEST


async def test_route_refuses_an_unknown_submission(server: Server) -> None:
    response = await server.check("stranger", submission_id=99)
    assert (response.code, body(response)) == (HTTPStatus.BAD_REQUEST, NO_SUCH_SUBMISSION)


async def test_route_answers_403_to_a_user_without_access(server: Server) -> None:
    response = await server.check("stranger")
    assert (response.code, body(response)) == (HTTPStatus.FORBIDDEN, FORBIDDEN)


async def test_route_reads_no_job_before_login_and_valid_parameters(server: Server, world: World) -> None:
    await world.put_job(status="bogus")  # Were it read, it would be warned of.
    early: list[tuple[str | None, Document, int]] = [
        (None, {}, 401),
        ("unknown", {}, 401),
        ("owner", {"submission_id": None}, 400),
        ("owner", {"file_type": "x"}, 400),
    ]
    with capture_logs() as records:
        for token, query, status in early:
            for wait in ("true", "false"):
                assert (await server.check(token, wait=wait, **query)).code == status
    assert jobs_read(server) == 0
    assert not [record for record in records if record["event"] == "job_malformed"]


async def test_route_hides_the_job_from_a_user_without_access(server: Server, world: World) -> None:
    await world.put_job(message="a secret")
    for submission_id, status in ((99, 400), (1, 403)):
        for wait in ("true", "false"):
            response = await server.check("stranger", wait=wait, submission_id=submission_id)
            assert response.code == status
            assert set(body(response)) == {"message"}


# Who is logged in


async def test_route_requires_a_login(server: Server) -> None:
    tokens = (
        "",
        "   ",
        "unknown",
        token_hash("owner"),
        "Owner",
        "owner,owner",
        "\xff\xfe",
        '{"$ne": null}',
        "x" * 10_000,
    )
    others: list[dict[str, str]] = [{}, {"Authorization": "Bearer owner"}, {"Cookie": "X-Session-ID=owner"}]
    for headers in (*({"X-Session-ID": token} for token in tokens), *others):
        response = await server.check(None, headers=headers)
        assert (response.code, body(response)) == (HTTPStatus.UNAUTHORIZED, LOGIN_REQUIRED), headers


async def test_route_accepts_any_text_as_token(server: Server, world: World) -> None:
    await world.log_in("jetón ☃", 11)
    sent = "jetón ☃".encode().decode("latin-1")
    assert (await server.check(None, headers={"x-session-id": sent})).code == HTTPStatus.OK


async def test_route_ignores_a_token_in_the_query(server: Server) -> None:
    assert (await server.check(None, headers=None, **{"X-Session-ID": "owner"})).code == HTTPStatus.UNAUTHORIZED


async def test_route_refuses_an_expired_session(server: Server, world: World) -> None:
    for token, seconds in (("long ago", -3600), ("just now", -0.001)):
        await world.log_in(token, 11, seconds=seconds)
        assert (await server.check(token)).code == HTTPStatus.UNAUTHORIZED


async def test_route_refuses_the_session_of_a_deleted_user(server: Server, world: World) -> None:
    await world.log_in("ghost", 99)
    assert (await server.check("ghost")).code == HTTPStatus.UNAUTHORIZED


MALFORMED_SESSIONS: list[Document] = [
    {},
    {"user_id": 11},
    {"expires_at": in_future()},
    {"user_id": 11, "expires_at": None},
    {"user_id": 11, "expires_at": "2999-01-01"},
    {"user_id": 11, "expires_at": 32503680000},
    {"user_id": 11, "expires_at": DatetimeMS(2**62)},
    {"user_id": None, "expires_at": in_future()},
    {"user_id": "11", "expires_at": in_future()},
    {"user_id": 11.5, "expires_at": in_future()},
    {"user_id": float("nan"), "expires_at": in_future()},
    {"user_id": float("inf"), "expires_at": in_future()},
    {"user_id": 1e300, "expires_at": in_future()},
    {"user_id": -(2.0**64), "expires_at": in_future()},
    {"user_id": True, "expires_at": in_future()},
    {"user_id": [11], "expires_at": in_future()},
    {"user_id": {"$gt": 0}, "expires_at": in_future()},
    {"user_id": ObjectId(), "expires_at": in_future()},
]


async def test_route_refuses_a_malformed_session(server: Server, world: World) -> None:
    for number, session in enumerate(MALFORMED_SESSIONS):
        await world.sessions.insert_one({"_id": token_hash(f"odd {number}"), **session})
        response = await server.check(f"odd {number}")
        assert (response.code, body(response)) == (HTTPStatus.UNAUTHORIZED, LOGIN_REQUIRED), session


# Who may view what


async def test_route_answers_everyone_with_access(server: Server) -> None:
    for token in ("owner", "reader", "fabs", "admin"):
        assert (await server.check(token)).code == HTTPStatus.OK, token


OF_AGENCY = {"cgac_code": "097", "frec_code": "1601"}


MAY_VIEW: list[tuple[Document, Document]] = [
    ({"affiliations": [{"cgac_code": "097", "permission": "reader"}]}, OF_AGENCY),
    ({"affiliations": [{"frec_code": "1601", "permission": "fabs"}]}, OF_AGENCY),
    ({"affiliations": [{"cgac_code": "097", "permission": "of a new kind"}]}, OF_AGENCY),
    ({"affiliations": [{"cgac_code": "020"}, {"cgac_code": "097", "permission": "writer"}]}, OF_AGENCY),
    ({"affiliations": [None, "x", {"cgac_code": 1}, {"cgac_code": "097"}]}, OF_AGENCY),
    ({"affiliations": [{"cgac_code": None, "frec_code": "1601"}]}, {"frec_code": "1601"}),
    ({"website_admin": True}, {}),
    ({"website_admin": True, "affiliations": "none"}, {"cgac_code": 97, "user_id": "x"}),
    ({}, {"user_id": "me"}),
    ({}, {"user_id": "me", "cgac_code": []}),
    ({"website_admin": None, "affiliations": None}, {"user_id": "me"}),
]


async def checked(server: Server, world: World, number: int, user: Document, submission: Document) -> HTTPResponse:
    """What a user like this is answered who asks for a submission like that; `number` keeps the cases apart."""
    user_id = 1000 + number
    known = {name: user_id if value == "me" else value for name, value in submission.items()}
    await world.users.insert_one({"_id": user_id, **user})
    await world.log_in(f"user {number}", user_id)
    await world.submissions.insert_one({"_id": 1000 + number, "user_id": 11, **known})
    return await server.check(f"user {number}", submission_id=1000 + number)


async def test_route_answers_a_user_with_access(server: Server, world: World) -> None:
    for number, (user, submission) in enumerate(MAY_VIEW):
        response = await checked(server, world, number, user, submission)
        assert response.code == HTTPStatus.OK, (user, submission)


MAY_NOT_VIEW: list[tuple[Document, Document]] = [
    ({}, OF_AGENCY),
    ({"affiliations": []}, OF_AGENCY),
    ({"affiliations": None}, OF_AGENCY),
    ({"affiliations": {"cgac_code": "097"}}, OF_AGENCY),
    ({"affiliations": ["097", ["097"], 97]}, OF_AGENCY),
    ({"affiliations": [{"cgac_code": "1601"}, {"frec_code": "097"}]}, OF_AGENCY),
    ({"affiliations": [{"cgac_code": "97"}, {"cgac_code": "0970"}]}, OF_AGENCY),
    ({"affiliations": [{"cgac_code": ["097"]}]}, OF_AGENCY),
    ({"affiliations": [{"cgac_code": None, "frec_code": None}]}, {"cgac_code": None, "frec_code": None}),
    ({"affiliations": [{"cgac_code": "", "frec_code": ""}]}, {"cgac_code": "", "frec_code": ""}),
    ({"affiliations": [{}]}, {}),
    ({"affiliations": [{"cgac_code": None}]}, {}),
    ({"affiliations": [{}]}, {"cgac_code": None, "frec_code": ""}),
    ({"affiliations": [{"cgac_code": 97}]}, {"cgac_code": 97}),
    ({"affiliations": [{"cgac_code": ["097"]}]}, {"cgac_code": ["097"]}),
    ({"affiliations": [{"cgac_code": "097"}]}, {"cgac_code": ["097"]}),
    ({"website_admin": 1}, OF_AGENCY),
    ({"website_admin": 1.0}, OF_AGENCY),
    ({"website_admin": "true"}, OF_AGENCY),
    ({"website_admin": [True]}, OF_AGENCY),
    ({"website_admin": {"x": 1}}, OF_AGENCY),
    ({"website_admin": False}, OF_AGENCY),
    ({}, {"user_id": None}),
    ({}, {"user_id": "11"}),
    ({}, {"user_id": [11]}),
    ({}, {"user_id": 31.5}),
    ({}, {"user_id": float("nan")}),
    ({}, {"user_id": Decimal128("31.5")}),
]


async def test_route_refuses_a_user_without_access(server: Server, world: World) -> None:
    for number, (user, submission) in enumerate(MAY_NOT_VIEW):
        response = await checked(server, world, number, user, submission)
        assert (response.code, body(response)) == (HTTPStatus.FORBIDDEN, FORBIDDEN), (user, submission)


async def test_route_does_not_accept_true_as_a_user_id(server: Server, world: World) -> None:
    await world.users.insert_one({"_id": 1})
    await world.log_in("one", 1)
    await world.submissions.insert_one({"_id": 5, "user_id": True})
    assert (await server.check("one", submission_id=5)).code == HTTPStatus.FORBIDDEN


# Jobs that nobody should have written


MALFORMED_JOBS: list[Document] = [
    {"status": None},
    {"status": "bogus"},
    {"status": ""},
    {"status": "Finished"},
    {"status": 1},
    {"status": ["finished"]},
    {"status": {"finished": True}},
    {"status": "finished", "upload": {"status": "finished"}},
    {"status": "finished", "upload": {"status": "finished", "key": ""}},
    {"status": "finished", "upload": {"status": "finished", "key": None}},
    {"status": "finished", "upload": {"status": "finished", "key": 5}},
    {"status": "finished", "upload": {"status": "finished", "key": "k", "bucket": 5}},
    {"status": "finished", "upload": {"status": "finished", "key": "k", "bucket": "no/bucket"}},
    {"status": "finished", "upload": {"status": "bogus", "key": "k"}},
    {"status": "finished", "upload": {"status": "ready", "key": "k"}},
    {"status": "finished", "upload": {"status": 1, "key": "k"}},
    {"status": "finished", "upload": "finished"},
    {"status": "finished", "upload": ["finished"]},
    {"status": "finished", "upload": 0},
    {"status": "finished", "upload": False},
    FINISHED | {"size": "10240"},
    FINISHED | {"size": 1.5},
    FINISHED | {"size": True},
    FINISHED | {"size": float("nan")},
    FINISHED | {"size": Decimal128("1")},
    FINISHED | {"start": "01/01/2026"},
    FINISHED | {"end": 20260101},
    FINISHED | {"start": DatetimeMS(2**60)},
    FINISHED | {"updated_at": "today"},
    FINISHED | {"updated_at": DatetimeMS(-(2**62))},
    FINISHED | {"message": {"en": "x"}},
    {"status": "waiting", "size": []},
]


async def test_route_answers_failed_and_warns_of_a_malformed_job(server: Server, world: World) -> None:
    for fields in MALFORMED_JOBS:
        with capture_logs() as records:
            answer = await public(server, world, **fields)
        assert (answer["status"], answer["url"]) == ("failed", "#"), fields
        assert answer["message"].strip()
        assert list(answer) == DATED_KEYS
        warned = [record for record in records if record["event"] == "job_malformed"]
        assert [record["log_level"] for record in warned] == ["warning"], fields
        assert (warned[0]["submission_id"], warned[0]["file_type"]) == (answer["job_id"], "D1")


async def test_wait_answers_a_malformed_job_at_once(server: Server, world: World) -> None:
    await world.put_job(status="bogus")
    response = await server.check(wait="true")
    assert (body(response)["status"], response.headers["X-Wait-Result"]) == ("failed", "settled")


async def test_route_answers_failed_for_a_job_with_an_invalid_id(server: Server, world: World) -> None:
    ids = "x", 1.5, True, ObjectId(), {"a": 1}, b"\xff", datetime(2026, 1, 1, tzinfo=UTC), 1e300
    for submission_id, job_id in enumerate(ids, 50):
        await world.submissions.insert_one({"_id": submission_id, "user_id": 11})
        await world.jobs.insert_one({"_id": job_id, "submission_id": submission_id, "file_type": "D1", **FINISHED})
        answer = body(await server.check(submission_id=submission_id))
        assert (answer["job_id"], answer["status"], answer["url"]) == (None, "failed", "#"), job_id


async def test_route_answers_failed_for_a_job_of_several_submissions(server: Server, world: World) -> None:
    await world.put_job(submission_id=[SUBMISSION, 2], **FINISHED)
    assert body(await server.check())["status"] == "failed"


async def test_route_hides_the_details_of_a_malformed_job(server: Server, world: World) -> None:
    await world.put_job(status="finished", upload={"status": "finished", "key": {"secret": "x"}})
    message = body(await server.check())["message"]
    assert not [word for word in ("upload", "key", "secret", "dict", "type") if word in message.split()]


# Paths and methods


async def test_route_works_without_the_slash_at_the_end(server: Server, world: World) -> None:
    await world.put_job()
    path = f"{ROUTE.rstrip('/')}?submission_id={SUBMISSION}&file_type=D1"
    response = await server.fetch(path, headers={"X-Session-ID": "owner"}, follow_redirects=False)
    assert response.code == HTTPStatus.OK
    assert body(response)["status"] == "waiting"


async def test_head_answers_like_get_without_a_body(server: Server, world: World) -> None:
    await world.put_job()
    path = f"{ROUTE}?submission_id={SUBMISSION}&file_type=D1"
    for token in ("owner", "", "stranger"):
        headers = {"X-Session-ID": token, "X-Request-ID": "same"}
        get, head = [await server.fetch(path, method=method, headers=headers) for method in ("GET", "HEAD")]
        assert head.code == get.code
        assert head.body == b""
        assert set(head.headers) == set(get.headers)
        assert all(head.headers[name] == get.headers[name] for name in get.headers if name != "Date")


UNKNOWN_PATHS = [
    *("/v1", "/v1/", "/v1/check_generation_status//", "/v1/check_generation_status/x", "/V1/check_generation_status/"),
    *("/v2/check_generation_status/", "//v1/check_generation_status/", "/favicon.ico", "/livez/", "/%2e%2e/etc"),
    *("/openapi-json", "/x/check_generation_status", "/metrics.", "/check_generation_status/"),
]


async def test_route_answers_404_for_an_unknown_path(server: Server) -> None:
    for path in UNKNOWN_PATHS:
        for method in ("GET", "HEAD", "DELETE", "TRACE", "FOO"):
            response = await server.fetch(path, method=method, allow_nonstandard_methods=True)
            assert response.code == HTTPStatus.NOT_FOUND, path
            assert response.headers["Content-Type"] == "application/json"
            assert "Allow" not in response.headers
            assert response.body == b"" if method == "HEAD" else body(response) == {"message": "Not Found"}


async def test_route_answers_other_methods_with_405(server: Server) -> None:
    for path in (ROUTE, ROUTE.rstrip("/"), "/livez", "/readyz", "/metrics", "/openapi.json", "/"):
        for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE", "FOO", "get"):
            content = b"{}" if method in {"POST", "PUT", "PATCH"} else None
            response = await server.fetch(path, method=method, body=content, allow_nonstandard_methods=True)
            assert response.code == HTTPStatus.METHOD_NOT_ALLOWED, (method, path)
            assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
            assert body(response) == {"message": "Method Not Allowed"}


async def test_route_never_answers_304(server: Server) -> None:
    first = await server.check()
    assert "Etag" not in first.headers
    for known in ("*", '"x"', first.headers.get("Etag", 'W/"x"')):
        later = (datetime.now(UTC) + timedelta(days=1)).strftime("%a, %d %b %Y %H:%M:%S GMT")
        again = await server.check(headers={"If-None-Match": known, "If-Modified-Since": later})
        assert (again.code, again.body) == (HTTPStatus.OK, first.body)
