"""AWS's own configuration means what it means to boto3: where URLs point, and where credentials come from."""

import asyncio
import itertools
import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from genstatus_server.model.errors import ServiceUnavailable, StartupError
from genstatus_server.model.jobs import GenerationStatus, Job
from genstatus_server.s3.credentials import RefreshingCredentials, aws_chain
from genstatus_server.s3.presigner import Presigner, open_presigner

pytestmark = pytest.mark.one_python

ACCESS_POINT = "arn:aws:s3:eu-west-1:123456789012:accesspoint/reports"
LAMBDA_ACCESS_POINT = "arn:aws:s3-object-lambda:us-west-2:123456789012:accesspoint/reports"
OUTPOST = "arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-01234567890123456/accesspoint/reports"
GOV_ACCESS_POINT = "arn:aws-us-gov:s3:us-gov-west-1:123456789012:accesspoint/reports"

numbers = itertools.count(1)

#: Sections of AWS's configuration file that every case may choose from.
PROFILES = """
[profile west]
region = us-west-1
[profile far]
region = ap-south-1
[services ours]
s3 =
  endpoint_url = http://localhost:9000
[services theirs]
dynamodb =
  endpoint_url = http://localhost:9001
"""


class Case(NamedTuple):
    """One configuration. boto3 is told the `style`, because its own default on AWS is a host of no region."""

    environment: Mapping[str, str] = {}
    config: str = ""
    region: str | None = None
    endpoint_url: str | None = None
    bucket: str = "reports"
    style: str | None = "virtual"


def s3_config(*settings: str, **fields: Any) -> Case:
    """With these settings in the section `s3` of the default profile."""
    return Case(config="s3 =\n" + "".join(f"  {line}\n" for line in settings), **fields)


CASES = {
    "nothing": Case(),
    **{region: Case(region=region) for region in ("us-east-1", "us-west-2", "us-gov-west-1", "cn-north-1")},
    # The region
    "region: AWS_DEFAULT_REGION": Case({"AWS_DEFAULT_REGION": "eu-west-3"}),
    "region: AWS_REGION": Case({"AWS_REGION": "eu-west-3"}),
    "region: the option wins": Case({"AWS_DEFAULT_REGION": "eu-west-3"}, "region = eu-west-2", "us-west-2"),
    "region: config": Case(config="region = eu-west-2"),
    "region: AWS_PROFILE": Case({"AWS_PROFILE": "west"}, "region = eu-west-2"),
    "region: AWS_DEFAULT_PROFILE": Case({"AWS_DEFAULT_PROFILE": "west", "AWS_PROFILE": "far"}),
    "defaults_mode": Case({"AWS_DEFAULTS_MODE": "standard"}, region="us-east-1"),
    # The endpoint
    "endpoint: option": Case(endpoint_url="https://s3.example.gov", style=None),
    "endpoint: AWS_ENDPOINT_URL": Case({"AWS_ENDPOINT_URL": "http://localhost:9000"}, style=None),
    "endpoint: AWS_ENDPOINT_URL_S3": Case(
        {"AWS_ENDPOINT_URL_S3": "http://localhost:9000", "AWS_ENDPOINT_URL": "http://localhost:1"}, style=None
    ),
    "endpoint: of another service": Case({"AWS_ENDPOINT_URL_STS": "http://localhost:9000"}, region="us-west-2"),
    "endpoint: config": Case(config="endpoint_url = http://localhost:9000", region="us-west-2", style=None),
    "endpoint: services": Case(config="services = ours", style=None),
    "endpoint: services of others": Case(config="services = theirs", region="us-west-2"),
    "endpoint: all ignored": Case(
        {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true", "AWS_ENDPOINT_URL": "http://localhost:9000"}, "services = ours"
    ),
    "endpoint: all ignored by config": Case(
        config="ignore_configured_endpoint_urls = true\nendpoint_url = http://localhost:9000", region="us-west-2"
    ),
    "endpoint: the option is not ignored": Case(
        {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, endpoint_url="http://[::1]:9000", style=None
    ),
    "endpoint: with a path": Case(endpoint_url="https://s3.example.gov/base/", style=None),
    "endpoint: with the usual port": Case(endpoint_url="https://s3.example.gov:443", style=None),
    # The style
    "style: path": s3_config("addressing_style = path", region="us-west-2", style=None),
    "style: virtual": s3_config("addressing_style = virtual", endpoint_url="http://localhost:9000", style=None),
    "style: auto": s3_config("addressing_style = auto", endpoint_url="http://localhost:9000", style=None),
    "style: dots": Case(region="us-west-2", bucket="with.dots"),
    "style: upper case": Case(region="us-west-2", bucket="UpperCase"),
    # Kinds of endpoints
    "dual-stack": Case({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, region="us-west-2"),
    "dual-stack: config": Case(config="use_dualstack_endpoint = true", region="us-west-2"),
    "dual-stack: s3": s3_config("use_dualstack_endpoint = true", region="us-west-2"),
    "FIPS": Case({"AWS_USE_FIPS_ENDPOINT": "true"}, region="us-gov-west-1"),
    "FIPS: config": Case(config="use_fips_endpoint = true", region="us-east-1"),
    "FIPS and dual-stack": Case({"AWS_USE_FIPS_ENDPOINT": "true"}, "use_dualstack_endpoint = true", "us-east-2"),
    "accelerate": s3_config("use_accelerate_endpoint = true", region="us-west-2"),
    "us-east-1: regional": s3_config("us_east_1_regional_endpoint = regional", region="us-east-1"),
    "us-east-1: legacy": s3_config("us_east_1_regional_endpoint = legacy", region="us-east-1"),
    "us-east-1: environment": Case({"AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "regional"}, region="us-east-1"),
    # Access points
    "access point": Case(region="us-west-2", bucket=ACCESS_POINT),
    "access point: dual-stack": Case({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, region="us-west-2", bucket=ACCESS_POINT),
    "access point: its region": s3_config("use_arn_region = true", region="us-west-2", bucket=ACCESS_POINT),
    "access point: another region": s3_config("use_arn_region = false", region="us-west-2", bucket=ACCESS_POINT),
    "access point: environment": Case({"AWS_S3_USE_ARN_REGION": "false"}, region="us-west-2", bucket=ACCESS_POINT),
    "access point: another partition": Case(region="us-west-2", bucket=GOV_ACCESS_POINT),
    "access point: GovCloud": Case(region="us-gov-west-1", bucket=GOV_ACCESS_POINT),
    "access point: path style": s3_config("addressing_style = path", bucket=ACCESS_POINT, style=None),
    "access point: Object Lambda": Case(region="us-west-2", bucket=LAMBDA_ACCESS_POINT),
    "access point: Outposts": Case(region="us-west-2", bucket=OUTPOST),
    "access point: alias": Case(region="us-west-2", bucket="reports-abcdef-s3alias"),
    "no multi-region access points": Case({"AWS_S3_DISABLE_MULTIREGION_ACCESS_POINTS": "true"}, region="us-west-2"),
    # What is signed
    "session token": Case({"AWS_SESSION_TOKEN": "a/token+="}, region="us-west-2"),
    "signature: config": s3_config("signature_version = s3", region="us-west-2"),
    "signature: payload": s3_config("payload_signing_enabled = true", region="us-west-2"),
    "signature: scheme": Case({"AWS_AUTH_SCHEME_PREFERENCE": "sigv4a"}, region="us-west-2"),
    "signature: regions": Case({"AWS_SIGV4A_SIGNING_REGION_SET": "*"}, region="us-west-2"),
    "signature: checksums": Case({"AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required"}, region="us-west-2"),
}  # fmt: skip


@contextmanager
def configured(
    monkeypatch: pytest.MonkeyPatch, folder: Path, config: str, environment: Mapping[str, str]
) -> Iterator[None]:
    """With this in the default profile of AWS's configuration file, and in the environment."""
    (folder / "config").write_text(f"[default]\n{config}\n{PROFILES}")
    given = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret/+=", **environment}
    with monkeypatch.context() as patch:
        patch.setenv("AWS_CONFIG_FILE", str(folder / "config"))
        for name, value in given.items():
            patch.setenv(name, value)
        yield


def boto3_client(case: Case) -> Any:
    style: Any = {"addressing_style": case.style} if case.style else None
    return boto3.session.Session().client(
        "s3",
        region_name=case.region,
        endpoint_url=case.endpoint_url,
        config=Config(signature_version="s3v4", s3=style),
    )


def of_boto3(client: Any, bucket: str) -> str | None:
    """The URL that boto3 gives; None where it refuses."""
    wanted = {"Bucket": bucket, "Key": "1/D1.csv", "ResponseContentDisposition": 'attachment; filename="D1.csv"'}
    try:
        return str(client.generate_presigned_url("get_object", Params=wanted, ExpiresIn=60))
    except BotoCoreError:
        return None


async def of_ours(presigner: Presigner) -> str | None:
    try:
        return await presigner.presigned_url(Job(next(numbers), GenerationStatus.FINISHED, key="1/D1.csv"))
    except ServiceUnavailable as error:
        return None if isinstance(error.__cause__, BotoCoreError) else str(error.__cause__)


def opened(case: Case, **options: Any) -> AbstractAsyncContextManager[Presigner]:
    where: dict[str, Any] = {"bucket": case.bucket, "region": case.region, "endpoint_url": case.endpoint_url}
    return open_presigner(**where, url_ttl=60, **options)


def date(url: str | None) -> str | None:
    return parse_qs(urlsplit(url).query)["X-Amz-Date"][0] if url else None


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_presigner_gives_the_url_that_boto3_gives(
    case: Case, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with configured(monkeypatch, tmp_path, case.config, case.environment), closing(boto3_client(case)) as client:
        async with opened(case) as presigner:
            ours, stock = await of_ours(presigner), of_boto3(client, case.bucket)
            while date(ours) != date(stock):  # Until both are of the same second.
                ours, stock = await of_ours(presigner), of_boto3(client, case.bucket)
    assert ours == stock


ENDPOINT, VIRTUAL, PATH = (
    "http://localhost:9000",
    "http://reports.localhost:9000/1/D1.csv",
    "http://localhost:9000/reports/1/D1.csv",
)


@pytest.mark.parametrize(
    ("style", "config", "expected"),
    [
        ("auto", "", PATH),
        ("path", "", PATH),
        ("virtual", "", VIRTUAL),
        ("auto", "s3 =\n  addressing_style = virtual", VIRTUAL),
        ("path", "s3 =\n  addressing_style = virtual", PATH),
        ("virtual", "s3 =\n  addressing_style = path", VIRTUAL),
        ("auto", "s3 =\n  addressing_style = auto", PATH),
    ],
)
@pytest.mark.parametrize("endpoint_url", [ENDPOINT, None])
async def test_addressing_style_of_the_option_wins(
    style: str, config: str, expected: str, endpoint_url: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment = {} if endpoint_url else {"AWS_ENDPOINT_URL_S3": ENDPOINT}
    with configured(monkeypatch, tmp_path, config, environment):
        async with opened(Case(endpoint_url=endpoint_url), addressing_style=style) as presigner:
            assert str(await of_ours(presigner)).partition("?")[0] == expected


# What cannot be used


@pytest.mark.parametrize(
    ("config", "environment", "said"),
    [
        ("s3 = foo", {}, "s3 = foo"),
        ("s3 =\n  addressing_style = sideways", {}, "sideways"),
        ("s3 =\n  us_east_1_regional_endpoint = nowhere", {}, "nowhere"),
        ("services = nothing", {}, "nothing"),
        ("services = broken\n[services broken]\ns3 = foo", {}, "object"),
        ("region = a b", {}, "a b"),
        ("region =\n  a = b", {}, "dict"),
        ("retry_mode = foo", {}, "foo"),
        ("max_attempts = foo", {}, "foo"),
        ("defaults_mode = foo", {}, "foo"),
        ("api_versions = foo", {}, "object"),
        ("endpoint_url = foo", {}, "foo"),
        ("response_checksum_validation = foo", {}, "foo"),
        ("request_min_compression_size_bytes = foo", {}, "foo"),
        ("account_id_endpoint_mode = foo", {}, "foo"),
        ("[default", {}, "config"),
        ("", {"AWS_PROFILE": "nobody"}, "nobody"),
        ("", {"AWS_DEFAULT_REGION": "a b"}, "a b"),
        ("", {"AWS_ENDPOINT_URL": "foo"}, "foo"),
        ("", {"AWS_RETRY_MODE": "foo"}, "foo"),
    ],
)
async def test_signer_reports_an_invalid_aws_configuration_in_one_line(
    config: str, environment: Mapping[str, str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with configured(monkeypatch, tmp_path, config, environment), pytest.raises(StartupError, match=said) as raised:
        async with opened(Case()):
            pass
    assert str(raised.value).startswith("AWS configuration: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("bucket", "region", "environment", "warnings"),
    [
        ("reports", "us-west-2", {}, []),
        ("reports", None, {"AWS_DEFAULT_REGION": "us-west-2"}, []),
        ("reports", None, {}, ["s3_region_missing"]),
        (None, "us-west-2", {}, ["s3_bucket_missing"]),
        (None, None, {}, ["s3_bucket_missing", "s3_region_missing"]),
    ],
)
async def test_presigner_warns_of_a_missing_bucket_or_region(
    bucket: str | None,
    region: str | None,
    environment: Mapping[str, str],
    warnings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with configured(monkeypatch, tmp_path, "", environment), structlog.testing.capture_logs() as records:
        async with open_presigner(bucket=bucket, region=region, endpoint_url=None, url_ttl=60):
            assert [record["event"] for record in records] == warnings


# Where credentials are fetched


class Proxy(socketserver.ThreadingTCPServer):
    """An HTTPS proxy that notes where it was to connect to, and does not."""

    daemon_threads = True

    def __init__(self) -> None:
        self.hosts: list[str] = []
        super().__init__(("127.0.0.1", 0), _Refusal)


class _Refusal(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        _, host, _ = self.rfile.readline().decode().split()
        self.server.hosts.append(host)
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as server:
        thread = threading.Thread(target=server.serve_forever, name="proxy", daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


BY_SOURCE_PROFILE = """
role_arn = arn:aws:iam::123456789012:role/reports
source_profile = keys
[profile keys]
aws_access_key_id = AKIAEXAMPLE
aws_secret_access_key = secret
"""
BY_WEB_IDENTITY = "role_arn = arn:aws:iam::123456789012:role/reports\nweb_identity_token_file = {token}\n"


@pytest.mark.parametrize("role", [BY_SOURCE_PROFILE, BY_WEB_IDENTITY], ids=["source_profile", "web_identity"])
@pytest.mark.parametrize(
    ("region", "environment", "host"),
    [
        ("us-gov-west-1", {}, "sts.us-gov-west-1.amazonaws.com:443"),
        ("cn-north-1", {"AWS_DEFAULT_REGION": "us-west-2"}, "sts.cn-north-1.amazonaws.com.cn:443"),
        (None, {"AWS_DEFAULT_REGION": "eu-west-3"}, "sts.eu-west-3.amazonaws.com:443"),
        ("us-west-2", {"AWS_STS_REGIONAL_ENDPOINTS": "legacy"}, "sts.amazonaws.com:443"),
        ("us-gov-east-1", {"AWS_USE_FIPS_ENDPOINT": "true"}, "sts.us-gov-east-1.amazonaws.com:443"),
        (None, {}, None),
    ],
)
async def test_sts_region_is_that_of_boto3(
    role: str,
    region: str | None,
    environment: Mapping[str, str],
    host: str | None,
    proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "token").write_text("a token")
    through = {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.server_address[1]}", "AWS_MAX_ATTEMPTS": "1"}
    keys = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    with configured(monkeypatch, tmp_path, role.format(token=tmp_path / "token"), keys | through | dict(environment)):
        with pytest.raises(BotoCoreError):
            await asyncio.to_thread(of_boto3_credentials, region)
        stock = list(proxy.hosts)
        with pytest.raises(ServiceUnavailable):
            await RefreshingCredentials(aws_chain(region), needed=30).get()
    assert proxy.hosts == stock * 2
    assert host is None or stock == [host]


def of_boto3_credentials(region: str | None) -> None:
    session = boto3.session.Session()
    session.client("s3", region_name=region)
    credentials = session.get_credentials()
    assert credentials is not None
    credentials.get_frozen_credentials()
