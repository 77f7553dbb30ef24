"""conversations and waiting replies"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import messaging.storage.column_types

revision = '953f018e6a07'
down_revision = 'b57b21659ffe'
branch_labels = None
depends_on = None


# Who wrote before there were conversations has one from now on, with nothing unread.
CONVERSATIONS = """
    INSERT INTO conversations (phone, number, last_inbound_id, last_at, unread)
    SELECT latest.sender, inbound_messages.recipient, latest.id, inbound_messages.received_at, 0
    FROM (
        SELECT sender, max(id) AS id FROM inbound_messages
        WHERE sender LIKE '+%' AND length(sender) <= 20 GROUP BY sender
    ) AS latest
    JOIN inbound_messages ON inbound_messages.id = latest.id
"""


def upgrade() -> None:
    op.create_table('conversations',
    sa.Column('phone', sa.String(length=20), nullable=False),
    sa.Column('number', sa.String(length=32), nullable=False),
    sa.Column('last_inbound_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('last_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('unread', sa.Integer(), nullable=False),
    sa.PrimaryKeyConstraint('phone', name=op.f('pk_conversations'))
    )
    with op.batch_alter_table('conversations', schema=None) as batch_op:
        batch_op.create_index('ix_conversations_last_inbound_id', ['last_inbound_id'], unique=False)
        batch_op.create_index('ix_conversations_unread', ['last_inbound_id'], unique=False, postgresql_where=sa.text('unread > 0'), sqlite_where=sa.text('unread > 0'))

    with op.batch_alter_table('inbound_messages', schema=None) as batch_op:
        batch_op.add_column(sa.Column('reply_due_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column('reply_tries', sa.SmallInteger(), server_default=sa.text('0'), nullable=False))
        batch_op.add_column(sa.Column('reply_error', sa.Text(), nullable=True))
        batch_op.add_column(sa.Column('held_texts', sa.Text(), nullable=True))
        batch_op.create_index('ix_inbound_messages_not_answered', ['id'], unique=False, postgresql_where=sa.text("reply_outcome IN ('held', 'failed')"), sqlite_where=sa.text("reply_outcome IN ('held', 'failed')"))
        batch_op.create_index('ix_inbound_messages_waiting', ['reply_due_at'], unique=False, postgresql_where=sa.text("reply_outcome = 'waiting'"), sqlite_where=sa.text("reply_outcome = 'waiting'"))

    op.execute(sa.text(CONVERSATIONS))


def downgrade() -> None:
    with op.batch_alter_table('inbound_messages', schema=None) as batch_op:
        batch_op.drop_index('ix_inbound_messages_waiting', postgresql_where=sa.text("reply_outcome = 'waiting'"), sqlite_where=sa.text("reply_outcome = 'waiting'"))
        batch_op.drop_index('ix_inbound_messages_not_answered', postgresql_where=sa.text("reply_outcome IN ('held', 'failed')"), sqlite_where=sa.text("reply_outcome IN ('held', 'failed')"))
        batch_op.drop_column('held_texts')
        batch_op.drop_column('reply_error')
        batch_op.drop_column('reply_tries')
        batch_op.drop_column('reply_due_at')

    with op.batch_alter_table('conversations', schema=None) as batch_op:
        batch_op.drop_index('ix_conversations_unread', postgresql_where=sa.text('unread > 0'), sqlite_where=sa.text('unread > 0'))
        batch_op.drop_index('ix_conversations_last_inbound_id')

    op.drop_table('conversations')