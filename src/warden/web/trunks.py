"""The routes of trunks: how each is doing at the seats that this node holds."""

from fastapi import APIRouter

from warden.web import models
from warden.web.models import at_or_none
from warden.web.state import NodeState


def add_trunks(router: APIRouter, state: NodeState) -> None:
    """Add them to the API."""

    @router.get("/trunks", tags=["trunks"])
    async def list_trunks() -> models.Trunks:
        """Every trunk at every seat held here: whether it answers, is registered, and what is wrong with it."""
        return models.Trunks(items=trunks(state))


def trunks(state: NodeState) -> list[models.Trunk]:
    """The trunks of all seats held here, by name and seat."""
    now = state.now()
    found = [
        models.Trunk(
            name=x.name,
            seat=x.seat,
            up=x.up,
            registered=x.registered,
            registered_until=at_or_none(x.registered_until_utc or None),
            channels=x.channels,
            channels_max=x.channels_max,
            targets=[
                models.TrunkTarget(address=t.address, transport=t.transport, up=t.up, why=t.why) for t in x.targets
            ],
            error=x.error,
        )
        for seat in list(state.seats.values())
        for x in seat.switch.trunk_status(now)
    ]
    return sorted(found, key=lambda x: (x.name, x.seat))
