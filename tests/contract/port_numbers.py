"""Numbers for the ports of tests' servers: below those that the kernel gives to connections, which could take one while
its server is down, and no two of a run the same, since most servers are started later than their number is drawn.
"""

import os
import secrets

_FIRST = 25_000
_SHARE = 1_750
"""For each of four test processes that run side by side."""
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
_drawn: set[int] = set()


def port_number() -> int:
    """A number that was not drawn before, as long as there is one."""
    if len(_drawn) == _SHARE:
        _drawn.clear()
    while True:
        number = _FIRST + _WORKER * _SHARE + secrets.randbelow(_SHARE)
        if number not in _drawn:
            _drawn.add(number)
            return number
