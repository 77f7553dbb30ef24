"""How many messages came to which status, by the hour. Counted from this release on.

Revision ID: c3e81a5b0f92
Revises: b7d20f4c6e18
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from messaging.storage.column_types import Id, UtcDateTime

revision = 'c3e81a5b0f92'
down_revision = 'b7d20f4c6e18'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        'status_deltas',
        sa.Column('id', Id, nullable=False),
        sa.Column('hour', UtcDateTime(), nullable=False),
        sa.Column('status', sa.String(10), nullable=False),
        sa.Column('reason', sa.Text(), nullable=False),
        sa.Column('sender_id', sa.String(32), nullable=False),
        sa.Column('network', sa.Text(), nullable=False),
        sa.Column('currency', sa.String(3), nullable=False),
        sa.Column('delay', sa.SmallInteger(), nullable=False),
        sa.Column('messages', sa.Integer(), nullable=False),
        sa.Column('parts', sa.Integer(), nullable=False),
        sa.Column('micros', sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint('id', name='pk_status_deltas'),
    )
    op.create_table(
        'hourly_counts',
        sa.Column('hour', UtcDateTime(), nullable=False),
        sa.Column('status', sa.String(10), nullable=False),
        sa.Column('reason', sa.Text(), nullable=False),
        sa.Column('sender_id', sa.String(32), nullable=False),
        sa.Column('network', sa.Text(), nullable=False),
        sa.Column('currency', sa.String(3), nullable=False),
        sa.Column('delay', sa.SmallInteger(), nullable=False),
        sa.Column('messages', sa.BigInteger(), nullable=False),
        sa.Column('parts', sa.BigInteger(), nullable=False),
        sa.Column('micros', sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            'hour', 'status', 'reason', 'sender_id', 'network', 'currency', 'delay', name='pk_hourly_counts'
        ),
    )


def downgrade() -> None:
    op.drop_table('hourly_counts')
    op.drop_table('status_deltas')
