"""pytest-tornasync, wrapped: a clean loop for every async test, and the servers that all tests share.

An async test is a plain `async def test_…` and gets a loop of its own. There are no async fixtures:
a fixture asks for `io_loop` and calls `io_loop.run_sync`.
"""

import functools
import inspect
import os
import signal
import sys
import uuid
from collections.abc import Generator, Iterator
from contextlib import AsyncExitStack, closing
from typing import TYPE_CHECKING, Any

import botocore.session
import pymongo
import pytest
from hypothesis import settings as hypothesis_settings
from tornado.ioloop import IOLoop
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from genstatus_server.mongo.schema import VALIDATORS, initialize
from tests.support import forking, secrecy, services
from tests.support.loops import SkippingLoop, clean_io_loop
from tests.support.requirements import require
from tests.support.server import AddressResolver, Server, settings_for, start
from tests.support.world import World

if TYPE_CHECKING:
    from pymongo.database import Database

# A busy machine may take long for one example; that is no defect.
hypothesis_settings.register_profile("suite", deadline=None)
hypothesis_settings.load_profile("suite")

# Each server that a test starts makes an S3 client, and each session would read botocore's large files anew: they share
# one loader, which is made to be shared. It is most of what such a test costs.
botocore.session.create_loader = functools.cache(botocore.session.create_loader)

#: The server's own limits that a busy machine would exceed, with what they are in tests of anything else.
LIMITS = {
    "genstatus_server.mongo.client.READ_MS": 60_000,
    "genstatus_server.mongo.client.SERVER_SELECTION_MS": 60_000,
    "genstatus_server.mongo.client.SILENCE_MS": 60_000,
    "genstatus_server.mongo.documents.READ_MS": 60_000,
    "genstatus_server.mongo.freshness.TRUSTED_SECONDS": 60.0,
    "genstatus_server.web.check.CHECK_SECONDS": 60.0,
    "genstatus_server.web.health._PING_SECONDS": 60.0,
    "genstatus_server.web.status.CHECK_SECONDS": 60.0,
    "genstatus_server.web.status.LAST_CHECK_SECONDS": 60.0,
}

#: Where this process's tests have their documents.
WORLD_DATABASE = f"test_{uuid.uuid4().hex}"

running_services = pytest.StashKey[services.Services]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "one_python: what is tested is not Python's: on one Python of a whole run is enough"
    )
    config.addinivalue_line("markers", "skips_time: the loop's time skips to the next timer, so nothing is ever late")
    config.addinivalue_line("markers", "timeout(seconds): longer than other async tests may take (pytest-tornasync)")
    forget_the_shell()
    if not hasattr(config, "workerinput"):
        config.stash[running_services] = services.Services()


def pytest_unconfigure(config: pytest.Config) -> None:
    forking.close()
    if running_services in config.stash:
        config.stash[running_services].close()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist where the shared servers are."""
    shared = node.config.stash[running_services]
    node.workerinput["services"] = {name: tuple(shared.address(name)) for name in services.MANAGERS}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without-one-python", action="store_true", help="deselect what another Python of the same run tests"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("without_one_python", default=False):
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("one_python")])
        items[:] = [item for item in items if not item.get_closest_marker("one_python")]
    give_the_loop(items)


def give_the_loop(items: list[pytest.Item]) -> None:
    """Hand the loop to every async test, as the first fixture: it is closed last."""
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            names = item.fixturenames
            names[:] = ["io_loop", *(name for name in names if name != "io_loop")]


def pytest_runtest_setup() -> None:
    secrecy.forget()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test whose server has written a secret."""
    report = yield
    written = (text for section, text in report.sections if section.endswith(report.when))
    found = [line for text in written for line in secrecy.found_in(text)]
    if found and report.passed:
        report.outcome, report.longrepr = "failed", "\n".join(["a secret was written:", *found])
    return report


def forget_the_shell() -> None:
    """What the developer's shell is set to must not change how a test ends."""
    # A shell has what it runs in the background ignore Ctrl-C, and each process that a test starts would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # The same of `nohup`.
    for name in [name for name in os.environ if name.startswith(("AWS_", "GENSTATUS_"))]:
        del os.environ[name]
    for name in ("http_proxy", "https_proxy", "all_proxy"):  # All that tests speak to is on this machine.
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)
    # Hundreds of processes are started: without bytecode each would compile all that it imports.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    os.environ |= {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def shared_url(config: pytest.Config, name: str) -> str:
    told = getattr(config, "workerinput", None)
    address = services.Address(*told["services"][name]) if told else config.stash[running_services].address(name)
    require(address.url, address.error)
    return address.url


@pytest.fixture
def io_loop(request: pytest.FixtureRequest) -> Iterator[IOLoop]:
    """A loop of the test's own; a task that outlives the test fails it."""
    skips_time = request.node.get_closest_marker("skips_time") is not None
    with clean_io_loop(SkippingLoop() if skips_time else None) as loop:
        yield loop


@pytest.fixture
def http_client(io_loop: IOLoop) -> Iterator[SimpleAsyncHTTPClient]:
    """Fetches from anywhere, with more requests at once than a test holds (Tornado's own does ten)."""
    with closing(SimpleAsyncHTTPClient(force_instance=True, max_clients=1000, resolver=AddressResolver())) as client:
        yield client


@pytest.fixture(scope="session")
def mongodb_uri(request: pytest.FixtureRequest) -> str:
    """A real MongoDB replica set of one node, shared by the whole run: work in `database_name` only."""
    return shared_url(request.config, "mongodb")


@pytest.fixture(scope="session")
def sync_mongodb(mongodb_uri: str) -> Iterator["pymongo.MongoClient[dict[str, Any]]"]:
    """A client that blocks, for preparing and clearing away: never inside a running loop."""
    with pymongo.MongoClient[dict[str, Any]](mongodb_uri) as client:
        yield client
        client.drop_database(WORLD_DATABASE)


@pytest.fixture
def database_name(sync_mongodb: "pymongo.MongoClient[dict[str, Any]]") -> Iterator[str]:
    """A database that no other test has, dropped afterwards."""
    name = f"test_{uuid.uuid4().hex}"
    yield name
    sync_mongodb.drop_database(name)


@pytest.fixture(scope="session")
def session_database(
    mongodb_uri: str, sync_mongodb: "pymongo.MongoClient[dict[str, Any]]"
) -> "Iterator[Database[dict[str, Any]]]":
    name = f"test_{uuid.uuid4().hex}"
    for _ in range(2):  # It is safe to repeat.
        list(initialize(mongodb_uri, name))
    yield sync_mongodb[name]
    sync_mongodb.drop_database(name)


@pytest.fixture
def initialized(session_database: "Database[dict[str, Any]]") -> "Database[dict[str, Any]]":
    """An empty database after `init-db`: this worker's own, because making its collections takes a while."""
    for collection in VALIDATORS:
        session_database[collection].delete_many({})
    return session_database


@pytest.fixture(scope="session")
def s3_client(s3: services.S3) -> Iterator[Any]:
    """A client of boto3's, which blocks."""
    with closing(s3.client()) as client:
        yield client


@pytest.fixture(scope="session")
def s3(request: pytest.FixtureRequest) -> services.S3:
    """A real S3 server, shared by the whole run, and a bucket of this worker's own."""
    bucket = f"reports-{uuid.uuid4().hex[:12]}"
    url = shared_url(request.config, "s3")
    server = services.S3(url, services.ACCESS_KEY, services.SECRET_KEY, services.REGION, bucket)
    with closing(server.client()) as client:
        client.create_bucket(Bucket=bucket)
    return server


@pytest.fixture
def world_database_name(sync_mongodb: "pymongo.MongoClient[dict[str, Any]]") -> Iterator[str]:
    """An empty database without validators and indexes.

    It is this worker's own, and emptied after each test: MongoDB takes ten times as long to drop and make one.
    """
    yield WORLD_DATABASE
    database = sync_mongodb[WORLD_DATABASE]
    if is_plain(database):
        for collection in database.list_collection_names():
            database[collection].delete_many({})
    else:
        sync_mongodb.drop_database(WORLD_DATABASE)


def is_plain(database: "Database[dict[str, Any]]") -> bool:
    """Whether it has the server's collections only, without options and with no index but that of `_id`."""
    collections = list(database.list_collections())
    return all(
        each["type"] == "collection"
        and not each["options"]
        and each["name"] in VALIDATORS
        and len(database[each["name"]].index_information()) == 1
        for each in collections
    )


@pytest.fixture
def world(io_loop: IOLoop, mongodb_uri: str, world_database_name: str) -> Iterator[World]:
    """The documents of the test's own database: users, login sessions, submission 1, and no job."""
    made = World(mongodb_uri, world_database_name)
    io_loop.run_sync(made.begin)
    yield made
    io_loop.run_sync(made.close)


@pytest.fixture
def server_options() -> dict[str, str]:
    """Options of `server` that differ from the defaults; a test module overrides or parametrizes it."""
    return {}


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the server does is late, as slow as the machine may be."""
    for name, value in LIMITS.items():
        monkeypatch.setattr(name, value)


@pytest.fixture
def server(
    unhurried: None,
    io_loop: IOLoop,
    world: World,
    mongodb_uri: str,
    s3: services.S3,
    http_client: SimpleAsyncHTTPClient,
    server_options: dict[str, str],
) -> Iterator[Server]:
    """The server on the test's own database, in the test's own loop, following changes."""
    stack = AsyncExitStack()
    settings = settings_for(mongodb_uri, world.name, s3, **server_options)
    yield io_loop.run_sync(lambda: start(stack, settings, s3, http_client))
    io_loop.run_sync(stack.aclose)
