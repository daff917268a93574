"""Trunks: the ways to carriers and other exchanges. See docs/trunks.md."""
