"""The script that installs what the tests need, in a copy of its folder and with an apt-get that only tells."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "debian-packages.sh"

APT = """#!/bin/sh
case "$*" in *install*) echo "$*" >>"$SAID"; cat "$POLICY" >>"$SAID"; exit "$STATUS";; esac
"""


class Machine:
    """A folder that stands for a machine: the script in it has its own policy-rc.d, apt-get and PostgreSQL."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "repository"
        self.policy = folder / "policy-rc.d"
        self.said = folder / "said"
        self.bin = folder / "bin"
        for made in (self.root / "scripts", self.root / "requirements", self.bin):
            made.mkdir(parents=True)
        text = SCRIPT.read_text(encoding="utf-8")
        assert "/usr/sbin/policy-rc.d" in text
        text = text.replace("/usr/sbin/policy-rc.d", str(self.policy))
        text = text.replace("/usr/lib/postgresql", str(folder / "no-postgresql"))
        self.script = self.root / "scripts" / SCRIPT.name
        self.write(self.script, text)
        self.write(self.bin / "apt-get", APT)
        self.write(self.bin / "id", "#!/bin/sh\necho 0\n")
        (self.root / "requirements" / "debian.txt").write_text("a-package a-program-of-nobody\n")

    @staticmethod
    def write(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def run(self, status: int = 0) -> int:
        bash = shutil.which("bash")
        assert bash
        environ = {"SAID": str(self.said), "POLICY": str(self.policy), "STATUS": str(status)}
        path = f"{self.bin}:{os.environ['PATH']}"
        return subprocess.run([bash, self.script], env={**environ, "PATH": path}, check=False, timeout=30).returncode


@pytest.mark.parametrize("status", [0, 1])
def test_services_are_kept_from_starting_while_packages_are_installed_and_not_longer(
    tmp_path: Path, status: int
) -> None:
    machine = Machine(tmp_path)
    assert machine.run(status) == status
    said = machine.said.read_text()
    assert "install" in said
    assert "a-package" in said
    assert said.endswith("exit 101\n")
    assert not machine.policy.exists()


def test_a_policy_of_the_administrators_stays(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write(machine.policy, "#!/bin/sh\nexit 104\n")
    assert machine.run() == 0
    assert machine.policy.read_text() == "#!/bin/sh\nexit 104\n"


def test_programs_of_the_working_folder_are_not_taken_for_those_of_the_system(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write(machine.root / "a-program-of-nobody", "#!/bin/sh\n")
    assert machine.run() == 0
    assert "a-package" in machine.said.read_text()
