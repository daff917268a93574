"""The process `warden-media`: moves the packets of all calls, and outlives whoever ordered it to.

One thread and one epoll loop. The relay's usual case is written out in `_loop`, because it runs for every packet;
everything else is behind calls. Packets that waited together carry the same arrival time, that of the loop's wake-up:
they had all arrived by then, and a clock read for each would be later, not truer.
"""

import argparse
import fcntl
import gc
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from warden.media.clips import PROMPTS
from warden.media.control import Control
from warden.media.protocol import EXIT_TAKEN, Quit
from warden.media.sessions import LOOK_S, PAUSE_LOOK_S, Sessions
from warden.rtp.packet import PACKET_BYTES_MAX
from warden.rtp.stats import FIRST, GAP_SLACK_S

BATCH: Final = 512
"""Packets per wake-up: at 7 us each they keep orders and players waiting for 4 ms at most."""
ORDERS_S_MAX: Final = 0.002
"""Orders are carried out for this long before the packets have their turn again, so that a re-attach of thousands of
sessions is not heard.
"""
GATHER_S: Final = 0.0005
"""Packets that come close together are waited for this long and then taken at once: each wake-up costs as much as
moving a packet. Nobody hears half a millisecond."""
GATHER_FROM: Final = 4000
"""Packets a second (40 calls) from which waiting pays: two come meanwhile."""
GATHERED: Final = 16
"""Packets at one wake-up from which it does not pay any more: under load they come together by themselves, and what
waits then waits for the processor."""


def say(fact: str, **about: object) -> None:
    """A line for the log."""
    words = "".join(f" {key}={value}" for key, value in about.items())
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sys.stderr.write(f"{at} media[{os.getpid()}] {fact}{words}\n")
    sys.stderr.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run until told to quit, terminated, or left alone for `--orphan-s`; the exit status."""
    parser = argparse.ArgumentParser(prog="warden-media", description="Moves the audio of Warden's calls.")
    parser.add_argument("--socket", type=Path, required=True, help="the Unix socket to listen on")
    parser.add_argument("--orphan-s", type=float, default=300.0, help="end after so long without a controller")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="the folder of the prompts")
    options = parser.parse_args(argv)
    path: Path = options.socket
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminated)
    _raise_file_limit()
    pid_path = path.with_name(path.name + ".pid")
    lock = _lock(pid_path)
    if lock is None:
        say("another process serves this socket", socket=path)
        return EXIT_TAKEN
    try:
        listener = _listen(path)
    except OSError as error:
        say("cannot listen", socket=path, error=error)
        pid_path.unlink()
        return 1
    epoll = select.epoll()
    control = Control(epoll, listener)
    sessions = Sessions(epoll, options.prompts)
    say("listening", socket=path)
    # A full collection among thousands of calls would hold the packets up for tens of milliseconds; what makes cycles
    # (ports that are each other's peer) is taken apart when it is closed.
    gc.disable()
    try:
        why = _loop(epoll, control, sessions, options.orphan_s)
    except SystemExit:
        why = "terminated"
    finally:
        # While the lock is still held: what a successor makes is not ours to remove.
        path.unlink(missing_ok=True)
        sessions.close()
        control.close()
        epoll.close()
        pid_path.unlink(missing_ok=True)
        os.close(lock)
    say("ended", why=why)
    return 0


def _terminated(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(0)


def _raise_file_limit() -> None:
    """A call with audio has four sockets; the usual soft limit of 1,024 would end at 250 calls."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        say("the limit of open files stays", error=error)


def _lock(path: Path) -> int | None:
    """Hold the pid file as long as we live, so that there is one of us per socket; None when another holds it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        try:
            same = os.fstat(fd).st_ino == path.stat().st_ino
        except FileNotFoundError:
            same = False
        if same:
            os.ftruncate(fd, 0)
            os.write(fd, b"%d\n" % os.getpid())
            return fd
        os.close(fd)  # The one before us removed it while we waited.


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(umask)
    listener.listen(8)
    listener.setblocking(False)
    return listener


def _loop(epoll: select.epoll, control: Control, sessions: Sessions, orphan_s: float) -> str:
    """Move packets until something says why not to."""
    poll = epoll.poll
    clock = time.monotonic
    ports = sessions.by_fd
    first_of = FIRST.unpack_from
    room = PACKET_BYTES_MAX
    others: list[tuple[int, int]] = []
    now = alone_since = looked_at = paused_at = clock()
    timeout = 0.0
    ready: list[tuple[int, int]] = []
    gathers, moved_on = False, 0
    while True:
        if gathers and len(ready) <= GATHERED and timeout > GATHER_S:
            time.sleep(GATHER_S)
        ready = poll(timeout, BATCH)
        now = clock()
        moved_on += len(ready)
        for fd, mask in ready:
            try:
                port = ports[fd]
                receive = port.receive
                if receive is None:
                    data, source = port.recvfrom(room)
                else:
                    data = receive(room)
            except KeyError:
                others.append((fd, mask))
                continue
            except OSError:
                continue
            if receive is None and source != port.source and not port.admits(now, data, source):
                continue
            # What `Reception.update` does with the usual packet, without the call. RTCP ports foretell nothing.
            reception = port.reception
            peer = port.peer
            if peer is None or len(data) != reception.size or first_of(data)[0] != reception.foretold:
                port.handle(now, data, port.update(now, data))
                continue
            reception.foretold += reception.step
            moved = now - reception.at - reception.step_s
            reception.at = now
            jitter = reception.jitter_s
            if moved > 0.0:
                if moved > GAP_SLACK_S:
                    reception.gap_s = max(reception.gap_s, moved + reception.step_s)
                reception.jitter_s = jitter + (moved - jitter) * 0.0625
            else:
                reception.jitter_s = jitter - (moved + jitter) * 0.0625
            try:
                emit = peer.emit
                if emit is not None:
                    emit(data)
                elif (to := peer.to) is not None:
                    peer.sendto(data, to)
                else:
                    continue
            except OSError:
                peer.dropped += 1
            else:
                peer.sent += 1
        due = sessions.players.due
        if due is not None and due <= now:
            sessions.tick(now)
        if sessions.lapse_at <= now:
            for group in sessions.lapse(now):
                say("lease ended, its sessions are closed", group=group)
        if others:
            for fd, mask in others:
                control.happened(fd, mask)
            others.clear()
        if control.has_orders and _carry_out(control, sessions, now):
            return "told to quit"
        if sessions.events:
            control.tell(sessions.events)
            sessions.events.clear()
        if now - paused_at >= PAUSE_LOOK_S:
            paused_at = now
            sessions.look_at_pauses(now)
        if now - looked_at >= LOOK_S:
            gathers, moved_on = moved_on >= GATHER_FROM * (now - looked_at), 0
            looked_at = now
            sessions.look_at_rates()
            sessions.look_at_silence(now)
            control.accept_again()
        if control.number:
            alone_since = now
        elif now - alone_since >= orphan_s:
            return "left alone"
        timeout = _timeout(control, sessions, looked_at + LOOK_S, alone_since + orphan_s)


def _timeout(control: Control, sessions: Sessions, look_at: float, orphan_at: float) -> float:
    if control.has_orders:
        return 0.0
    until = min(look_at, sessions.lapse_at) if control.number else min(look_at, orphan_at, sessions.lapse_at)
    due = sessions.players.due
    if due is not None and due < until:
        until = due
    return max(0.0, until - time.monotonic())


def _carry_out(control: Control, sessions: Sessions, now: float) -> bool:
    """Carry out orders for a short while; True when told to quit."""
    until = now + ORDERS_S_MAX
    quits = False
    while (order := control.next_order()) is not None:
        control.answer(sessions.carry_out(order, now, control.number))
        quits = quits or isinstance(order, Quit)
        now = time.monotonic()
        if now >= until and not quits:
            break
    return quits


if __name__ == "__main__":
    sys.exit(main())
