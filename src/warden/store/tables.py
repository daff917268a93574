"""The durable tables as the code knows them. `migrations` makes them; a test compares the two."""

from typing import Final

from sqlalchemy import BigInteger, Column, Double, Index, Integer, MetaData, Table, Text

SCHEMA_REVISION: Final = "0004"
"""The newest step of `migrations`, which leads to the tables below."""

metadata = MetaData()

# Times are seconds since the epoch, UTC, as everywhere in Warden.

extensions = Table(
    "extensions",
    metadata,
    Column("number", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("realm", Text, nullable=False),
    Column("ha1_md5", Text),
    Column("ha1_sha256", Text),
    Column("ha1_sha512_256", Text),
    Column("created_at", Double, nullable=False),
    # With a default, for nodes of the version before, which know nothing of it.
    Column("srtp", Text, nullable=False, server_default="optional"),
)

HA1_COLUMNS = {"MD5": "ha1_md5", "SHA-256": "ha1_sha256", "SHA-512-256": "ha1_sha512_256"}
"""Digest algorithm (RFC 8760) to column."""

cdrs = Table(
    "cdrs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("caller", Text, nullable=False),
    Column("caller_name", Text, nullable=False),
    Column("callee", Text, nullable=False),
    Column("answered_by", Text, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ringing_at", Double),
    Column("answered_at", Double),
    Column("ended_at", Double, nullable=False),
    Column("result", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("ended_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("sip_call_id", Text, nullable=False),
    Column("seat", Text, nullable=False),
    Column("node", Text, nullable=False),
    # With a default, for nodes of the version before, which know nothing of them.
    Column("transferred_by", Text, nullable=False, server_default=""),
    Column("transferred_to", Text, nullable=False, server_default=""),
    Index("ix_cdrs_ended_at", "ended_at"),
    # A party's newest calls are read straight off these, however many calls there are.
    Index("ix_cdrs_caller_ended_at", "caller", "ended_at"),
    Index("ix_cdrs_callee_ended_at", "callee", "ended_at"),
    Index("ix_cdrs_answered_by_ended_at", "answered_by", "ended_at"),
)

dialplan = Table(
    "dialplan",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("body", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("changed_at", Double, nullable=False),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("name", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("digest", Text, nullable=False, unique=True),
    Column("created_at", Double, nullable=False),
)

# One row: how often the directory has changed.
meta = Table(
    "meta",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False),
)
