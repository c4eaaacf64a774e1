"""Errors that a worker gets or raises, how they end a job, and which ones of MongoDB pass by themselves. Pure."""

import functools
import random
import signal
from asyncio import CancelledError
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from types import CodeType, TracebackType
from typing import Any, Final

from pymongo.errors import ConnectionFailure, PyMongoError

from genstatus_server.model.jobs import DEFAULT_FAILURE

#: More than a person reads, and far below what a document may hold.
_LONGEST_MESSAGE: Final = 4000
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


class LeaseLost(Exception):
    """This worker does not hold the job (any more). Nothing was changed, unless the message says otherwise.

    Its lease ran out and another worker took the job over, a new generation was requested, or the job was deleted.
    """


class NothingUploaded(Exception):
    """The block of a job ended as if all were well, but no file was uploaded; the job is marked failed."""


class NotInitialized(Exception):
    """The database lacks the unique index that `request` relies on: run `genstatus init-db` first."""


class GenerationFailed(Exception):
    """Raise it in the block of a job to mark the job failed; the text is what its callers read, so never a trace."""


class GenerationInvalid(GenerationFailed):
    """The same for a request that cannot be fulfilled as it is, such as one for an empty range of days."""


class Ending(Enum):
    """What becomes of the job."""

    FINISHED = auto()
    FAILED = auto()
    INVALID = auto()
    #: Back to its place in the queue: the worker has to stop, and the job is not the cause.
    RELEASED = auto()
    #: Back to the end of the queue; the attempt counts.
    REQUEUED = auto()
    #: Back to the end of the queue: this worker cannot store files now.
    POSTPONED = auto()
    #: Nothing may be written: the job belongs to another worker.
    LOST = auto()


def ending_of(
    error: BaseException | None,
    handlers: frozenset[CodeType] = frozenset(),
    refusals: Sequence[Exception] = (),
) -> tuple[Ending, str]:
    """How a block that is left by `error` ends its job, and the message for callers.

    An exception group counts as what all of its errors are. `handlers` is `handler_codes` of when the block began.
    `refusals` are errors of an upload for which the job is not to blame.
    """
    if error is None:
        return Ending.FINISHED, ""
    leaves = list(_leaves(error))
    if any(isinstance(each, LeaseLost) for each in leaves):
        return Ending.LOST, ""
    if is_for_callers(error):
        is_invalid = all(isinstance(each, GenerationInvalid) for each in leaves)
        text = " ".join(dict.fromkeys(clean_message(str(each)) for each in leaves))
        return Ending.INVALID if is_invalid else Ending.FAILED, text.strip() or DEFAULT_FAILURE
    if all(isinstance(each, Exception) for each in leaves):
        return (Ending.POSTPONED, "") if comes_of(error, refusals) else (Ending.FAILED, DEFAULT_FAILURE)
    handlers |= handler_codes()
    return Ending.RELEASED if any(_stops(each, handlers) for each in leaves) else Ending.REQUEUED, ""


def handler_codes() -> frozenset[CodeType]:
    """The code objects of the installed signal handlers. An error that a handler raises has a frame with its code."""
    return frozenset(filter(None, (_code_of(signal.getsignal(number)) for number in signal.valid_signals())))


def _code_of(handler: Any) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not callable(handler):
        return None
    code = getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None


def is_for_callers(error: BaseException) -> bool:
    """Whether all that `error` says was written for callers."""
    return all(isinstance(each, GenerationFailed) for each in _leaves(error))


def clean_message(message: str) -> str:
    """`message` as a document can hold it: lone surrogates replaced, and cut."""
    return message[:_LONGEST_MESSAGE].encode("utf-8", "replace").decode().strip()


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def comes_of(error: BaseException, origins: Sequence[Exception]) -> bool:
    """Whether `error` is one of `origins`, or was raised because of one or while one was handled."""
    seen, left = set[int](), [error]
    while left:
        each = left.pop()
        if any(each is origin for origin in origins):
            return True
        if id(each) not in seen:
            seen.add(id(each))
            left += filter(None, (each.__cause__, each.__context__))
            left += each.exceptions if isinstance(each, BaseExceptionGroup) else ()
    return False


def _stops(error: BaseException, handlers: frozenset[CodeType]) -> bool:
    """Whether `error` stops the worker. A `sys.exit` of the generation itself is a failed attempt."""
    if isinstance(error, SystemExit):
        return _comes_from(error.__traceback__, handlers)
    return isinstance(error, KeyboardInterrupt | CancelledError | GeneratorExit)


def _comes_from(trace: TracebackType | None, handlers: frozenset[CodeType]) -> bool:
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


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
