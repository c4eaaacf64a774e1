"""The kinds of options: what is shown of each in `--help`, and how its value is parsed."""

import ipaddress
import re
import warnings
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

#: Turns a text, or a value of the configuration file, into a setting; raises ValueError.
Parse = Callable[[Any], Any]
#: The metavar in `--help`, and the parser.
Kind = tuple[str, Parse]

#: Before the path of a Unix socket, in `address`.
UNIX: Final = "unix:"
#: What Kubernetes puts into a variable such as `GENSTATUS_PORT`.
ADDRESS_OF_SERVICE: Final = re.compile("(tcp|udp|sctp)://.*")
REGION: Final = re.compile(r"(?!-)[a-zA-Z0-9-]{1,63}(?<!-)")
LARGEST_PORT: Final = 65535
_PORTS: Final = {"http": 80, "https": 443}
_LONGEST_DATABASE_NAME: Final = 63
#: Bytes of the path of a Unix socket.
_LONGEST_SOCKET_PATH: Final = 107
_LABEL: Final = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"(?=.{{1,255}}$){_LABEL}(\.{_LABEL})*\.?")


def whole(low: int, high: int) -> Kind:
    def parse(value: Any) -> int:
        text = str(value).strip()
        if isinstance(value, bool) or not (re.fullmatch("[0-9]{1,20}", text) and low <= int(text) <= high):
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return "NUMBER", parse


def port(value: Any) -> int:
    if isinstance(value, str) and ADDRESS_OF_SERVICE.fullmatch(value):
        raise ValueError(
            "is the address of a Kubernetes Service called genstatus, not a port: set enableServiceLinks: false in "
            "the pod's spec, or rename the Service, or give --port"
        )
    number: int = whole(0, LARGEST_PORT)[1](value)
    return number


def seconds(low: float, high: float) -> Kind:
    def parse(value: Any) -> float:
        try:
            # Python's own notation, such as 1_0, is not meant.
            seconds = float("nan" if isinstance(value, bool) or "_" in str(value) else value)
        except (TypeError, ValueError, OverflowError):
            seconds = float("nan")
        if not low <= seconds <= high:
            raise ValueError(f"must be a number of seconds from {low:g} to {high:g}")
        return seconds

    return "SECONDS", parse


def printable(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError("must be a text of printable characters that is not empty")
    return value.strip()


def choice(*choices: str) -> Kind:
    def parse(value: Any) -> str:
        text = value.strip() if isinstance(value, str) else value
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return str(text)

    return "|".join(choices), parse


def flag(value: Any) -> bool:
    text = str(value).strip().lower()
    if text not in ("true", "false", "1", "0"):
        raise ValueError("must be true or false")
    return text in ("true", "1")


def matching(metavar: str, pattern: re.Pattern[str], what: str) -> Kind:
    def parse(value: Any) -> str:
        text = printable(value)
        if not pattern.fullmatch(text):
            raise ValueError(f"must be {what}")
        return text

    return metavar, parse


def addresses(value: Any) -> str:
    addresses = [address.strip() for address in printable(value).split(",")]
    for address in addresses:
        path = address.removeprefix(UNIX)
        try:
            is_valid = path.startswith("/") if path != address else bool(_host(address.lower()))
        except ValueError:
            is_valid = False
        if not is_valid or len(path.encode()) > _LONGEST_SOCKET_PATH:
            raise ValueError("must be host names, IP addresses or unix:/path (107 bytes at most), separated by commas")
    return ",".join(addresses)


def _url(value: Any, *schemes: str) -> str:
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in schemes or not parts.netloc:
        raise ValueError(f"must be a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    return str(value).strip()


def mongodb_uri(value: Any) -> str:
    from pymongo import MongoClient  # noqa: PLC0415 - a command that only shows its help does not wait for it.
    from pymongo.errors import PyMongoError  # noqa: PLC0415 - the same

    uri = _url(value, "mongodb", "mongodb+srv")
    try:
        with warnings.catch_warnings(action="ignore"):  # The server's own client warns of options that do not exist.
            MongoClient[dict[str, Any]](uri, connect=False).close()  # It parses the URI, without I/O.
    except OSError as error:
        where = error.filename or "that of tlsCAFile, tlsCertificateKeyFile or tlsCRLFile"
        raise ValueError(f"names a file that cannot be read: {where}") from error
    except (PyMongoError, ValueError, KeyError):  # Their messages may repeat the password.
        raise ValueError("must be a URI that MongoDB's driver accepts, with special characters escaped") from None
    return uri


def endpoint_url(value: Any) -> str:
    url = _url(value, "http", "https")
    try:
        parts = urlsplit(url.lower())
        is_usable = "_" not in _host(parts.hostname or "") and parts.port != 0  # botocore refuses a `_`.
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ValueError("must name a host, and where it names a port, one up to 65535")
    return url


def database(value: Any) -> str:
    text = printable(value)
    if len(text.encode()) > _LONGEST_DATABASE_NAME or any(character in '/\\. "$*<>:|?\0' for character in text):
        raise ValueError("must be a name that MongoDB accepts for a database")
    return text


def origins(value: Any) -> tuple[str, ...]:
    each = value.split(",") if isinstance(value, str) else value
    if not isinstance(each, list) or not all(isinstance(origin, str) for origin in each):
        raise ValueError("must be origins separated by commas")
    return tuple(_origin(origin.strip()) for origin in each if origin.strip())


def _origin(text: str) -> str:
    """The origin as a browser sends it: in lower case, and without the port that its scheme has anyway."""
    if "@" in text:
        raise ValueError("an origin has no user name and no password")
    try:
        parts = urlsplit(text)
        port = "" if parts.port in (None, _PORTS[parts.scheme]) else f":{parts.port}"
        normal = f"{parts.scheme}://{_host(parts.hostname or '')}{port}"
        if text.lower() != f"{parts.scheme}://{parts.netloc}".lower():
            raise ValueError  # noqa: TRY301 - all that is wrong has one message.
    except (KeyError, ValueError):
        raise ValueError(
            f"{text!r} is no origin that a browser sends; one looks like https://broker.example.gov, without a path "
            "and with its host in ASCII (xn--bcher-kva.example)"
        ) from None
    return normal


def _host(name: str) -> str:
    if ":" in name:
        return f"[{ipaddress.IPv6Address(name).compressed}]"
    if name.rpartition(".")[2].isdecimal():
        return str(ipaddress.IPv4Address(name))
    if not _HOST.fullmatch(name):
        raise ValueError("no host")
    return name
