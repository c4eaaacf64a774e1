"""What an error of MongoDB's driver means, in one plain line for an operator."""

from typing import Final

from pymongo.errors import ConfigurationError, OperationFailure, PyMongoError

#: Part of the driver's message when it found no usable server, and what this part means.
_REASONS: Final = (
    ("Connection refused", "nothing listens there"),
    ("Name or service not known", "the host name is unknown"),
    ("No address associated", "the host name is unknown"),
    ("name resolution", "the host name cannot be resolved now"),
    ("certificate", "the TLS certificate is not accepted"),
    ("SSL", "the TLS handshake fails"),
    ("connection closed", "it closes the connection; TLS may be on at one end only"),
    ("No replica set members match", "it has no primary"),
    ("No primary available", "it has no primary"),
    ("replica set name", "the replica set has another name"),
    ("does not exist", "its DNS record does not exist"),
    ("not primary", "this member is not the primary"),
    ("No servers found yet", "it does not answer in time"),
    ("timed out", "it does not answer in time"),
)

_CODES: Final = {
    11: "there is no such user, or its password is another one",
    13: "the user may not do this: see `genstatus init-roles` for the roles",
    18: "the user name, the password or the authSource is wrong",
    85: "an index with other options is there: drop it first",
    86: "an index of this name is there with other keys: drop it first",
    121: "the document does not pass the validator of its collection",
    166: "a view is in the place of a collection",
    8000: "the user name, the password or the authSource is wrong",
    11000: "a unique index allows one document for each key, and there are more",
    11600: "MongoDB is shutting down",
}


def explain(error: PyMongoError) -> str:
    """The meaning of `error` in one line, without the driver's own text: that shows hosts, sessions and keys."""
    if isinstance(error, OperationFailure):
        name = (error.details or {}).get("codeName", "unknown error")
        return f"MongoDB refused: {_CODES.get(error.code or 0, f'{name} (code {error.code})')}"
    text = str(error)
    reason = next((reason for part, reason in _REASONS if part in text), None)
    if isinstance(error, ConfigurationError):
        return f"the MongoDB URI cannot be used: {reason or 'its options do not fit together'}"
    return f"MongoDB cannot be reached: {reason or 'the connection fails'}"
