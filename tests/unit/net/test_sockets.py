"""Opening and closing all listeners together, and the errors an operator sees."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.net.conftest import TCP, TLS, UDP, Ear, Start, options

from warden.core.address import Address, Flow, Transport
from warden.core.errors import WardenError
from warden.net.bind import bind
from warden.net.settings import Listener, Settings
from warden.net.sockets import Sockets

OWN_NAME = Path("/proc/self/comm").read_text().strip()


@pytest.mark.parametrize("transport", [UDP, TCP])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
async def test_a_taken_port_is_an_error_that_names_who_has_it(start: Start, transport: Transport, host: str) -> None:
    holder = await start(transport)
    port = holder.address(transport).port
    second = Sockets(Settings((Listener(transport, host, port),)), Ear())
    with pytest.raises(WardenError) as caught:
        await second.start()
    assert str(caught.value) == f"{transport} {host}:{port} is taken by {OWN_NAME} (pid {os.getpid()})"


def test_the_owner_of_a_taken_port_is_found_in_another_process_and_over_ipv6() -> None:
    program = (
        "import socket,sys; s=socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(('::1', 0)); "
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        port = int(holder.stdout.readline())
        with pytest.raises(WardenError, match=re.escape(f"udp [::1]:{port} is taken by") + rf".*pid {holder.pid}\)"):
            bind(Listener(UDP, "::1", port))
        holder.stdin.close()


async def test_when_one_listener_fails_none_stays_open(start: Start) -> None:
    holder = await start(TCP)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        free = sock.getsockname()[1]
    listeners = (Listener(UDP, "127.0.0.1", free), Listener(TCP, "127.0.0.1", holder.address(TCP).port))
    failed = Sockets(Settings(listeners), Ear())
    with pytest.raises(WardenError, match="is taken"):
        await failed.start()
    assert failed.listening == ()
    again = Sockets(Settings(listeners[:1]), Ear())
    await again.start()
    await again.stop()
    await again.stop()


@pytest.mark.parametrize(
    ("listener", "message"),
    [
        (Listener(UDP, "192.0.2.1", 5060), "udp 192.0.2.1:5060: this machine does not have the address 192.0.2.1"),
        (Listener(TLS, "127.0.0.1", 0), "tls: no certificate is configured"),
        (Listener(Transport.WSS, "127.0.0.1", 0), "tls: no certificate is configured"),
    ],
)
async def test_a_listener_that_cannot_be_opened_says_why(listener: Listener, message: str) -> None:
    with pytest.raises(WardenError) as caught:
        await Sockets(Settings((listener,)), Ear()).start()
    assert str(caught.value) == message


@pytest.mark.parametrize("host", ["192.0.2.77", "2001:db8::77"])
async def test_a_listener_may_be_opened_ahead_of_its_address(host: str) -> None:
    sockets = Sockets(Settings(tuple(Listener(transport, host, 0, ahead=True) for transport in (UDP, TCP))), Ear())
    await sockets.start()
    assert [address.host for _, address in sockets.listening] == [host, host]
    await sockets.stop()


async def test_one_port_serves_udp_and_tcp_and_each_flow_keeps_to_its_own(start: Start) -> None:
    phone, pbx = await start(UDP, TCP), await start(UDP, TCP)
    phone.sockets.send(phone.flow_to(pbx, UDP), options(1))
    phone.sockets.send(phone.flow_to(pbx, TCP), options(2))
    await pbx.ear.until_heard(2)
    by_call_id = {message.call_id: flow.transport for flow, message in pbx.ear.heard}
    assert by_call_id == {"1": UDP, "2": TCP}


@pytest.mark.parametrize("transport", [UDP, TLS, Transport.WS])
async def test_a_flow_that_no_socket_leads_to_is_lost(start: Start, transport: Transport) -> None:
    pbx = await start(TCP)
    flow = Flow(transport, Address("127.0.0.1", 5060), Address("127.0.0.1", 5060))
    pbx.sockets.send(flow, options())
    await pbx.ear.until_lost()
    assert pbx.ear.losses[0][0] == flow


async def test_sending_before_start_and_after_stop_is_dropped_in_silence(start: Start) -> None:
    phone = await start()
    sockets = Sockets(Settings((Listener(UDP, "127.0.0.1", 0),)), Ear())
    flow = Flow(UDP, Address("127.0.0.1", 1), phone.address())
    sockets.send(flow, options())
    await sockets.start()
    await sockets.stop()
    sockets.send(flow, options())
    sockets.close(flow)
