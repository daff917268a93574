"""Chromium with JsSIP, a peer that Warden's own code has no part in, over WebSocket and TLS at a real HAProxy."""

import asyncio
import base64
import hashlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from warden.ops.softphone import Refused, Softphone

from behind_haproxy import BALANCER, Front, behind_haproxy
from pbx import password_of

SCRIPT = Path(__file__).parent / "browser" / "node_modules" / ".built" / "phone.js"
"""Made by scripts/browser-phone.sh, which `make test` runs."""
PAGE = b"<!doctype html><meta charset=utf-8><title>phone</title><script src=/phone.js></script>"
PATIENCE_S = 60.0
"""For a browser to start on a machine that is busy with other tests."""


class Page(ThreadingHTTPServer):
    """Where the browser has its page from, tells what happens there, and asks what to do."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.said: queue.Queue[dict[str, object]] = queue.Queue()
        self.to_call: queue.Queue[str] = queue.Queue()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    async def tells(self, event: str) -> dict[str, object]:
        """The next that the page says, which must be this."""
        said = await asyncio.to_thread(self.said.get, timeout=PATIENCE_S)
        assert said["event"] == event, said
        return said


class _Handler(BaseHTTPRequestHandler):
    server: Page

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/asked":
            try:
                self._answer(self.server.to_call.get(timeout=0.5).encode())
            except queue.Empty:
                self._answer(b"")
        else:
            self._answer(SCRIPT.read_bytes() if path == "/phone.js" else PAGE, "script" if ".js" in path else "html")

    def do_POST(self) -> None:
        self.server.said.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(b"")

    def _answer(self, body: bytes, kind: str = "plain") -> None:
        self.send_response(200)
        self.send_header("Content-Type", {"script": "text/javascript", "html": "text/html"}.get(kind, "text/plain"))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def pin_of(certificate: Path) -> str:
    """The key that the browser is to trust, and no other."""
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(info).digest()).decode()


@contextmanager
def browser_at(front: Front, folder: Path, words: Mapping[str, str]) -> Iterator[Page]:
    """A browser with the phone's page open; nothing of it is left behind the block."""
    page = Page()
    serving = threading.Thread(target=page.serve_forever)
    serving.start()
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--no-first-run", "--disable-background-networking", "--disable-component-update",
                "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
                f"--user-data-dir={folder / 'browser'}",
                f"--ignore-certificate-errors-spki-list={pin_of(front.certificate)}",
                f"{page.url}?{urlencode(words)}",
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield page
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        page.shutdown()
        serving.join()
        page.server_close()


async def test_a_browsers_phone_registers_is_called_and_is_found_again(tmp_path: Path) -> None:
    assert SCRIPT.exists(), "scripts/browser-phone.sh makes it"
    words = {"number": "1001", "password": password_of("1001"), "domain": BALANCER}
    async with behind_haproxy(tmp_path, "1001", "1002") as front:
        with browser_at(front, tmp_path, {**words, "url": f"wss://{front.wss}/"}) as page:
            await page.tells("connected")
            contact = str((await page.tells("registered"))["contact"])
            [registered] = front.registered()
            assert (registered["number"], registered["transport"]) == ("1001", "wss")
            # By its own name nobody could find it.
            assert ".invalid" in contact
            assert ".invalid" in registered["contact"]

            async with Softphone("1002", password_of("1002"), front.pbx.sip_address) as other:
                await other.register()
                await is_called(other, page)

                # A browser's media are DTLS-SRTP, which is not spoken here: its call is refused, and it stays.
                page.to_call.put("1002")
                assert (await page.tells("failed"))["status"] == 488

                await asyncio.to_thread(front.restart_haproxy)
                await page.tells("disconnected")
                await page.tells("connected")
                await page.tells("registered")
                assert [item["number"] for item in front.registered()] == ["1001", "1002"]
                await is_called(other, page)
                assert list(other.violations) == []


async def is_called(other: Softphone, page: Page) -> None:
    """The phone calls the page's number, which refuses, as a page can that is asked for plain RTP."""
    line = other.call("1001")
    with pytest.raises(Refused) as refused:
        await line.answered()
    assert refused.value.status == 486
    called = await page.tells("called")
    assert called["by"] == "1002"
    assert ".invalid" in str(called["target"])
