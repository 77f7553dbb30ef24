"""Which database this is, and a random token for each attempt.

Revision ID: 8c41d7e2a9f0
Revises: 5687b105ed98
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from messaging.storage.column_types import UtcDateTime

revision = '8c41d7e2a9f0'
down_revision = '5687b105ed98'
branch_labels = None
depends_on = None

WITH_TOKEN = sa.text('token IS NOT NULL')


def upgrade() -> None:
    op.create_table(
        'database_identity',
        sa.Column('id', sa.SmallInteger(), nullable=False),
        sa.Column('database_id', sa.String(32), nullable=False),
        sa.Column('hash_key', sa.LargeBinary(32), nullable=False),
        sa.Column('made_at', UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint('id', name='pk_database_identity'),
    )
    op.add_column('attempts', sa.Column('token', sa.String(32), nullable=True))
    # No row has one yet, so the index is empty; PostgreSQL reads the table once for it.
    op.create_index(
        'ix_attempts_token',
        'attempts',
        ['token'],
        unique=True,
        postgresql_where=WITH_TOKEN,
        sqlite_where=WITH_TOKEN,
    )


def downgrade() -> None:
    op.drop_index('ix_attempts_token', table_name='attempts')
    op.drop_column('attempts', 'token')
    op.drop_table('database_identity')
