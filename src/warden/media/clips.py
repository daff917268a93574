"""What can be played: prompts by name, WAV files, tones and silence, as G.711 octets.

Nothing here knows sessions or sockets; files are read whole, so they are kept short.
"""

import wave
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from warden.core.errors import WardenError
from warden.media.protocol import Clip, Playing
from warden.rtp import g711
from warden.rtp.g711 import CLOCK_HZ, Samples
from warden.rtp.tone import sine

PROMPTS: Final = Path(__file__).parent / "prompts"
"""The prompts that come with Warden; `prompts/make.sh` makes them."""
MS_MAX: Final = 10 * 60 * 1000
"""The longest that one `Playing` may last: reading and encoding it holds up the relay for some 20 ms at worst."""
CLIPS_MAX: Final = 64
"""Clips in one `Playing`; a spoken time has six."""
PROMPT_BYTES_MAX: Final = 256 * 1024
"""A prompt file up to this size (16 s) is kept in memory once it has been played."""


class Unplayable(WardenError):
    """The file is not there or no 8 kHz mono 16-bit WAV, or the order makes no sense: trying again does not help."""


def prompt_names(folder: Path = PROMPTS) -> tuple[str, ...]:
    """The names of all prompts, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.wav")))


def prompt_path(name: str, folder: Path = PROMPTS) -> Path:
    """Where the prompt `name` is. Raises `Unplayable` when there is none of that name."""
    path = folder / f"{name}.wav"
    if Path(name).name != name or not path.is_file():
        raise Unplayable(f"play: there is no prompt {name!r}")
    return path


def read_wav(path: Path) -> Samples:
    """The samples of a file. Raises `Unplayable`, naming the file, unless it is 8 kHz mono 16-bit WAV."""
    try:
        if not path.is_file():
            raise Unplayable(f"play: {path} is not there")
        with wave.open(str(path), "rb") as file:
            shape = (file.getframerate(), file.getnchannels(), file.getsampwidth())
            if shape != (CLOCK_HZ, 1, 2):
                raise Unplayable(
                    f"play: {path} has {shape[0]} Hz, {shape[1]} channels and {8 * shape[2]} bits;"
                    " 8000 Hz, mono and 16 bits are needed"
                )
            octets = file.readframes(MS_MAX * CLOCK_HZ // 1000 + 1)
    except (OSError, EOFError, ValueError, wave.Error) as error:
        raise Unplayable(f"play: {path} cannot be read: {error or 'it ends too early'}") from error
    if len(octets) // 2 > MS_MAX * CLOCK_HZ // 1000:
        raise Unplayable(f"play: {path} is longer than {MS_MAX // 60_000} minutes")
    return np.frombuffer(octets[: len(octets) // 2 * 2], "<i2").astype(np.int16)


@lru_cache(maxsize=256)
def _prompt(path: Path, changed_ns: int, codec: str) -> bytes:  # noqa: ARG001 - a changed file is another entry
    return g711.encode(codec, read_wav(path))


def _clip(clip: Clip, codec: str, folder: Path) -> bytes:
    if clip.path:
        given = Path(clip.path)
        if given.is_absolute():
            return g711.encode(codec, read_wav(given))
        if ".." in given.parts:
            raise Unplayable(f"play: {clip.path} leaves the prompts folder")
        path = folder / (given if given.suffix else given.with_suffix(".wav"))
        try:
            state = path.stat()
        except (OSError, ValueError) as error:
            raise Unplayable(f"play: {path} is not there") from error
        if state.st_size <= PROMPT_BYTES_MAX:
            return _prompt(path, state.st_mtime_ns, codec)
        return g711.encode(codec, read_wav(path))
    if not 0 <= clip.ms <= MS_MAX or not 0 <= clip.tone_hz < CLOCK_HZ // 2:
        raise Unplayable(f"play: {clip.tone_hz} Hz for {clip.ms} ms cannot be played")
    if clip.tone_hz:
        return g711.encode(codec, sine(clip.tone_hz, clip.ms))
    return g711.SILENCE[codec] * (clip.ms * CLOCK_HZ // 1000)


def encoded(playing: Playing, folder: Path = PROMPTS) -> bytes:
    """All clips one behind the other, an octet per sample. Raises `Unplayable`."""
    if playing.codec not in g711.SILENCE:
        raise Unplayable(f"play: {playing.codec!r} is neither PCMU nor PCMA")
    if not 0 <= playing.payload_type < 128:
        raise Unplayable(f"play: payload type {playing.payload_type}")
    if len(playing.clips) > CLIPS_MAX:
        raise Unplayable(f"play: {len(playing.clips)} clips are more than {CLIPS_MAX}")
    if sum(clip.ms for clip in playing.clips if not clip.path) > MS_MAX:
        raise Unplayable(f"play: longer than {MS_MAX // 60_000} minutes")
    octets = b"".join(_clip(clip, playing.codec, folder) for clip in playing.clips)
    if len(octets) > MS_MAX * CLOCK_HZ // 1000:
        raise Unplayable(f"play: longer than {MS_MAX // 60_000} minutes")
    return octets
