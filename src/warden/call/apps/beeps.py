"""A few tones, then it hangs up: whoever dialled a feature code hears that it was done."""

from msgspec import Struct


class Beeps(Struct, frozen=True, gc=False, tag="beeps"):
    """`tones` are played in order, each (Hz, ms); 0 Hz is a pause."""

    tones: tuple[tuple[int, int], ...]


DONE = Beeps(((0, 300), (880, 150), (0, 100), (880, 150), (0, 200)))
