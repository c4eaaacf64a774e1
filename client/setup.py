"""Builds genstatus-client: the package genstatus_server/client alone, under a name of its own, without the server.

An own name, because two distributions that put files into one package overwrite, and uninstall, each other's.
"""

import re
from pathlib import Path

from setuptools import setup

SERVER = Path(__file__).parent.parent / "genstatus_server"
VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)

setup(
    name="genstatus-client",
    version=VERSION.findall((SERVER / "__init__.py").read_text("utf-8"))[0],
    description="Waits for generated files of a genstatus server and fetches them: blocking, for asyncio, as a command",
    long_description="""\
    with GenerationClient("https://status.example.gov", session_token) as client:
        generation = client.wait_for_generation(123, "D1", timeout=3600)

`AsyncGenerationClient` is the same for asyncio, `genstatus-wait --help` the command.
""",
    long_description_content_type="text/markdown",
    author="The genstatus_server authors",
    license_expression="Apache-2.0",
    python_requires=">=3.11",
    packages=["genstatus_client"],
    package_dir={"genstatus_client": "../genstatus_server/client"},
    package_data={"genstatus_client": ["py.typed"]},
    # Those of the extra `client`, and click, which the server needs anyway: for the command.
    install_requires=["httpx>=0.27,<1", "rich>=13.7", "click>=8.1"],
    entry_points={"console_scripts": ["genstatus-wait = genstatus_client.command:wait"]},
)
