"""The client for asyncio."""

import asyncio
import os
import random
import ssl
import time
from collections.abc import Callable
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


class AsyncGenerationClient:
    """`GenerationClient` for asyncio: the same methods, awaited; any number of calls at once, each can be cancelled."""

    def __init__(self, base_url: str, session_token: str, *, verify: ssl.SSLContext | bool = True) -> None:
        self._target = Target(base_url, session_token)
        # Each call that waits holds a connection, and a call that cannot get one would look like a dead server.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        self._http = open_http(httpx.AsyncClient, verify=verify, limits=limits)
        #: The clock, and what pauses between attempts are drawn from.
        self.timing = Timing(time.monotonic, random.random)

    async def check_generation(self, submission_id: int, file_type: str, *, timeout: float = 10.0) -> Generation:  # noqa: ASYNC109 - as in the client that blocks
        """The state of the file. Raises `GenerationRefused`, or `ServerUnavailable` within `timeout` s."""
        return await self._follow(rules.check(timeout), submission_id, file_type)

    async def wait_for_generation(  # noqa: PLR0913 - the options by name
        self,
        submission_id: int,
        file_type: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the last hold is made to fit it
        hold: float = rules.HOLD,
        ask_first: bool = False,
        on_update: Callable[[Update], object] = lambda _: None,
    ) -> Generation:
        """The answer once it is settled: finished, failed or invalid. `hold`: seconds that one request is held.

        `ask_first`: begin with a request that is not held, so that `on_update` is called at once with the file's state.
        Raises `GenerationRefused`, or `WaitTimedOut` after `timeout` seconds.
        """
        steps = rules.wait(self.timing, on_update, hold=hold, timeout=timeout, ask_first=ask_first)
        return await self._follow(steps, submission_id, file_type)

    async def download(  # noqa: PLR0913 - the options by name
        self,
        submission_id: int,
        file_type: str,
        path: str | os.PathLike[str],
        *,
        generation: Generation | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as in the client that blocks
        on_progress: Progress = lambda _received, _total: None,
    ) -> Path:
        """Fetch the finished file to `path`, where it appears when it is whole, in the place of what was there.

        `generation` saves a request where it was answered just now. `on_progress` is called in a thread. Raises
        `DownloadFailed`, `GenerationRefused`, `WaitTimedOut` after `timeout` seconds, or OSError where the file
        cannot be written.
        """
        steps = rules.download(self.timing, generation, timeout=timeout)
        part = PartFile(path, on_progress)  # Not in a thread: a cancelled task would leave the file behind.
        try:
            await self._follow(steps, submission_id, file_type, part)
            return await asyncio.to_thread(part.keep)
        finally:
            part.close()

    async def download_to(  # noqa: PLR0913 - the options by name
        self,
        submission_id: int,
        file_type: str,
        stream: BinaryIO,
        *,
        generation: Generation | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - as in the client that blocks
        on_progress: Progress = lambda _received, _total: None,
    ) -> int:
        """`download` to a stream, which is written to in a thread; gives the number of bytes."""
        steps = rules.download(self.timing, generation, timeout=timeout)
        output = StreamOutput(stream, on_progress)
        await self._follow(steps, submission_id, file_type, output)
        return output.received

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _follow(
        self, steps: Steps, submission_id: int, file_type: str, output: Output | None = None
    ) -> Generation:
        """Do each step, until there is a result."""
        try:
            step = next(steps)
            while True:
                reply = Reply()
                match step:
                    case SendRequest():
                        reply = await self._send(submission_id, file_type, step)
                    case Fetch() if output is not None:
                        reply = await self._fetch(step, output)
                    case Sleep():
                        await asyncio.sleep(step.seconds)
                step = steps.send(reply)
        except StopIteration as end:
            result: Generation = end.value
            return result

    async def _send(self, submission_id: int, file_type: str, step: SendRequest) -> Reply:
        body = bytearray()
        try:
            async with (
                asyncio.timeout(step.limit),
                self._http.stream(**self._target.request(submission_id, file_type, step)) as response,
            ):
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > LARGEST_ANSWER:
                        return Reply(error="the answer does not end")
                return Reply(response.status_code, dict(response.headers), bytes(body))
        except NO_REPLY as error:
            return no_reply(error)

    async def _fetch(self, step: Fetch, output: Output) -> Reply:
        try:
            async with (
                asyncio.timeout(None if step.limit == float("inf") else step.limit),
                self._http.stream(**fetch_request(step, output)) as response,
            ):
                if why := output.accept(response.status_code, response.headers, step.size):
                    return Reply(response.status_code, error=why)
                async for chunk in response.aiter_raw():
                    await asyncio.to_thread(output.write, chunk)
                return Reply(httpx.codes.OK, received=output.received)
        except NO_REPLY as error:
            return no_reply(error, output.received)
