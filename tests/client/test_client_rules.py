"""The client's rules as tables: a clock and a jitter of the test's own, and no server."""

import io
import json
import os
import pickle
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genstatus_server.client import (
    DownloadFailed,
    Generation,
    GenerationRefused,
    Phase,
    ServerUnavailable,
    Status,
    Update,
    WaitTimedOut,
    rules,
)
from genstatus_server.client.answers import generation_from
from genstatus_server.client.part_file import PartFile, StreamOutput
from genstatus_server.client.request import Target
from genstatus_server.client.rules import Fetch, Reply, SendRequest, Sleep, Step, Steps, Timing

FINISHED = {"status": "finished", "file_type": "D1", "url": "http://s3/D1.csv?X-Amz-Signature=secret", "size": 3}
URL = FINISHED["url"]


def reply(status: int = 200, body: object = None, **headers: str) -> Reply:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, content)


def answer(status: str, **headers: str) -> Reply:
    return reply(200, FINISHED if status == "finished" else {"status": status, "file_type": "D1"}, **headers)


NO_REPLY = Reply(error="ConnectError: refused")
DEADLINE = answer("waiting", x_wait_result="deadline", retry_after="1")
SHED = answer("waiting", x_wait_result="shed", retry_after="9")
FETCHED = Reply(200, received=3)


class Script:
    """Does the steps: replies as told, each after so many seconds; time passes in steps only."""

    def __init__(self, replies: Sequence[Reply | tuple[float, Reply]], jitter: float = 1.0) -> None:
        self.replies = list(replies)
        self.now = 1000.0
        self.timing = Timing(lambda: self.now, lambda: jitter)
        self.steps: list[Step] = []
        self.updates: list[Update] = []

    def run(self, steps: Steps) -> Generation:
        reply: Reply | None = None
        try:
            while True:
                step = next(steps) if reply is None else steps.send(reply)
                self.steps.append(step)
                reply = self.do(step)
        except StopIteration as end:
            result: Generation = end.value
            return result

    def do(self, step: Step) -> Reply:
        if isinstance(step, Sleep):
            assert step.seconds >= 0
            self.now += step.seconds
            return Reply()
        told = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        seconds, reply = told if isinstance(told, tuple) else (0.0, told)
        self.now += min(seconds, step.limit)
        return reply if seconds <= step.limit else Reply(error="ReadTimeout")

    def wait(self, **options: Any) -> Generation:
        return self.run(rules.wait(self.timing, self.updates.append, **options))

    def download(self, **options: Any) -> Generation:
        return self.run(rules.download(self.timing, **options))

    @property
    def requests(self) -> list[SendRequest]:
        return [step for step in self.steps if isinstance(step, SendRequest)]

    @property
    def slept(self) -> list[float]:
        return [step.seconds for step in self.steps if isinstance(step, Sleep)]

    @property
    def fetched(self) -> int:
        return sum(isinstance(step, Fetch) for step in self.steps)


@pytest.mark.parametrize("status", ["finished", "failed", "invalid"])
def test_rules_end_at_a_settled_answer(status: str) -> None:
    script = Script([answer(status)])
    assert script.wait().status == status
    assert script.steps == [SendRequest(25.0, 35.0)]
    assert [update.phase for update in script.updates] == [Phase.ASKING, Phase.SETTLED]


@pytest.mark.parametrize(
    ("first", "seconds"),
    [
        pytest.param(DEADLINE, 1.0, id="a deadline: only what the server asks for"),
        pytest.param(SHED, 10.0, id="shed: the floor, and a spread of a second"),
        pytest.param(answer("waiting", x_wait_result="draining", retry_after="3"), 4.0, id="draining"),
        pytest.param(answer("waiting", retry_after="5"), 6.0, id="a plain answer"),
        pytest.param(answer("waiting"), 1.0, id="no Retry-After: one question a second at the most"),
        pytest.param(answer("waiting", x_wait_result="deadline"), 1.0, id="the same at a deadline"),
        pytest.param(NO_REPLY, 2.0, id="no answer: backoff"),
        pytest.param(reply(502, b"<html>"), 2.0, id="a proxy's error"),
        pytest.param(reply(503, {"message": "away"}, retry_after="7"), 7.0, id="Retry-After is a floor of backoff"),
        pytest.param(reply(503, {"message": "away"}, retry_after="1"), 2.0, id="and backoff goes beyond it"),
        pytest.param(reply(404, {"message": "Not Found"}), 2.0, id="404: a server may be on its way"),
        pytest.param(reply(405, {"message": "Method Not Allowed"}), 2.0, id="405: it is another server's, too"),
        pytest.param(reply(302, b"", location="http://elsewhere/"), 2.0, id="a redirect is not followed"),
        pytest.param(reply(200, b'{"status": "fini'), 2.0, id="half an answer"),
        pytest.param(reply(200, b"<html>log in"), 2.0, id="a captive portal"),
        pytest.param(reply(200, {"status": "done", "file_type": "D1"}), 2.0, id="an unknown status"),
        pytest.param(reply(200, {"status": "waiting"}), 2.0, id="an answer without its keys"),
        pytest.param(reply(200, FINISHED | {"url": None}), 2.0, id="an answer with a wrong type"),
        pytest.param(reply(200, b"[" * 100_000), 2.0, id="nonsense"),
        pytest.param(reply(429, b"", retry_after="Wed, 01 Jan 2020 00:00:00 GMT"), 2.0, id="a date that is over"),
        pytest.param(reply(429, b"", retry_after="soon"), 2.0, id="no date"),
        pytest.param(reply(429, b"", retry_after="-5"), 2.0, id="no negative seconds"),
        pytest.param(reply(429, b"", retry_after="1" + "0" * 400), 86400.0, id="a day at the most"),
    ],
)
def test_rules_pause_after_an_answer(first: Reply, seconds: float) -> None:
    script = Script([first, answer("finished")])
    assert script.wait().status is Status.FINISHED
    assert script.slept == [pytest.approx(seconds)]


def test_rules_accept_a_date_as_retry_after() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert rules.retry_after(reply(503, retry_after=date)) == pytest.approx(60, abs=5)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_backoff_is_full_jitter_and_bounded(jitter: float) -> None:
    script = Script([NO_REPLY] * 8 + [answer("finished")], jitter)
    script.wait()
    bounds = [2, 4, 8, 16, 30, 30, 30, 30]
    assert script.slept == [max(1.0, jitter * bound) for bound in bounds]
    assert len(script.requests) == 9


def test_rules_end_the_backoff_after_an_answer() -> None:
    script = Script([NO_REPLY, NO_REPLY, DEADLINE, NO_REPLY, answer("finished")])
    script.wait()
    assert script.slept == [2, 4, 1, 2]


def test_wait_pauses_after_a_long_hold_only_as_requested() -> None:
    script = Script([(24.0, DEADLINE), (30.0, NO_REPLY), answer("finished")], jitter=0.0)
    script.wait()
    assert script.slept == [1.0, 0.0]


@pytest.mark.parametrize("status", [400, 401, 403, 413, 414, 431])
def test_rules_end_the_wait_on_a_refusal(status: int) -> None:
    body = {"message": "No such submission", "errors": {"submission_id": ["no"]}}
    with pytest.raises(GenerationRefused, match=r"^No such submission$") as caught:
        Script([reply(status, body, x_request_id="r1")]).wait()
    refused = caught.value
    assert (refused.status, refused.message, refused.request_id) == (status, "No such submission", "r1")
    assert refused.errors == {"submission_id": ["no"]}


def test_rules_report_a_refusal_that_is_no_json() -> None:
    with pytest.raises(GenerationRefused, match="HTTP 403"):
        Script([reply(403, b"<html>blocked</html>")]).wait()


@pytest.mark.parametrize(
    ("timeout", "holds", "limits"),
    [
        (None, [25.0], [35.0]),
        (60.0, [25.0, 25.0, 7.5], [35.0, 34.0, 8.0]),
        (25.4, [24.9], [25.4]),
        (0.4, [0.0], [0.4]),
    ],
)
def test_rules_fit_the_last_hold_into_the_time(timeout: float | None, holds: list[float], limits: list[float]) -> None:
    script = Script([(25.0, DEADLINE), (25.0, DEADLINE), (7.5, answer("finished"))])
    if timeout != 60.0:
        script.replies = [answer("finished")]
    script.wait(timeout=timeout)
    assert [ask.hold for ask in script.requests] == pytest.approx(holds)
    assert [ask.limit for ask in script.requests] == pytest.approx(limits)


@pytest.mark.parametrize("every", [NO_REPLY, DEADLINE, SHED, (1e9, DEADLINE)])
@pytest.mark.parametrize("timeout", [0.3, 3.0, 100.0])
def test_rules_keep_the_time_and_bound_the_requests(every: Reply, timeout: float) -> None:
    script = Script([every], jitter=0.0)
    with pytest.raises(WaitTimedOut, match=f"no result within {timeout}") as caught:
        script.wait(timeout=timeout)
    assert script.now - 1000 == pytest.approx(timeout)
    assert len(script.requests) <= 1 + timeout
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.last is not None) is (every in (DEADLINE, SHED))


@given(st.lists(st.sampled_from([NO_REPLY, DEADLINE, SHED, reply(502, b""), (30.0, DEADLINE)])), st.floats(0, 1))
def test_rules_send_at_most_one_request_a_second(replies: list[Reply], jitter: float) -> None:
    script = Script([*replies, answer("finished")], jitter)
    assert script.wait().status is Status.FINISHED
    assert len(script.requests) == len(replies) + 1
    assert script.now - 1000 >= len(replies) - 1e-6


def asked_in_an_hour(reply: Reply, seconds: Callable[[float], float]) -> list[int]:
    """How many questions are asked in an hour that is all like that, with the jitter of twenty clients."""
    counts = []
    for seed in range(20):
        jitter = random.Random(seed).random
        script = Script([])
        script.timing = Timing(script.timing.clock, jitter)
        script.replies = [(seconds(jitter()), reply) for _ in range(400)]
        with pytest.raises(WaitTimedOut):
            script.wait(timeout=3600)
        counts.append(len(script.requests))
    return counts


def test_rules_agree_with_the_counts_in_the_documentation() -> None:
    held = asked_in_an_hour(DEADLINE, lambda jitter: 25 * (1 - jitter / 16))
    assert max(held) <= 148
    refused = asked_in_an_hour(NO_REPLY, lambda _: 0.0)
    assert 225 <= sum(refused) / len(refused) <= 260
    assert max(refused) <= 300
    lost = asked_in_an_hour(NO_REPLY, lambda _: 35.0)
    assert 70 <= sum(lost) / len(lost) <= 75
    assert max(lost) <= 80


def test_rules_report_each_update() -> None:
    script = Script([NO_REPLY, DEADLINE, answer("failed")])
    failed = script.wait()
    assert [(update.phase, update.pause, update.error) for update in script.updates] == [
        (Phase.ASKING, 0, ""),
        (Phase.RECONNECTING, 2, "ConnectError: refused"),
        (Phase.ASKING, 0, ""),
        (Phase.WAITING, 1, ""),
        (Phase.ASKING, 0, ""),
        (Phase.SETTLED, 0, ""),
    ]
    assert script.updates[-1].generation is failed


def test_rules_may_begin_without_a_hold() -> None:
    script = Script([SHED, DEADLINE, answer("finished")])
    script.wait(ask_first=True)
    assert script.steps == [
        SendRequest(0.0, 10.0),
        Sleep(1.0),
        SendRequest(25.0, 35.0),
        Sleep(1.0),
        SendRequest(25.0, 35.0),
    ]
    assert script.updates[1].generation is not None


def test_check_sends_one_request() -> None:
    script = Script([DEADLINE])
    assert script.run(rules.check(10.0)).status is Status.WAITING
    assert script.steps == [SendRequest(0.0, 10.0)]
    with pytest.raises(ServerUnavailable, match="away") as caught:
        Script([reply(503, {"message": "away"}, retry_after="4")]).run(rules.check(10.0))
    assert (caught.value.status, caught.value.retry_after) == (503, 4.0)


# Downloads

GENERATION = Generation(Status.FINISHED, "D1", url=str(URL), size=3)


@pytest.mark.parametrize(
    ("replies", "asked", "fetched", "slept"),
    [
        pytest.param([answer("finished"), FETCHED], 1, 1, [], id="at once"),
        pytest.param([answer("finished"), Reply(403), answer("finished"), FETCHED], 2, 2, [0], id="expired on AWS"),
        pytest.param([answer("finished"), Reply(400), answer("finished"), FETCHED], 2, 2, [0], id="expired on rclone"),
        pytest.param([answer("finished"), NO_REPLY, answer("finished"), FETCHED], 2, 2, [2], id="cut"),
        pytest.param([answer("finished"), Reply(200, received=2), answer("finished"), FETCHED], 2, 2, [2], id="short"),
        pytest.param([NO_REPLY, answer("finished"), FETCHED], 2, 1, [2], id="the server is away"),
        pytest.param([reply(503, {}, retry_after="6"), answer("finished"), FETCHED], 2, 1, [6], id="and says how long"),
    ],
)
def test_download_retries_until_the_file_is_complete(
    replies: list[Reply], asked: int, fetched: int, slept: list[float]
) -> None:
    script = Script(replies)
    assert script.download().status is Status.FINISHED
    assert (len(script.requests), script.fetched, script.slept) == (asked, fetched, slept)


def test_rules_reuse_a_known_answer() -> None:
    script = Script([FETCHED])
    assert script.download(generation=GENERATION) is GENERATION
    assert script.requests == []


@pytest.mark.parametrize(
    ("replies", "why", "fetched"),
    [
        ([Reply(403), answer("finished"), Reply(403)], "HTTP 403", 2),
        ([NO_REPLY, answer("finished")] * 5, "refused", 5),
        ([Reply(200, received=2), answer("finished")] * 5, "2 bytes came instead of 3", 5),
        ([Reply(301), answer("finished")] * 2, "HTTP 301", 2),
        ([Reply(307), answer("finished")] * 2, "HTTP 307", 2),
        ([Reply(404), answer("finished")] * 2, "HTTP 404", 2),
        ([Reply(503), answer("finished")] * 5, "HTTP 503", 5),
        ([Reply(error="cut", received=2), answer("finished")] * 6, "cut", 5),
        ([Reply(403), answer("waiting")], "its generation is waiting", 1),
    ],
)
def test_download_says_why_it_failed(replies: list[Reply], why: str, fetched: int) -> None:
    script = Script(replies)
    with pytest.raises(DownloadFailed, match=why):
        script.download(generation=GENERATION)
    assert script.fetched == fetched


def test_download_keeps_to_its_time() -> None:
    script = Script([(1e9, NO_REPLY)])
    with pytest.raises(WaitTimedOut, match=r"not downloaded within 20"):
        script.download(generation=GENERATION, timeout=20)
    assert script.now == pytest.approx(1020)


# What goes with them


def test_repr_of_generations_and_steps_hides_the_url() -> None:
    assert "secret" not in repr([GENERATION, Update(Phase.SETTLED, GENERATION), Fetch(str(URL), 3, 1.0)])
    assert "hush" not in repr(Target("https://x.example", "hush"))


@pytest.mark.parametrize("url", ["", "status.example.gov", "ftp://x", "http://", "http://x?y=1", "http://x/#y"])
def test_target_refuses_an_invalid_url(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Target(url, "token")


@pytest.mark.parametrize("token", ["", "a\nb", "ä", "\x00", " SECRET", "SECRET "])
def test_target_refuses_an_invalid_token(token: str) -> None:
    with pytest.raises(ValueError, match="token") as caught:
        Target("http://x", token)
    assert token not in str(caught.value) or not token


def test_download_creates_the_file_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "D1.csv"
    path.write_bytes(b"old")
    told: list[tuple[int, int | None]] = []
    part = PartFile(path, lambda *sizes: told.append(sizes))
    assert not part.accept(200, {}, 3)
    part.write(b"xyz!")
    assert not part.accept(200, {}, 3)
    part.write(b"new")
    assert path.read_bytes() == b"old"
    assert part.keep() == path
    part.close()
    assert path.read_bytes() == b"new"
    assert told == [(0, 3), (4, 3), (0, 3), (3, 3)]
    assert list(tmp_path.iterdir()) == [path]


def test_download_continues_while_it_progresses() -> None:
    replies = [reply for count in range(1, 9) for reply in (Reply(error="cut", received=count), answer("finished"))]
    script = Script([*replies, FETCHED])
    script.download(generation=GENERATION)
    assert script.fetched == 9


TAG = {"etag": '"a"'}


@pytest.mark.parametrize(
    ("status", "headers", "why", "content"),
    [
        (206, TAG | {"content-range": "bytes 3-5/6"}, "", b"abcdef"),
        (200, TAG | {"content-range": "bytes 3-5/6"}, "", b"abcdef"),
        (200, {"etag": '"b"'}, "", b"def"),
        (206, {"etag": '"b"', "content-range": "bytes 3-5/6"}, "other bytes", None),
        (206, TAG | {"content-range": "bytes 2-5/6"}, "other bytes", None),
        (206, TAG | {"content-range": "bytes 3-4/6"}, "other bytes", None),
        (206, TAG | {"content-range": "bytes 3-6/7"}, "other bytes", None),
        (206, TAG | {"content-range": "bytes 3-2/*"}, "other bytes", None),
        (206, TAG | {"content-range": "bytes 3-5/*"}, "", b"abcdef"),
        (416, {}, "HTTP 416", None),
        (403, {}, "HTTP 403", None),
    ],
)
def test_download_resumes_the_same_file_only(
    tmp_path: Path, status: int, headers: dict[str, str], why: str, content: bytes | None
) -> None:
    part = PartFile(tmp_path / "D1.csv")
    assert not part.range_headers()
    part.accept(200, TAG, 6)
    part.write(b"abc")
    assert part.range_headers() == {"Range": "bytes=3-", "If-Range": '"a"'}
    assert why in part.accept(status, headers, 6)
    if content is not None:
        part.write(b"def")
        assert part.keep().read_bytes() == content
    else:
        assert bool(part.range_headers()) is (status == 403)
    part.close()


@pytest.mark.parametrize("headers", [{}, {"etag": 'W/"a"'}])
def test_download_restarts_without_a_strong_tag(tmp_path: Path, headers: dict[str, str]) -> None:
    part = PartFile(tmp_path / "D1.csv")
    part.accept(200, headers, 6)
    part.write(b"abc")
    assert not part.range_headers()
    part.close()


def test_download_writes_no_byte_of_a_stream_twice() -> None:
    stream = io.BytesIO()
    output = StreamOutput(stream, lambda *_: None)
    for chunks in ((b"ab", b"c"), (b"a", b"bcd"), (b"abcdef",)):
        assert not output.accept(200, TAG, 6)
        for chunk in chunks:
            output.write(chunk)
    assert stream.getvalue() == b"abcdef"
    with pytest.raises(DownloadFailed, match="same file"):
        output.accept(200, {"etag": '"b"'}, 6)


class Silent(io.BytesIO):
    """Takes all that it is given, and does not say so."""

    def write(self, data: Any, /) -> None:  # type: ignore[override] # what many a stream does
        super().write(data)


def test_download_writes_to_a_stream_that_returns_nothing() -> None:
    stream = Silent()
    output = StreamOutput(stream, lambda *_: None)
    assert not output.accept(200, TAG, 6)
    output.write(b"abcdef")
    assert stream.getvalue() == b"abcdef"


def test_refusal_can_be_sent_to_another_process() -> None:
    pickled = pickle.dumps(GenerationRefused(401, "Login Required", {"a": ["b"]}, "id"))
    error = pickle.loads(pickled)  # noqa: S301 - it is ours
    assert (str(error), error.status, error.errors, error.request_id) == ("Login Required", 401, {"a": ["b"]}, "id")


@pytest.mark.parametrize("status", [{"code": "ok"}, ["finished"], None, 1])
def test_answer_with_a_strange_status_is_none(status: object) -> None:
    assert generation_from({"status": status, "file_type": "D1"}) is None


def test_part_file_refuses_a_path_to_no_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "D1.csv")
    os.mkfifo(tmp_path / "pipe")
    for name in (".", "link", "pipe", "/dev/null"):
        with pytest.raises(OSError, match=r"directory|link|ordinary"):
            PartFile(tmp_path / name)
    assert len(list(tmp_path.iterdir())) == 2


def test_part_file_refuses_a_path_that_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "D1.csv"
    path.touch()
    with pytest.raises(IsADirectoryError, match="names a folder"):
        PartFile(f"{tmp_path}/missing/")
    with monkeypatch.context() as of_another_user:
        tmp_path.chmod(0o1777)
        PartFile(path).close()
        of_another_user.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(PermissionError, match="belongs to another user"):
            PartFile(path)
    monkeypatch.setattr(Path, "is_mount", lambda each: each == path)
    with pytest.raises(OSError, match="mounted by itself"):
        PartFile(path)
    assert list(tmp_path.iterdir()) == [path]


def test_part_file_accepts_the_longest_name(tmp_path: Path) -> None:
    part = PartFile(tmp_path / ("x" * 255))
    assert part.keep().name == "x" * 255


def test_part_file_leaves_nothing_where_it_is_not_kept(tmp_path: Path) -> None:
    part = PartFile(tmp_path / "D1.csv", lambda *_: None)
    assert not part.accept(200, {}, None)
    part.write(b"half")
    part.close()
    assert list(tmp_path.iterdir()) == []
