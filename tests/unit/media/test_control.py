"""The listening socket of the media process when the machine has nothing left to give."""

import os
import resource
import select
import socket
import tempfile
from pathlib import Path

from warden.media.control import Control


def test_without_a_free_descriptor_the_listener_does_not_spin_and_is_served_later() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (
        tempfile.TemporaryDirectory(prefix="wm") as folder,
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as controller,
        select.epoll() as epoll,
    ):
        listener.bind(str(Path(folder) / "m"))
        listener.listen(8)
        listener.setblocking(False)
        control = Control(epoll, listener)
        controller.connect(listener.getsockname())
        lowest_free = os.dup(listener.fileno())
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            assert epoll.poll(1.0) == [(listener.fileno(), select.EPOLLIN)]
            control.happened(listener.fileno(), select.EPOLLIN)
            assert epoll.poll(0) == [], "it would be ready at each turn of the loop"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        control.accept_again()
        assert epoll.poll(1.0) == [(listener.fileno(), select.EPOLLIN)]
        control.happened(listener.fileno(), select.EPOLLIN)
        assert epoll.poll(0) == [], "accepted"
        control.close()
