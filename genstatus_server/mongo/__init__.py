"""Everything about MongoDB: the client, queries, the loader, the cache, the change stream, the schema."""
