"""the request that asked for a text"""

from __future__ import annotations

from alembic import op

revision = '83a84d4c35c9'
down_revision = '4e8d2b7c9a16'
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Not in a batch: on SQLite that may make the table anew, and others refer to it.
    op.execute('ALTER TABLE batches ADD COLUMN request_id VARCHAR(64)')
    op.execute('ALTER TABLE messages ADD COLUMN request_id VARCHAR(64)')


def downgrade() -> None:
    op.execute('ALTER TABLE messages DROP COLUMN request_id')
    op.execute('ALTER TABLE batches DROP COLUMN request_id')
