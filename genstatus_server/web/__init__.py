"""From request parameters to the handler and the answer; schemas, OpenAPI, static pages, the listener."""
