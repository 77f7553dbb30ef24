"""possible opt outs"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '3ad9dd77fa5b'
down_revision = '5cd35b8f8211'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('inbound_messages', sa.Column('possible_opt_out', sa.Boolean(), server_default=sa.text('(false)'), nullable=False))
    op.create_index('ix_inbound_messages_possible_opt_out', 'inbound_messages', ['id'], unique=False, postgresql_where=sa.text('possible_opt_out'), sqlite_where=sa.text('possible_opt_out'))


def downgrade() -> None:
    op.drop_index('ix_inbound_messages_possible_opt_out', 'inbound_messages')
    op.drop_column('inbound_messages', 'possible_opt_out')
