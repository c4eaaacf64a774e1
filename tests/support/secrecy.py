"""Whatever a test makes the server write is searched for every token and signature that the test used.

A token is known once a test hashes it, as it does for each login session; a signature, and the hash of a token, by its
looks. Servers of their own are searched when they end, and one in the test's own process with all that the test wrote.
"""

import re
from typing import Final

#: 64 hexadecimal digits: a signature (V4) or the hash of a token. Nothing else looks so but what S3 says of a file.
_LOOKS: Final = re.compile(r"(?<![0-9a-f])(?<!sha256', b')[0-9a-f]{64}(?![0-9a-f])", re.IGNORECASE)

# Of the running test, and of the module: whoever hashes a token has no fixture at hand.
_tokens: set[str] = set()


def note(token: str) -> None:
    """The running test uses this token."""
    _tokens.add(token)


def forget() -> None:
    """Another test begins, whose tokens may be words that this one writes."""
    _tokens.clear()


def found_in(written: str) -> list[str]:
    """The lines that hold a secret."""
    words = "|".join(map(re.escape, _tokens))
    token = re.compile(rf"(?<!\w)(?:{words})(?!\w)") if words else None
    return [line for line in written.splitlines() if _LOOKS.search(line) or (token and token.search(line))]
