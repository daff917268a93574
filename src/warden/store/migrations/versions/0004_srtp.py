"""Whether an extension's media are protected."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Extensions of before, and those that nodes of before make, may have it."""
    op.add_column("extensions", sa.Column("srtp", sa.Text, nullable=False, server_default="optional"))
