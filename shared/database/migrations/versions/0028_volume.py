"""The volume of jobs

Revision: 0028
Follows: 0027
"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("volume", sa.Float(), server_default="0", nullable=False))
    # Ended jobs are estimated no more. Processes of the version before write 0, which readers take as not known.
    if op.get_bind().dialect.name == "postgresql":
        size = [f"CAST(params ->> '{name}' AS double precision)" for name in ("width", "height", "frames")]
    else:
        size = [f"json_extract(params, '$.{name}')" for name in ("width", "height", "frames")]
    op.execute(
        f"UPDATE jobs SET volume = {' * '.join(size)} / 1e6 "
        "WHERE type = 'generation' AND status IN ('queued', 'running')"
    )


def downgrade() -> None:
    with op.batch_alter_table("jobs") as batch:
        batch.drop_column("volume")
