"""warnings of batches"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '5cd35b8f8211'
down_revision = '4b3aa1f24107'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('batches', sa.Column('warnings', sa.Text(), nullable=True))
    op.create_index('ix_batches_warnings', 'batches', ['created_at'], unique=False, postgresql_where=sa.text('warnings IS NOT NULL'), sqlite_where=sa.text('warnings IS NOT NULL'))


def downgrade() -> None:
    op.drop_index('ix_batches_warnings', 'batches')
    # Not in a batch operation: on SQLite that would drop a table that messages refer to.
    op.drop_column('batches', 'warnings')
