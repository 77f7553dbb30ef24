"""forwarded events and fetched texts"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import messaging.storage.column_types

revision = '184c349779c5'
down_revision = '953f018e6a07'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('forward_events',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('event_id', sa.String(length=40), nullable=False),
    sa.Column('type', sa.String(length=32), nullable=False),
    sa.Column('body', sa.Text(), nullable=False),
    sa.Column('state', sa.String(length=10), nullable=False),
    sa.Column('attempts', sa.Integer(), server_default=sa.text('0'), nullable=False),
    sa.Column('due_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('http_status', sa.Integer(), nullable=True),
    sa.Column('last_error', sa.Text(), nullable=True),
    sa.Column('created_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('finished_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_forward_events')),
    sa.UniqueConstraint('event_id', name=op.f('uq_forward_events_event_id'))
    )
    with op.batch_alter_table('forward_events', schema=None) as batch_op:
        batch_op.create_index('ix_forward_events_created_at', ['created_at'], unique=False)
        batch_op.create_index('ix_forward_events_failed', ['id'], unique=False, postgresql_where=sa.text("state = 'failed'"), sqlite_where=sa.text("state = 'failed'"))
        batch_op.create_index('ix_forward_events_waiting', ['due_at', 'id'], unique=False, postgresql_where=sa.text("state = 'waiting'"), sqlite_where=sa.text("state = 'waiting'"))

    op.create_table('forward_state',
    sa.Column('id', sa.SmallInteger(), nullable=False),
    sa.Column('receiver', sa.String(length=64), nullable=False),
    sa.Column('step', sa.Integer(), nullable=False),
    sa.Column('next_post_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('succeeded_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=True),
    sa.Column('failing_since', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=True),
    sa.Column('paused_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=True),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_forward_state'))
    )
    with op.batch_alter_table('inbound_messages', schema=None) as batch_op:
        batch_op.add_column(sa.Column('inbox_id', sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column('awaits_callback', sa.Boolean(), server_default=sa.text('(false)'), nullable=False))
        batch_op.create_index('ix_inbound_messages_awaiting', ['sender'], unique=False, postgresql_where=sa.text('awaits_callback'), sqlite_where=sa.text('awaits_callback'))
        batch_op.create_index('ix_inbound_messages_inbox_id', ['inbox_id'], unique=True, postgresql_where=sa.text('inbox_id IS NOT NULL'), sqlite_where=sa.text('inbox_id IS NOT NULL'))



def downgrade() -> None:
    with op.batch_alter_table('inbound_messages', schema=None) as batch_op:
        batch_op.drop_index('ix_inbound_messages_inbox_id', postgresql_where=sa.text('inbox_id IS NOT NULL'), sqlite_where=sa.text('inbox_id IS NOT NULL'))
        batch_op.drop_index('ix_inbound_messages_awaiting', postgresql_where=sa.text('awaits_callback'), sqlite_where=sa.text('awaits_callback'))
        batch_op.drop_column('awaits_callback')
        batch_op.drop_column('inbox_id')

    op.drop_table('forward_state')
    with op.batch_alter_table('forward_events', schema=None) as batch_op:
        batch_op.drop_index('ix_forward_events_waiting', postgresql_where=sa.text("state = 'waiting'"), sqlite_where=sa.text("state = 'waiting'"))
        batch_op.drop_index('ix_forward_events_failed', postgresql_where=sa.text("state = 'failed'"), sqlite_where=sa.text("state = 'failed'"))
        batch_op.drop_index('ix_forward_events_created_at')

    op.drop_table('forward_events')
