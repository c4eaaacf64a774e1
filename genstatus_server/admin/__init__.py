"""The commands that one needs to run the service by hand: they write users, login sessions and submissions."""
