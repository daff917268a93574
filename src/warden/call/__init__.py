"""The B2BUA engine: calls as values, `step(call, now, event) -> (call, effects)`. No SIP here, and no I/O."""
