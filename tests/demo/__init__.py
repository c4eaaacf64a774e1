"""Tests of the package `demo`."""
