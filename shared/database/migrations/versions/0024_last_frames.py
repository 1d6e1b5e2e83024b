"""Frames of other jobs with which the video of a job of a flow ends

Revision: 0024
Follows: 0023
"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("flow_nodes", sa.Column("last_frame_of", sa.JSON(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("flow_nodes") as batch:
        batch.drop_column("last_frame_of")
