"""A folder of rendered files, looked at as a whole: by the programs that will read them, and by each other."""

import tempfile
from pathlib import Path

from warden.core.errors import ConfigError
from warden.ops.ha.findings import Finding, Verdict
from warden.ops.ha.programs import ask
from warden.ops.ha.rendered import ENVIRONMENT, PATRONI, Texts
from warden.ops.ha.rules import check

SECRET_FILES = (ENVIRONMENT, PATRONI, "etc/patroni/post-init", "etc/patroni/start", "usr/local/sbin/pbx-bootstrap")


def verify(out: Path) -> Verdict:
    """What is wrong with the files below `out`. Raises `ConfigError` where there are none."""
    texts, zones = _read(out)
    with tempfile.TemporaryDirectory(prefix="warden-verify-") as scratch:
        asked = ask(texts, zones, Path(scratch))
    findings = [*asked.findings, *check(texts), *_readable_secrets(out, texts)]
    files = sum(len(files) for files in texts.values()) + len(zones)
    # Each rule between files is looked at once for each host.
    return Verdict(files, asked.checks + len(texts), sorted(set(findings)), asked.missing)


def _read(out: Path) -> tuple[Texts, dict[str, str]]:
    texts: dict[str, dict[str, str]] = {}
    zones = {}
    try:
        for folder in sorted(path for path in out.iterdir() if path.is_dir()):
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                text = path.read_text(encoding="utf-8")
                if folder.name == "dns":
                    zones[path.stem] = text
                else:
                    texts.setdefault(folder.name, {})[str(path.relative_to(folder))] = text
    except UnicodeDecodeError as error:
        raise ConfigError((f"{out}: holds a file that is no text: {error}",)) from error
    except OSError as error:
        raise ConfigError((f"{error.filename}: cannot be read: {(error.strerror or '').lower()}",)) from error
    if not texts:
        raise ConfigError((f"{out}: there are no hosts' files here; `warden ha render` makes them",))
    return texts, zones


def _readable_secrets(out: Path, texts: Texts) -> list[Finding]:
    found = []
    for host, files in texts.items():
        for name in SECRET_FILES:
            if name in files and (mode := (out / host / name).stat().st_mode & 0o077):
                what = f"others may read it (mode {mode | 0o600:o}), and passwords are in it"
                found.append(
                    Finding(
                        f"{host}/{name}",
                        0,
                        what,
                        f"chmod {0o700 if name.endswith(('init', 'start', 'bootstrap')) else 0o600:o}",
                    )
                )
    return found
