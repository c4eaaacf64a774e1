"""Sample data, a sample worker and sample calls for `demo`; embedded MongoDB and S3 for `demo` and `serve`."""
