"""share of refused rows"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '5d1e8a40c7b2'
down_revision = '0c3698fe4fa0'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('batches', sa.Column('max_refused', sa.Float(), nullable=True))


def downgrade() -> None:
    op.drop_column('batches', 'max_refused')
