"""default region of a file"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '1db32d65f186'
down_revision = '352417778904'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('batches', sa.Column('default_region', sa.String(length=2), nullable=True))


def downgrade() -> None:
    op.drop_column('batches', 'default_region')
