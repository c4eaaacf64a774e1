"""The rules of genstatus.js as tables, as test_client_rules.py has those of the Python client."""

import itertools
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.scripted_node import Reply, wait_by_script

pytestmark = pytest.mark.one_python

FINISHED: Reply = {"body": {"status": "finished", "file_type": "D1", "url": "http://s3/D1.csv"}}
WAITING = {"status": "waiting", "file_type": "D1"}


def waiting(result: str | None = None, retry_after: str | None = None, **more: Any) -> Reply:
    headers = {"X-Wait-Result": result, "Retry-After": retry_after}
    return {"body": WAITING, "headers": {name: value for name, value in headers.items() if value}, **more}


def error(status: int, retry_after: str | None = None, text: str = "<html>") -> Reply:
    return {"status": status, "text": text, "headers": {"Retry-After": retry_after} if retry_after else {}}


DEADLINE = waiting("deadline", "1")
LOST: Reply = {"lost": True}


@pytest.mark.parametrize(
    ("first", "seconds"),
    [
        pytest.param(DEADLINE, 1.0, id="a deadline: only what the server asks for"),
        pytest.param(waiting("shed", "9"), 10.0, id="shed: the floor, and a spread of a second"),
        pytest.param(waiting("draining", "3"), 4.0, id="draining"),
        pytest.param(waiting(None, "5"), 6.0, id="a plain answer"),
        pytest.param(waiting("deadline"), 1.0, id="no Retry-After: one question a second at the most"),
        pytest.param(None, 2.0, id="no answer: backoff"),
        pytest.param(error(502), 2.0, id="a proxy's error"),
        pytest.param(error(503, "7"), 7.0, id="Retry-After is a floor of backoff"),
        pytest.param(error(503, "1"), 2.0, id="and backoff goes beyond it"),
        pytest.param(error(404), 2.0, id="404: a server may be on its way"),
        pytest.param(error(405), 2.0, id="405: it is another server's, too"),
        pytest.param(error(200, text='{"status": "fini'), 2.0, id="half an answer"),
        pytest.param(error(200, text="<html>log in"), 2.0, id="a captive portal"),
        pytest.param(error(200, text='{"status": "done"}'), 2.0, id="an unknown status"),
        pytest.param(error(429, "Thu, 01 Jan 1970 00:00:08 GMT"), 8.0, id="a date"),
        pytest.param(error(429, "soon"), 2.0, id="no date"),
        pytest.param(error(429, "-5"), 2.0, id="no negative seconds"),
    ],
)
def test_javascript_client_pauses_after_an_answer(tmp_path: Path, first: Reply, seconds: float) -> None:
    told = wait_by_script(tmp_path, [first, FINISHED])
    assert told.answer is not None
    assert told.answer["status"] == "finished"
    assert told.times == [0, seconds]
    assert told.updates[1]["retryAt"] == 1000 * seconds, "a page can say truly when it asks again"


@pytest.mark.parametrize("luck", [0.0, 0.25, 1.0])
def test_backoff_is_full_jitter_from_the_first_retry_on(tmp_path: Path, luck: float) -> None:
    times = wait_by_script(tmp_path, [None] * 8 + [FINISHED], luck=luck).times
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert pauses == [luck * bound for bound in (2, 4, 8, 16, 30, 30, 30, 30)]


def test_javascript_client_counts_no_failure_at_a_deadline(tmp_path: Path) -> None:
    told = wait_by_script(tmp_path, [None, None, DEADLINE, None, FINISHED])
    assert [each["failures"] for each in told.updates if each["phase"] == "asking"] == [0, 1, 2, 0, 1]
    assert told.times == [0, 2, 6, 7, 9]


@pytest.mark.parametrize("status", [400, 401, 403, 413, 414, 431])
def test_javascript_client_ends_the_wait_on_a_refusal(tmp_path: Path, status: int) -> None:
    body = {"message": "No such submission", "errors": {"submission_id": ["no"]}}
    told = wait_by_script(tmp_path, [{"status": status, "body": body, "headers": {"X-Request-ID": "r1"}}])
    refused = {"name": "GenerationError", "message": "No such submission", "status": status, "body": body}
    assert told.refused == refused | {"requestId": "r1"}
    assert len(told.asked) == 1
    assert told.listening == 0


@pytest.mark.parametrize("wait", [25, 5])
def test_javascript_client_allows_ten_seconds_after_the_hold(tmp_path: Path, wait: int) -> None:
    late = {**(FINISHED or {}), "after": 1000 * (wait + 9)}
    assert wait_by_script(tmp_path, [late], wait=wait).times == [0]
    assert wait_by_script(tmp_path, [LOST, FINISHED], wait=wait).times == [0, wait + 10 + 2]


@pytest.mark.parametrize(
    ("replies", "at"),
    [
        pytest.param([FINISHED], -1, id="before it begins"),
        pytest.param([LOST], 7, id="while it is held"),
        pytest.param([error(503, "60")], 7, id="while it does what the server asks for"),
        pytest.param([None] * 9, 40, id="while it pauses"),
    ],
)
def test_javascript_client_stops_when_its_caller_aborts(tmp_path: Path, replies: list[Reply], at: float) -> None:
    told = wait_by_script(tmp_path, replies, events={at: "abort"})
    assert told.refused is not None
    assert told.refused["message"] == "enough"
    assert told.endedAt == 1000 * max(at, 0), "at once"
    assert told.listening == 0


@pytest.mark.parametrize("name", ["online", "visible"])
def test_javascript_client_requests_at_once_when_the_network_is_back(tmp_path: Path, name: str) -> None:
    failures: list[Reply] = [None] * 5
    assert wait_by_script(tmp_path, [*failures, FINISHED]).times == [0, 2, 6, 14, 30, 60]
    assert wait_by_script(tmp_path, [*failures, FINISHED], events={33: name}).times == [0, 2, 6, 14, 30, 33]


@pytest.mark.parametrize("name", ["online", "visible"])
def test_javascript_client_keeps_retry_after(tmp_path: Path, name: str) -> None:
    assert wait_by_script(tmp_path, [error(503, "20"), FINISHED], events={3: name}).times == [0, 20]


def test_javascript_client_repeats_a_hold_over_a_new_network(tmp_path: Path) -> None:
    told = wait_by_script(tmp_path, [LOST, FINISHED], events={12: "online"})
    assert told.times == [0, 12]
    assert [each["failures"] for each in told.updates if each["phase"] == "asking"] == [0, 0], "it is no failure"


def test_javascript_client_requests_once_a_second_on_flapping_networks(tmp_path: Path) -> None:
    events = {number / 10: "online" for number in range(1, 50)}
    assert wait_by_script(tmp_path, [LOST] * 5 + [FINISHED], events=events).times == [0, 1, 2, 3, 4, 5]


def test_javascript_client_keeps_a_hold_when_its_page_is_shown(tmp_path: Path) -> None:
    later = {**(FINISHED or {}), "after": 20_000}
    events = {5.0: "visible", 6.0: "hidden", 7.0: "visible"}
    assert wait_by_script(tmp_path, [later], events=events).times == [0]
    assert wait_by_script(tmp_path, [None, FINISHED], events={1: "hidden"}).times == [0, 2]


def test_javascript_client_does_not_mind_a_clock_that_is_set_back(tmp_path: Path) -> None:
    later = {**(DEADLINE or {}), "after": 20_000}
    assert wait_by_script(tmp_path, [later, FINISHED], events={5: "clockSetBack"}).times == [0, 21]


@pytest.mark.parametrize("phase", ["asking", "waiting", "reconnecting", "settled"])
def test_javascript_client_rejects_with_the_error_of_its_callback(tmp_path: Path, phase: str) -> None:
    told = wait_by_script(tmp_path, [waiting(), None, FINISHED], fails=phase)
    assert told.refused is not None
    assert told.refused["message"] == "a mistake of the caller"
    assert told.updates[-1]["phase"] == phase


def test_javascript_client_takes_an_undefined_wait_for_none_given(tmp_path: Path) -> None:
    (asked,) = wait_by_script(tmp_path, [FINISHED], missing=["wait"]).asked
    assert parse_qs(urlsplit(asked["url"]).query)["timeout"] == ["25"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseUrl": "server"}, "baseUrl must begin with http:// or https://"),
        ({"baseUrl": "ftp://server"}, "baseUrl must begin with http:// or https://"),
        ({"baseUrl": None}, "baseUrl must begin with http:// or https://"),
        ({"baseUrl": ["http://server"]}, "baseUrl must begin with http:// or https://"),
        ({"missing": ["baseUrl"]}, "baseUrl must begin with http:// or https://"),
        ({"sessionToken": "SECRET\nTOKEN"}, "sessionToken must be printable ASCII"),
        ({"sessionToken": " "}, "sessionToken must be printable ASCII"),
        ({"sessionToken": "t\N{LATIN SMALL LETTER O WITH DIAERESIS}ken"}, "sessionToken must be printable ASCII"),
        ({"sessionToken": None}, "sessionToken must be printable ASCII"),
        ({"sessionToken": 123}, "sessionToken must be printable ASCII"),
        ({"sessionToken": ["token"]}, "sessionToken must be printable ASCII"),
        ({"missing": ["sessionToken"]}, "sessionToken must be printable ASCII"),
        ({"submissionId": None}, "submissionId must be a number, a bigint or a string"),
        ({"missing": ["submissionId"]}, "submissionId must be a number, a bigint or a string"),
        ({"fileType": None}, "fileType must be a string"),
        ({"missing": ["fileType"]}, "fileType must be a string"),
        ({"wait": -1}, "wait must be a number of seconds"),
        ({"wait": "soon"}, "wait must be a number of seconds"),
    ],
)
def test_javascript_client_refuses_what_no_request_can_be_made_of(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    told = wait_by_script(tmp_path, [FINISHED], **options)
    assert told.refused is not None
    assert (told.refused["name"], told.refused["message"]) == ("TypeError", message)
    assert told.refused["option"] == message.split(maxsplit=1)[0]
    assert not told.asked


def test_javascript_client_says_nothing_of_a_page_that_is_no_json(tmp_path: Path) -> None:
    told = wait_by_script(tmp_path, [error(403, text="<html>portal")])
    assert told.refused is not None
    assert (told.refused["message"], told.refused["body"]) == ("Unexpected answer (HTTP 403)", None)


def test_javascript_client_sends_the_token_to_the_server_only(tmp_path: Path) -> None:
    (asked,) = wait_by_script(tmp_path, [FINISHED], submissionId="9007199254740993").asked
    parts = urlsplit(asked["url"])
    assert (parts.netloc, parts.path) == ("server", "/v1/check_generation_status/")
    query = {"submission_id": "9007199254740993", "file_type": "D1", "wait": "true", "timeout": "25"}
    assert parse_qs(parts.query) == {name: [value] for name, value in query.items()}
    sent = {"X-Session-ID": "hush", "Accept": "application/json"}
    guarded = {"cache": "no-store", "credentials": "omit", "redirect": "error"}
    assert asked["init"] == {"headers": sent, **guarded}


def test_javascript_client_agrees_with_the_counts_in_the_documentation(tmp_path: Path) -> None:
    held = wait_by_script(tmp_path, [waiting("deadline", "1", after=23_438)], hours=1)
    assert len(held.asked) <= 148
    refused = wait_by_script(tmp_path, [None], luck=None, hours=1)
    assert 200 <= len(refused.asked) <= 300
    lost = wait_by_script(tmp_path, [LOST], luck=None, hours=1)
    assert 65 <= len(lost.asked) <= 80
