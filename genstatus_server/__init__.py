"""A service that says when the generated files of a submission are ready, and where to download them."""

__version__ = "0.2.0.dev0"
