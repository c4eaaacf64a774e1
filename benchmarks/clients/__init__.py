"""What puts load on a server: programs of their own, on cores that the server does not use."""
