"""The seconds in `Retry-After`: how long a client should pause. They are spread where many clients get them at once."""

import random
from typing import Final

#: A plain poller, for a job in `waiting`: as often as the existing clients ask at their quickest.
POLL: Final = "5"
#: A hold that reached its deadline: the client asks again and is held again.
DEADLINE: Final = "1"


def spread(low: int, high: int) -> str:
    """A whole number of seconds, drawn anew each time."""
    return str(random.randint(low, high))


def draining() -> str:
    """A hold that is ended by the shutdown: another server, or this one started again, is there in a moment."""
    return spread(1, 5)


def shed() -> str:
    """A request that was not held because there are too many."""
    return spread(5, 15)


def unavailable() -> str:
    """MongoDB or the signer is away."""
    return spread(2, 6)
