"""The signals that end the server, and those that do not."""

import asyncio
import os
import signal
from typing import Final, NoReturn

from genstatus_server.telemetry import log

#: Seconds that the log has when a second signal ends the process.
_LOG_SECONDS: Final = 0.1


class Shutdown(asyncio.Event):
    """Set once the server has to end, by `signal`, or None where its parent process is gone.

    For `delay` seconds from then on it still accepts and answers everything, so that load balancers notice.
    """

    def __init__(self, delay: float = 0) -> None:
        super().__init__()
        self.delay = delay
        self.signal: str | None = None

    def listen(self) -> None:
        """Be set by SIGTERM, SIGHUP or SIGINT, which skips the delay; a second one ends the process at once.

        SIGHUP stays ignored where it is, which is what `nohup` does. SIGUSR1 and SIGUSR2 are ignored.
        """
        loop = asyncio.get_running_loop()
        ends = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            ends.append(signal.SIGHUP)
        for each in ends:
            loop.add_signal_handler(each, self._on_signal, each)
        for each in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(each, signal.SIG_IGN)

    def parent_gone(self) -> None:
        """Be set at once: whoever starts the server again needs its port."""
        if self.is_set():
            self._end(1)
        self.delay = 0
        self.set()

    def _on_signal(self, number: signal.Signals) -> None:
        if self.is_set():
            self._end(128 + number)
        self.signal = number.name
        if number is signal.SIGINT:
            self.delay = 0
        self.set()

    @staticmethod
    def _end(status: int) -> NoReturn:
        log.wait_written(_LOG_SECONDS)
        os._exit(status)
