"""What `python -m genstatus_server demo` adds to the server: sample data, a sample worker, and calls to try."""
