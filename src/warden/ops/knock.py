"""Is there anybody? An OPTIONS to a SIP server, before anything is asked of it."""

import asyncio
import secrets
import socket
from typing import Final

from warden.core.address import Address
from warden.core.errors import MalformedMessage, WardenError
from warden.sip.message import MAGIC_COOKIE
from warden.sip.parser import parse_message

KNOCK_S: Final = 2.0


class NobodyThere(WardenError):
    """The kernel says that nobody listens there."""


class Silent(WardenError):
    """No answer. Whoever listens there may still answer to phones."""


class NoSip(WardenError):
    """What answers there is no SIP."""


async def knock(server: Address, local: str) -> None:
    """Send OPTIONS over UDP from `local` and wait for any SIP response. Raises `NobodyThere`, `Silent`, `NoSip`, and
    `WardenError` where the server cannot be reached at all.
    """
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.bind((local, 0))
            # Connected, so that the kernel tells when nobody listens.
            sock.connect((server.host, server.port))
            request = _options(server, Address(local, sock.getsockname()[1]))
            async with asyncio.timeout(KNOCK_S):
                while True:
                    sock.send(request)
                    try:
                        data = await asyncio.wait_for(loop.sock_recv(sock, 65535), KNOCK_S / 4)
                    except TimeoutError:
                        continue
                    break
        except ConnectionRefusedError:
            raise NobodyThere(f"nobody listens on UDP {server}") from None
        except TimeoutError:
            raise Silent(f"no answer from UDP {server} within {KNOCK_S:g} s") from None
        except OSError as error:
            raise WardenError(f"{server} cannot be reached: {error.strerror}") from error
    try:
        parse_message(data)
    except MalformedMessage as error:
        raise NoSip(f"what answers on {server} does not speak SIP ({error})") from error


def _options(server: Address, here: Address) -> bytes:
    host = f"[{server.host}]" if ":" in server.host else server.host
    tag = secrets.token_hex(8)
    return (
        f"OPTIONS sip:{host} SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch={MAGIC_COOKIE}{tag};rport\r\n"
        f"Max-Forwards: 70\r\nFrom: <sip:selftest@{host}>;tag={tag}\r\nTo: <sip:{host}>\r\n"
        f"Call-ID: {tag}\r\nCSeq: 1 OPTIONS\r\nContact: <sip:selftest@{here}>\r\nContent-Length: 0\r\n\r\n"
    ).encode()
