"""What goes wrong around the server, with real processes and real signals."""
