"""Answers whether the file of a submission has been generated, and holds the question until it has."""

__version__ = "0.2.0.dev0"
