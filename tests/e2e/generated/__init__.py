"""Programs that use clients generated from the OpenAPI document, and what each of them must be told."""
