"""What a test needs from the machine: skipped for want of it on a laptop, failed in CI."""

import os

import pytest


def require(condition: object, reason: str) -> None:
    """Go on only where the condition holds; the reason says what the machine lacks."""
    if condition:
        return
    if in_ci():
        pytest.fail(f"CI must be able to run this: {reason}")
    pytest.skip(reason)


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in {"", "0", "false"}
