"""Sockets that are bound, or an error that says what is in the way."""

import errno
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from warden.core.address import Address, Transport
from warden.core.errors import WardenError
from warden.net.settings import Listener

_RECEIVE_BUFFER_BYTES: Final = 8 * 1024 * 1024
"""A pause of the loop of 100 ms (a collection, a slow disk) at 20,000 messages a second; the kernel counts about 2 KiB
for each. Without the right to force it, the kernel's `net.core.rmem_max` decides.
"""
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_BACKLOG: Final = 1024
"""Connections that wait to be accepted: a large office coming back at once."""
_IP_FREEBIND: Final = (socket.IPPROTO_IP, 15)
_IPV6_FREEBIND: Final = (socket.IPPROTO_IPV6, 78)
_TCP_LISTEN: Final = "0A"


def bind(listener: Listener) -> socket.socket:
    """A non-blocking socket bound to the listener's address, listening unless it is UDP.

    Raises `WardenError` that names address, transport, and for a taken port its owner where that can be seen.
    """
    family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
    kind = socket.SOCK_DGRAM if listener.transport is Transport.UDP else socket.SOCK_STREAM
    where = f"{listener.transport} {Address(listener.host, listener.port)}"
    try:
        sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise WardenError(f"{where}: {error.strerror or error}") from None
    try:
        if family == socket.AF_INET6:
            # An IPv4 peer must not show up as ::ffff:192.0.2.1: it would be another flow than through the IPv4 socket.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.ahead:
            # Until the machine has the address, nothing can be sent from it (ip(7)).
            sock.setsockopt(*(_IPV6_FREEBIND if family == socket.AF_INET6 else _IP_FREEBIND), 1)
        sock.bind((listener.host, listener.port))
        if kind == socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
        else:
            _widen(sock)
    except OSError as error:
        sock.close()
        raise WardenError(_explain(error, listener, where)) from None
    return sock


def local_address(sock: socket.socket, listener: Listener) -> Address:
    """The address that flows over this socket carry: stable, also where the socket is bound to a wildcard."""
    host, port = sock.getsockname()[:2]
    return Address(listener.advertised if listener.advertised and host in ("0.0.0.0", "::") else host, port)  # noqa: S104


def kernel_drops(sock: socket.socket) -> int:
    """Datagrams that the kernel dropped because this socket's buffer was full, since it was opened; 0 if unknown."""
    return _memory(sock, 8)


def queued_bytes(sock: socket.socket) -> int:
    """What waits in this socket's buffer, as the kernel counts it, with its own overhead; 0 if unknown."""
    return _memory(sock, 0)


def _memory(sock: socket.socket, which: int) -> int:
    """One of the figures that `ss -m` shows."""
    try:
        info = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
    except OSError:
        return 0
    return int.from_bytes(info[4 * which : 4 * which + 4], sys.byteorder)


def _widen(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    except OSError:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)


def _explain(error: OSError, listener: Listener, where: str) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            owner = port_owner(listener)
            return f"{where} is taken by {owner}" if owner else f"{where} is taken"
        case errno.EADDRNOTAVAIL:
            return f"{where}: this machine does not have the address {listener.host}"
        case errno.EACCES:
            return f"{where}: ports below 1024 need root or CAP_NET_BIND_SERVICE"
    return f"{where}: {error.strerror or error}"


def port_owner(listener: Listener) -> str:
    """`name (pid N)` of the process that holds the listener's port, "" where it cannot be seen (another user's)."""
    kind = "udp" if listener.transport is Transport.UDP else "tcp"
    inodes: set[str] = set()
    for table in (kind, kind + "6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                row = line.split()
                host, _, port = row[1].rpartition(":")
                if int(port, 16) != listener.port or (kind == "tcp" and row[3] != _TCP_LISTEN):
                    continue
                if _overlaps(host, listener.host):
                    inodes.add(f"socket:[{row[9]}]")
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda p: int(p.name)) if inodes else ():
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    if str(descriptor.readlink()) in inodes:
                        return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return ""


def _overlaps(kernel_host: str, host: str) -> bool:
    """True where a socket bound to `kernel_host` (hex words in host byte order) is in the way of one on `host`."""
    words = (int(kernel_host[i : i + 8], 16) for i in range(0, len(kernel_host), 8))
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    try:
        wanted = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except OSError:
        return True
    return not any(packed) or not any(wanted) or packed == wanted
