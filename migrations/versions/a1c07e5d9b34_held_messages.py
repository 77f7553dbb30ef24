"""Messages and batches that wait for a person.

Revision ID: a1c07e5d9b34
Revises: 5d1e8a40c7b2
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = 'a1c07e5d9b34'
down_revision = '5d1e8a40c7b2'
branch_labels = None
depends_on = None

HELD = sa.text("status = 'held'")
HELD_EXPIRING = sa.text("status = 'held' AND expires_at IS NOT NULL")
PAUSED = sa.text("status = 'paused'")


def upgrade() -> None:
    op.create_index('ix_messages_held', 'messages', ['id'], postgresql_where=HELD, sqlite_where=HELD)
    op.create_index(
        'ix_messages_held_expiring',
        'messages',
        ['expires_at'],
        postgresql_where=HELD_EXPIRING,
        sqlite_where=HELD_EXPIRING,
    )
    op.create_index('ix_batches_paused', 'batches', ['id'], postgresql_where=PAUSED, sqlite_where=PAUSED)


def downgrade() -> None:
    # What is held stays so: the release before sends nothing whose status it does not know.
    op.drop_index('ix_batches_paused', 'batches')
    op.drop_index('ix_messages_held_expiring', 'messages')
    op.drop_index('ix_messages_held', 'messages')
