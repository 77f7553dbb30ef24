"""Brakes: what was spent in a day, who may pass it, and why a batch waits.

Revision ID: 352417778904
Revises: 83a84d4c35c9
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '352417778904'
down_revision = '83a84d4c35c9'
branch_labels = None
depends_on = None

# Not in a batch: on SQLite that may make the table anew, and others refer to it.
COLUMNS = (
    ('batches', 'detail', 'TEXT'),
    ('batches', 'passes_limits', 'BOOLEAN DEFAULT false NOT NULL'),
    ('messages', 'passes_limits', 'BOOLEAN DEFAULT false NOT NULL'),
    ('attempts', 'counted', 'TEXT'),
    ('api_keys', 'daily_limit_micros', 'BIGINT'),
    ('api_keys', 'daily_limit_currency', 'VARCHAR(3)'),
)


def upgrade() -> None:
    for table, column, kind in COLUMNS:
        op.execute(f'ALTER TABLE {table} ADD COLUMN {column} {kind}')
    op.create_table(
        'daily_spend',
        sa.Column('day', sa.String(length=10), nullable=False),
        sa.Column('scope', sa.String(length=80), nullable=False),
        sa.Column('currency', sa.String(length=3), nullable=False),
        sa.Column('micros', sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint('day', 'scope', 'currency', name=op.f('pk_daily_spend')),
    )
    op.create_table(
        'spend_changes',
        sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
        sa.Column('day', sa.String(length=10), nullable=False),
        sa.Column('scope', sa.String(length=80), nullable=False),
        sa.Column('currency', sa.String(length=3), nullable=False),
        sa.Column('micros', sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_spend_changes')),
    )


def downgrade() -> None:
    op.drop_table('spend_changes')
    op.drop_table('daily_spend')
    for table, column, _kind in reversed(COLUMNS):
        op.execute(f'ALTER TABLE {table} DROP COLUMN {column}')
