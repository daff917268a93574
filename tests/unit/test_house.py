"""The house's own rules: what every file and every package of the repository keeps to."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Written in halves, so that this file may be looked at too.
HOSTS = ("py" + "pi.org", "python" + "hosted.org", "registry." + "npmjs", "deb." + "debian.org", "mirror" + "list")
MACHINE_PATH = re.compile(r"(?<![\w.~$}/-])/(?:wo" + r"rk|ro" + r"ot|home/\w+)/\w")


def text_files() -> Iterator[tuple[Path, str]]:
    """The files that are, or are about to be, under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file():
            data = path.read_bytes()
            if b"\0" not in data:
                yield path.relative_to(ROOT), data.decode("utf-8", "replace")


def requirements(name: str) -> list[str]:
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-c "))]


def canonical(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_no_file_names_a_registry_or_a_path_of_the_machine_it_was_written_on() -> None:
    seen = dict(text_files())
    assert Path("pyproject.toml") in seen
    assert [
        (str(path), line)
        for path, text in seen.items()
        for line in text.splitlines()
        if any(host in line for host in HOSTS) or MACHINE_PATH.search(line)
    ] == []


def test_every_package_has_its_layer() -> None:
    contract = PROJECT["tool"]["importlinter"]["contracts"][0]
    layered = [name.strip() for row in contract["layers"] for name in row.split("|")]
    packages = [path.parent.name for path in (ROOT / "src" / "warden").glob("*/__init__.py")]
    assert sorted(layered) == sorted(packages)
    assert contract["exhaustive"] is True


def test_every_folder_of_modules_is_a_package_that_is_shipped() -> None:
    folders = {path.parent for path in (ROOT / "src" / "warden").rglob("*.py")}
    not_packages = {folder for folder in folders if not (folder / "__init__.py").exists()}
    shipped_as_data = (ROOT / "src" / "warden" / "store" / "migrations").rglob("*")
    assert not_packages <= {ROOT / "src" / "warden" / "store" / "migrations", *shipped_as_data}


def test_dependencies_are_listed_once_and_pinned() -> None:
    assert requirements("base.in") == PROJECT["project"]["dependencies"], "run `make pins`"
    for name in ("base", "test"):
        pins = requirements(f"{name}.txt")
        assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*", pin)] == []
        wanted = {canonical(line) for line in requirements(f"{name}.in")}
        assert wanted <= {canonical(pin) for pin in pins}, "run `make pins`"


def test_tests_run_with_the_versions_that_are_installed_for_users() -> None:
    base = dict(pin.split("==") for pin in requirements("base.txt"))
    test = dict(pin.split("==") for pin in requirements("test.txt"))
    assert {name: test[name] for name in base.keys() & test.keys()} == {
        name: base[name] for name in base.keys() & test.keys()
    }


@pytest.mark.parametrize(
    "script", [".ci/run", "scripts/debian-packages.sh", "scripts/make-venv.sh", "scripts/make-pins.sh"]
)
def test_scripts_can_be_run(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_the_version_is_told_in_one_place() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "warden.__version__"}
