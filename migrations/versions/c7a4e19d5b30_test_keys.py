"""test keys"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = 'c7a4e19d5b30'
down_revision = '7b3e9c15d2f4'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('api_keys', sa.Column('test', sa.Boolean(), server_default=sa.text('false'), nullable=False))


def downgrade() -> None:
    op.drop_column('api_keys', 'test')
