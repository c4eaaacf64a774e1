"""The client's own distribution, built as its users build it."""

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.one_python

SOURCE = Path(__file__).parents[2]
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked. Built in a copy, because a build leaves files behind."""
    folder = tmp_path_factory.mktemp("client")
    shutil.copytree(SOURCE / "client", folder / "client", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    shutil.copytree(SOURCE / "genstatus_server/client", folder / "genstatus_server/client")
    shutil.copy(SOURCE / "genstatus_server/__init__.py", folder / "genstatus_server")
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=folder / "client", check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_client_wheel_needs_nothing_of_the_server(wheel: Path) -> None:
    (information,) = wheel.glob("*.dist-info")
    assert {path.name for path in wheel.iterdir()} == {"genstatus_client", information.name}
    source = SOURCE / "genstatus_server" / "client"
    assert {path.name for path in wheel.joinpath("genstatus_client").iterdir()} == {
        path.name for path in source.iterdir() if path.suffix in {".py", ".typed"}
    }
    metadata = Parser().parsestr((information / "METADATA").read_text())
    needed = {Requirement(text) for text in requires("genstatus-server") or ()}
    client = {
        str(Requirement(f"{one.name}{one.specifier}")) for one in needed if str(one.marker) == 'extra == "client"'
    }
    click = {str(one) for one in needed if one.name == "click"}
    assert {str(Requirement(text)) for text in metadata.get_all("Requires-Dist", [])} == client | click
    assert metadata["Version"] == version("genstatus-server")


def test_client_wheel_runs_its_command_without_the_server(wheel: Path) -> None:
    code = """
import sys
sys.modules.update(dict.fromkeys(("genstatus_server", "tornado", "motor", "pymongo", "aiobotocore", "botocore")))
from genstatus_client import AsyncGenerationClient, GenerationClient
from genstatus_client.command import wait
wait(["--url", "ftp://x", "--submission", "1", "--file-type", "E"])
"""
    environment = {"PYTHONPATH": str(wheel), "GENSTATUS_SESSION_TOKEN": "token"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "E of submission 1: the server's URL must begin with http:// or https:// and a host\n"
