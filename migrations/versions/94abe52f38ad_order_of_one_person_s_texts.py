"""One person's texts stay in order, and rows of a batch with the same text stand together."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '94abe52f38ad'
down_revision = '2ea121a049bb'
branch_labels = None
depends_on = None

BULK = sa.text("status = 'queued' AND priority = 5")
QUEUED = sa.text("status = 'queued'")


def upgrade() -> None:
    # Not in a batch: on SQLite that may make the table anew, and others refer to it.
    op.execute('ALTER TABLE messages ADD COLUMN text_group BIGINT')
    op.drop_index('ix_messages_bulk', table_name='messages')
    columns = ['batch_id', 'due_at', 'text_group', 'id']
    op.create_index('ix_messages_bulk', 'messages', columns, postgresql_where=BULK, sqlite_where=BULK)
    columns = ['recipient', 'priority', 'id']
    op.create_index('ix_messages_queued', 'messages', columns, postgresql_where=QUEUED, sqlite_where=QUEUED)


def downgrade() -> None:
    op.drop_index('ix_messages_queued', table_name='messages')
    op.drop_index('ix_messages_bulk', table_name='messages')
    # As above.
    op.execute('ALTER TABLE messages DROP COLUMN text_group')
    columns = ['batch_id', 'due_at', 'id']
    op.create_index('ix_messages_bulk', 'messages', columns, postgresql_where=BULK, sqlite_where=BULK)
