"""How the block of a job ends, by the error that leaves it. Pure."""

import signal
from asyncio import CancelledError
from collections.abc import Iterator
from enum import Enum, auto
from types import TracebackType
from typing import Final

from genstatus_server.jobs_writer.errors import GenerationFailed, GenerationInvalid, LeaseLost
from genstatus_server.model.jobs import DEFAULT_FAILURE

#: More than a person reads, and far below what a document may hold.
_LONGEST_MESSAGE: Final = 4000


class Ending(Enum):
    """What becomes of the job."""

    FINISHED = auto()
    FAILED = auto()
    INVALID = auto()
    #: Back to its place in the queue: the worker was told to stop, and the job is not to blame.
    RELEASED = auto()
    #: Back to the end of the queue; the attempt counts.
    REQUEUED = auto()
    #: Nothing may be written: it is somebody else's.
    LOST = auto()


def ending_of(error: BaseException | None) -> tuple[Ending, str]:
    """How a block that is left by `error` ends its job, and the message for callers.

    An exception group counts as what all of its errors are.
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
        return Ending.FAILED, DEFAULT_FAILURE
    return Ending.RELEASED if any(map(_stops, leaves)) else Ending.REQUEUED, ""


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


def _stops(error: BaseException) -> bool:
    """Whether the worker was told to stop. A `sys.exit` of the generation itself is a failed attempt."""
    if isinstance(error, SystemExit):
        return _is_from_signal_handler(error.__traceback__)
    return isinstance(error, KeyboardInterrupt | CancelledError | GeneratorExit)


def _is_from_signal_handler(trace: TracebackType | None) -> bool:
    handlers = (signal.getsignal(number) for number in signal.valid_signals())
    codes = {getattr(handler, "__code__", None) for handler in handlers}
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False
