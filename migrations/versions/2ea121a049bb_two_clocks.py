"""Durations go by the boot clock, dates by the wall clock."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import messaging.storage.column_types

revision = '2ea121a049bb'
down_revision = '6c1f0a9b7d52'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('clock_anchors',
    sa.Column('boot_id', sa.String(length=40), nullable=False),
    sa.Column('boot_micros', sa.BigInteger(), nullable=False),
    sa.Column('steady_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('seen_steady_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('seen_wall_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('stepped_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=True),
    sa.Column('stepped_micros', sa.BigInteger(), nullable=True),
    sa.PrimaryKeyConstraint('boot_id', name=op.f('pk_clock_anchors'))
    )
    with op.batch_alter_table('idempotency_keys', schema=None) as batch_op:
        batch_op.add_column(sa.Column('steady_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=True))

    # Not in a batch: on SQLite that makes the table anew, and others refer to it.
    op.execute('ALTER TABLE messages ADD COLUMN due_by_wall BOOLEAN DEFAULT false NOT NULL')
    # What waits for an hour that somebody gave; the rest waits for the end of a backoff.
    op.execute(
        "UPDATE messages SET due_by_wall = true WHERE status = 'queued' AND due_at > created_at"
        " AND (tries = 0 OR reason IN ('sending_window', 'do_not_disturb'))"
    )


def downgrade() -> None:
    # As above.
    op.execute('ALTER TABLE messages DROP COLUMN due_by_wall')
    op.execute('ALTER TABLE idempotency_keys DROP COLUMN steady_at')
    op.drop_table('clock_anchors')
