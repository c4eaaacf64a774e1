"""Tests of the package `hold`."""
