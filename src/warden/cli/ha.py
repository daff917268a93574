"""`warden ha`: what has to do with addresses that move between nodes."""

from typing import Annotated

from cyclopts import App, Parameter

from warden.cli import may_hold

app = App(name="ha")


@app.command(name="may-hold")
def ask(
    seat: str,
    /,
    *,
    http: Annotated[str, Parameter(help="Where the node's HTTP server is, as HOST:PORT.")] = may_hold.DEFAULT,
) -> int:
    """Ask the node on this machine whether the address of SEAT may be here: keepalived's track script."""
    return may_hold.main([seat, "--http", http])
