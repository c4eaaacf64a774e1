"""One frozen object with every option of the server, validated once; all bad values are reported together.

An option is declared in one place, as a field of `Settings`: the command line, the environment and the configuration
file follow from it.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from genstatus_server.model.jobs import BUCKET, BUCKET_TEXT
from genstatus_server.settings import kinds

C = TypeVar("C", bound=Callable[..., Any])

ENVIRONMENT_PREFIX: Final = "GENSTATUS_"
#: Tells a child process the file descriptors that it inherits.
INHERITED: Final = ENVIRONMENT_PREFIX + "INHERITED_DESCRIPTORS"
#: Variables that are no options of the server: the file of options, and the token of `genstatus wait`.
_OTHER_VARIABLES: Final = {"GENSTATUS_CONFIG", "GENSTATUS_SESSION_TOKEN", INHERITED}
#: What Kubernetes sets for a Service called `genstatus`, or `genstatus-` and more.
_OF_KUBERNETES: Final = re.compile(rf"{ENVIRONMENT_PREFIX}(.+_)?(SERVICE|PORT)_.+")


class BadSettings(Exception):
    """Options that cannot be used: one line each in `lines`; the command ends with exit status 2."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


@dataclass(frozen=True)
class Option:
    """One option of the server."""

    name: str
    default: Any
    metavar: str
    parse: kinds.Parse
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def environment(self) -> str:
        return ENVIRONMENT_PREFIX + self.name.upper()


def _data_dir() -> str:
    """The default; empty where there is no home: no `HOME`, and no entry in the list of users."""
    try:
        return str(Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "genstatus_server")
    except RuntimeError:
        return ""


def _option(default: Any, kind: kinds.Kind, text: str, *, is_secret: bool = False) -> Any:
    return field(default=default, repr=not is_secret, metadata={"metavar": kind[0], "parse": kind[1], "help": text})


@dataclass(frozen=True, slots=True)
class Settings:
    """Every option, valid. Durations are in seconds."""

    address: str = _option(
        "127.0.0.1",
        ("ADDRESS,…", kinds.addresses),
        "Addresses to listen on, separated by commas: host names, IP addresses or unix:/path. "
        "Sockets that systemd passes are used instead.",
    )
    port: int = _option(8888, ("NUMBER", kinds.port), "Port to listen on; 0 picks a free one, which is logged.")
    mongodb_uri: str | None = _option(
        None,
        ("URI", kinds.mongodb_uri),
        "MongoDB to use: a replica set or mongos. Without it, serve starts an embedded mongod.",
        is_secret=True,  # It may hold a password.
    )
    mongodb_database: str = _option(
        "genstatus", ("NAME", kinds.database), "Database with the jobs, submissions, users and sessions."
    )
    s3_bucket: str | None = _option(
        None,
        kinds.matching("BUCKET", BUCKET, BUCKET_TEXT),
        "Bucket of the files whose job names no bucket.",
    )
    s3_region: str | None = _option(
        None,
        kinds.matching("REGION", kinds.REGION, "a region's name, such as us-gov-west-1"),
        "Region of the bucket; else the one that the AWS configuration names.",
    )
    s3_endpoint_url: str | None = _option(
        None, ("URL", kinds.endpoint_url), "URL of an S3-compatible server; without it, AWS."
    )
    s3_addressing_style: str = _option(
        "auto",
        kinds.choice("auto", "path", "virtual"),
        "Where a URL names the bucket: path, virtual (in the host), or auto: as the AWS configuration says, "
        "else path with a custom endpoint.",
    )
    url_ttl: int = _option(
        60,
        kinds.whole(1, 604800),
        "Seconds that a presigned URL lives. An answer's URL is valid for at least half of that.",
    )
    wait_default: float = _option(
        25.0, kinds.seconds(0.001, 86400), "Longest hold in seconds of a request without a timeout of its own."
    )
    wait_max: float = _option(
        55.0,
        kinds.seconds(0.001, 86400),
        "Longest hold in seconds of any request; keep it below the proxies' idle limit.",
    )
    proxy_idle_timeout: float | None = _option(
        None,
        kinds.seconds(0.001, 86400),
        "Seconds after which a proxy in front of the server closes a request that has no answer yet. "
        "The server warns if wait_max is longer.",
    )
    max_waits: int = _option(
        20000, kinds.whole(0, 1_000_000), "Most requests held at once, per process; more are answered at once."
    )
    max_waits_per_session: int = _option(
        64, kinds.whole(0, 1_000_000), "Most requests held at once for one login session, per process."
    )
    shutdown_delay: float = _option(
        0.0,
        kinds.seconds(0, 3600),
        "Seconds after SIGTERM for which /readyz is 503 and requests are still accepted; holds end at once.",
    )
    drain_timeout: float = _option(
        10.0,
        kinds.seconds(0, 3600),
        "Seconds from the end of shutdown_delay to the exit, at most; in them, the answers go out.",
    )
    idle_timeout: float = _option(
        120.0,
        kinds.seconds(1, 86400),
        "Seconds after which an idle connection is closed; make it longer than the load balancer's idle timeout.",
    )
    generated_at_format: str = _option(
        "us",
        kinds.choice("us", "iso"),
        "Format of generated_at: us is MM/DD/YYYY HH:mm:ss, iso is YYYY-MM-DD HH:mm:ss.",
    )
    cors_origins: tuple[str, ...] = _option(
        (), ("ORIGIN,…", kinds.origins), "Origins whose pages may call the server, separated by commas."
    )
    processes: int = _option(
        1, kinds.whole(0, 256), "Server processes that share the port; 0 starts one per core, within the CPU quota."
    )
    data_dir: str = _option(_data_dir(), ("FOLDER", kinds.printable), "Folder of the embedded MongoDB and S3.")
    log_format: str = _option(
        "auto", kinds.choice("auto", "json", "human"), "Format of the log. auto is human on a terminal, else json."
    )
    access_log: bool = _option(
        True,  # noqa: FBT003 - the default of an option
        ("true|false", kinds.flag),
        "Whether each request is logged. One that fails is logged in any case.",
    )


OPTIONS: Final = tuple(Option(each.name, each.default, **each.metadata) for each in fields(Settings))


def with_flags(*names: str) -> Callable[[C], C]:
    """Give a command the flags of these options, of all where none is named, and `--config`."""

    def decorate(command: C) -> C:
        for option in reversed([each for each in OPTIONS if not names or each.name in names]):
            shown = "" if option.default in (None, (), "") else f" [default: {option.default}]"
            text = f"{option.help}{shown}"
            command = click.option(option.flag, option.name, metavar=option.metavar, help=text)(command)
        text = "TOML file with options; flags and the environment win."
        return click.option("--config", metavar="FILE", help=text)(command)

    return decorate


def load_settings(
    flags: Mapping[str, str | None],
    environment: Mapping[str, str],
    config: str | None = None,
    only: Collection[str] = (),
) -> Settings:
    """The settings from, strongest first: flags, environment, the file named by `config` or the environment, defaults.

    With `only`, the options of these names; the others have their defaults. Raises `BadSettings`.
    """
    errors: list[str] = []
    path = config or environment.get(ENVIRONMENT_PREFIX + "CONFIG")
    source = "--config" if config else f"{ENVIRONMENT_PREFIX}CONFIG"
    from_file = _read_config(path, source, errors) if path else {}
    values: dict[str, Any] = {}
    for option in [each for each in OPTIONS if not only or each.name in only]:
        given = (
            (flags.get(option.name), option.flag),
            (environment.get(option.environment) or None, option.environment),
            (from_file.get(option.name), f"{option.name} in {path}"),
        )
        for value, source in [each for each in given if each[0] is not None][:1]:
            try:
                values[option.name] = option.parse(value)
            except ValueError as error:
                errors.append(f"{source}: {error}")
    if errors:
        raise BadSettings(errors)
    return Settings(**values)


def mongodb_settings(flags: Mapping[str, str | None], config: str | None) -> Settings:
    """The settings of a command that needs a MongoDB to be named. Raises `BadSettings`."""
    settings = load_settings(flags, os.environ, config, only=flags)
    if settings.mongodb_uri is None:
        line = "mongodb_uri: name the MongoDB, with --mongodb-uri or GENSTATUS_MONGODB_URI"
        raise BadSettings([line, *(f"{name}: {hint}" for name, hint in unknown_variables(os.environ).items())])
    return settings


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that look like options and are none, each with a line that says so."""
    known = {option.environment for option in OPTIONS} | _OTHER_VARIABLES
    return {
        name: _no_option(name, known)
        for name, value in sorted(environment.items())
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known
        if not (_OF_KUBERNETES.fullmatch(name) or kinds.ADDRESS_OF_SERVICE.fullmatch(value))
    }


def _no_option(name: str, known: Iterable[str]) -> str:
    # The prefix alone would make all variables alike.
    by_name = {each.removeprefix(ENVIRONMENT_PREFIX).lower(): each for each in known}
    similar = difflib.get_close_matches(name.removeprefix(ENVIRONMENT_PREFIX).lower(), by_name, 1)
    return "there is no such option" + (f"; did you mean {by_name[similar[0]]}?" if similar else "")


def _read_config(path: str, source: str, errors: list[str]) -> Mapping[str, Any]:
    try:
        content = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        errors.append(f"{source}: {path}: {error.strerror}")
        return {}
    except ValueError as error:
        errors.append(f"{source}: {path}: {error}")
        return {}
    known = [option.name for option in OPTIONS]
    unknown = [name for name in content if name not in known]
    errors.extend(f"{name} in {path}: {_no_option(name, known)}" for name in unknown)
    return content
