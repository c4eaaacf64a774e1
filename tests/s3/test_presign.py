"""Presigned URLs: they are really downloaded, refused where they must be, and used again only while they are young."""

import time
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit, urlunsplit

import pytest
import structlog
from aiobotocore.session import AioSession
from tornado.httpclient import HTTPResponse
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from genstatus_server.model.jobs import DEFAULT_FAILURE, GenerationStatus, Job
from genstatus_server.s3.presigner import content_disposition, open_presigner
from tests.support.server import Server, body, seen_by, settings_for, start, until
from tests.support.services import S3
from tests.support.world import World

#: Of what a key may hold, all that the S3 of the tests can store.
KEYS = [
    "D1.csv", "123/D1.csv", "a b.csv", " lead and trail ", "a+b.csv", "a%20b.csv", "a%2Fb", "%", "%zz", "ä ö/ü.csv",
    "日本/語.csv", "a?b=c", "a#b", "a&b=c;d", "=a=", "a:b@c", "~a-b_c.d", "'\"`<>{}|\\^[]", "\N{FLOPPY DISK}",
    "e\N{COMBINING ACUTE ACCENT}.csv", "\N{LATIN SMALL LETTER E WITH ACUTE}.csv", "*!()$,", "a\tb\nc",
    ".hidden", "x" * 200,
]  # fmt: skip

REFUSED = {HTTPStatus.FORBIDDEN, HTTPStatus.BAD_REQUEST}
CONTENT = b"award,amount\n1,2\n"


@pytest.fixture
def made_clients(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The services that clients were made for since the test began."""
    made: list[object] = []
    create: Any = AioSession.create_client

    def create_client(session: AioSession, service: str, *arguments: Any, **options: Any) -> Any:
        made.append(service)
        return create(session, service, *arguments, **options)

    monkeypatch.setattr(AioSession, "create_client", create_client)
    return made


async def url_of(server: Server, world: World, key: str = "1/D1.csv", **fields: Any) -> str:
    """The URL that the server gives for a finished job, in a submission of its own, whose file is `key`."""
    number = 100 + await world.submissions.estimated_document_count()
    await world.submissions.insert_one({"_id": number, "user_id": 11})
    upload_fields = {"status": "finished", "key": key} | fields
    await world.put_job(number, submission_id=number, status="finished", upload=upload_fields)
    answer = body(await server.check(submission_id=number))
    assert answer["status"] == "finished", answer
    return str(answer["url"])


async def download(server: Server, url: str) -> HTTPResponse:
    return await server.client.fetch(url, raise_error=False, follow_redirects=False)


def query(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


def altered(url: str, *, path: str | None = None, **changed: str) -> str:
    """`url` with another path, or with other values in its query; the signature stays."""
    parts = urlsplit(url)
    names = {name.replace("-", "_").lower(): name for name in query(url)}
    values = query(url) | {names[name]: value for name, value in changed.items()}
    return urlunsplit(parts._replace(path=path or parts.path, query=urlencode(values)))


def signed_at(url: str) -> float:
    """The wall clock's time of the signature, in whole seconds."""
    return datetime.strptime(query(url)["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()


def later(date: str) -> str:
    """The date of a signature with its last digit changed, which is at most some seconds."""
    return f"{date[:-2]}{(int(date[-2]) + 1) % 10}Z"


def saved_as(response: HTTPResponse) -> str:
    """The name under which a browser saves the answer."""
    disposition = response.headers["Content-Disposition"]
    plain, _, extended = disposition.partition("; filename*=UTF-8''")
    return unquote(extended) if extended else plain.removeprefix('attachment; filename="').removesuffix('"')


# What is downloaded


async def test_file_of_any_key_downloads_under_its_own_name(
    server: Server, world: World, s3: S3, s3_client: Any
) -> None:
    for key in KEYS:
        s3_client.put_object(Bucket=s3.bucket, Key=key, Body=key.encode())
        response = await download(server, await url_of(server, world, key))
        assert (response.code, response.body) == (HTTPStatus.OK, key.encode()), key
        assert saved_as(response) == "".join(each for each in key.split("/")[-1] if each.isprintable())


async def test_url_names_the_bucket_of_the_job_first(server: Server, world: World, s3: S3, s3_client: Any) -> None:
    other = f"{s3.bucket}-other"
    s3_client.create_bucket(Bucket=other)
    s3_client.put_object(Bucket=s3.bucket, Key="1/D1.csv", Body=b"of the configured bucket")
    s3_client.put_object(Bucket=other, Key="1/D1.csv", Body=b"of the job's bucket")
    assert (await download(server, await url_of(server, world, bucket=other))).body == b"of the job's bucket"
    for none in (None, ""):
        url = await url_of(server, world, bucket=none)
        assert (await download(server, url)).body == b"of the configured bucket"


async def test_url_shows_the_name_of_the_object(server: Server, world: World, s3: S3) -> None:
    for key in ("1/D1_funding.txt", "1/D1-awards_2026~v1.csv"):
        assert urlsplit(await url_of(server, world, key)).path == f"/{s3.bucket}/{key}"


@pytest.mark.parametrize("server_options", [{"url_ttl": "7"}])
async def test_url_names_signature_4_and_its_lifetime(server: Server, world: World) -> None:
    began = time.time()
    url = await url_of(server, world)
    assert query(url)["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
    assert query(url)["X-Amz-Expires"] == "7"
    assert int(began) <= signed_at(url) <= time.time()


# What is refused


async def test_url_is_refused_once_it_was_tampered_with(server: Server, world: World, s3: S3, s3_client: Any) -> None:
    s3_client.put_object(Bucket=s3.bucket, Key="1/D1.csv", Body=CONTENT)
    s3_client.put_object(Bucket=s3.bucket, Key="1/D2.csv", Body=b"not yours")
    url = await url_of(server, world)
    assert (await download(server, url)).body == CONTENT
    assert (await download(server, altered(url))).body == CONTENT, "the URL is only put together anew"
    signature = query(url)["X-Amz-Signature"]
    for tampered in (
        altered(url, path=f"/{s3.bucket}/1/D2.csv"),
        altered(url, x_amz_expires="600"),
        altered(url, x_amz_signature=("0" if signature[0] != "0" else "1") + signature[1:]),
        altered(url, x_amz_signature=signature[:-1]),
        altered(url, x_amz_signature=""),
        altered(url, x_amz_date=later(query(url)["X-Amz-Date"])),
        altered(url, x_amz_credential=query(url)["X-Amz-Credential"].replace(s3.region, "eu-west-1")),
        altered(url, response_content_disposition='attachment; filename="virus.exe"'),
        url + "&response-content-type=text%2Fhtml",
        url.partition("?")[0],
    ):
        response = await download(server, tampered)
        assert response.code in REFUSED, tampered
        assert response.body not in {CONTENT, b"not yours"}


@pytest.mark.parametrize("server_options", [{"url_ttl": "1"}])
async def test_url_is_refused_once_it_has_expired(server: Server, world: World, s3: S3, s3_client: Any) -> None:
    s3_client.put_object(Bucket=s3.bucket, Key="1/D1.csv", Body=CONTENT)
    url = await url_of(server, world)
    await until(lambda: time.time() > signed_at(url) + 1)
    response = await download(server, url)
    while response.code == HTTPStatus.OK:  # The very second is given away.
        assert time.time() < signed_at(url) + 60, "it never expires"
        response = await download(server, url)
    assert response.code in REFUSED
    assert (await download(server, await url_of(server, world))).code == HTTPStatus.OK, "a new one is signed"


# When a URL is used again


@pytest.mark.one_python
@pytest.mark.parametrize("server_options", [{"url_ttl": "2"}])
async def test_url_is_reused_for_half_of_its_life(server: Server, world: World) -> None:
    await world.put_job()
    await world.finish()
    urls: list[str] = []
    deadline = time.monotonic() + 60
    while len(set(urls)) < 3:
        assert time.monotonic() < deadline, "it never changed"
        requested_at = time.time()
        urls.append(body(await server.check())["url"])
        assert signed_at(urls[-1]) + 2 - requested_at >= 1, "less than half of its life is left"
    assert len(urls) > len(set(urls)), "none was used again"


async def test_url_of_a_changed_job_is_not_reused(server: Server, world: World) -> None:
    await world.put_job()
    await world.finish()
    assert len({body(await server.check())["url"] for _ in range(3)}) == 1
    await world.finish(key="1/D1_again.csv")
    deadline = time.monotonic() + 60
    while not urlsplit(body(await server.check())["url"]).path.endswith("/1/D1_again.csv"):
        assert time.monotonic() < deadline, "it is still the old one"


async def test_presigner_uses_one_client_for_all_urls(server: Server, world: World, made_clients: list[object]) -> None:
    for number in range(20):
        await url_of(server, world, f"1/D1-{number}.csv")
    assert made_clients == []


# Where there is nothing to sign with, or for


async def test_finished_job_without_any_bucket_has_failed(
    world: World, mongodb_uri: str, s3: S3, http_client: SimpleAsyncHTTPClient
) -> None:
    settings = replace(settings_for(mongodb_uri, world.name, s3), s3_bucket=None)
    async with AsyncExitStack() as stack:
        server = await start(stack, settings, s3, http_client)
        await world.put_job(status="finished", upload={"status": "finished", "key": "1/D1.csv"})
        for wait in ("false", "true"):
            answer = body(await server.check(wait=wait))
            assert (answer["status"], answer["url"], answer["message"]) == ("failed", "#", DEFAULT_FAILURE)
        assert f"/{s3.bucket}/" in await url_of(server, world, bucket=s3.bucket)


async def test_job_in_an_invalid_bucket_is_failed() -> None:
    elsewhere = "arn:aws-cn:s3:cn-north-1:123456789012:accesspoint/reports"  # In another partition.
    jobs = [Job(1, GenerationStatus.FINISHED, bucket=bucket, key="1/D1.csv") for bucket in (None, elsewhere)]
    with structlog.testing.capture_logs() as records:
        async with open_presigner(bucket="reports", region="us-west-2", endpoint_url=None, url_ttl=60) as presigner:
            checked = [await presigner.signable(job) for job in jobs]
            assert [await presigner.signable(job) for job in jobs] == checked  # And no other warning.
    assert [job.generation_status for job in checked] == ["finished", "failed"]
    assert [record["job_id"] for record in records if record["event"] == "job_malformed"] == [1]


async def test_presigner_without_credentials_fails_finished_files_only(
    world: World, mongodb_uri: str, s3: S3, http_client: SimpleAsyncHTTPClient
) -> None:
    nobody = replace(s3, access_key="", secret_key="")
    async with AsyncExitStack() as stack:
        server = await start(stack, settings_for(mongodb_uri, world.name, s3), nobody, http_client)
        await world.put_job()
        assert body(await server.check())["status"] == "waiting"
        await world.finish()
        await seen_by(server, world)
        check_unavailable(await server.check())
        ready = await server.fetch("/readyz")
        assert (ready.code, body(ready)["signer"]) == (HTTPStatus.SERVICE_UNAVAILABLE, "no credentials")


async def test_credentials_that_cannot_be_fetched_count_as_missing(
    world: World,
    mongodb_uri: str,
    s3: S3,
    http_client: SimpleAsyncHTTPClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "config").write_text("[default]\ncredential_process = false\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    nobody = replace(s3, access_key="", secret_key="")
    async with AsyncExitStack() as stack:
        server = await start(stack, settings_for(mongodb_uri, world.name, s3), nobody, http_client)
        ready = await server.fetch("/readyz")
        assert (ready.code, body(ready)["signer"]) == (HTTPStatus.SERVICE_UNAVAILABLE, "no credentials")
        await world.put_job(status="finished", upload={"status": "finished", "key": "1/D1.csv"})
        check_unavailable(await server.check())


def check_unavailable(response: HTTPResponse) -> None:
    assert response.code == HTTPStatus.SERVICE_UNAVAILABLE
    assert body(response) == {"message": "Service temporarily unavailable"}
    assert int(response.headers["Retry-After"]) > 0


# Where the URL points


@pytest.fixture
def credentials_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.mark.parametrize(
    ("region", "host"),
    [
        (None, "reports.s3.amazonaws.com"),
        ("us-east-1", "reports.s3.amazonaws.com"),
        ("eu-central-1", "reports.s3.eu-central-1.amazonaws.com"),
        ("us-gov-west-1", "reports.s3.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "reports.s3.cn-north-1.amazonaws.com.cn"),
    ],
)
async def test_url_on_aws_names_bucket_and_region_in_its_host(
    credentials_in_the_environment: None, region: str | None, host: str
) -> None:
    url = await sign(region=region)
    assert urlsplit(url)[:3] == ("https", host, "/1/D1.csv")
    assert query(url)["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
    day = query(url)["X-Amz-Date"][:8]
    assert query(url)["X-Amz-Credential"] == f"AKIAEXAMPLE/{day}/{region or 'us-east-1'}/s3/aws4_request"


async def sign(region: str | None = None, endpoint_url: str | None = None) -> str:
    async with open_presigner(bucket="reports", region=region, endpoint_url=endpoint_url, url_ttl=60) as presigner:
        return await presigner.presigned_url(Job(1, GenerationStatus.FINISHED, key="1/D1.csv"))


async def test_cached_urls_are_bounded(credentials_in_the_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genstatus_server.s3.presigner._CACHED_URLS", 2)
    async with open_presigner(bucket="reports", region=None, endpoint_url=None, url_ttl=600) as presigner:
        jobs = [Job(number, GenerationStatus.FINISHED, key=f"{number}/D1.csv") for number in range(3)]
        for job in jobs:
            await presigner.presigned_url(job)
        assert list(presigner.urls) == [(None, job.key) for job in jobs[1:]], "the one that was used first is gone"


# The name of the file


@pytest.mark.parametrize(
    ("key", "header"),
    [
        ("D1.csv", 'attachment; filename="D1.csv"'),
        ("123/2026/D1.csv", 'attachment; filename="D1.csv"'),
        ("123/D1/", 'attachment; filename="D1"'),
        ("a b.csv", 'attachment; filename="a b.csv"'),
        ("ü.csv", "attachment; filename=\"_.csv\"; filename*=UTF-8''%C3%BC.csv"),
        ('a"b\\c?', "attachment; filename=\"a_b_c_\"; filename*=UTF-8''a%22b%5Cc%3F"),
        ("a\r\nSet-Cookie: x", 'attachment; filename="aSet-Cookie: x"'),
        ("a\x00\x7f\N{RIGHT-TO-LEFT OVERRIDE}b", 'attachment; filename="ab"'),
        ("a%41.csv", "attachment; filename=\"a_41.csv\"; filename*=UTF-8''a%2541.csv"),
        ("\N{ZERO WIDTH SPACE}", "attachment"),
        ("/", "attachment"),
    ],
)
def test_content_disposition_names_the_file(key: str, header: str) -> None:
    assert content_disposition(key) == header
