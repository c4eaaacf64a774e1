"""The client for programs that block."""

import os
import random
import ssl
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import httpx

from . import rules
from .answers import Generation, Update
from .part_file import Output, PartFile, Progress, StreamOutput
from .request import (
    LARGEST_ANSWER,
    NO_REPLY,
    Target,
    fetch_request,
    no_reply,
    open_http,
)
from .rules import Fetch, Reply, SendRequest, Sleep, Steps, Timing


class GenerationClient:
    """Asks the server at `base_url` with one user's session token; a context manager, for one thread at a time.

    `verify` is the TLS context where the machine's own certificates are not the right ones. Raises ValueError where
    the URL or the token cannot be used. Each method documents what else it raises.
    """

    def __init__(self, base_url: str, session_token: str, *, verify: ssl.SSLContext | bool = True) -> None:
        self._target = Target(base_url, session_token)
        self._verify = verify
        self._open()
        #: The clock, and what pauses between attempts are drawn from.
        self.timing = Timing(time.monotonic, random.random)

    def check_generation(self, submission_id: int, file_type: str, *, timeout: float = 10.0) -> Generation:
        """The state of the file. Raises `GenerationRefused`, or `ServerUnavailable` within `timeout` s."""
        return self._follow(rules.check(timeout), submission_id, file_type)

    def wait_for_generation(  # noqa: PLR0913 - the options by name
        self,
        submission_id: int,
        file_type: str,
        *,
        timeout: float | None = None,
        hold: float = rules.HOLD,
        ask_first: bool = False,
        on_update: Callable[[Update], object] = lambda _: None,
    ) -> Generation:
        """The answer once it is settled: finished, failed or invalid. `hold`: seconds that one request is held.

        `ask_first`: begin with a request that is not held, so that `on_update` is called at once with the file's state.
        Raises `GenerationRefused`, or `WaitTimedOut` after `timeout` seconds.
        """
        steps = rules.wait(self.timing, on_update, hold=hold, timeout=timeout, ask_first=ask_first)
        return self._follow(steps, submission_id, file_type)

    def download(  # noqa: PLR0913 - the options by name
        self,
        submission_id: int,
        file_type: str,
        path: str | os.PathLike[str],
        *,
        generation: Generation | None = None,
        timeout: float | None = None,
        on_progress: Progress = lambda _received, _total: None,
    ) -> Path:
        """Fetch the finished file to `path`, where it appears when it is whole, in the place of what was there.

        `generation` saves a request where it was answered just now. Raises `DownloadFailed`, `GenerationRefused`,
        `WaitTimedOut` after `timeout` seconds, or OSError where the file cannot be written.
        """
        steps = rules.download(self.timing, generation, timeout=timeout)
        with closing(PartFile(path, on_progress)) as part:
            self._follow(steps, submission_id, file_type, part)
            return part.keep()

    def download_to(  # noqa: PLR0913 - the options by name
        self,
        submission_id: int,
        file_type: str,
        stream: BinaryIO,
        *,
        generation: Generation | None = None,
        timeout: float | None = None,
        on_progress: Progress = lambda _received, _total: None,
    ) -> int:
        """`download` to a stream, which has a part of the file where this raises; gives the number of bytes."""
        steps = rules.download(self.timing, generation, timeout=timeout)
        output = StreamOutput(stream, on_progress)
        self._follow(steps, submission_id, file_type, output)
        return output.received

    def close(self) -> None:
        self._http.close()

    def _open(self) -> None:
        self._http, self._process = open_http(httpx.Client, verify=self._verify), os.getpid()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _follow(self, steps: Steps, submission_id: int, file_type: str, output: Output | None = None) -> Generation:
        """Do each step, until there is a result."""
        if self._process != os.getpid():  # Two processes on one connection would get each other's answers.
            self._open()
        try:
            step = next(steps)
            while True:
                reply = Reply()
                match step:
                    case SendRequest():
                        reply = self._send(submission_id, file_type, step)
                    case Fetch() if output is not None:
                        reply = self._fetch(step, output)
                    case Sleep():
                        time.sleep(step.seconds)
                step = steps.send(reply)
        except StopIteration as end:
            result: Generation = end.value
            return result

    # Each read has a limit of its own: only a server that sends its headers byte by byte could exceed the whole.
    def _send(self, submission_id: int, file_type: str, step: SendRequest) -> Reply:
        ends = time.monotonic() + step.limit
        body = bytearray()
        try:
            with self._http.stream(**self._target.request(submission_id, file_type, step)) as response:
                for chunk in response.iter_bytes():
                    body += chunk
                    if time.monotonic() > ends or len(body) > LARGEST_ANSWER:
                        return Reply(error="the answer does not end")
                return Reply(response.status_code, dict(response.headers), bytes(body))
        except NO_REPLY as error:
            return no_reply(error)

    def _fetch(self, step: Fetch, output: Output) -> Reply:
        ends = time.monotonic() + step.limit
        try:
            with self._http.stream(**fetch_request(step, output)) as response:
                if why := output.accept(response.status_code, response.headers, step.size):
                    return Reply(response.status_code, error=why)
                for chunk in response.iter_raw():
                    output.write(chunk)
                    if time.monotonic() > ends:
                        return Reply(error="the time is over", received=output.received)
                return Reply(httpx.codes.OK, received=output.received)
        except NO_REPLY as error:
            return no_reply(error, output.received)
