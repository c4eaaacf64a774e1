"""The signer's credentials are missing, wrong, or end: no URL is dead on arrival, and no settled hold is lost by it."""

import json
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from genstatus_server.s3.credentials import URGENT_PAUSE
from tests.faults.conftest import Serve
from tests.faults.scale import Figures, scaled
from tests.faults.serving import Served, serving
from tests.support.holds import counted, holding, question
from tests.support.processes import wait_until
from tests.support.role import Role, credentials_end, running_role
from tests.support.scene import TOKEN, Scene
from tests.support.services import S3

NUMBERS = range(1, 21)
UNAVAILABLE = {"message": "Service temporarily unavailable"}
CONTENT = b"award,amount\n1,2\n"
#: Seconds of the test that polls while credentials come and go.
WATCHED_SECONDS = scaled(12, 120)
LIFETIME = 6


@pytest.fixture
def role(s3: S3) -> Iterator[Role]:
    with running_role(s3) as made:
        yield made


@pytest.fixture
def jobs(on_one: Scene, s3: S3, s3_client: Any) -> Scene:
    """Jobs in `waiting`, whose files are there already."""
    on_one.prepare(NUMBERS)
    for number in NUMBERS:
        s3_client.put_object(Bucket=s3.bucket, Key=f"{number}/D1.csv", Body=CONTENT)
    return on_one


def served_with(
    environment: Mapping[str, str], tmp_path: Path, s3: S3, mongodb_uri: str, jobs: Scene, **options: str
) -> AbstractContextManager[Served]:
    """The server, with credentials out of this environment only."""
    nobody = replace(s3, access_key="", secret_key="")
    return serving(tmp_path, nobody, mongodb_uri, jobs.name, environment=environment, **options)


def download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - http, and ours
        content: bytes = answer.read()
        return content


def expires_at(url: str) -> float:
    query = parse_qs(urlsplit(url).query)
    signed = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return signed.timestamp() + int(query["X-Amz-Expires"][0])


def is_refused(answer: tuple[int, dict[str, str], dict[str, Any]]) -> bool:
    status, headers, body = answer
    return status == 503 and body == UNAVAILABLE and int(headers["retry-after"]) > 0


def try_again_until_told(served: Served, number: int) -> str:
    """What a client does that was answered 503: its URL."""
    wait_until(lambda: served.check(number)[0] == 200, "the client's next try")
    status, _, body = served.check(number)
    assert (status, body["status"]) == (200, "finished")
    return str(body["url"])


def test_hold_that_settles_without_credentials_is_not_lost(
    role: Role, jobs: Scene, tmp_path: Path, s3: S3, mongodb_uri: str, figures: Figures
) -> None:
    role.is_away = True
    with served_with(role.environment, tmp_path, s3, mongodb_uri, jobs) as served:
        wait_until(lambda: served.readyz()[1]["change_stream"] == "live", "all but the signer")
        assert served.readyz() == (503, {"mongodb": "ok", "change_stream": "live", "signer": "no credentials"})
        assert served.check(1)[2]["status"] == "waiting"  # All that needs no URL is answered.
        with holding(served.url, [question(number) for number in NUMBERS], TOKEN) as holds:
            holds.wait_sent()
            served.wait_looked(NUMBERS)
            jobs.finish(NUMBERS)
            answers = holds.results()
        assert counted(answers, "status", "url", "result") == {(503, None, "error"): len(NUMBERS)}
        assert all(int(answer["retry_after"]) > 0 for answer in answers)
        role.is_away, began = False, time.monotonic()
        urls = [try_again_until_told(served, number) for number in NUMBERS]
        figures.within("until there are URLs again", time.monotonic() - began, 4)
        assert {download(url) for url in urls} == {CONTENT}
        assert served.readyz()[0] == 200


def test_signer_gives_no_expired_url_while_credentials_rotate(
    role: Role, jobs: Scene, tmp_path: Path, s3: S3, mongodb_uri: str, figures: Figures
) -> None:
    """The trap: a URL dies with the credentials that have signed it, whatever it says of its own life."""
    role.life = LIFETIME
    jobs.finish(NUMBERS)
    with served_with(role.environment, tmp_path, s3, mongodb_uri, jobs, url_ttl=str(LIFETIME)) as served:
        served.wait_ready()
        left: list[float] = []
        refused, began = 0, time.monotonic()

        def asked_for_long() -> bool:
            nonlocal refused
            passed = time.monotonic() - began
            role.is_away = int(passed) % 8 >= 3  # For longer than any credentials live.
            role.life = LIFETIME - int(passed) % 4
            requested_at, answer = time.time(), served.check(1 + len(left) % len(NUMBERS))
            if is_refused(answer):
                refused += 1
            else:
                url = answer[2]["url"]
                assert expires_at(url) <= credentials_end(url)
                left.append(expires_at(url) - requested_at)
            return passed > WATCHED_SECONDS

        wait_until(asked_for_long, "asked for long enough", 2 * WATCHED_SECONDS)
    assert refused
    assert left
    figures.note(f"s, the least that was left of a URL of {LIFETIME} s", f"{min(left):.2f}")
    assert min(left) >= LIFETIME / 2


def test_credentials_are_refreshed_before_they_end(
    role: Role, jobs: Scene, tmp_path: Path, s3: S3, mongodb_uri: str
) -> None:
    """The trap: the library is content with a quarter of an hour, and this URL is to live for hours."""
    role.life = 3600
    jobs.finish(NUMBERS)
    with served_with(role.environment, tmp_path, s3, mongodb_uri, jobs, url_ttl="10000") as served:
        wait_until(lambda: served.readyz()[1]["change_stream"] == "live", "all but the signer")
        assert is_refused(served.check(1))
        role.life = 20000
        assert credentials_end(try_again_until_told(served, 1)) - time.time() > 5000


def test_signer_uses_valid_credentials_while_their_service_hangs(
    role: Role, jobs: Scene, tmp_path: Path, s3: S3, mongodb_uri: str, figures: Figures
) -> None:
    role.life = 300  # The library would fetch others at once, and wait for them.
    jobs.finish(NUMBERS)
    with served_with(role.environment, tmp_path, s3, mongodb_uri, jobs) as served:
        served.wait_ready()
        role.may_answer.clear()
        began = time.monotonic()
        for number in NUMBERS:
            assert served.check(number)[0] == 200
        figures.within(f"for {len(NUMBERS)} URLs", time.monotonic() - began, 1)


def test_hanging_credential_service_delays_no_answer(
    role: Role, jobs: Scene, tmp_path: Path, s3: S3, mongodb_uri: str, figures: Figures
) -> None:
    jobs.finish(NUMBERS)
    role.may_answer.clear()
    with served_with(role.environment, tmp_path, s3, mongodb_uri, jobs) as served:
        wait_until(lambda: served.check(0)[0] == 400, "it has read something")
        began = time.monotonic()
        status, headers, _ = served.get(question(1, timeout=0.2), TOKEN)
        figures.within("for a hold of 0.2 s", time.monotonic() - began, 0.2 + 0.25)
        assert (status, headers["x-wait-result"]) == (503, "error")


def test_expired_credentials_are_requested_now_and_then(
    role: Role, jobs: Scene, tmp_path: Path, s3: S3, mongodb_uri: str, figures: Figures
) -> None:
    jobs.finish(NUMBERS)
    role.is_away, began = True, time.monotonic()
    with served_with(role.environment, tmp_path, s3, mongodb_uri, jobs) as served:
        wait_until(lambda: served.readyz()[1]["change_stream"] == "live", "all but the signer")
        for _ in range(5):
            assert all(is_refused(served.check(number)) for number in NUMBERS)
    seconds = time.monotonic() - began
    actions = Counter(json.loads(line).get("action") for line in served.server.log.splitlines() if line[:1] == "{")
    attempts = actions.pop("credentials_not_fetched")
    figures.note("lines that say that there are no credentials, for 100 requests", attempts)
    assert attempts <= 1 + seconds / URGENT_PAUSE
    assert actions.pop("request") >= 100
    assert sum(actions.values()) <= 10 + seconds  # What the start says, and a stream that a busy machine made late.
    assert role.questions <= 4 * (2 + seconds / 2)  # The library asks three times, a second apart.


@pytest.mark.parametrize(
    "answer",
    [
        "no JSON",
        "{}",
        '{"Version": 1, "AccessKeyId": "a"}',
        '{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b", "Expiration": "never"}',
        '{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b", "Expiration": "1970-01-01T00:00:01Z"}',
    ],
)
def test_signer_treats_malformed_program_output_as_no_credentials(
    answer: str, jobs: Scene, tmp_path: Path, s3: S3, mongodb_uri: str
) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"print({answer!r})")
    is_without_credentials(f"{sys.executable} {program}", jobs, tmp_path, s3, mongodb_uri)


def test_signer_treats_a_missing_program_as_no_credentials(
    jobs: Scene, tmp_path: Path, s3: S3, mongodb_uri: str
) -> None:
    is_without_credentials(str(tmp_path / "nothing"), jobs, tmp_path, s3, mongodb_uri)


def is_without_credentials(program: str, jobs: Scene, tmp_path: Path, s3: S3, mongodb_uri: str) -> None:
    """With this as the AWS configuration's `credential_process`."""
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {program}\n")
    jobs.finish(NUMBERS)
    with served_with({"AWS_CONFIG_FILE": str(config)}, tmp_path, s3, mongodb_uri, jobs) as served:
        wait_until(lambda: served.readyz()[1]["change_stream"] == "live", "all but the signer")
        assert served.readyz()[1]["signer"] == "no credentials"
        assert is_refused(served.check(1))
        assert not served.server.records("request_defect")


def test_url_of_wrong_credentials_is_refused_by_s3(
    jobs: Scene, serve: Serve, s3: S3, tmp_path: Path, mongodb_uri: str
) -> None:
    """Nothing but a request shows that a key is wrong; the URL is refused there, and gives nothing away."""
    jobs.finish(NUMBERS)
    wrong = replace(s3, secret_key="another")
    with serving(tmp_path, wrong, mongodb_uri, jobs.name) as served:
        served.wait_ready()
        url = str(served.check(1)[2]["url"])
        with pytest.raises(urllib.error.HTTPError) as refused:
            download(url)
        with refused.value as answer:
            assert answer.code in {400, 403}
