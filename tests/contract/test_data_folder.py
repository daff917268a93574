"""One process per data folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from warden.core.errors import WardenError
from warden.store.lock import DataFolder, DataFolderInUse

HOLDER = """
import sys
from warden.store.lock import DataFolder
with DataFolder.claim(sys.argv[1]):
    print("mine", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_with_the_firsts_number_and_let_in_after_its_death(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        with (
            pytest.raises(DataFolderInUse, match=f"^data folder {folder} is in use by process {holder.pid}$"),
            DataFolder.claim(folder),
        ):
            pass
        holder.kill()
        holder.wait()
    with DataFolder.claim(folder) as mine:
        assert mine == folder
        assert (folder / "warden.lock").read_text() == f"{os.getpid()}\n"


def test_a_folder_is_made_for_its_owner_only_and_free_again_after_the_context(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    with DataFolder.claim(folder):
        assert folder.stat().st_mode & 0o777 == 0o700
        with pytest.raises(DataFolderInUse), DataFolder.claim(folder):
            pass
    with DataFolder.claim(folder):
        pass


def test_a_folder_that_others_may_read_is_told_in_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with capture_logs() as said, DataFolder.claim(tmp_path):
        assert (tmp_path / "warden.lock").stat().st_mode & 0o077 == 0
    assert [(line["event"], line["folder"], line["mode"]) for line in said] == [
        ("data folder may be read by others", str(tmp_path), "755")
    ]
    tmp_path.chmod(0o700)
    with capture_logs() as said, DataFolder.claim(tmp_path):
        assert said == []


def test_a_path_that_cannot_be_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WardenError, match=r"data folder .*/file: cannot be used"), DataFolder.claim(tmp_path / "file"):
        pass
