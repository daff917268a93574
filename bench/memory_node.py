"""`warden` with its calls kept in this process's memory: what protection is measured against. No operator wants it."""

import sys

from warden.cli.main import main
from warden.node import stores
from warden.store.memory import MemoryStore

if __name__ == "__main__":
    stores.seat_store_of = lambda _config: MemoryStore()
    sys.exit(main())
