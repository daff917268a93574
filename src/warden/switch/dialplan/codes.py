"""Feature codes by which a phone changes the settings of its extension."""

from typing import Final

_ON: Final = {"*72": "always", "*90": "busy", "*92": "no_answer"}
"""Followed by where the calls go."""
_OFF: Final = {"*73": "always", "*91": "busy", "*93": "no_answer"}
_DISTURB: Final = {"*78": True, "*79": False}
CODES: Final = frozenset({*_OFF, *_DISTURB})
"""Those that are a number by themselves."""


def setting_of(number: str) -> tuple[str, str | bool] | None:
    """The field of `User` that a number changes, and to what; None for any other number."""
    if number in _DISTURB:
        return "do_not_disturb", _DISTURB[number]
    if number in _OFF:
        return _OFF[number], ""
    field, to = _ON.get(number[:3]), number[3:]
    return (field, to) if field and to else None
