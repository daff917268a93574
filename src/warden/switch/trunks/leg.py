"""What a leg over a trunk has beside what every leg has. A value of the call's record."""

from msgspec import Struct


class TrunkLeg(Struct, frozen=True, gc=False, omit_defaults=True):
    """`trunk` is its name. `tries` counts the proofs that were sent for the INVITE; `proof` is the field of the last
    one, which its ACK repeats (RFC 3261 section 13.2.2.4).
    """

    trunk: str
    emergency: bool = False
    tries: int = 0
    proof: tuple[str, str] | None = None
