"""What the server is compared with: programs of their own, each on the core that the server has in its turn."""
