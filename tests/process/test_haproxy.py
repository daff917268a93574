"""Phones that come by a real HAProxy: known by their own address, reached over their own connection."""

import asyncio
import resource
import selectors
import socket
import ssl
from contextlib import ExitStack
from pathlib import Path

import pytest

from warden.core.address import Transport
from warden.ops.softphone import Softphone
from warden.sdp.sdes import Policy

from behind_haproxy import Front, behind_haproxy
from pbx import password_of


def phone(front: Front, number: str, transport: Transport, *, host: str, srtp: Policy = Policy.OFF) -> Softphone:
    """A phone at HAProxy's port for the transport, on an address of its own."""
    server = front.tls if transport is Transport.TLS else front.wss
    # The same file is the seat's certificate and HAProxy's: over TLS it is the seat that shows it.
    trust = ssl.create_default_context(cafile=str(front.certificate))
    return Softphone(
        number,
        password_of(number),
        server,
        transport=transport,
        tls=trust,
        local_host=host,
        answers_after_s=0.05,
        patient=True,
        srtp=srtp,
    )


async def call(caller: Softphone, callee: Softphone) -> None:
    """Both hear each other, and come to know that it is over."""
    outgoing = caller.call(callee.number)
    await outgoing.answered()
    incoming = await callee.next_call()
    assert await outgoing.hears(440)
    assert await incoming.hears(440)
    assert (await outgoing.hang_up()).status in (0, 200)
    await incoming.ended()


@pytest.mark.parametrize("transport", [Transport.TLS, Transport.WSS])
async def test_phones_call_each_other_through_haproxy_and_are_known_by_their_own_address(
    transport: Transport, tmp_path: Path
) -> None:
    async with (
        behind_haproxy(tmp_path, "1001", "1002") as front,
        phone(front, "1001", transport, host="127.0.0.21") as first,
        phone(front, "1002", transport, host="127.0.0.22") as second,
    ):
        await first.register()
        await second.register()
        at = {item["number"]: (item["transport"], item["source"].partition(":")[0]) for item in front.registered()}
        assert at == {"1001": (transport, "127.0.0.21"), "1002": (transport, "127.0.0.22")}
        await call(first, second)

        # Every connection is gone; who was registered is found when it is back, as before.
        await asyncio.to_thread(front.restart_haproxy)
        for one in (first, second):
            await one.reconnect()
            await one.register()
        assert len(front.registered()) == 2
        await call(second, first)
        assert [*first.violations, *second.violations] == []


async def test_keys_may_be_told_to_a_browser_whose_tls_ends_at_haproxy(tmp_path: Path) -> None:
    async with (
        behind_haproxy(tmp_path, "1001", "1002") as front,
        phone(front, "1001", Transport.WSS, host="127.0.0.21", srtp=Policy.REQUIRED) as secret,
        phone(front, "1002", Transport.WSS, host="127.0.0.22") as plain,
    ):
        assert front.pbx.run("extension", "set", "1001", "--srtp", "required").returncode == 0
        await secret.register()
        await plain.register()
        await call(plain, secret)


async def test_one_address_does_not_take_the_room_of_all_browsers(tmp_path: Path) -> None:
    async with behind_haproxy(tmp_path, "1001") as front:
        await asyncio.to_thread(_crowd, front)
        async with phone(front, "1001", Transport.WSS, host="127.0.0.22") as other:
            await other.register()


def _crowd(front: Front) -> None:
    """Connect once more than one address may, and see that HAProxy hangs up, and not on an address beside it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    with ExitStack() as opened, selectors.DefaultSelector() as ended:
        for _ in range(1001):
            line = opened.enter_context(socket.create_connection(front.wss, 20, ("127.0.0.21", 0)))
            ended.register(line, selectors.EVENT_READ)
        # Nobody has begun with TLS: there is nothing to read but the end.
        assert ended.select(20)
        beside = opened.enter_context(socket.create_connection(front.wss, 20, ("127.0.0.23", 0)))
        trust = ssl.create_default_context(cafile=str(front.certificate))
        opened.enter_context(trust.wrap_socket(beside, server_hostname=front.wss.host))
