"""Who transferred a call, and to whom."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """CDRs of before, and of nodes that know nothing of transfers, have neither."""
    for name in ("transferred_by", "transferred_to"):
        op.add_column("cdrs", sa.Column(name, sa.Text, nullable=False, server_default=""))
