"""The three messages that systemd wants of a service of Type=notify; see sd_notify(3)."""

import os
import socket


def notify(message: str) -> bool:
    """Send a message such as ``READY=1`` to the service manager.

    Returns
    -------
    bool
        False where there is none, or it cannot be reached: nothing of the inspection hangs on it.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):  # a socket without a file
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(address)
            channel.sendall(message.encode())
    except OSError:
        return False
    return True
