"""Session descriptions as values, and what a B2BUA does to them (RFC 8866, 3264): nothing here does I/O."""
