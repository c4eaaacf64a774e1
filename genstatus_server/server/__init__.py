"""The wiring of one server: start, signals, drain, and the supervisor of several processes."""
