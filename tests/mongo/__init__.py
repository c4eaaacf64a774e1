"""Tests of the package `mongo`."""
