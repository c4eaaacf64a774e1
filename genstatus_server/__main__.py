"""`python -m genstatus_server`."""

import signal

# All that is imported below takes its time. Ctrl-C meanwhile ends it like any program, without a traceback.
_on_interrupt = signal.getsignal(signal.SIGINT)
if _on_interrupt is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from genstatus_server.cli import main  # noqa: E402 - see above

signal.signal(signal.SIGINT, _on_interrupt)
main()
