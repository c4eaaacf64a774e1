"""Tells systemd how the service is, where systemd asks for it (`Type=notify`): one datagram, as sd_notify(3) has it."""

import os
import socket


def notify(state: str) -> None:
    """Send `state`, such as `READY=1`; nothing where nobody wants to know, or nobody listens any more."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
        except OSError:
            return
