"""The clusters of the deployment guide's pictures, with passwords that anybody may know; as a program it writes the
files that are rendered for them to `golden/`, for the tests to compare with.
"""

from pathlib import Path

from warden.config.load import parse
from warden.ops.ha.inventory import Cluster, Option
from warden.ops.ha.render import File, Files, render
from warden.ops.ha.secret_values import Secrets
from warden.ops.ha.starter import starter

GOLDEN = Path(__file__).parent / "golden"
OPTIONS: tuple[Option, ...] = ("active-passive", "active-active", "geo")
SECRETS = Secrets(*(f"{name}-secret-of-the-tests" for name in Secrets.__struct_fields__))


def cluster_of(text: str) -> Cluster:
    document = parse(text.encode(), {}, Cluster, name="cluster.yml")
    assert document.problems == ()
    return document.config


def problems_of(text: str) -> list[str]:
    return list(parse(text.encode(), {}, Cluster, name="cluster.yml").problems)


def rendered(option: Option, text: str = "") -> dict[str, Files]:
    """The option's files, or those of a cluster file of it."""
    return render(
        cluster_of(text or starter(option)),
        SECRETS,
        {"monitor": {"etc/prometheus/rules/pbx.yml": File("groups: []\n")}},
    )


def as_text(made: dict[str, Files]) -> str:
    """All files one after the other, each under a line with its path, mode and owner."""
    parts = [
        f"======== {folder}/{path} {file.mode:o} {file.owner}\n{file.text}"
        for folder, files in made.items()
        for path, file in files.items()
    ]
    return "".join(parts)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for option in OPTIONS:
        (GOLDEN / f"{option}.txt").write_text(as_text(rendered(option)), encoding="utf-8")
