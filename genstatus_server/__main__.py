"""`python -m genstatus_server`."""

from genstatus_server.cli import main

main()
