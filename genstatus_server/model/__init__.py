"""What jobs, users, login sessions and submissions are, and who may view what. Pure: no I/O, no framework."""
