"""What a client does next: when to send a request, how long to pause, when to give up. Pure: no input or output.

`check`, `wait` and `download` are generators of steps. The blocking and the asyncio client perform each step and send
its `Reply` back into the generator. The result is what the generator returns or raises. So both clients follow the same
rules, and a test needs no server.
"""

import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import inf
from typing import Any, Final

from .answers import (
    DownloadFailed,
    Generation,
    GenerationRefused,
    Phase,
    ServerUnavailable,
    Status,
    Update,
    WaitTimedOut,
    generation_from,
)

#: Seconds that a request is held as a rule, and how much later than that its answer may come.
HOLD: Final = 25.0
GRACE: Final = 10.0
#: Seconds from one request to the next at the least, whatever the server says and however fast it fails.
SHORTEST_CYCLE: Final = 1.0
LONGEST_BACKOFF: Final = 30.0
#: Seconds of a client's time that are left for the answer to its last hold.
LAST_ANSWER: Final = 0.5
#: How often in a row a download may break off without getting further.
DOWNLOAD_ATTEMPTS: Final = 5

#: HTTP statuses of the server that the same request would get again: it is refused, or too large.
_GIVE_UP: Final = frozenset({400, 401, 403, 413, 414, 431})
#: HTTP statuses of the storage after which to try again; after 206 or 416 for another file, from the first byte.
_PASSING: Final = frozenset({0, 200, 206, 408, 416, 425, 429})
_SERVER_ERROR: Final = 500
_OK: Final = 200
_LONGEST_RETRY_AFTER: Final = 86400.0


@dataclass(frozen=True, slots=True)
class SendRequest:
    """Send a request that the server may hold for `hold` seconds (0: not at all); its answer ends within `limit`."""

    hold: float
    limit: float


@dataclass(frozen=True, slots=True)
class Sleep:
    """Do nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Fetch:
    """Write what is at the presigned URL into the file, or what is missing of it, within `limit` seconds."""

    url: str = field(repr=False)
    size: int | None
    limit: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What came: an HTTP answer, or status 0 and why there is none. `received` are the bytes that the file has then.

    The names of `headers` are in lower case.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    received: int = 0
    error: str = ""


Step = SendRequest | Sleep | Fetch
Steps = Generator[Step, Reply, Generation]


@dataclass(frozen=True)
class Timing:
    """Time and jitter. `clock` gives seconds that only grow, `jitter` a number from 0 to 1."""

    clock: Callable[[], float]
    jitter: Callable[[], float]

    def backoff(self, failures: int) -> float:
        """The pause after so many failures in a row: full jitter, from 0 to a bound that doubles."""
        return self.jitter() * min(LONGEST_BACKOFF, 2.0 ** min(failures, 10))


def check(timeout: float) -> Steps:
    """Send one request. Raises `GenerationRefused` or `ServerUnavailable`."""
    return read((yield SendRequest(0.0, timeout)))


def wait(
    timing: Timing,
    on_update: Callable[[Update], object],
    *,
    hold: float = HOLD,
    timeout: float | None = None,
    ask_first: bool = False,
) -> Steps:
    """Repeat the request until the generation is settled; with `ask_first`, the first one without a hold.

    Raises `GenerationRefused`, or `WaitTimedOut` after `timeout` seconds.
    """
    clock = timing.clock
    ends = inf if timeout is None else clock() + timeout
    newest, failures, last_error = None, 0, ""
    while (sent := clock()) < ends:
        seconds = 0.0 if ask_first else _hold_that_fits(hold, ends - sent)
        on_update(Update(Phase.ASKING, newest))
        reply = yield SendRequest(seconds, min(seconds + GRACE, ends - sent))
        try:
            newest, failures, last_error = read(reply), 0, ""
            if newest.is_settled:
                on_update(Update(Phase.SETTLED, newest))
                return newest
            # At the deadline of a hold the server has spread the requests already.
            at_deadline = reply.headers.get("x-wait-result") == "deadline"
            pause = 0.0 if ask_first else retry_after(reply) + (0 if at_deadline else timing.jitter())
        except ServerUnavailable as error:
            failures, last_error = failures + 1, error.message
            pause = max(error.retry_after, timing.backoff(failures))
        ask_first = False
        pause = min(max(pause, sent + SHORTEST_CYCLE - clock()), max(ends - clock(), 0))
        on_update(Update(Phase.RECONNECTING if last_error else Phase.WAITING, newest, pause, last_error))
        yield Sleep(pause)
    raise WaitTimedOut(f"no result within {timeout} seconds{last_error and f' ({last_error})'}", newest)


def download(timing: Timing, generation: Generation | None = None, *, timeout: float | None = None) -> Steps:
    """Fetch the file of a finished `generation`; without one, or where its URL is of no use, ask for it anew.

    An interrupted download resumes at the same byte if the storage supports it. Raises `DownloadFailed`,
    `GenerationRefused`, or `WaitTimedOut` after `timeout` seconds.
    """
    ends = inf if timeout is None else timing.clock() + timeout
    failures, renewals, furthest, last_error = 0, 0, 0, ""
    while (left := ends - timing.clock()) > 0:
        floor = 0.0
        try:
            finished = generation or read((yield SendRequest(0.0, min(GRACE, left))))
            reply = yield Fetch(_url_of(finished), finished.size, ends - timing.clock())
            last_error = _error_of(reply, finished.size)
            if not last_error:
                return finished
            if _is_refusal(reply):
                renewals += 1
            else:
                failures = 1 if reply.received > furthest else failures + 1
                furthest = max(furthest, reply.received)
        except ServerUnavailable as error:
            last_error, floor, failures = error.message, error.retry_after, failures + 1
        generation = None  # By now its URL may have expired.
        if renewals > 1 or failures == DOWNLOAD_ATTEMPTS:
            raise DownloadFailed(last_error)
        pause = max(floor, timing.backoff(failures)) if failures else 0.0
        yield Sleep(min(pause, max(ends - timing.clock(), 0)))
    raise WaitTimedOut(f"not downloaded within {timeout} seconds{last_error and f' ({last_error})'}")


def read(reply: Reply) -> Generation:
    """The answer in a reply of the server. Raises `GenerationRefused` or `ServerUnavailable`."""
    if not reply.status:
        raise ServerUnavailable(reply.error)
    body = _json(reply.body)
    generation = generation_from(body) if reply.status == _OK else None
    if generation is not None:
        return generation
    content: Mapping[str, Any] = body if isinstance(body, dict) and reply.status != _OK else {}
    message = str(content.get("message") or f"unexpected answer (HTTP {reply.status})")
    if reply.status not in _GIVE_UP:
        raise ServerUnavailable(message, reply.status, retry_after(reply))
    errors = content.get("errors")
    request_id = reply.headers.get("x-request-id", "")
    raise GenerationRefused(reply.status, message, errors if isinstance(errors, dict) else {}, request_id)


def retry_after(reply: Reply) -> float:
    """The seconds in `Retry-After`, which some proxies send as a date; 0 where there is none that makes sense."""
    value = reply.headers.get("retry-after", "")
    try:
        seconds = float(value) if value[:1].isdigit() else _seconds_until(value)
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER)


def _seconds_until(date: str) -> float:
    moment = parsedate_to_datetime(date)
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()


def _hold_that_fits(hold: float, left: float) -> float:
    """The longest hold whose answer still comes in time; 0, not held, where too little is left."""
    return hold if left >= hold + LAST_ANSWER else round(max(left - LAST_ANSWER, 0.0), 1)


def _url_of(generation: Generation) -> str:
    if generation.status is not Status.FINISHED:
        raise DownloadFailed(f"there is no file: its generation is {generation.status}")
    return generation.url


def refusal(status: int) -> str:
    return f"the storage refused the download (HTTP {status})"


def _is_refusal(reply: Reply) -> bool:
    """Whether only another URL can help: this one has expired, or the file is not there, or somewhere else."""
    return reply.status not in _PASSING and reply.status < _SERVER_ERROR


def _error_of(reply: Reply, size: int | None) -> str:
    """Why a fetch brought no whole file; empty where it did."""
    if reply.status != _OK:
        return reply.error or refusal(reply.status)
    if reply.error:
        return reply.error
    return "" if size in (None, reply.received) else f"{reply.received} bytes came instead of {size}"


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
