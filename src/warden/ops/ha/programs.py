"""The programs that will read the rendered files, asked what they think of them before any host has them.

Each works on a copy in a scratch folder in which only what this machine cannot have is replaced: the card's name, the
certificate, Warden's own command, and the hosts' addresses by loopback ones where a server is started for a moment.
"""

import datetime
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from warden.ops.ha.findings import Finding
from warden.ops.ha.names import NAMED, server_of
from warden.ops.ha.reading import IPV4, Assignments, assignments, directives
from warden.ops.ha.rendered import ARBITER, CONFIG, ETCD, HAPROXY, KEEPALIVED, NFTABLES, PATRONI, Texts, config_of

ANSWER_S: Final = 20.0
"""For a program that only reads; they take a fraction of a second."""
START_S: Final = 30.0
PACKAGES: Final = {
    "haproxy": "haproxy",
    "keepalived": "keepalived",
    "patroni": "patroni",
    "named-checkconf": "bind9-utils",
    "named-checkzone": "bind9-utils",
    "promtool": "prometheus",
    "nft": "nftables",
    "systemd-analyze": "systemd",
    "redis-server": "redis-server",
    "redis-sentinel": "redis-sentinel",
    "etcd": "etcd-server",
    "chronyd": "chrony",
}
_PATRONI_MAY_SAY: Final = re.compile(
    r"(bootstrap.pg_hba|authentication.rewind) is not defined|is not (available|reachable)|annot assign|already in use"
)
"""What is of no account: keys that may be missing, and what is not there before there is a cluster."""
_DROPIN: Final = re.compile(r"etc/systemd/system/([^/]+\.service)\.d/([^/]+\.conf)")
_PATH: Final = ":".join((os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"))


class Asked:
    """What was asked of the programs, and what they said."""

    def __init__(self, scratch: Path) -> None:
        self.findings: list[Finding] = []
        self.missing: dict[str, str] = {}
        self.checks = 0
        self._scratch = scratch
        self._number = 0

    def find(self, program: str) -> str | None:
        """Where it is; noted where it is not."""
        found = shutil.which(program, path=_PATH)
        if found is None:
            self.missing[program] = PACKAGES[program]
        return found

    def folder(self) -> Path:
        """A new one."""
        self._number += 1
        made = self._scratch / str(self._number)
        made.mkdir()
        return made

    def say(self, file: str, text: str, what: str) -> None:
        """One finding; a line number in the saying is taken for that of the file."""
        found = re.search(r"(?:line |:)(\d+)[:\] ]", what)
        line = int(found[1]) if found and int(found[1]) <= text.count("\n") + 1 else 0
        self.findings.append(Finding(file, line, " ".join(what.split())[:300]))


def ask(texts: Texts, zones: Mapping[str, str], scratch: Path) -> Asked:
    """Ask every program that is on this machine. `zones` are the DNS zones by domain; `scratch` an empty folder."""
    asked = Asked(scratch)
    _warden(asked, texts)
    readers: Sequence[tuple[str, str, Callable[[Asked, str, str, str, str], None]]] = (
        ("haproxy", HAPROXY, _haproxy),
        ("keepalived", KEEPALIVED, _keepalived),
        ("patroni", PATRONI, _patroni),
        ("nft", NFTABLES, _nft),
        ("chronyd", "etc/chrony/conf.d/pbx.conf", _chrony),
        ("systemd-analyze", "etc/systemd/system/pbx.service", _systemd),
        ("systemd-analyze", "etc/systemd/system/etcd-arbiter.service", _systemd),
        ("promtool", "etc/prometheus/prometheus.yml", _prometheus),
    )
    for program, path, read in readers:
        for host, files in texts.items():
            if path in files and (found := asked.find(program)) is not None:
                asked.checks += 1
                read(asked, found, f"{host}/{path}", files[path], host)
    if (promtool := shutil.which("promtool", path=_PATH)) is not None:
        _rules(asked, promtool, texts)
    for domain, text in zones.items():
        if (found := asked.find("named-checkzone")) is not None:
            asked.checks += 1
            _zone(asked, found, domain, text)
    _dropins(asked, texts)
    _names(asked, texts)
    _shells(asked, texts)
    _redis(asked, texts)
    for file in (ETCD, ARBITER):
        _etcd(asked, texts, file)
    return asked


def _warden(asked: Asked, texts: Texts) -> None:
    for host, files in texts.items():
        if CONFIG not in files:
            continue
        asked.checks += 1
        for problem in config_of(host, files).problems:
            _, line, what = problem.split(":", 2)
            asked.findings.append(Finding(f"{host}/{CONFIG}", int(line) if line.isdigit() else 0, what.strip()))


def _haproxy(asked: Asked, program: str, file: str, text: str, _: str) -> None:
    folder = asked.folder()
    (folder / "pbx.pem").write_bytes(certificate())
    copy = folder / "haproxy.cfg"
    copy.write_text(re.sub(r"\bcrt \S+", f"crt {folder / 'pbx.pem'}", text))
    done = _run(program, "-c", "-f", str(copy))
    for said in _lines(done):
        if said.startswith(("[ALERT]", "[WARNING]")):
            asked.say(file, text, said.replace(str(copy), ""))
    if done.returncode != 0 and not any(finding.file == file for finding in asked.findings):
        asked.say(file, text, done.stderr or done.stdout)


def _keepalived(asked: Asked, program: str, file: str, text: str, _: str) -> None:
    copy = asked.folder() / "keepalived.conf"
    cards = {words[1] for _, words in directives(text) if words[0] == "interface" and len(words) > 1}
    for card in cards:
        text = re.sub(rf"\b(interface|dev) {re.escape(card)}\b", r"\1 lo", text)
    copy.write_text(text)
    # It ends its own process group after the test, so it gets one.
    done = _run(program, "--config-test", "--log-console", "--use-file", str(copy), apart=True)
    for said in _lines(done):
        # The program is where the hosts have it, not here.
        if "warden_may_hold" not in said and "/warden" not in said and "SECURITY VIOLATION" not in said:
            asked.say(file, text, said.replace(str(copy), ""))


def _patroni(asked: Asked, program: str, file: str, text: str, _: str) -> None:
    folder = asked.folder()
    copy = folder / "patroni.yml"
    # It looks whether the addresses are free here, and whether etcd answers there: neither is so before the cluster is.
    copy.write_text(text)
    done = _run(program, "--validate-config", str(copy))
    for said in _lines(done):
        if not _PATRONI_MAY_SAY.search(said):
            asked.say(file, text, said)


def _nft(asked: Asked, program: str, file: str, text: str, _: str) -> None:
    copy = asked.folder() / "nftables.conf"
    copy.write_text(text)
    # In a namespace of its own, whose rules are nobody's.
    apart = ("unshare", "--net") if os.geteuid() == 0 else ("unshare", "--net", "--map-root-user")
    done = _run(*apart, program, "--check", "--file", str(copy))
    if done.returncode != 0:
        asked.say(file, text, done.stderr.replace(str(copy), "").splitlines()[0])


def _chrony(asked: Asked, program: str, file: str, text: str, _: str) -> None:
    copy = asked.folder() / "chrony.conf"
    copy.write_text(text)
    done = _run(program, "-p", "-f", str(copy))
    if done.returncode != 0:
        asked.say(file, text, (done.stderr or done.stdout).replace(str(copy), ""))


def _systemd(asked: Asked, program: str, file: str, text: str, _: str) -> None:
    folder = asked.folder()
    unit = folder / Path(file).name
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    done = _run(program, "verify", "--man=no", str(unit))
    for said in _lines(done):
        if str(unit) in said or unit.name in said:
            asked.say(file, text, said.replace(str(unit), ""))


def _dropins(asked: Asked, texts: Texts) -> None:
    """What is added to units, the host's own ones or Debian's, which need not be here."""
    for host, files in texts.items():
        for path, text in files.items():
            if (added := _DROPIN.fullmatch(path)) is None or (program := asked.find("systemd-analyze")) is None:
                continue
            asked.checks += 1
            folder = asked.folder()
            unit, copy = folder / added[1], folder / f"{added[1]}.d" / added[2]
            unit.write_text("[Service]\nExecStart=/bin/true\n")
            copy.parent.mkdir()
            copy.write_text(re.sub(r"^(Exec\w+=-?)/\S+", r"\1/bin/true", text, flags=re.MULTILINE))
            for said in _lines(_run(program, "verify", "--man=no", str(unit))):
                if str(copy) in said or unit.name in said:
                    asked.say(f"{host}/{path}", text, said.replace(str(copy), ""))


def _prometheus(asked: Asked, program: str, file: str, text: str, _: str) -> None:
    copy = asked.folder() / "prometheus.yml"
    copy.write_text(re.sub(r"^rule_files:.*$", "", text, flags=re.MULTILINE))
    done = _run(program, "check", "config", str(copy))
    if done.returncode != 0:
        asked.say(file, text, (done.stderr or done.stdout).replace(str(copy), ""))


def _rules(asked: Asked, program: str, texts: Texts) -> None:
    for host, files in texts.items():
        for path, text in files.items():
            if path.startswith("etc/prometheus/rules/"):
                asked.checks += 1
                copy = asked.folder() / "rules.yml"
                copy.write_text(text)
                done = _run(program, "check", "rules", str(copy))
                if done.returncode != 0:
                    asked.say(f"{host}/{path}", text, (done.stderr or done.stdout).replace(str(copy), ""))


def _zone(asked: Asked, program: str, domain: str, text: str) -> None:
    copy = asked.folder() / "zone"
    copy.write_text(text)
    done = _run(program, "-i", "full", domain, str(copy))
    if done.returncode != 0:
        asked.say(f"dns/{domain}.zone", text, (done.stdout + done.stderr).replace(str(copy), ""))


def _names(asked: Asked, texts: Texts) -> None:
    """A name server's settings with the zones that they name: it would load them as here."""
    for host, files in texts.items():
        if NAMED not in files or (program := asked.find("named-checkconf")) is None:
            continue
        asked.checks += 1
        text, folder = files[NAMED], asked.folder()
        copy = re.sub(r'^(\s*directory) "[^"]*"', rf'\1 "{folder}"', text, flags=re.MULTILINE)
        for i, path in enumerate(server_of(text).zones.values()):
            if path in files:
                (folder / f"{i}.zone").write_text(files[path])
                copy = copy.replace(f'"/{path}"', f'"{folder / f"{i}.zone"}"')
        (folder / "named.conf").write_text(copy)
        done = _run(program, "-z", str(folder / "named.conf"))
        if done.returncode != 0:
            asked.say(f"{host}/{NAMED}", text, (done.stdout + done.stderr).replace(f"{folder}/", ""))


def _shells(asked: Asked, texts: Texts) -> None:
    for host, files in texts.items():
        for path, text in files.items():
            if text.startswith("#!/bin/sh\n"):
                asked.checks += 1
                copy = asked.folder() / "script"
                copy.write_text(text)
                done = _run("sh", "-n", str(copy))
                if done.returncode != 0:
                    asked.say(f"{host}/{path}", text, done.stderr.replace(str(copy), ""))


def _redis(asked: Asked, texts: Texts) -> None:
    """Each server is started for a moment, with the accounts of its host."""
    for host, files in texts.items():
        for path, text in files.items():
            name = Path(path).name
            program = "redis-sentinel" if name == "sentinel.conf" else "redis-server"
            if not (path.startswith("etc/redis/") and path.endswith(".conf")) or not asked.find(program):
                continue
            asked.checks += 1
            folder = asked.folder()
            (folder / "users.acl").write_text(files.get("etc/redis/users.acl", ""))
            copy = folder / name
            copy.write_text(_at_home(text, folder).replace("/etc/redis/users.acl", str(folder / "users.acl")))
            said = _started([program, str(copy)], lambda said: "eady to accept" in said or "Sentinel ID is" in said)
            if said is not None:
                asked.say(f"{host}/{path}", text, said)


def _etcd(asked: Asked, texts: Texts, file: str) -> None:
    voters = {host: assignments(files[file]) for host, files in texts.items() if file in files}
    program = asked.find("etcd") if voters else None
    if program is None:
        return
    # Each region has a cluster of its own, and a token for it.
    for token in sorted({values.get("ETCD_INITIAL_CLUSTER_TOKEN", ("", 0))[0] for values in voters.values()}):
        _etcd_cluster(asked, program, texts, file, {
            host: values for host, values in voters.items()
            if values.get("ETCD_INITIAL_CLUSTER_TOKEN", ("", 0))[0] == token
        })  # fmt: skip


def _etcd_cluster(asked: Asked, program: str, texts: Texts, file: str, voters: Mapping[str, Assignments]) -> None:
    """The members are started together, since none is ready by itself."""
    asked.checks += len(voters)
    homes = asked.folder()
    # Of the arbiter they are in several networks, where the same last octet may be another host's.
    every = " ".join(value for values in voters.values() for value, _ in values.values())
    near = {address: f"10.0.0.{i}" for i, address in enumerate(sorted(set(IPV4.findall(every)) - {"127.0.0.1"}), 1)}
    with ExitStack() as stack:
        running = {}
        for host, values in voters.items():
            environ = {
                name: _at_home(IPV4.sub(lambda found: near.get(found[0], found[0]), value), homes)
                for name, (value, _) in values.items()
            }
            urls = environ.get("ETCD_LISTEN_CLIENT_URLS", "").split(",")
            environ["ETCD_LISTEN_CLIENT_URLS"] = ",".join(url for url in urls if "//127.0.0.1:" not in url)
            environ["ETCD_DATA_DIR"] = str(homes / host)
            log = homes / f"{host}.log"
            with log.open("wb") as said:
                process = subprocess.Popen(  # noqa: S603 - our own words
                    [program], stdin=subprocess.DEVNULL, stdout=said, stderr=said, env={"PATH": _PATH, **environ}
                )  # fmt: skip
            stack.callback(_end, process)
            running[host] = (process, log)
        for host, (process, log) in running.items():
            why = _until(process, log, lambda said: "ready to serve client requests" in said)
            if why is not None:
                asked.say(f"{host}/{file}", texts[host][file], why)


def _at_home(text: str, folder: Path) -> str:
    """The text with every host's address as one of this machine's own, and its files in a folder."""
    # 127.a.b.c: of the address the last octet is kept, and of the run the process and the folder's number.
    net = f"127.{os.getpid() % 250 + 2}.{int(folder.name) % 250 + 2}"

    def moved(found: re.Match[str]) -> str:
        address = found[0]
        return address if address.startswith(("0.", "127.")) else f"{net}.{address.rpartition('.')[2]}"

    text = IPV4.sub(moved, text)
    text = re.sub(r"^(bind \S+) 127\.0\.0\.1$", r"\1", text, flags=re.MULTILINE)
    return re.sub(r"^dir .*$", f"dir {folder}", text, flags=re.MULTILINE)


def _started(command: list[str], is_up: Callable[[str], bool]) -> str | None:
    """Start a server for a moment; what it said where it did not come up."""
    log = Path(command[1]).with_suffix(".log")
    with log.open("wb") as said:
        process = subprocess.Popen(  # noqa: S603 - our own words
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env={"PATH": _PATH}
        )
    try:
        return _until(process, log, is_up)
    finally:
        _end(process)


def _until(process: subprocess.Popen[bytes], log: Path, is_up: Callable[[str], bool]) -> str | None:
    until = time.monotonic() + START_S
    while not is_up(said := log.read_text(errors="replace")):
        if process.poll() is not None or time.monotonic() > until:
            lines = [line for line in said.splitlines() if line.strip()]
            return "does not start: " + " / ".join(lines[-3:])
        time.sleep(0.02)
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def _run(*command: str, apart: bool = False) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - our own words
            command, capture_output=True, text=True, check=False, timeout=ANSWER_S, stdin=subprocess.DEVNULL,
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8"}, start_new_session=apart,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]} does not answer within {ANSWER_S:g} s")


def _lines(done: subprocess.CompletedProcess[str]) -> Iterator[str]:
    return (" ".join(line.split()) for line in (done.stdout + done.stderr).splitlines() if line.strip())


def certificate(*names: str) -> bytes:
    """For HAProxy to have one: signed by itself, for DNS names and addresses, good for a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "warden")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(map(_general, names)), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(pem) + private


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
