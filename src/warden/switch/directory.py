"""Who is who: the extensions, held in memory so that calls route while the database is away."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from warden.core.errors import WardenError
from warden.sdp.sdes import Policy
from warden.sip.digest import Algorithm, ha1
from warden.store.ports import Extension, Item
from warden.switch.dialplan.codes import setting_of
from warden.switch.dialplan.plan import Dialplan, plan_of


class Directory(Struct, frozen=True, gc=False):
    """Every extension by number, the dialplan, and the revision of the durable store that they were read at. `items` is
    what the dialplan was read from.
    """

    extensions: Mapping[str, Extension] = {}
    revision: int = -1
    items: tuple[Item, ...] = ()
    plan: Dialplan = Dialplan()

    def find(self, number: str) -> Extension | None:
        """The extension of that number, if there is one."""
        return self.extensions.get(number)


def directory_of(extensions: Iterable[Extension], revision: int, items: Iterable[Item] = ()) -> Directory:
    """Build a directory."""
    kept = tuple(items)
    return Directory({extension.number: extension for extension in extensions}, revision, kept, plan_of(kept))


NAME_LENGTH_MAX: Final = 128
"""Of an extension's name: as much as a phone can show, and little enough for a header field."""
TOKEN_NAME_LENGTH_MAX: Final = 64
"""Of an API token's name: it stands in every line of the log about what its holder did."""
FEATURE_CODES: Final = {"*43": "the echo test", "*60": "the speaking clock"}
"""What `routing` answers by itself: an extension of that number would hide it from everybody."""

_NUMBER = re.compile(r"[A-Za-z0-9*#+][A-Za-z0-9*#+._-]{0,63}\Z")
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters and line ends, which would break header fields, logs and screens, and the halves of characters
that Python makes of bytes which are not UTF-8: neither a hash nor a database takes those."""


def check_text(where: str, text: str, *, longest: int, shortest: int = 0) -> None:
    """Raise `WardenError` that begins with `where` unless `text` is of `shortest` to `longest` characters and can be
    printed. The text itself is not repeated: it may be a password.
    """
    if not shortest <= len(text) <= longest:
        bounds = f"{shortest} to {longest}" if shortest else f"at most {longest}"
        raise WardenError(f"{where}: must be {bounds} characters long")
    if _UNFIT.search(text):
        raise WardenError(f"{where}: must be text (UTF-8) without control characters or line ends")


def check_number(number: str) -> None:
    """Raise `WardenError` unless `number` may be that of an extension."""
    if not _NUMBER.match(number):
        raise WardenError(f"extension {number[:70]!r}: a number is 1 to 64 letters, digits or any of * # + . _ -")
    if setting_of(number) is not None:
        raise WardenError(f"extension {number}: this number is a feature code for the settings of an extension")
    if number in FEATURE_CODES:
        raise WardenError(f"extension {number}: this number is {FEATURE_CODES[number]}")


def check_token_name(name: str) -> None:
    """Raise `WardenError` unless `name` may be that of an API token."""
    check_text("token: its name", name, shortest=1, longest=TOKEN_NAME_LENGTH_MAX)


def new_extension(
    number: str, password: str, *, realm: str, now: float, name: str = "", srtp: Policy = Policy.OPTIONAL
) -> Extension:
    """An extension as it is stored: the password's hashes for every digest algorithm, the password nowhere.

    Raises `WardenError` that says what is wrong with the number, the password or the name.
    """
    check_number(number)
    check_text(f"extension {number}: its password", password, shortest=8, longest=128)
    if len(password.replace(number, "")) < 6 or password.lower() in ("password", "12345678", "changeme"):
        raise WardenError(f"extension {number}: this password is among the first that an attacker tries")
    check_text(f"extension {number}: its name", name, longest=NAME_LENGTH_MAX)
    hashes = {str(algorithm): ha1(number, realm, password, algorithm) for algorithm in Algorithm}
    return Extension(number, realm, hashes, name, now, srtp)
