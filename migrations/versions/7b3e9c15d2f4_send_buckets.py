"""sends of each key and operator in a minute"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import messaging.storage.column_types

revision = '7b3e9c15d2f4'
down_revision = '1db32d65f186'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('send_buckets',
    sa.Column('who', sa.String(length=80), nullable=False),
    sa.Column('minute_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('taken', sa.Integer(), nullable=False),
    sa.PrimaryKeyConstraint('who', name=op.f('pk_send_buckets'))
    )


def downgrade() -> None:
    op.drop_table('send_buckets')
