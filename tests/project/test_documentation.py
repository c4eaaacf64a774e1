"""What is written down is true: every option is documented, and the samples in conf/ can be used."""

import re
import tomllib
from pathlib import Path

import pytest

from genstatus_server.settings import OPTIONS, load_settings

pytestmark = pytest.mark.one_python

ROOT = Path(__file__).parents[2]
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text()
#: A test module, and mostly a test in it, as pytest is told which to run.
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", GUARANTEES)))
SAMPLES = sorted((ROOT / "conf").glob("*.toml"))


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_readme_and_sample_settings_name_every_option(option: object) -> None:
    name = getattr(option, "name", "")
    assert f"`{name}`" in (ROOT / "README.md").read_text()
    assert f"{name} = " in (ROOT / "conf" / "genstatus.toml").read_text()


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_sample_settings_can_be_loaded(path: Path) -> None:
    load_settings({}, {}, str(path))


def test_sample_settings_show_the_defaults() -> None:
    given = tomllib.loads((ROOT / "conf" / "genstatus.toml").read_text())
    defaults = load_settings({}, {})
    for name in given:
        assert getattr(load_settings({}, {}, str(ROOT / "conf" / "genstatus.toml")), name) == getattr(defaults, name)


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_guarantees_name_existing_tests(path: str, name: str) -> None:
    source = (ROOT / path).read_text()
    assert not name or re.search(rf"^(async )?def {name}\(", source, re.MULTILINE)


def test_guarantees_name_every_module_of_fault_tests() -> None:
    modules = {f"tests/faults/{path.name}" for path in (ROOT / "tests" / "faults").glob("test_*.py")}
    assert modules <= {path for path, _ in NAMED}


def test_documentation_installs_no_unpublished_release() -> None:
    """Drop this once a release is on a package index."""
    patterns = (
        "*.md",
        "conf/**/*",
        "docs/*.md",
        "genstatus_server/**/*.py",
        "examples/*.py",
        "Dockerfile",
        "compose.yaml",
    )
    files = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()} - {ROOT / "CONTRIBUTING.md"}
    promising = re.compile(r"pip3? install\b.*genstatus[-_]server")
    assert not [path for path in sorted(files) if promising.search(path.read_text(errors="replace"))]
