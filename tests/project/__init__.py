"""Tests of what is around the package: documents, benchmarks, the suite itself."""
