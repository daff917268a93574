"""What a seat's records may be: the limits every fast store keeps. Nothing here stores anything."""

from collections.abc import Sequence

from warden.store.ports import FOLLOWED, Kind, Write

KEY_LENGTH_MAX = 1024
"""Keys are call ids and AORs; the SIP parser lets neither grow beyond this."""

VALUE_SIZE_MAX = 1 << 20
"""A call of two legs takes about 3 KiB and a fork to many contacts some 100 KiB; more than this is a bug upstream,
and one such record would hold up every write behind it."""

WRITES_MAX = 10_000
"""Changes in one call: an adoption touches every call of a seat, and it may be thousands; beyond, split them."""


def check_writes(writes: Sequence[Write]) -> None:
    """Raise `ValueError` or `TypeError` (the caller's fault) before any of `writes` is carried out."""
    if len(writes) > WRITES_MAX:
        raise ValueError(f"store: {len(writes)} writes at once, at most {WRITES_MAX}")
    for write in writes:
        value = write.value
        if value is not None:
            if type(value) is not bytes:
                raise TypeError(f"store: {write.kind} {write.key[:80]!r} is {type(value).__name__}, not bytes")
            if len(value) > VALUE_SIZE_MAX:
                raise ValueError(
                    f"store: {write.kind} {write.key[:80]!r} has {len(value)} bytes, at most {VALUE_SIZE_MAX}"
                )
        key = write.key
        if not key.isascii():
            try:
                key.encode()
            except UnicodeEncodeError:
                raise ValueError(f"store: {write.kind} key {key[:80]!r} is not Unicode text") from None
        if len(key) > KEY_LENGTH_MAX:
            raise ValueError(f"store: {write.kind} key of {len(key)} characters, at most {KEY_LENGTH_MAX}")


def check_followed(kind: Kind) -> None:
    """Raise `ValueError` where the changes of this kind are not kept."""
    if kind is not FOLLOWED:
        raise ValueError(f"store: changes of {kind} records are not followed, only those of {FOLLOWED}")
