"""Runs calls: joins the call engine with SIP, media and the stores.

`Switch` is a machine without I/O; `Runner` alone touches the doors.
"""
