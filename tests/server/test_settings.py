"""Where an option comes from, what it may be, and how a bad one is told."""

import pwd
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genstatus_server.settings import (
    OPTIONS,
    BadSettings,
    Option,
    Settings,
    _data_dir,
    load_settings,
    unknown_variables,
)

# Three valid values of each option, as text, and what they become.
VALUES: dict[str, dict[str, object]] = {
    "address": {"Host.example": "Host.example", "::1": "::1", " unix:/run/a.sock, ::1 ": "unix:/run/a.sock,::1"},
    "port": {"0": 0, "65535": 65535, " 80 ": 80},
    "mongodb_uri": {
        "mongodb://a/": "mongodb://a/",
        "mongodb+srv://b/?tls=true": "mongodb+srv://b/?tls=true",
        "mongodb://u:p@c:1,d:2/?replicaSet=rs0": "mongodb://u:p@c:1,d:2/?replicaSet=rs0",
    },
    "mongodb_database": {"a": "a", "b-1": "b-1", "ü" * 31: "ü" * 31},
    "s3_bucket": {
        "reports": "reports",
        " c.d": "c.d",
        "arn:aws:s3:us-east-1:123456789012:accesspoint/a": "arn:aws:s3:us-east-1:123456789012:accesspoint/a",
    },
    "s3_region": {"us-gov-west-1": "us-gov-west-1", "eu": "eu", "x": "x"},
    "s3_endpoint_url": {
        "http://127.0.0.1:9000": "http://127.0.0.1:9000",
        "https://s3.example": "https://s3.example",
        " http://[::1]:1 ": "http://[::1]:1",
    },
    "s3_addressing_style": {"auto": "auto", "path": "path", "virtual": "virtual"},
    "url_ttl": {"1": 1, "604800": 604800, "0060": 60},
    "wait_default": {"0.001": 0.001, "86400": 86400.0, "1.5": 1.5},
    "wait_max": {"1": 1.0, "86400": 86400.0, ".5": 0.5},
    "proxy_idle_timeout": {"29": 29.0, "86400": 86400.0, ".5": 0.5},
    "max_waits": {"0": 0, "1000000": 1_000_000, "5": 5},
    "max_waits_per_session": {"0": 0, "1000000": 1_000_000, "5": 5},
    "shutdown_delay": {"0": 0.0, "3600": 3600.0, "2.5": 2.5},
    "drain_timeout": {"0": 0.0, "3600": 3600.0, "2.5": 2.5},
    "idle_timeout": {"1": 1.0, "86400": 86400.0, "620": 620.0},
    "generated_at_format": {"us": "us", "iso": "iso", " iso ": "iso"},
    "cors_origins": {
        "https://a.example": ("https://a.example",),
        "http://localhost:3000, https://b": ("http://localhost:3000", "https://b"),
        "HTTPS://A.Example.gov:443,http://b:80,https://c:,http://d:443,https://[0:0::1]:8443,,": (
            "https://a.example.gov",
            "http://b",
            "https://c",
            "http://d:443",
            "https://[::1]:8443",
        ),
    },
    "processes": {"0": 0, "256": 256, "2": 2},
    "data_dir": {"/a": "/a", "b": "b", " c d ": "c d"},
    "log_format": {"json": "json", "human": "human", "auto": "auto"},
    "access_log": {"false": False, "0": False, "FALSE": False},
}

NOT_WHOLE = ["-1", "+1", "1.0", "1e3", "1_0", "x", "٣", "9" * 5000, "0" * 20 + "99999999", "1 0"]
NO_SECONDS = ["-1", "x", "1_0", "nan", "inf", "-inf", "1e9", "1,5", ""]

#: What each option refuses, as text.
BAD: dict[str, list[str]] = {
    "address": [
        "",
        "  ",
        "a,,b",
        "a b",
        "unix:",
        "unix:a",
        "unix:/" + "a" * 107,
        "http://a",
        "127.0.0.1:80",
        "1.2.3.4.5",
    ],
    "port": [*NOT_WHOLE, "65536", ""],
    "mongodb_uri": [
        "",
        "localhost",
        "http://a",
        "mongodb:a",
        "mongodb://",
        "mongodb:///genstatus",
        "mongodb://[a",
        "mongodb://a:99999/",
        "mongodb://u:p@p@a/",
        "mongodb://a,b/?directConnection=true",
        "mongodb://a/?b",
        "mongodb://a/?tls=true&tlsCAFile=/nowhere",
        "mongodb://a/?datetime_conversion=datetime_ms",
    ],
    "mongodb_database": ["", "a.b", "a b", "a/b", "a$b", "a\\b", 'a"b', "a*", "<a", "a:", "a|", "a?", "a\0b", "ü" * 32],
    "s3_bucket": [
        "",
        " ",
        "a\0b",
        "a\nb",
        "ab",
        "a b",
        "a/b",
        "ü" * 3,
        "a" * 256,
        "a--use1-az4--x-s3",
        "arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap",
        "arn:aws:sns:us-east-1:123456789012:a",
    ],
    "s3_region": ["", " ", "a b", "us-", "-us", "a.b", "a/b", "a" * 64],
    "s3_endpoint_url": [
        "",
        "s3.example",
        "ftp://a",
        "http:a",
        "http://",
        "http://[a",
        "http://a b",
        "http://a:x",
        "http://a:99999",
        "http://a..b",
    ],
    "s3_addressing_style": ["", "dns", "PATH"],
    "url_ttl": [*NOT_WHOLE, "0", "604801"],
    "wait_default": [*NO_SECONDS, "0", "0.0001", "86401"],
    "wait_max": [*NO_SECONDS, "0", "86401"],
    "proxy_idle_timeout": [*NO_SECONDS, "0", "86401"],
    "max_waits": [*NOT_WHOLE, "1000001"],
    "max_waits_per_session": [*NOT_WHOLE, "1000001"],
    "shutdown_delay": [*NO_SECONDS, "3601"],
    "drain_timeout": [*NO_SECONDS, "3601"],
    "idle_timeout": [*NO_SECONDS, "0", "86401"],
    "generated_at_format": ["", "US", "rfc"],
    "cors_origins": [
        *("*", "null", "a.example", "https://a/", "https://a,b", "ftp://a", "https://", "https://[a", "https://a?"),
        *("https://*.example.gov", "https://u:p@a", "http://a b", "https://bücher.example", "https://a:99999"),
        *("https://a:x", "https://-a", "https://a..b", "https://1.2", "https://a#", "https://a\tb", "//a"),
    ],
    "processes": [*NOT_WHOLE, "257"],
    "data_dir": ["", " "],
    "log_format": ["", "JSON", "text"],
    "access_log": ["", "yes", "2", "none"],
}

# What a configuration file can hold beside text; TOML writes `true`, 1, 1.5, an array, a table, a date.
NO_TEXT = ["true", "1", "1.5", "[]", "['a']", "{a = 1}", "2024-02-29"]
NO_NUMBER = ["true", "nan", "[5]", "{a = 5}", "2024-02-29", "1" + "0" * 400]
BAD_IN_FILE: dict[str, list[str]] = {
    "address": NO_TEXT,
    "port": [*NO_NUMBER, "5.0", "-5"],
    "mongodb_uri": NO_TEXT,
    "mongodb_database": NO_TEXT,
    "s3_bucket": NO_TEXT,
    "s3_region": NO_TEXT,
    "s3_endpoint_url": NO_TEXT,
    "s3_addressing_style": NO_TEXT,
    "url_ttl": [*NO_NUMBER, "5.0", "-5"],
    "wait_default": [*NO_NUMBER, "inf"],
    "wait_max": [*NO_NUMBER, "inf"],
    "proxy_idle_timeout": [*NO_NUMBER, "inf"],
    "max_waits": [*NO_NUMBER, "5.5"],
    "max_waits_per_session": [*NO_NUMBER, "5.5"],
    "shutdown_delay": [*NO_NUMBER, "false"],
    "drain_timeout": [*NO_NUMBER, "false"],
    "idle_timeout": [*NO_NUMBER, "false"],
    "generated_at_format": NO_TEXT,
    "cors_origins": ["true", "1", "{a = 1}", "[1]", "['https://a', '*']", "[['https://a']]"],
    "processes": [*NO_NUMBER, "5.5"],
    "data_dir": NO_TEXT,
    "log_format": NO_TEXT,
    "access_log": ["2", "1.5", "[]", "'yes'", "{a = 1}"],
}

KUBERNETES = {
    "GENSTATUS_PORT": "tcp://10.0.0.1:8888",
    "GENSTATUS_PORT_8888_TCP": "tcp://10.0.0.1:8888",
    "GENSTATUS_PORT_8888_TCP_ADDR": "10.0.0.1",
    "GENSTATUS_SERVICE_HOST": "10.0.0.1",
    "GENSTATUS_SERVICE_PORT_HTTP": "8888",
    "GENSTATUS_SERVER_PORT": "tcp://10.0.0.1:8888",
    "GENSTATUS_SERVER_PORT_8888_TCP_PROTO": "tcp",
    "GENSTATUS_SERVER_SERVICE_HOST": "10.0.0.1",
}

each_option = pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)

Config = Callable[[str], str]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Writes a configuration file, and tells its path."""

    def write(text: str) -> str:
        path = tmp_path / "genstatus.toml"
        path.write_text(text)
        return str(path)

    return write


def refused(
    flags: dict[str, str | None], environment: dict[str, str] | None = None, config: str | None = None
) -> tuple[str, ...]:
    with pytest.raises(BadSettings) as refusal:
        load_settings(flags, environment or {}, config)
    assert str(refusal.value).splitlines() == list(refusal.value.lines)
    return refusal.value.lines


def value_of(option: Option, settings: Settings) -> Any:
    return getattr(settings, option.name)


def test_settings_tests_cover_every_option() -> None:
    names = [option.name for option in OPTIONS]
    assert names == list(Settings.__slots__) == list(VALUES) == list(BAD)
    assert sorted(names) == sorted(BAD_IN_FILE)


def test_settings_have_the_documented_defaults() -> None:
    settings = load_settings({}, {})
    assert all(value_of(option, settings) == option.default for option in OPTIONS)
    assert (settings.address, settings.port, settings.mongodb_uri) == ("127.0.0.1", 8888, None)
    assert (settings.mongodb_database, settings.s3_bucket, settings.s3_region) == ("genstatus", None, None)
    assert (settings.s3_endpoint_url, settings.url_ttl) == (None, 60)
    assert (settings.wait_default, settings.wait_max, settings.drain_timeout) == (25, 55, 10)
    assert (settings.max_waits, settings.max_waits_per_session) == (20000, 64)
    assert (settings.cors_origins, settings.processes) == ((), 1)


@each_option
def test_settings_accept_each_default_as_a_value(option: Option) -> None:
    if option.default not in (None, ()):
        assert option.parse(str(option.default)) == option.default


@each_option
def test_settings_take_flag_before_environment_before_file_before_default(option: Option, config: Config) -> None:
    (in_file, from_file), (in_environment, from_environment), (in_flag, from_flag) = VALUES[option.name].items()
    path = config(f"{option.name} = '{in_file}'")
    flags, environment = {option.name: in_flag}, {option.environment: in_environment}
    assert value_of(option, load_settings(flags, environment, path)) == from_flag
    assert value_of(option, load_settings({option.name: None}, environment, path)) == from_environment
    assert value_of(option, load_settings({}, {}, path)) == from_file
    assert value_of(option, load_settings({}, {})) == option.default


@each_option
def test_settings_ignore_an_empty_environment_variable(option: Option) -> None:
    assert value_of(option, load_settings({}, {option.environment: ""})) == option.default


@each_option
def test_option_derives_its_flag_and_variable_from_its_name(option: Option) -> None:
    assert option.flag == "--" + option.name.replace("_", "-")
    assert option.environment == "GENSTATUS_" + option.name.upper()


@each_option
def test_settings_name_the_origin_of_a_bad_value(option: Option, config: Config) -> None:
    for bad in BAD[option.name]:
        (line,) = refused({option.name: bad})
        assert line.startswith(f"{option.flag}: ")
        if bad:
            (line,) = refused({}, {option.environment: bad})
            assert line.startswith(f"{option.environment}: ")
    for bad in BAD_IN_FILE[option.name]:
        path = config(f"{option.name} = {bad}")
        (line,) = refused({}, {}, path)
        assert line.startswith(f"{option.name} in {path}: "), bad


def test_settings_report_all_bad_values_together(config: Config) -> None:
    path = config("url_ttl = 0\nurl_tll = 60\n")
    lines = refused({"port": "x", "wait_max": "0"}, {"GENSTATUS_MONGODB_URI": "x", "GENSTATUS_LOG_FORMAT": "x"}, path)
    assert lines == (
        f"url_tll in {path}: there is no such option; did you mean url_ttl?",
        "--port: must be a whole number from 0 to 65535",
        "GENSTATUS_MONGODB_URI: must be a URL that begins with mongodb:// or mongodb+srv://",
        f"url_ttl in {path}: must be a whole number from 1 to 604800",
        "--wait-max: must be a number of seconds from 0.001 to 86400",
        "GENSTATUS_LOG_FORMAT: must be one of auto, json, human",
    )


def test_settings_ignore_a_bad_value_of_a_weaker_source(config: Config) -> None:
    settings = load_settings({"port": "1"}, {"GENSTATUS_PORT": "x"}, config("port = 'y'"))
    assert settings.port == 1


def test_settings_file_has_typed_values(config: Config) -> None:
    text = "port = 80\nwait_max = 5\nwait_default = 0.5\ncors_origins = ['https://a', 'https://b']\n"
    settings = load_settings({}, {}, config(text))
    assert (settings.port, settings.wait_max, settings.wait_default) == (80, 5.0, 0.5)
    assert settings.cors_origins == ("https://a", "https://b")


def test_settings_flag_can_clear_the_origins(config: Config) -> None:
    settings = load_settings({"cors_origins": ""}, {}, config("cors_origins = 'https://a'"))
    assert settings.cors_origins == ()


def test_settings_read_the_file_that_the_environment_names(config: Config, tmp_path: Path) -> None:
    environment = {"GENSTATUS_CONFIG": config("port = 80")}
    assert load_settings({}, environment).port == 80
    other = tmp_path / "other.toml"
    other.write_text("port = 81")
    assert load_settings({}, environment, str(other)).port == 81


def test_settings_report_an_unreadable_file(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.toml")
    assert refused({}, {}, missing) == (f"--config: {missing}: No such file or directory",)
    assert refused({}, {"GENSTATUS_CONFIG": missing}) == (f"GENSTATUS_CONFIG: {missing}: No such file or directory",)
    assert refused({}, {}, str(tmp_path)) == (f"--config: {tmp_path}: Is a directory",)
    assert len(refused({"port": "x"}, {}, missing)) == 2


@pytest.mark.parametrize("content", [b"port", b"port = ", b"port = 1\nport = 2", b"\xff", b"mongodb_uri = 'SECRET"])
def test_settings_report_a_file_that_is_no_toml(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    (line,) = refused({}, {}, str(path))
    assert line.startswith(f"--config: {path}: ")
    assert "SECRET" not in line


def test_settings_have_no_data_folder_where_there_is_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: no command ran, not even one that needs no folder."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    assert _data_dir() == ""


def test_settings_say_that_a_file_of_the_uri_cannot_be_read() -> None:
    (line,) = refused({"mongodb_uri": "mongodb://a/?tls=true&tlsCAFile=/missing/ca.pem"}, {})
    assert line.startswith("--mongodb-uri: names a file that cannot be read: ")
    assert "None" not in line


@pytest.mark.parametrize("uri", ["mongodb://u:SECRET@a/", "mongodb+srv://u:SECRET@a/?authMechanismProperties=T:SECRET"])
def test_settings_hide_a_password(uri: str) -> None:
    settings = load_settings({}, {"GENSTATUS_MONGODB_URI": uri})
    assert settings.mongodb_uri == uri
    assert "SECRET" not in f"{settings!r} {settings}"


@each_option
def test_settings_do_not_repeat_a_bad_value_in_errors(option: Option) -> None:
    if option.name != "cors_origins":  # There are several, and the bad one has to be found.
        assert "SECRET" not in "".join(refused({option.name: "SECRET \0"}))


@each_option
def test_settings_help_is_a_sentence_with_its_unit(option: Option) -> None:
    assert re.fullmatch(r"[A-Z0-9j].*\.", option.help)
    if isinstance(option.default, float) or option.name.endswith("_ttl"):
        assert "econds" in option.help


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load_settings({}, {}).port = 1  # type: ignore[misc]


def test_settings_name_unknown_variables_and_the_option_they_resemble() -> None:
    given = {"GENSTATUS_MONGDB_URI": "x", "GENSTATUS_URL_TLL": "", "GENSTATUS_XYZ": "", "OTHER": "", "GENSTATUS": ""}
    given["GENSTATUS_url_ttl"] = "8"
    known = {"GENSTATUS_CONFIG": "a", "GENSTATUS_SESSION_TOKEN": "a", "GENSTATUS_URL_TTL": "1"}
    assert unknown_variables(given | known | KUBERNETES) == {
        "GENSTATUS_MONGDB_URI": "there is no such option; did you mean GENSTATUS_MONGODB_URI?",
        "GENSTATUS_URL_TLL": "there is no such option; did you mean GENSTATUS_URL_TTL?",
        "GENSTATUS_XYZ": "there is no such option",
        "GENSTATUS_url_ttl": "there is no such option; did you mean GENSTATUS_URL_TTL?",
    }


def test_settings_explain_the_port_of_a_kubernetes_service() -> None:
    (line,) = refused({}, KUBERNETES)
    assert line.startswith("GENSTATUS_PORT: is the address of a Kubernetes Service called genstatus, not a port")
    assert "enableServiceLinks: false" in line
    assert load_settings({"port": "80"}, KUBERNETES).port == 80
