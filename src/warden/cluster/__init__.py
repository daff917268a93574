"""Who is alive, who holds which seat, and moving seats between nodes.

`decide` says what to do and does nothing; `agent` does it.
"""
