"""Tests of the package `s3`."""
