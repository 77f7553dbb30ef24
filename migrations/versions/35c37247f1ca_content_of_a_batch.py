"""content of a batch"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '35c37247f1ca'
down_revision = 'd4f92b6c1a07'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('batches', sa.Column('content_digest', sa.String(length=64), nullable=True))
    where = sa.text('content_digest IS NOT NULL')
    op.create_index(
        'ix_batches_content_digest', 'batches', ['content_digest'], postgresql_where=where, sqlite_where=where
    )


def downgrade() -> None:
    op.drop_index('ix_batches_content_digest', table_name='batches')
    op.drop_column('batches', 'content_digest')
