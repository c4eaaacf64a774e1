"""The credentials that sign URLs. Most credentials expire, and a URL expires with the credentials that signed it.

botocore fetches new credentials when the old ones expire within 15 minutes. If that fetch hangs or fails, so may the
request, although the old ones are still valid. botocore does not consider either that a URL may have to live longer.
This module fetches new credentials early, in the background. A request waits only if no credentials are valid for long
enough.
"""

import asyncio
import contextlib
import shlex
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiobotocore.session import get_session
from botocore.credentials import ReadOnlyCredentials, RefreshableCredentials
from botocore.exceptions import NoCredentialsError

from genstatus_server.model.errors import ServiceUnavailable
from genstatus_server.s3 import credential_process
from genstatus_server.telemetry import log

#: Seconds before their end at which new ones are fetched.
EARLY_SECONDS: Final = 15 * 60
#: Seconds between two attempts, where nothing can be signed until one succeeds, and where there is time.
URGENT_PAUSE: Final = 2.0
EARLY_PAUSE: Final = 30.0

#: Seconds that a request waits for an attempt.
_WAIT_TIMEOUT: Final = 2.5
#: Seconds that an attempt may take, and a `credential_process` as part of it. Both are longer than a request waits:
#: later requests use the credentials that the attempt fetches.
_FETCH_TIMEOUT: Final = 20
_PROCESS_TIMEOUT: Final = 15
_PROCESS_RUNNER: Final = shlex.join([sys.executable, "-P", str(credential_process.__file__), str(_PROCESS_TIMEOUT)])

#: Loads aiobotocore's credentials. Their methods are coroutines, but botocore's types declare plain functions.
Load = Callable[[], Awaitable[Any]]


def aws_chain(region: str | None, keys: tuple[str, str] | None = None) -> Load:
    """Loads the access key and secret key in `keys`, or else what the AWS chain gives.

    The chain requests a role from the STS of `region`; None is the configured region.
    """

    async def load() -> Any:
        session = get_session()  # A new one each time: a session keeps the first credentials and configuration.
        session.set_config_variable("region", region)
        if keys is not None:
            session.set_credentials(*keys)
        for profile in session.full_config["profiles"].values():
            if command := profile.get("credential_process"):
                profile["credential_process"] = f"{_PROCESS_RUNNER} {command}"
        return await session.get_credentials()

    return load


class RefreshingCredentials:
    """Credentials out of `load` that are valid for at least `needed` seconds."""

    def __init__(self, load: Load, *, needed: int) -> None:
        self._load = load
        self.needed: Final = needed
        self._loaded: object = None
        self._frozen: ReadOnlyCredentials | None = None
        self._fetch: asyncio.Task[None] | None = None
        self._fetched_at = float("-inf")
        self._failure: Exception | None = None

    def valid_for(self, seconds: int) -> bool:
        """Whether there are credentials that end in `seconds` at the earliest; those without an end never do."""
        if isinstance(self._loaded, RefreshableCredentials):
            return not self._loaded.refresh_needed(seconds)
        return self._loaded is not None

    async def get(self) -> ReadOnlyCredentials:
        """Credentials that are valid for long enough. Raises `ServiceUnavailable`."""
        self.refresh()
        is_valid = self.valid_for(self.needed)
        if not is_valid and self._fetch is not None:
            await asyncio.wait([self._fetch], timeout=_WAIT_TIMEOUT)
            is_valid = self.valid_for(self.needed)
        if self._frozen is None or not is_valid:
            raise ServiceUnavailable from self._failure or TimeoutError("time-out: they are still being fetched")
        return self._frozen

    def refresh(self) -> None:
        """Begin to fetch new ones where these end soon, unless that was tried a moment ago."""
        if self._fetch is not None or self.valid_for(max(EARLY_SECONDS, 2 * self.needed)):
            return
        pause = EARLY_PAUSE if self.valid_for(self.needed) else URGENT_PAUSE
        if asyncio.get_running_loop().time() - self._fetched_at >= pause:
            self._fetch = asyncio.create_task(self._fetch_new(), name="credentials")

    async def close(self) -> None:
        """End the attempt under way."""
        if self._fetch is not None:
            self._fetch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._fetch

    async def _fetch_new(self) -> None:
        try:
            async with asyncio.timeout(_FETCH_TIMEOUT):
                await self._store(await self._load())
        except TimeoutError:
            self._fail(TimeoutError(f"time-out: none within {_FETCH_TIMEOUT} s"))
        except Exception as error:  # noqa: BLE001 - programs and services that give credentials fail in any way.
            self._fail(error)
        finally:
            self._fetched_at = asyncio.get_running_loop().time()
            self._fetch = None

    def _fail(self, error: Exception) -> None:
        self._failure = error
        log.warning("credentials_not_fetched", cause=log.cause(error))

    async def _store(self, loaded: Any) -> None:
        frozen = await loaded.get_frozen_credentials() if loaded else None
        if frozen is None or not frozen.access_key:
            raise NoCredentialsError
        self._loaded, self._frozen = loaded, frozen
        if not self.valid_for(self.needed):
            raise ValueError(f"the credentials are valid for less than {self.needed} s, half of url_ttl")
