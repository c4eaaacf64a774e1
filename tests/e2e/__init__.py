"""What people and their tools see: the pages in a real browser, and the OpenAPI document against the live server."""
