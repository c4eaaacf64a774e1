"""The JavaScript client as a package for npm."""

import json
import re
from pathlib import Path

import pytest

import genstatus_server
from genstatus_server.client import Generation
from genstatus_server.web.static_files import STATIC_FILES

pytestmark = pytest.mark.one_python

STATIC = Path(genstatus_server.__file__).parent / "web" / "static"
CLIENT = (STATIC / "genstatus.js").read_text()
TYPES = (STATIC / "genstatus.d.ts").read_text()


def test_npm_package_has_the_version_of_the_server() -> None:
    package = json.loads((STATIC / "package.json").read_text())
    assert package["version"] == re.sub(r"\.dev", "-dev.", genstatus_server.__version__)  # As npm writes it.
    for name in package["files"]:
        assert (STATIC / name).is_file()


def test_npm_package_stays_small_and_imports_nothing() -> None:
    assert len(CLIENT.splitlines()) < 160
    assert not re.search(r"^\s*import\b|\brequire\(", CLIENT, re.MULTILINE)


def test_npm_package_declares_a_type_for_every_export() -> None:
    given = r"^export (?:async )?(?:class|function) (\w+)"
    assert set(re.findall(given, CLIENT, re.MULTILINE)) == set(re.findall(given, TYPES, re.MULTILINE))


def test_static_files_include_the_types_of_the_npm_package() -> None:
    assert STATIC_FILES["genstatus.d.ts"].content.decode() == TYPES


def test_npm_package_declares_a_type_for_every_phase() -> None:
    phase = r'phase: "(\w+)"'
    assert set(re.findall(phase, CLIENT)) == set(re.findall(phase, TYPES))


@pytest.mark.parametrize("text", [TYPES, Generation.__doc__], ids=["genstatus.d.ts", "Generation"])
def test_clients_document_generated_at_in_each_format(text: str) -> None:
    documented = re.findall("`([A-Z/-]+ HH:mm:ss)`", text)
    assert documented == ["MM/DD/YYYY HH:mm:ss", "YYYY-MM-DD HH:mm:ss"]
