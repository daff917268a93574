"""What every subcommand is given: which settings file was named, and the environment its variables come from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from msgspec import Struct

from warden.config.load import load
from warden.config.tree import Config


class Settings(Struct, frozen=True):
    """`file` is that of `--config` or `WARDEN_CONFIG`, or `config.yml` of the working folder; None where there is none,
    and then the defaults hold.
    """

    file: Path | None
    environ: Mapping[str, str]

    def load(self) -> Config:
        """Read them. Raises `ConfigError`, which `main` prints."""
        return load(self.file, self.environ)


# The type of the parameter by which a subcommand asks for them: `def serve(*, settings: Given) -> int`.
Given = Annotated[Settings, Parameter(parse=False)]
