"""baresip as a phone without a sound card: it speaks a tone, keeps what it hears, and is told what to do over TCP."""

import json
import socket
import subprocess
import time
import wave
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from warden.core.address import Address
from warden.rtp.g711 import Samples
from warden.rtp.tone import sine

from pbx import free_ports, password_of

MODULES: Final = "/usr/lib/baresip/modules"
ANSWER_S: Final = 30.0
"""How long a phone may take for what it is asked to do; far more than it needs."""
TONE_MS: Final = 60_000
"""The tone that a phone speaks lasts longer than any call here."""


class Baresip:
    """One running phone; use as a context manager."""

    def __init__(
        self,
        folder: Path,
        number: str,
        sip_port: int,
        *,
        tone_hz: float,
        host: str = "127.0.0.1",
        transport: str = "udp",
        answers: bool = False,
        srtp: str = "",
    ) -> None:
        """`srtp` is baresip's `mediaenc`: srtp-mand, or srtp for best effort; "" is none."""
        folder.mkdir()
        self.number = number
        self._folder = folder
        self._server = str(Address(host, sip_port))
        self._version = "-6" if ":" in host else "-4"
        here = "::1" if ":" in host else "127.0.0.1"
        self._inbox = b""
        self._events: list[dict[str, Any]] = []
        with wave.open(str(folder / "speaks.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(sine(tone_hz, TONE_MS).tobytes())
        (folder / "heard").mkdir()
        (self._control,) = free_ports(1)
        (folder / "config").write_text(
            f"""\
net_interface {here}
sip_listen {Address(here, 0)}
audio_source aufile,{folder}/speaks.wav
audio_player aubridge,nowhere
audio_alert aubridge,nowhere
snd_path {folder}/heard
ctrl_tcp_listen 127.0.0.1:{self._control}
module_path {MODULES}
module g711.so
module srtp.so
module aufile.so
module aubridge.so
module sndfile.so
module_tmp account.so
module_app menu.so
module_app ctrl_tcp.so
"""
        )
        mode = "auto" if answers else "manual"
        (folder / "accounts").write_text(
            f"<sip:{number}@{self._server};transport={transport}>"
            f";auth_pass={password_of(number)};answermode={mode};regint=120"
            + (f";mediaenc={srtp}" if srtp else "")
            + "\n"
        )

    def __enter__(self) -> Self:
        with (self._folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                ["baresip", self._version, "-s", "-f", str(self._folder)],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._socket = self._connect()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def loses_power(self) -> None:
        """End without a word to anybody."""
        self._process.kill()
        self._process.wait()

    # What it is told

    def registers(self) -> None:
        """Wait until it says that it is registered."""
        until = time.monotonic() + ANSWER_S
        while "OK" not in (state := self.tell("reginfo")):
            assert time.monotonic() < until, f"{state}\n{self.output()}"
            time.sleep(0.05)  # It may have registered before anybody could listen for the event.

    def tell(self, command: str, params: str = "") -> str:
        """Give a command; what baresip prints in answer."""
        message = json.dumps({"command": command, "params": params, "token": command}).encode()
        self._socket.sendall(b"%d:%s," % (len(message), message))
        while True:
            said = self._next()
            if said.get("response"):
                return str(said.get("data", ""))
            self._events.append(said)

    def dial(self, number: str) -> None:
        """Call a number."""
        self.tell("dial", f"sip:{number}@{self._server}")

    def sees(self, kind: str) -> dict[str, Any]:
        """Wait for an event, for instance CALL_ESTABLISHED; events are seen once, in order."""
        while True:
            event = self._events.pop(0) if self._events else self._next()
            if event.get("type") == kind:
                return event

    def heard(self) -> Samples:
        """All that it has heard in the last call, 8 kHz. Complete once the call has ended."""
        (file,) = sorted((self._folder / "heard").glob("*-dec.wav"))[-1:]
        with wave.open(str(file), "rb") as heard:
            assert (heard.getnchannels(), heard.getframerate(), heard.getsampwidth()) == (1, 8000, 2)
            samples: Samples = np.frombuffer(heard.readframes(heard.getnframes()), dtype=np.int16)
            return samples

    def output(self) -> str:
        """Everything it said, with all SIP messages."""
        return (self._folder / "output").read_text(errors="replace")

    def _connect(self) -> socket.socket:
        until = time.monotonic() + ANSWER_S
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self._control), timeout=ANSWER_S)
            except OSError:
                assert self._process.poll() is None, self.output()
                assert time.monotonic() < until, self.output()
                time.sleep(0.02)  # Nobody tells when a stranger listens.

    def _next(self) -> dict[str, Any]:
        while True:
            head, colon, rest = self._inbox.partition(b":")
            if colon and len(rest) > int(head):
                size = int(head)
                self._inbox = rest[size + 1 :]
                said: dict[str, Any] = json.loads(rest[:size])
                return said
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise AssertionError(f"{self.number} says nothing\n{self.output()[-6000:]}") from None
            assert data, self.output()[-6000:]
            self._inbox += data
