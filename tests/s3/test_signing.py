"""The signature is the one of `generate_presigned_url`, whatever the key."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import ParamValidationError
from botocore.session import get_session

from genstatus_server.s3.presigner import content_disposition, open_signer

KEYS = [
    "D1.csv", "123/D1.csv", "a b.csv", "a+b.csv", "a%20b.csv", "a%2Fb", "ä ö/ü.csv", "日本/語.csv", "/leading", "a//b",
    "a/../b", "./a", "trailing/", "a?b=c", "a#b", "a&b=c;d", "a:b@c", "~a-b_c.d", "'\"`<>{}|\\^[]", "a\tb\nc",
    "\U0001f4be", "e\N{COMBINING ACUTE ACCENT}", "sample", "*!()$,", "x" * 1000,
]  # fmt: skip
CREDENTIALS = ReadOnlyCredentials("AKIAEXAMPLE", "secret/+=", "a/session+token==", None)


@pytest.mark.parametrize("endpoint_url", [None, "https://s3.example/base/"])
async def test_signer_signs_any_key_as_botocore_does(endpoint_url: str | None) -> None:
    style = "path" if endpoint_url else "virtual"
    session: Any = get_session()
    session.set_credentials(*CREDENTIALS[:3])
    s3: Any = {"addressing_style": style}
    config = Config(signature_version="s3v4", s3=s3)
    client = session.create_client("s3", region_name="us-west-2", endpoint_url=endpoint_url, config=config)
    async with open_signer(region="us-west-2", endpoint_url=endpoint_url, addressing_style=style) as signer:
        for key in KEYS:
            wanted = {"Bucket": "reports", "Key": key, "ResponseContentDisposition": content_disposition(key)}
            ours = stock = ""
            while not ours or date(ours) != date(stock):  # Until both are of the same second.
                ours = await signer.sign("reports", key, content_disposition(key), 60, CREDENTIALS)
                stock = client.generate_presigned_url("get_object", Params=wanted, ExpiresIn=60)
            assert ours == stock


async def test_signer_caches_a_bounded_number_of_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genstatus_server.s3.presigner._MOST_BUCKETS", 2)
    async with open_signer(region="us-west-2", endpoint_url=None, addressing_style="path") as signer:
        for number in [*range(5), 0]:
            url = await signer.sign(f"bucket-{number}", "D1.csv", "attachment", 60, CREDENTIALS)
            assert urlsplit(url).path == f"/bucket-{number}/D1.csv"
        assert len(signer.places) == 2


async def test_signer_refuses_an_invalid_bucket_name() -> None:
    async with open_signer(region="us-west-2", endpoint_url=None, addressing_style="auto") as signer:
        with pytest.raises(ParamValidationError):
            await signer.sign("no bucket", "D1.csv", "attachment", 60, CREDENTIALS)


def date(url: str) -> str:
    return parse_qs(urlsplit(url).query)["X-Amz-Date"][0]
