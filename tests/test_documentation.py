"""What is written down is true: every option is documented, and the samples in conf/ can be used."""

import tomllib
from pathlib import Path

import pytest

from genstatus_server.settings import OPTIONS, load_settings

ROOT = Path(__file__).parent.parent
SAMPLES = sorted((ROOT / "conf").glob("*.toml"))


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_every_option_is_in_the_readme_and_in_the_sample(option: object) -> None:
    name = getattr(option, "name", "")
    assert f"`{name}`" in (ROOT / "README.md").read_text()
    assert f"{name} = " in (ROOT / "conf" / "genstatus.toml").read_text()


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_samples_can_be_used(path: Path) -> None:
    load_settings({}, {}, str(path))


def test_the_sample_shows_the_defaults() -> None:
    given = tomllib.loads((ROOT / "conf" / "genstatus.toml").read_text())
    defaults = load_settings({}, {})
    for name in given:
        assert getattr(load_settings({}, {}, str(ROOT / "conf" / "genstatus.toml")), name) == getattr(defaults, name)
