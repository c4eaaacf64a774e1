"""The cheap signature is the costly one, whatever the key, the endpoint and the credentials."""

from urllib.parse import parse_qs, urlsplit

import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import NoCredentialsError

from genstatus_server.s3.presigner import content_disposition
from genstatus_server.s3.signing import UrlSigner

KEYS = [
    "D1.csv", "123/D1.csv", "a b.csv", "a+b.csv", "a%20b.csv", "a%2Fb", "ä ö/ü.csv", "日本/語.csv", "/leading", "a//b",
    "a/../b", "./a", "trailing/", "a?b=c", "a#b", "a&b=c;d", "a:b@c", "~a-b_c.d", "'\"`<>{}|\\^[]", "a\tb\nc",
    "\U0001f4be", "e\N{COMBINING ACUTE ACCENT}", "sample", "*!()$,", "x" * 1000,
]  # fmt: skip

PLACES = [
    ("us-east-1", None, "virtual", "reports"),
    ("eu-central-1", None, "virtual", "reports"),
    ("us-gov-west-1", None, "virtual", "reports"),
    ("cn-north-1", None, "virtual", "reports"),
    ("us-west-2", None, "virtual", "with.dots"),
    ("us-west-2", None, "virtual", "UpperCase"),
    ("us-east-1", "http://127.0.0.1:9000", "path", "reports"),
    ("us-east-1", "https://s3.example/base/", "path", "reports"),
    ("us-east-1", "https://s3.example:443", "path", "reports"),
    ("us-east-1", "http://[::1]:9000", "path", "reports"),
]


@pytest.mark.parametrize("token", [None, "a/session+token=="])
@pytest.mark.parametrize(("region", "endpoint_url", "addressing", "bucket"), PLACES)
async def test_both_ways_give_the_same_url(
    region: str, endpoint_url: str | None, addressing: str, bucket: str, token: str | None
) -> None:
    session = get_session()
    session.set_credentials("AKIAEXAMPLE", "secret/+=", token)
    config = AioConfig(signature_version="s3v4", s3={"addressing_style": addressing})
    async with session.create_client("s3", region_name=region, endpoint_url=endpoint_url, config=config) as client:
        signer = UrlSigner(session, client, 60)
        for key in KEYS:
            disposition = content_disposition(key)
            cheap = costly = ""
            while not cheap or date(cheap) != date(costly):  # Until both are of the same second.
                cheap = await signer.sign(bucket, key, disposition)
                costly = await signer._sign_costly(bucket, key, disposition)
            assert signer._buckets[bucket] is not None, "the costly way was taken"
            assert cheap == costly


async def test_a_bucket_that_is_signed_for_in_another_way_stays_with_the_costly_one() -> None:
    session = get_session()
    session.set_credentials("AKIAEXAMPLE", "secret")
    config = AioConfig(signature_version="s3", s3={"addressing_style": "path"})  # Signature V2
    async with session.create_client("s3", region_name="us-east-1", config=config) as client:
        signer = UrlSigner(session, client, 60)
        url = await signer.sign("reports", "D1.csv", "attachment")
        assert "AWSAccessKeyId=AKIAEXAMPLE" in url
        assert signer._buckets["reports"] is None


async def test_without_credentials_there_is_no_url() -> None:
    session = get_session()
    async with session.create_client("s3", region_name="us-east-1") as client:
        signer = UrlSigner(session, client, 60)
        for _ in range(2):
            with pytest.raises(NoCredentialsError):
                await signer.sign("reports", "D1.csv", "attachment")


async def test_the_buckets_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genstatus_server.s3.signing._MOST_BUCKETS", 2)
    session = get_session()
    session.set_credentials("AKIAEXAMPLE", "secret")
    config = AioConfig(signature_version="s3v4", s3={"addressing_style": "path"})
    async with session.create_client("s3", region_name="us-east-1", config=config) as client:
        signer = UrlSigner(session, client, 60)
        for number in range(5):
            url = await signer.sign(f"bucket-{number}", "D1.csv", "attachment")
            assert urlsplit(url).path == f"/bucket-{number}/D1.csv"
        assert len(signer._buckets) <= 2


def date(url: str) -> str:
    return parse_qs(urlsplit(url).query)["X-Amz-Date"][0]
