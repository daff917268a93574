"""Warden: a highly available SIP PBX."""

__version__ = "0.1.0"
