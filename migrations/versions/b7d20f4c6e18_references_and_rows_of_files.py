"""The caller's own id of a message, where of its file it came from, and what waits of a batch.

Revision ID: b7d20f4c6e18
Revises: a1c07e5d9b34
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = 'b7d20f4c6e18'
down_revision = 'a1c07e5d9b34'
branch_labels = None
depends_on = None

WAITS = sa.text("(status = 'held' OR (status = 'queued' AND due_by_wall))")
WITH_REFERENCE = sa.text('reference IS NOT NULL')


def upgrade() -> None:
    # Not in a batch: on SQLite that may make the table anew, and others refer to it.
    op.execute('ALTER TABLE messages ADD COLUMN reference VARCHAR(100)')
    op.execute('ALTER TABLE messages ADD COLUMN line INTEGER')
    op.execute('ALTER TABLE messages ADD COLUMN cells TEXT')
    op.create_index(
        'ix_messages_reference',
        'messages',
        ['reference', 'id'],
        postgresql_where=WITH_REFERENCE,
        sqlite_where=WITH_REFERENCE,
    )
    op.create_index(
        'ix_messages_waits',
        'messages',
        ['batch_id', 'status', 'reason', 'due_at'],
        postgresql_where=WAITS,
        sqlite_where=WAITS,
    )


def downgrade() -> None:
    op.drop_index('ix_messages_waits', table_name='messages')
    op.drop_index('ix_messages_reference', table_name='messages')
    for column in ('cells', 'line', 'reference'):
        op.execute(f'ALTER TABLE messages DROP COLUMN {column}')
