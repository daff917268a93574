"""A real node: the only place where concrete stores, sockets, clocks and the media process are named and joined."""
