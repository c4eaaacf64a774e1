"""The credentials that URLs are signed with. Most are lent for a while, and a URL dies with those that signed it.

botocore fetches others when a quarter of an hour is left, fails or waits while it cannot although what it has still
lives, and takes no longer-lived URL into account. Here, what lives long enough is used; others are fetched early and
beside the requests, and a request waits only where nothing else would do.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final, Self

from aiobotocore.credentials import AioCredentials
from aiobotocore.session import get_session
from botocore.credentials import ReadOnlyCredentials, RefreshableCredentials
from botocore.exceptions import NoCredentialsError

from genstatus_server.model.errors import ServiceUnavailable
from genstatus_server.telemetry import log

#: Seconds before their end at which others are fetched.
EARLY_SECONDS: Final = 15 * 60
#: Seconds between two attempts, where nothing can be signed until one succeeds, and where there is time.
URGENT_PAUSE: Final = 2.0
EARLY_PAUSE: Final = 30.0

#: Seconds that an attempt may take. Longer than a request waits for it: the next one finds what it has brought.
_FETCHING_SECONDS: Final = 15.0

#: Loads credentials of botocore's, whose methods are coroutines here, which its types do not say.
Load = Callable[[], Awaitable[Any]]


async def from_aws_chain() -> Any:
    """What the AWS chain gives now: through a session of its own, because a session keeps what it was given first."""
    return await get_session().get_credentials()


class LentCredentials(AioCredentials):
    """What botocore's signers get in place of its own: credentials out of `load` that have `needed` seconds to live."""

    def __init__(self, load: Load, *, needed: int) -> None:
        super().__init__("", "", method="lent")
        self._load = load
        self._needed = needed
        self._loaded: object = None
        self._frozen: ReadOnlyCredentials | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._fetched_at = float("-inf")
        self._failure: Exception | None = None

    def last(self, seconds: int) -> bool:
        """Whether there are any, and they live so long; those that do not say when they end live for ever."""
        if isinstance(self._loaded, RefreshableCredentials):
            return not self._loaded.refresh_needed(seconds)
        return self._loaded is not None

    async def load_credentials(self) -> Self:
        """These, to a session that has this as its provider."""
        return self

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:  # type: ignore[override]  # as said above
        """Credentials that live long enough. Raises `ServiceUnavailable`."""
        at_hand = self.at_hand()
        if at_hand is None and self._fetching is not None:
            await asyncio.shield(self._fetching)
            at_hand = self.at_hand()
        if at_hand is None:
            raise ServiceUnavailable from self._failure
        return at_hand

    def at_hand(self) -> ReadOnlyCredentials | None:
        """The same without waiting for any; None where there are none."""
        self.fetch_in_time()
        return self._frozen if self.last(self._needed) else None

    def fetch_in_time(self) -> None:
        """Begin to fetch others where these end before long, unless that was tried just now."""
        if self._fetching is not None or self.last(max(EARLY_SECONDS, 2 * self._needed)):
            return
        pause = EARLY_PAUSE if self.last(self._needed) else URGENT_PAUSE
        if asyncio.get_running_loop().time() - self._fetched_at >= pause:
            self._fetching = asyncio.create_task(self._fetch(), name="credentials")

    async def close(self) -> None:
        """End the attempt under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._fetching

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(_FETCHING_SECONDS):
                await self._take(await self._load())
        except Exception as error:  # noqa: BLE001 - programs and services that lend them fail in every way there is.
            self._failure = error
            log.warning("credentials_not_fetched", cause=log.cause(error))
        finally:
            self._fetched_at = asyncio.get_running_loop().time()
            self._fetching = None

    async def _take(self, loaded: Any) -> None:
        frozen = await loaded.get_frozen_credentials() if loaded else None
        if frozen is None or not frozen.access_key:
            raise NoCredentialsError
        self._loaded, self._frozen = loaded, frozen
        if not self.last(self._needed):
            raise ValueError(f"the credentials live less than {self._needed} s, half of url_ttl")
