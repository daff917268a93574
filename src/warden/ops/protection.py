"""SRTP of a test phone, by libsrtp's own functions and not by the relay's: a fault in those should not hide behind
itself.
"""

from typing import Final

from pylibsrtp import Error, Policy, Session

from warden.sdp.crypto import Keys, key_octets

_PROFILES: Final = {
    "AES_CM_128_HMAC_SHA1_80": Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    "AES_CM_128_HMAC_SHA1_32": Policy.SRTP_PROFILE_AES128_CM_SHA1_32,
    "AEAD_AES_128_GCM": Policy.SRTP_PROFILE_AEAD_AES_128_GCM,
}


class Protection:
    """Both directions of one RTP socket under `keys`; a direction whose key is that of `before` goes on as it was."""

    def __init__(self, keys: Keys, before: "Protection | None") -> None:
        self.keys = keys
        goes_on = before is not None and before.keys.suite == keys.suite
        self.inbound: Session | None
        self.outbound: Session | None
        if before is not None and goes_on and before.keys.inbound == keys.inbound:
            self.inbound = before.inbound
        else:
            self.inbound = _session(keys.suite, keys.inbound, Policy.SSRC_ANY_INBOUND)
        if before is not None and goes_on and before.keys.outbound == keys.outbound:
            self.outbound = before.outbound
        else:
            self.outbound = _session(keys.suite, keys.outbound, Policy.SSRC_ANY_OUTBOUND)

    def protect(self, data: bytes) -> bytes | None:
        """What is to be sent; None where there is no key yet."""
        return None if self.outbound is None else self.outbound.protect(data)

    def unprotect(self, data: bytes) -> bytes | None:
        """What was said; None where it is not the peer's."""
        try:
            return None if self.inbound is None else self.inbound.unprotect(data)
        except Error:
            return None


def _session(suite: str, key: str, kind: int) -> Session | None:
    return Session(Policy(key_octets(key), kind, 0, _PROFILES[suite])) if key else None
