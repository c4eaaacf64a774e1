"""Which errors of MongoDB pass by themselves, and how long to pause until the next try. Pure."""

import random
from typing import Final

from pymongo.errors import ConnectionFailure, PyMongoError

#: What the driver itself may retry.
_LABELS: Final = ("RetryableWriteError", "TransientTransactionError", "RetryableError", "SystemOverloadedError")

#: Seen while a replica set elects a primary, restarts or is overloaded; also those that the driver retries only once.
_CODES: Final = frozenset(
    {
        6,  # HostUnreachable
        7,  # HostNotFound
        64,  # WriteConcernTimeout: written, and not yet by a majority
        89,  # NetworkTimeout
        91,  # ShutdownInProgress
        112,  # WriteConflict
        133,  # FailedToSatisfyReadPreference
        134,  # ReadConcernMajorityNotAvailableYet
        189,  # PrimarySteppedDown
        202,  # NetworkInterfaceExceededTimeLimit
        262,  # ExceededTimeLimit
        462,  # IngressRequestRateLimitExceeded
        9001,  # SocketException
        10107,  # NotWritablePrimary
        11600,  # InterruptedAtShutdown
        11602,  # InterruptedDueToReplStateChange
        13435,  # NotPrimaryNoSecondaryOk
        13436,  # NotPrimaryOrSecondary
    }
)
_AUTHENTICATION_FAILED: Final = 18


def is_passing(error: PyMongoError, *, has_worked: bool = True) -> bool:
    """Whether MongoDB is only away, slow or electing a primary.

    An election may refuse the authentication of a user that `has_worked`. Before that, the password is wrong.
    """
    code = getattr(error, "code", None)
    return (
        isinstance(error, ConnectionFailure)
        or error.timeout
        or any(error.has_error_label(label) for label in _LABELS)
        or code in _CODES
        or (has_worked and code == _AUTHENTICATION_FAILED)
    )


def jittered(seconds: float) -> float:
    """Spread, so that a pool of workers does not ask all at once."""
    return seconds * random.uniform(0.5, 1.0)
