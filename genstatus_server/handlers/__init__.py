"""Turns HTTP into one call and back."""
