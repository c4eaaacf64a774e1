"""Tests of the package `jobs_writer`."""
