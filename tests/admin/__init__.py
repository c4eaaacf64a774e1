"""Tests of the package `admin`."""
