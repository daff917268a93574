"""The network door: what the switch may ask of sockets, and what they tell it."""

from typing import Protocol

from warden.core.address import Address, Flow
from warden.core.errors import MalformedMessage
from warden.sip.message import Request, Response


class Net(Protocol):
    """SIP sockets."""

    def send(self, flow: Flow, data: bytes) -> None:
        """Send one message; never blocks, never raises. A stream flow with connection 0 means any connection to that
        remote, opened if there is none. What cannot be sent is told by `Receiver.lost`.
        """

    def expect(self, remote: Address, server_name: str) -> None:
        """Let TLS connections opened to `remote` from now on be verified by this name, the one that was resolved."""

    def close(self, flow: Flow) -> None:
        """Close a stream connection; nothing happens for UDP or for one that is gone."""


class Receiver(Protocol):
    """Who hears what the sockets hear. Called in the event loop's thread; must not block and must not raise."""

    def received(self, flow: Flow, message: Request | Response) -> None:
        """A whole message arrived."""

    def malformed(self, flow: Flow, data: bytes, error: MalformedMessage) -> None:
        """Something arrived that is no SIP message. A stream of which it is not known where
        the next message begins is closed by the driver afterwards, when what is sent here has gone out.
        """

    def lost(self, flow: Flow, why: str) -> None:
        """The connection ended, could not be opened, or (UDP) the peer's host answered with an ICMP error."""
