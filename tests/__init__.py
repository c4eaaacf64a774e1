"""The test suite of genstatus_server."""
