"""A soak of the workers, to be run by hand: python -m tests.soak.workers."""
