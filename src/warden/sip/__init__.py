"""SIP as values and machines (RFC 3261): nothing here does I/O, reads a clock or draws a random number."""
