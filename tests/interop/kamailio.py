"""Kamailio, a registrar and proxy that asks everybody for a proof: as a carrier between us and the public network, or
as a server of phones.
"""

import subprocess
import time
from pathlib import Path

USER, WORD, REALM = "account-1", "the carriers word", "carrier.test"

_BASE = """\
#!KAMAILIO
debug=1
log_stderror=yes
children=1
disable_tcp=yes
auto_aliases=no
listen=udp:127.0.0.1:%(port)d
alias="%(realm)s"
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "auth.so"
modparam("usrloc", "db_mode", 0)
"""
_CARRIER = (
    _BASE
    + """\
request_route {
  if (!mf_process_maxfwd_header("10")) { sl_send_reply("483", "Too Many Hops"); exit; }
  if (is_method("CANCEL")) { if (t_check_trans()) { t_relay(); } exit; }
  if (has_totag()) {
    if (loose_route()) { t_relay(); exit; }
    if (is_method("ACK")) { if (t_check_trans()) { t_relay(); } exit; }
    sl_send_reply("404", "Not here");
    exit;
  }
  t_check_trans();
  if (is_method("OPTIONS")) { sl_send_reply("200", "OK"); exit; }
  if (is_method("REGISTER")) {
    if (!pv_www_authenticate("%(realm)s", "%(word)s", "0")) { www_challenge("%(realm)s", "1"); exit; }
    if (!save("location")) { sl_reply_error(); }
    exit;
  }
  if ($sp == %(from_outside)d) {
    record_route();
    $ru = "sip:%(user)s@%(realm)s";
    if (!lookup("location")) { sl_send_reply("404", "Not registered"); exit; }
    t_relay();
    exit;
  }
  if (!pv_proxy_authenticate("%(realm)s", "%(word)s", "0")) { proxy_challenge("%(realm)s", "1"); exit; }
  consume_credentials();
  record_route();
  $du = "sip:127.0.0.1:%(to_outside)d";
  t_relay();
}
"""
)
_SERVER = (
    _BASE
    + """\
request_route {
  if (is_method("CANCEL")) { if (t_check_trans()) { t_relay(); } exit; }
  if (has_totag()) {
    if (loose_route()) { t_relay(); exit; }
    if (is_method("ACK")) { if (t_check_trans()) { t_relay(); } exit; }
    sl_send_reply("404", "Not here");
    exit;
  }
  t_check_trans();
  if (is_method("OPTIONS")) { sl_send_reply("200", "OK"); exit; }
  if (is_method("REGISTER")) {
    if (!pv_www_authenticate("%(realm)s", "%(word)s", "0")) { www_challenge("%(realm)s", "1"); exit; }
    if (!save("location")) { sl_reply_error(); }
    exit;
  }
  if (!pv_proxy_authenticate("%(realm)s", "%(word)s", "0")) { proxy_challenge("%(realm)s", "1"); exit; }
  consume_credentials();
  record_route();
  if (!lookup("location")) { sl_send_reply("404", "Not registered"); exit; }
  t_relay();
}
"""
)


class Kamailio:
    """A process on 127.0.0.1:`port`. Without further ports it is a server of phones, whose numbers are all and whose
    password is `WORD`. With them it is a carrier: whoever calls it from port `from_outside` is the public network, and
    calls that we make over it go to port `to_outside`.
    """

    def __init__(self, folder: Path, port: int, *, from_outside: int = 0, to_outside: int = 0) -> None:
        folder.mkdir()
        self.port = port
        self._folder = folder
        values = {"port": port, "from_outside": from_outside, "to_outside": to_outside}
        text = _CARRIER if to_outside else _SERVER
        (folder / "kamailio.cfg").write_text(text % (values | {"user": USER, "word": WORD, "realm": REALM}))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        folder = self._folder
        argv: list[str | Path] = ["kamailio", "-f", folder / "kamailio.cfg", "-DD", "-E", "-m", "32"]
        argv += ["-w", folder, "-Y", folder]
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until, needle = time.monotonic() + 20, f":{self.port:04X} "
        while not any(needle in row[:30] for row in Path("/proc/self/net/udp").read_text().splitlines()[1:]):
            assert time.monotonic() < until, self.log()
            assert self._process.poll() is None, self.log()
            time.sleep(0.02)  # Nobody tells when a stranger's socket is bound.

    def log(self) -> str:
        """What it says."""
        return (self._folder / "log").read_text(errors="replace")

    def close(self) -> None:
        """End it, with its children."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
