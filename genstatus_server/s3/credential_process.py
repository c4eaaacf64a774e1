"""Run the AWS configuration's `credential_process`, and end it at a time-out or together with the server.

    python credential_process.py SECONDS COMMAND [ARGUMENT ...]

botocore waits for the command without a limit and leaves it behind when it gives up. This program stands between: it
passes on the command's output and exit status. It is a program of its own because it has to outlive a server that is
killed, and it uses the standard library alone because it starts anew for each fetch.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

#: Seconds between two checks of the deadline and of the server.
_CHECK_SECONDS: Final = 0.1


def run(seconds: float, command: Sequence[str]) -> int:
    """The exit status of `command`, which is killed with all that it started after `seconds`."""
    server, deadline = os.getppid(), time.monotonic() + seconds
    with subprocess.Popen(command, process_group=0) as process:  # noqa: S603 - the operator has configured it.
        while os.getppid() == server and time.monotonic() < deadline:
            try:
                return process.wait(_CHECK_SECONDS)
            except subprocess.TimeoutExpired:
                continue
        os.killpg(process.pid, signal.SIGKILL)
    sys.stderr.write(f"time-out: no answer within {seconds:g} s")
    return 1


if __name__ == "__main__":
    try:
        sys.exit(run(float(sys.argv[1]), sys.argv[2:]))
    except OSError as error:
        sys.exit(f"{sys.argv[2]}: {error.strerror}")
