"""The wire contract word for word: what a request may say, and what an answer looks like."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genstatus_server.model.errors import InvalidRequest
from genstatus_server.model.jobs import NO_JOB, GenerationStatus, Job
from genstatus_server.web.answers import encode_answer
from genstatus_server.web.params import StatusParams, parse_params_of_one

VALID: Mapping[str, list[bytes]] = {"submission_id": [b"123"], "file_type": [b"D1"]}

NO_ID = "Must be an integer from 1 to 9223372036854775807."
NO_FILE_TYPE = "Must be either D1, D2, E or F"
NO_FLAG = "Must be true or false."
NO_SECONDS = "Must be a number of seconds greater than 0."
FULLWIDTH_1 = "\N{FULLWIDTH DIGIT ONE}".encode()
NO_UTF_8 = "Must be valid UTF-8."
TWICE = "Must be given only once."


def load(query: Mapping[str, Sequence[bytes]] | None = None, *prefer: str) -> StatusParams:
    """A request that is valid but for what `query` says otherwise."""
    return parse_params_of_one({**VALID, **(query or {})}, prefer)


def refused(query: Mapping[str, Sequence[bytes]]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refusal:
        parse_params_of_one(query, ())
    assert refusal.value.http_status == 400
    return refusal.value


def test_params_have_defaults() -> None:
    assert load() == StatusParams(123, ("D1",), wait=False, timeout=None, preferred_wait=False)


def test_params_take_every_parameter() -> None:
    params = load({"file_type": [b"F"], "wait": [b"true"], "timeout": [b"2.5"], "page": [b"1", b"\xff"], "": [b""]})
    assert params == StatusParams(123, ("F",), wait=True, timeout=2.5, preferred_wait=False)


@pytest.mark.parametrize(
    ("sent", "submission_id"),
    [
        (b"1", 1),
        (b"9223372036854775807", 2**63 - 1),
        (b"007", 7),
        (b"0" * 10_000 + b"7", 7),
    ],
)
def test_params_accept_a_submission_id(sent: bytes, submission_id: int) -> None:
    assert load({"submission_id": [sent]}).submission_id == submission_id


@pytest.mark.parametrize(
    "sent",
    [
        b"", b" ", b" 1", b"1 ", b"1\n", b"\t1", b"+1", b"-1", b"--1", b"1_000", b"1,000", b"1.0", b"1.", b"1e3",
        b"0x1F", b"0", b"000", b"9223372036854775808", b"18446744073709551617", b"9" * 10_000, b"one", b"null", b"true",
        b"1\0", "٣".encode(), FULLWIDTH_1, "²".encode(), "1\N{NO-BREAK SPACE}".encode(), b"[1]", b"1;2",
    ],
)  # fmt: skip
def test_params_refuse_an_invalid_submission_id(sent: bytes) -> None:
    error = refused({**VALID, "submission_id": [sent]})
    assert error.body() == {"message": f"submission_id: {NO_ID}", "errors": {"submission_id": [NO_ID]}}


@pytest.mark.parametrize("file_type", ["D1", "D2", "E", "F"])
def test_params_accept_a_file_type(file_type: str) -> None:
    assert load({"file_type": [file_type.encode()]}).file_types == (file_type,)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"d1",
        b"A",
        b" D1",
        b"D1 ",
        b"D1\n",
        b"D",
        b"D1,D2",
        FULLWIDTH_1,
        b"D1\0",
    ],
)
def test_params_refuse_an_invalid_file_type(sent: bytes) -> None:
    error = refused({**VALID, "file_type": [sent]})
    assert error.body() == {"message": f"file_type: {NO_FILE_TYPE}", "errors": {"file_type": [NO_FILE_TYPE]}}


@pytest.mark.parametrize(
    ("sent", "wait"),
    [(b"true", True), (b"TRUE", True), (b"tRuE", True), (b"1", True),
     (b"false", False), (b"False", False), (b"FALSE", False), (b"0", False)],
)  # fmt: skip
def test_params_parse_every_form_of_wait(sent: bytes, wait: bool) -> None:  # noqa: FBT001 - a parameter of the test
    assert load({"wait": [sent]}).wait is wait


@pytest.mark.parametrize("sent", [b"", b"yes", b"on", b"t", b"2", b"01", b" true", b"true ", FULLWIDTH_1])
def test_params_refuse_an_invalid_wait(sent: bytes) -> None:
    assert refused({**VALID, "wait": [sent]}).message == f"wait: {NO_FLAG}"


@pytest.mark.parametrize(
    ("sent", "timeout"),
    [(b"1", 1), (b"30", 30), (b"0.5", 0.5), (b".5", 0.5), (b"007.50", 7.5), (b"9" * 10_000, float("inf"))],
)
def test_params_accept_a_timeout(sent: bytes, timeout: float) -> None:
    assert load({"timeout": [sent]}).timeout == timeout


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"0", b"0.0", b".0", b".", b"5.", b"-1", b"+1", b" 1", b"1 ", b"1_0", b"1e3", b"1E3", b"0x1", b"1,5",
        b"inf", b"Infinity", b"nan", b"1s", b"1.5.1", "٣".encode(), FULLWIDTH_1, b"1\n",
    ],
)  # fmt: skip
def test_params_refuse_an_invalid_timeout(sent: bytes) -> None:
    assert refused({**VALID, "timeout": [sent]}).message == f"timeout: {NO_SECONDS}"


@pytest.mark.parametrize("name", ["submission_id", "file_type", "wait", "timeout"])
def test_params_refuse_bytes_that_are_no_utf_8(name: str) -> None:
    for sent in (b"\xff", b"1\xff", b"\xc0\xb1", b"\xed\xa0\x80"):
        assert refused({**VALID, name: [sent]}).body() == {
            "message": f"{name}: {NO_UTF_8}",
            "errors": {name: [NO_UTF_8]},
        }


@pytest.mark.parametrize("name", ["submission_id", "file_type", "wait", "timeout"])
@pytest.mark.parametrize("second", [b"1", b"", b"\xff"])
def test_params_refuse_a_repeated_parameter(name: str, second: bytes) -> None:
    first = VALID.get(name, [b"1"])[0]
    for values in ([first, first], [first, second], [second, first], [second] * 100):
        assert refused({**VALID, name: values}).body() == {"message": f"{name}: {TWICE}", "errors": {name: [TWICE]}}


def test_params_require_a_file_type() -> None:
    assert refused({"submission_id": [b"1"]}).message == f"file_type: {NO_FILE_TYPE}"


@pytest.mark.parametrize("others", [{}, {"file_type": [b"D1"]}, {"file_type": [b"x"], "wait": [b"x"]}])
def test_params_name_a_missing_submission_id_first(others: Mapping[str, list[bytes]]) -> None:
    error = refused(others)
    assert error.message == "submission_id is required"
    assert set(error.errors) >= {"submission_id"}


def test_parse_names_the_first_error_and_lists_all() -> None:
    wrong = {"timeout": [b"0"], "wait": [b"x"], "file_type": [b"D1", b"D1"], "submission_id": [b"\xff"]}
    expected = {"submission_id": NO_UTF_8, "file_type": TWICE, "wait": NO_FLAG, "timeout": NO_SECONDS}
    while expected:
        error = refused({**VALID, **wrong})
        first = next(iter(expected))
        assert error.message == f"{first}: {expected[first]}"
        assert error.errors == {name: [reason] for name, reason in expected.items()}
        del expected[first], wrong[first]


def test_params_have_exact_names() -> None:
    assert load({"WAIT": [b"x"], "Timeout": [b"x"], "timeout ": [b"x"]}) == load()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (["wait=5"], 5),
        (["wait=007"], 7),
        (["Wait=5"], 5),
        (["  wait  =  5  "], 5),
        (['wait="5"'], 5),
        (["wait=5; foo=bar"], 5),
        (['wait=5;foo="a, b";baz'], 5),
        (["respond-async, wait=5"], 5),
        (["respond-async,wait=5,handling=lenient"], 5),
        (["return=minimal; x=1", "wait=5"], 5),
        (['foo="a, wait=6", wait=5'], 5),
        (['foo="a\\", wait=6", wait=5'], 5),
        (['foo; bar="x, wait=6", wait=5'], 5),
        (['wait=5; x="a, wait=6"'], 5),
        (['foo="not closed', "wait=5"], 5),
        (["", ",,", "wait=5"], 5),
        (["wait=5, wait=6"], 5),
        (["wait=5", "wait=6"], 5),
        (["wait=5, wait=x"], 5),
        (["waiting=6, wait=5"], 5),
        (["wait=10000000000"], 1e10),
        (["wait=" + "9" * 10_000], float("inf")),
    ],
)
def test_params_take_a_preferred_wait(headers: list[str], seconds: float) -> None:
    assert load({}, *headers) == StatusParams(123, ("D1",), wait=True, timeout=seconds, preferred_wait=True)


@pytest.mark.parametrize(
    "header",
    [
        "", ",", ";", "=", "wait", "wait=", "wait=0", "wait=000", 'wait="0"', "wait=-1", "wait=+5", "wait=5.5",
        "wait=5s", "wait=1_0", "wait=1e3", "wait=5 6", 'wait="5', 'wait=5"', "wait='5'", 'wait="5 "', "wait==5",
        "wait:5", "wait 5", "wait=٣", f"wait={FULLWIDTH_1.decode()}", "wait=x, wait=5", "wait=0, wait=5", "waits=5",
        "await=5", "respond-async", "wait=\xff", 'foo="a, wait=5"', 'foo; bar="a, wait=5, b"', 'foo="a, wait=5',
    ],
)  # fmt: skip
def test_params_ignore_an_invalid_preference(header: str) -> None:
    assert load({}, header) == load()


@pytest.mark.parametrize(
    ("query", "wait", "timeout", "preferred"),
    [
        ({"wait": [b"false"]}, False, 5, False),
        ({"timeout": [b"7"]}, True, 7, True),
        ({"wait": [b"true"], "timeout": [b"7"]}, True, 7, True),
        ({"wait": [b"false"], "timeout": [b"7"]}, False, 7, False),
        ({"wait": [b"true"]}, True, 5, True),
    ],
)
def test_params_take_the_query_before_the_preference(
    query: Mapping[str, list[bytes]],
    wait: bool,  # noqa: FBT001 - a parameter of the test
    timeout: float,
    preferred: bool,  # noqa: FBT001 - the same
) -> None:
    params = load(query, "wait=5")
    assert (params.wait, params.timeout, params.preferred_wait) == (wait, timeout, preferred)


FINISHED = Job(
    job_id=1234,
    generation_status=GenerationStatus.FINISHED,
    key="123/D1.csv",
    size=10240,
    start=datetime(2024, 1, 2, tzinfo=UTC),
    end=datetime(2024, 11, 30, 23, 59, 59, tzinfo=UTC),
    updated_at=datetime(2024, 2, 29, 4, 5, 6, 789000, tzinfo=UTC),
)


@pytest.mark.parametrize("file_type", ["D1", "D2"])
def test_answer_has_a_range_of_days(file_type: str) -> None:
    assert list(json.loads(encode_answer(FINISHED, file_type, "https://s3/x")).items()) == [
        ("job_id", 1234),
        ("status", "finished"),
        ("file_type", file_type),
        ("url", "https://s3/x"),
        ("size", 10240),
        ("start", "01/02/2024"),
        ("end", "11/30/2024"),
        ("message", ""),
        ("generated_at", "02/29/2024 04:05:06"),
    ]


@pytest.mark.parametrize("file_type", ["E", "F"])
def test_answer_has_no_days_for_other_file_types(file_type: str) -> None:
    answer = json.loads(encode_answer(FINISHED, file_type, "https://s3/x"))
    assert list(answer) == ["job_id", "status", "file_type", "url", "size", "message", "generated_at"]


def test_answer_is_null_or_empty_where_nothing_is_known() -> None:
    assert json.loads(encode_answer(NO_JOB, "D2", None)) == {
        "job_id": None,
        "status": "invalid",
        "file_type": "D2",
        "url": "#",
        "size": None,
        "start": "",
        "end": "",
        "message": "",
        "generated_at": None,
    }


@pytest.mark.parametrize("status", GenerationStatus)
def test_answer_is_plain_json(status: GenerationStatus) -> None:
    job = Job(job_id=1, generation_status=status, message="Näh\n\0")
    answer = json.loads(encode_answer(job, "E", None))
    assert type(answer["status"]) is str
    assert json.loads(json.dumps(answer)) == answer


@pytest.mark.parametrize(
    ("year", "day", "moment"),
    [(1, "12/31/0001", "12/31/0001 00:00:00"), (999, "12/31/0999", "12/31/0999 00:00:00"), (9999, "12/31/9999", None)],
)
def test_answer_has_years_of_four_digits(year: int, day: str, moment: str | None) -> None:
    when = datetime(year, 12, 31, tzinfo=UTC)
    job = Job(1, GenerationStatus.WAITING, start=when, end=when, updated_at=when if moment else None)
    answer = json.loads(encode_answer(job, "D1", None))
    assert (answer["start"], answer["end"], answer["generated_at"]) == (day, day, moment)


def test_answer_has_generated_at_in_the_configured_format() -> None:
    assert json.loads(encode_answer(FINISHED, "E", None, "iso"))["generated_at"] == "2024-02-29 04:05:06"
    old = Job(1, GenerationStatus.WAITING, updated_at=datetime(987, 6, 5, 4, 3, 2, tzinfo=UTC))
    assert json.loads(encode_answer(old, "E", None, "iso"))["generated_at"] == "0987-06-05 04:03:02"


PARAMETERS = ["submission_id", "file_type", "wait", "timeout"]


def outcome(query: dict[str, list[bytes]]) -> StatusParams | InvalidRequest:
    """The request that was understood, or why it was refused."""
    try:
        return parse_params_of_one(query, ())
    except InvalidRequest as error:
        return error


DIGITS = st.text("0123456789+-_.e ٣", max_size=25).map(str.encode)


@given(st.sampled_from(PARAMETERS), st.lists(st.binary() | DIGITS, min_size=1, max_size=2))
def test_parse_accepts_or_refuses_any_bytes_by_name(name: str, values: list[bytes]) -> None:
    params = outcome({**VALID, name: values})
    if isinstance(params, InvalidRequest):
        assert list(params.errors) == [name]
        assert params.message == f"{name}: {params.errors[name][0]}"
    else:
        assert len(values) == 1
        assert 0 < params.submission_id < 2**63
        assert set(params.file_types) <= {"D1", "D2", "E", "F"}
        assert params.timeout is None or params.timeout > 0


@given(st.dictionaries(st.sampled_from([*PARAMETERS, "x"]), st.lists(st.binary() | DIGITS, min_size=1, max_size=2)))
def test_parse_accepts_or_refuses_any_query(query: dict[str, list[bytes]]) -> None:
    params = outcome(query)
    if isinstance(params, InvalidRequest):
        assert params.errors.keys() <= set(PARAMETERS)
        assert (params.message == "submission_id is required") is ("submission_id" not in query)


@given(st.lists(st.text() | st.text('wait=;," 05\\'), max_size=3))
def test_params_never_refuse_a_preference(headers: list[str]) -> None:
    params = load({}, *headers)
    assert params.wait is params.preferred_wait is (params.timeout is not None)
