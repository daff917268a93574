"""A whole cluster in one thread and in virtual time: the real agents, seats and switches between simulated phones,
network, stores, media and clocks. Everything that happens follows from a seed.
"""
