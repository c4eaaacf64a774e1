"""Clients by OpenAPI Generator, which needs a Java: `tox -e generated-clients`."""
