"""Whose media are protected (SRTP by SDES keys): the policy of extensions, and what there is between us and each leg.

Descriptions go through here on their way between `Legs` and the peers, so that the engine knows of no keys and none
gets from one leg to another.
"""

from collections.abc import Callable
from hashlib import sha512
from typing import Final

from msgspec.structs import replace

from warden.core.address import Transport
from warden.core.errors import MalformedMessage
from warden.sdp.sdes import (
    NotSecure,
    Policy,
    Sdes,
    heard_answer,
    heard_offer,
    say_answer,
    say_offer,
    speaks_of_keys,
)
from warden.sip.message import Fields
from warden.switch.directory import Directory
from warden.switch.live import LiveCall
from warden.switch.registrar import Binding

PRIVATE: Final = (Transport.TLS, Transport.WSS)
"""Transports over which keys are no news to anybody else."""
_TOKENS: Final = 4
"""A key is drawn from so many tokens of 96 random bits: it has 240 bits."""
_NOBODY: Final = Sdes(Policy.OFF)


class Secrecy:
    """The keys of all calls of a seat; what is agreed is in `LiveCall.srtp`. `directory` has the policies."""

    def __init__(self, new_token: Callable[[], str]) -> None:
        self.directory = Directory()
        self._new_token = new_token

    def policy_of(self, number: str) -> Policy:
        """That of an extension; whoever is none speaks plain RTP, as trunks do."""
        extension = self.directory.find(number)
        return Policy.OFF if extension is None else extension.srtp

    def _policy(self, live: LiveCall, leg_id: str) -> Policy:
        return Policy.OFF if live.legs[leg_id].trunk is not None else self.policy_of(live.call.leg(leg_id).number)

    def may_ring(self, number: str, binding: Binding) -> bool:
        """False for a phone that must have keys and can be told them only in the clear."""
        return binding.flow.transport in PRIVATE or self.policy_of(number) is not Policy.REQUIRED

    def opened(self, live: LiveCall, leg_id: str, transport: Transport) -> None:
        """A leg to a phone that registered over this transport: its offers will bring keys, or not."""
        policy = self._policy(live, leg_id)
        if policy is Policy.REQUIRED or (policy is Policy.OPTIONAL and transport in PRIVATE):
            live.srtp[leg_id] = Sdes(policy, offers=True)

    def asks(self, live: LiveCall, leg_id: str, sdp: str) -> str:
        """The offer of a request of ours as the peer is to see it; "" asks the peer for one."""
        sdes = live.srtp.get(leg_id)
        if not sdp:
            sdes = sdes or Sdes(self._policy(live, leg_id))
            live.srtp[leg_id] = replace(sdes, ours=False)
        elif sdes is not None:
            live.srtp[leg_id], sdp = say_offer(sdes, sdp, self._new_key)
        return sdp

    def asks_anew(self, live: LiveCall, leg_id: str, sdp: str) -> str:
        """The offer of an INVITE for another dialog with the same peer: with keys of its own where there are any, since
        its packets are counted from nothing. Those of the dialog in place stay until it is answered.
        """
        sdes = live.srtp.get(leg_id)
        if sdes is None or all(line.keys is None for line in sdes.lines):
            return sdp
        insists = any("SAVP" in line.protocol for line in sdes.lines)
        said, sdp = say_offer(Sdes(sdes.policy, offers=True, insists=insists), sdp, self._new_key)
        live.srtp[leg_id] = replace(sdes, ours=True, offered=said.offered, pending=(), mark=said.mark)
        return sdp

    def insists(self, live: LiveCall, leg_id: str) -> bool:
        """A callee did not accept our offer: True where one in a secure transport is worth a try. There are phones that
        take no keys in another.
        """
        sdes = live.srtp.get(leg_id)
        if sdes is None or sdes.policy is not Policy.OPTIONAL or sdes.insists or not (sdes.ours and any(sdes.offered)):
            return False
        live.srtp[leg_id] = replace(sdes, insists=True)
        return True

    def says(self, live: LiveCall, leg_id: str, sdp: str) -> str:
        """What a response or an ACK of ours says."""
        sdes = live.srtp.get(leg_id)
        if sdp and sdes is not None:
            say = say_offer if sdes.ours else say_answer
            live.srtp[leg_id], sdp = say(sdes, sdp, self._new_key)
        return sdp

    def asked(self, live: LiveCall, leg_id: str, sdp: str) -> str:
        """The offer of the peer's next request without its keys. Raises `MalformedMessage` (488)."""
        sdes = live.srtp.get(leg_id)
        if sdes is None:
            leg = live.legs[leg_id]
            begun, sdp = begin(self._policy(live, leg_id), sdp, leg.flow.transport)
            if begun is not None:
                live.srtp[leg_id] = begun
        elif sdp:
            live.srtp[leg_id], sdp = heard_offer(sdes, sdp)
        else:
            live.srtp[leg_id] = replace(sdes, ours=True)
        return sdp

    def hears(self, live: LiveCall, leg_id: str, sdp: str) -> str:
        """What a response or an ACK of the peer says, without its keys. Raises `MalformedMessage` (488)."""
        sdes = live.srtp.get(leg_id)
        if not sdp or (sdes is None and not speaks_of_keys(sdp)):
            return sdp
        if sdes is None:
            # Our offer had no keys.
            return heard_answer(_NOBODY, sdp)[1]
        live.srtp[leg_id], sdp = (heard_answer if sdes.ours else heard_offer)(sdes, sdp)
        return sdp

    def _new_key(self, size: int) -> bytes:
        return sha512("".join(self._new_token() for _ in range(_TOKENS)).encode()).digest()[:size]


def begin(policy: Policy, sdp: str, transport: Transport) -> tuple[Sdes | None, str]:
    """What a peer's first offer ("" where it wants ours) begins, None for plain RTP; and the offer without its keys.
    Raises `NotSecure`.
    """
    offers = policy is Policy.REQUIRED or (policy is Policy.OPTIONAL and transport in PRIVATE)
    if not sdp:
        return (Sdes(policy, offers=True) if offers else None), sdp
    if policy is not Policy.REQUIRED and not speaks_of_keys(sdp):
        return None, sdp
    return heard_offer(Sdes(policy, offers=offers), sdp)


def why(error: MalformedMessage, host: str) -> Fields:
    """A Warning field (RFC 3261 section 20.43) for who offered something that its policy does not allow."""
    return (("Warning", f'302 {host} "{error}"'),) if isinstance(error, NotSecure) else ()


def needs_tls(host: str) -> Fields:
    """The same for an extension that must have keys, and speaks where everybody can read them."""
    return (("Warning", f'399 {host} "SRTP is required of this extension, so it is served over TLS only"'),)
