"""`warden records`: the records that could not be read and are kept aside, at all nodes of the cluster."""

import sys

from warden.cli.listing import AsJson, Row, print_list
from warden.cli.local import LocalNode, members
from warden.cli.settings import Given
from warden.core.errors import WardenError
from warden.web.models import AsideRecords


def records(*, as_json: AsJson = False, settings: Given) -> int:
    """List the records of calls, registrations and CDRs that could not be read. Each has cost its call or registration;
    they stay in the store for 30 days, as records of kind "aside". Exit code 1 where a node could not be asked.
    """
    config = settings.load()
    rows, silent = list[Row](), list[str]()
    _, nodes = members(config, LocalNode(config))
    for name, node in nodes.items():
        try:
            found = node.get("records/aside", AsideRecords).items
        except WardenError as error:
            silent.append(f"warden: {name} cannot be asked: {error}\n")
            continue
        rows += [
            {
                "seat": record.seat,
                "kind": record.kind,
                "key": record.key,
                "at": record.at.isoformat(timespec="seconds"),
                "by": record.node,
                "bytes": record.size_bytes,
                "why": record.why,
            }
            for record in found
        ]
    print_list(sorted(rows, key=lambda row: str(row["at"])), as_json=as_json, none="Every record could be read.")
    sys.stderr.write("".join(silent))
    return 1 if silent else 0
