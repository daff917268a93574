"""Dialplans for tests, written as their items."""

import json
from typing import Any

from tests.unit.switch.world import REALM, password

from warden.store.ports import Item
from warden.switch.dialplan.items import read_item
from warden.switch.directory import Directory, directory_of, new_extension

NUMBERS = ("1001", "1002", "1003", "1004")


def item(kind: str, name: str, **body: Any) -> Item:
    """An item that has been checked as one that somebody gives."""
    text = json.dumps(body)
    read_item(kind, name, text)
    return Item(kind, name, text)


def user(number: str, **body: Any) -> Item:
    return item("user", number, **body)


def group(name: str, *numbers: str, **body: Any) -> Item:
    return item("group", name, members=[{"number": number} for number in numbers], **body)


def planned(*items: Item, numbers: tuple[str, ...] = NUMBERS) -> Directory:
    made = (new_extension(n, password(n), realm=REALM, now=0.0, name=f"Number {n}") for n in numbers)
    return directory_of(made, 1, items)
