"""phone column of a file"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0c3698fe4fa0'
down_revision = 'f68d1d26382d'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('batches', sa.Column('phone_column', sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column('batches', 'phone_column')
