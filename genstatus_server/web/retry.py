"""The seconds in `Retry-After`: how long a client should pause. They are spread where many clients get them at once."""

import random
from typing import Final

from genstatus_server.hold.registry import HoldResult

#: A plain poll: as often as the existing clients poll at their quickest.
_POLL: Final = "5"
#: A hold that reached its deadline: the client requests again and is held again.
_DEADLINE: Final = "1"


def after(result: HoldResult | None) -> str:
    """The seconds after an answer without a settled job. `result` is why a hold ended; None where there was none."""
    if result is None:
        return _POLL
    if result is HoldResult.DRAINING:  # Another server, or this one started again, is there in a moment.
        return spread(1, 5)
    return spread(5, 15) if result is HoldResult.SHED else _DEADLINE


def unavailable() -> str:
    """The seconds after an answer that MongoDB or the signer is away."""
    return spread(2, 6)


def spread(low: int, high: int) -> str:
    return str(random.randint(low, high))
