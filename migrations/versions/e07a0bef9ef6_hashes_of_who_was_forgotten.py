"""hashes of who was forgotten"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import messaging.storage.column_types

revision = 'e07a0bef9ef6'
down_revision = 'd41e7f0a92b3'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('suppressions', schema=None) as batch_op:
        batch_op.create_index('ix_suppressions_forgotten', ['phone'], unique=False, postgresql_where=sa.text("substr(phone, 1, 1) = '#'"), sqlite_where=sa.text("substr(phone, 1, 1) = '#'"))



def downgrade() -> None:
    with op.batch_alter_table('suppressions', schema=None) as batch_op:
        batch_op.drop_index('ix_suppressions_forgotten', postgresql_where=sa.text("substr(phone, 1, 1) = '#'"), sqlite_where=sa.text("substr(phone, 1, 1) = '#'"))

