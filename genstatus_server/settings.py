"""One frozen object with every option of the server, validated once; all bad values are reported together.

An option is declared in one place, `OPTIONS`: the command line, the environment, the configuration file and the
documentation all follow from it.
"""

import os
import re
import tomllib
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import click
from botocore.utils import is_valid_endpoint_url, is_valid_ipv6_endpoint_url
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from genstatus_server.model.jobs import BUCKET

C = TypeVar("C", bound=Callable[..., Any])

ENVIRONMENT_PREFIX: Final = "GENSTATUS_"
_LONGEST_DATABASE_NAME: Final = 63
_LARGEST_PORT: Final = 65535
_REGION: Final = re.compile(r"(?!-)[a-zA-Z0-9-]{1,63}(?<!-)")


class BadSettings(Exception):
    """Options that cannot be used: one line each in `lines`; the command ends with exit status 2."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


@dataclass(frozen=True)
class Kind:
    """The kind of an option's value: its name in `--help`, and how a text, or a value of the file, is parsed.

    `parse` raises ValueError.
    """

    metavar: str
    parse: Callable[[Any], Any]


def _kind(metavar: str) -> Callable[[Callable[[Any], Any]], Kind]:
    return lambda parse: Kind(metavar, parse)


@dataclass(frozen=True)
class Option:
    """One option of the server."""

    name: str
    default: Any
    kind: Kind
    help: str

    def parse(self, value: Any) -> Any:
        return self.kind.parse(value)

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def environment(self) -> str:
        return ENVIRONMENT_PREFIX + self.name.upper()


def _whole(low: int, high: int) -> Kind:
    @_kind("NUMBER")
    def parse(value: Any) -> int:
        text = str(value).strip()
        if isinstance(value, bool) or not (re.fullmatch("[0-9]{1,20}", text) and low <= int(text) <= high):
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


def _seconds(low: float, high: float) -> Kind:
    @_kind("SECONDS")
    def parse(value: Any) -> float:
        try:
            seconds = float("nan" if isinstance(value, bool) else value)
        except (TypeError, ValueError, OverflowError):
            seconds = float("nan")
        if not low <= seconds <= high:
            raise ValueError(f"must be a number of seconds from {low:g} to {high:g}")
        return seconds

    return parse


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError("must be a text of printable characters that is not empty")
    return value.strip()


def _choice(*choices: str) -> Kind:
    @_kind("|".join(choices))
    def parse(value: Any) -> str:
        text = value.strip() if isinstance(value, str) else value
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return str(text)

    return parse


@_kind("true|false")
def _flag(value: Any) -> bool:
    text = str(value).strip().lower()
    if text not in ("true", "false", "1", "0"):
        raise ValueError("must be true or false")
    return text in ("true", "1")


def _url(*schemes: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        try:
            parts = urlsplit(value if isinstance(value, str) else "")
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in schemes or not parts.netloc:
            raise ValueError(f"must be a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return str(value).strip()

    return parse


@_kind("URI")
def _mongodb_uri(value: Any) -> str:
    uri = _url("mongodb", "mongodb+srv")(value)
    try:
        with warnings.catch_warnings(action="ignore"):  # The server's own client warns of options that do not exist.
            MongoClient[dict[str, Any]](uri, connect=False).close()  # No I/O: it only makes sense of what it is told.
    except OSError as error:
        raise ValueError(f"names a file that cannot be read: {error.filename}") from error
    except (PyMongoError, ValueError):  # What it says may repeat the password.
        raise ValueError("must be a URI that MongoDB's driver accepts, with special characters escaped") from None
    return uri


@_kind("URL")
def _endpoint_url(value: Any) -> str:
    url = _url("http", "https")(value)
    port = re.search(r":([0-9]{1,5})$", urlsplit(url).netloc)
    names_a_port = ":" in urlsplit(url).netloc.rpartition("]")[2]
    is_host = is_valid_endpoint_url(url) or is_valid_ipv6_endpoint_url(url)
    if not is_host or (names_a_port and not (port and int(port[1]) <= _LARGEST_PORT)):
        raise ValueError("must name a host, and where it names a port, one up to 65535")
    return url


def _matching(pattern: re.Pattern[str], metavar: str, what: str) -> Kind:
    @_kind(metavar)
    def parse(value: Any) -> str:
        text = _text(value)
        if not pattern.fullmatch(text):
            raise ValueError(f"must be {what}")
        return text

    return parse


@_kind("NAME")
def _database(value: Any) -> str:
    text = _text(value)
    if len(text.encode()) > _LONGEST_DATABASE_NAME or any(character in '/\\. "$*<>:|?\0' for character in text):
        raise ValueError("must be a name that MongoDB accepts for a database")
    return text


@_kind("ORIGIN,…")
def _origins(value: Any) -> tuple[str, ...]:
    each = value.split(",") if isinstance(value, str) else value
    if not isinstance(each, list) or not all(isinstance(origin, str) for origin in each):
        raise ValueError("must be origins separated by commas")
    origins = tuple(origin.strip() for origin in each if origin.strip())
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}" or not parts.netloc:
            raise ValueError(f"{origin!r} is no origin; one looks like https://broker.example.gov")
    return origins


def _default_data_dir() -> str:
    return str(Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "genstatus_server")


OPTIONS: Final = (
    Option("address", "127.0.0.1", Kind("ADDRESS", _text), "Address to listen on."),
    Option("port", 8888, _whole(0, _LARGEST_PORT), "Port to listen on; 0 picks a free one, which is logged."),
    Option(
        "mongodb_uri",
        None,
        _mongodb_uri,
        "MongoDB to use: a replica set or mongos. Without it, serve starts an embedded mongod.",
    ),
    Option("mongodb_database", "genstatus", _database, "Database with the jobs, submissions, users and sessions."),
    Option(
        "s3_bucket",
        None,
        _matching(
            BUCKET, "BUCKET", "a bucket's name or an access point's ARN (no directory bucket, none of several regions)"
        ),
        "Bucket of the files whose job names no bucket.",
    ),
    Option(
        "s3_region",
        None,
        _matching(_REGION, "REGION", "a region's name, such as us-gov-west-1"),
        "Region of the bucket; else the one that the AWS configuration names.",
    ),
    Option("s3_endpoint_url", None, _endpoint_url, "URL of an S3-compatible server; without it, AWS."),
    Option(
        "s3_addressing_style",
        "auto",
        _choice("auto", "path", "virtual"),
        "Where a URL names the bucket: path, virtual (in the host), or auto: as the AWS configuration says, "
        "else path with a custom endpoint.",
    ),
    Option("url_ttl", 60, _whole(1, 604800), "Seconds that a presigned URL lives; one handed out has half of it left."),
    Option("wait_default", 25.0, _seconds(0.001, 86400), "Seconds that a request is held which names no timeout."),
    Option("wait_max", 55.0, _seconds(0.001, 86400), "Longest hold in seconds; keep it below the proxies' idle limit."),
    Option(
        "proxy_idle_timeout",
        None,
        _seconds(0.001, 86400),
        "Seconds after which the proxies in front cut a request that is silent; a longer wait_max is warned of.",
    ),
    Option("max_waits", 20000, _whole(0, 1_000_000), "Requests held at once, per process; more are answered at once."),
    Option("max_waits_per_session", 64, _whole(0, 1_000_000), "Requests held at once for one login session."),
    Option(
        "shutdown_delay",
        0.0,
        _seconds(0, 3600),
        "Seconds after SIGTERM for which /readyz is 503 and requests are still accepted; holds end at once.",
    ),
    Option("drain_timeout", 10.0, _seconds(0, 3600), "Seconds from the end of shutdown_delay to the exit, at most."),
    Option(
        "idle_timeout",
        120.0,
        _seconds(1, 86400),
        "Seconds after which an idle connection is closed; longer than the idle limit of the load balancer in front.",
    ),
    Option(
        "generated_at_format",
        "us",
        _choice("us", "iso"),
        "Format of generated_at: us is MM/DD/YYYY HH:mm:ss, iso is YYYY-MM-DD HH:mm:ss.",
    ),
    Option("cors_origins", (), _origins, "Origins whose pages may call, separated by commas."),
    Option("processes", 1, _whole(0, 256), "Server processes that share the port; 0 for one per core."),
    Option(
        "data_dir", _default_data_dir(), Kind("FOLDER", _text), "Folder of the embedded MongoDB and S3; it is kept."
    ),
    Option("log_format", "auto", _choice("auto", "json", "human"), "json, human or auto: for a human on a terminal."),
    Option(
        "access_log",
        default=True,
        kind=_flag,
        help="Whether each request is logged: true or false; one that fails is in any case.",
    ),
)


def with_flags(*names: str) -> Callable[[C], C]:
    """Give a command the flags of these options, of all where none is named, and `--config`."""

    def decorate(command: C) -> C:
        for option in reversed([each for each in OPTIONS if not names or each.name in names]):
            shown = "" if option.default in (None, ()) else f" [default: {option.default}]"
            metavar = option.kind.metavar
            command = click.option(option.flag, option.name, metavar=metavar, help=f"{option.help}{shown}")(command)
        return click.option("--config", metavar="FILE", help="TOML file with options; flags and the environment win.")(
            command
        )

    return decorate


def mongodb_settings(flags: Mapping[str, str | None], config: str | None) -> "Settings":
    """The settings of a command that needs a MongoDB to be named. Raises `BadSettings`."""
    settings = load_settings(flags, os.environ, config)
    if settings.mongodb_uri is None:
        raise BadSettings(["mongodb_uri: name the MongoDB, with --mongodb-uri or GENSTATUS_MONGODB_URI"])
    return settings


@dataclass(frozen=True, slots=True)
class Settings:
    """Every option, valid. Durations are in seconds."""

    address: str
    port: int
    mongodb_uri: str | None = field(repr=False)  # It may hold a password.
    mongodb_database: str
    s3_bucket: str | None
    s3_region: str | None
    s3_endpoint_url: str | None
    s3_addressing_style: str
    url_ttl: int
    wait_default: float
    wait_max: float
    proxy_idle_timeout: float | None
    max_waits: int
    max_waits_per_session: int
    shutdown_delay: float
    drain_timeout: float
    idle_timeout: float
    generated_at_format: str
    cors_origins: tuple[str, ...]
    processes: int
    data_dir: str
    log_format: str
    access_log: bool


def load_settings(
    flags: Mapping[str, str | None], environment: Mapping[str, str], config: str | None = None
) -> Settings:
    """The settings from, strongest first: flags, environment, the file named by `config` or the environment, defaults.

    Raises `BadSettings`.
    """
    errors: list[str] = []
    path = config or environment.get(ENVIRONMENT_PREFIX + "CONFIG")
    from_file = _read_config(path, errors) if path else {}
    values: dict[str, Any] = {}
    for option in OPTIONS:
        given = (
            (flags.get(option.name), option.flag),
            (environment.get(option.environment) or None, option.environment),
            (from_file.get(option.name), f"{option.name} in {path}"),
        )
        value, source = next(((value, source) for value, source in given if value is not None), (None, ""))
        try:
            values[option.name] = option.default if value is None else option.parse(value)
        except ValueError as error:
            errors.append(f"{source}: {error}")
    if errors:
        raise BadSettings(errors)
    return Settings(**values)


def _read_config(path: str, errors: list[str]) -> Mapping[str, Any]:
    try:
        with Path(path).open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        errors.append(f"{path}: {error.strerror}")
        return {}
    except ValueError as error:
        errors.append(f"{path}: {error}")
        return {}
    known = {option.name for option in OPTIONS}
    errors.extend(f"{name} in {path}: there is no such option" for name in content if name not in known)
    return content
