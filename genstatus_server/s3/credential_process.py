"""Run the AWS configuration's `credential_process`, and end it at a time-out or together with the server.

    python credential_process.py SECONDS COMMAND [ARGUMENT ...]

botocore runs the command without a time-out, and the command keeps running when the fetch is cancelled. Therefore
botocore runs this program, which runs the command and passes on its output and exit status. It is a separate program
because it must end the command even if the server is killed. It imports only the standard library, so that it starts
fast: it is started for each fetch.
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
    """Run `command` and return its exit status. After `seconds`, kill it and all processes that it started."""
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
