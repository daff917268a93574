"""The echo test: the caller hears itself until it hangs up."""

from msgspec import Struct


class Echo(Struct, frozen=True, gc=False, tag="echo"):
    """Every packet goes back to where it came from. Any codec will do, since nothing is decoded."""
