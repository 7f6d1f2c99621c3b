"""What a service manager hands over and is told: listening sockets, and that the server is ready or ends.

Source: sd_listen_fds(3) and sd_notify(3) of systemd.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping
from typing import Final

from ....artifacts.errors import RocmforgeError, UsageError, printable

FIRST_DESCRIPTOR: Final = 3
MOST_SOCKETS: Final = 64


def take_sockets(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """Return the sockets that this process was given to listen on; none where it was given none.

    Args:
        environment: of this process; what speaks of sockets is taken out, for it is not meant for processes that this
            one starts.

    Raises:
        UsageError: what was given is no listening TCP socket.
    """
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()):  # meant for a process before this one, or for nobody
        return []
    if not (count.isascii() and count.isdigit() and 1 <= int(count) <= MOST_SOCKETS):
        raise UsageError(f"LISTEN_FDS: expected 1 to {MOST_SOCKETS}, found {printable(count)}")
    return [_listening(FIRST_DESCRIPTOR + index) for index in range(int(count))]


def _listening(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        found = socket.socket(fileno=descriptor)
    except OSError as error:
        raise UsageError(f"LISTEN_FDS: descriptor {descriptor}: expected a socket, found: {error.strerror}") from None
    is_tcp = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
    if not is_tcp or not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        found.detach()
        raise UsageError(f"LISTEN_FDS: descriptor {descriptor}: expected a listening TCP socket, found another")
    found.setblocking(False)
    return found


def notify(state: str, environment: MutableMapping[str, str]) -> None:
    """Tell the service manager, where there is one that wants to know (`NOTIFY_SOCKET`): `READY=1` or `STOPPING=1`.

    Raises:
        RocmforgeError: its address is none.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address[0] not in "/@":
        raise RocmforgeError(f"NOTIFY_SOCKET: expected a path or an abstract name, found {printable(address)}")
    if address[0] == "@":
        address = "\0" + address[1:]
    # Where it listens no longer, nobody is there to be told.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
        told.connect(address)
        told.sendall(state.encode())
