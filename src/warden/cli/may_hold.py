"""`warden ha may-hold SEAT`: keepalived's track script. It asks the node on this machine whether the seat's address may
be here, and ends with status 0 (yes) or 1 (no, or nobody answers).

Keepalived runs it once a second for each seat, so it imports nothing of Warden and next to nothing of Python.
"""

import socket
import sys

DEFAULT = "127.0.0.1:9000"
WAIT_S = 0.8
"""Keepalived asks every second, and one that does not answer by then is sick."""


def main(words: list[str]) -> int:
    """`SEAT [--http HOST:PORT]`; the exit status."""
    if len(words) not in (1, 3) or (len(words) == 3 and words[1] != "--http"):
        sys.stderr.write(f"usage: warden ha may-hold SEAT [--http HOST:PORT]   (default {DEFAULT})\n")
        return 2
    host, _, port = (words[2] if len(words) == 3 else DEFAULT).rpartition(":")
    host = host.strip("[]")
    try:
        said = _ask(host, int(port), words[0])
    except (OSError, ValueError) as error:
        sys.stdout.write(f"no: warden at {host} port {port}: {error}\n")
        return 1
    head, _, why = said.partition("\r\n\r\n")
    may = head.split(" ")[1:2] == ["200"]
    sys.stdout.write("yes\n" if may else f"no: {why.strip() or head[:100]}\n")
    return 0 if may else 1


def _ask(host: str, port: int, seat: str) -> str:
    said = b""
    with socket.create_connection((host, port), WAIT_S) as connection:
        name = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "?" for c in seat)
        connection.sendall(f"GET /may-hold?seat={name} HTTP/1.1\r\nHost: warden\r\nConnection: close\r\n\r\n".encode())
        while len(said) < 4096 and (data := connection.recv(4096)):
            said += data
    return said.decode("utf-8", "replace")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
