"""Measures the server beside the bare framework and its peers: `./run.sh bench`. See docs/performance.md."""
