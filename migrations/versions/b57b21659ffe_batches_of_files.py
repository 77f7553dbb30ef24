"""batches of files, their control and prices"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import messaging.storage.column_types

revision = 'b57b21659ffe'
down_revision = '57662f46bcd8'
branch_labels = None
depends_on = None

IN_BATCH = sa.text('batch_id IS NOT NULL')
RECEIVING = sa.text("status = 'receiving'")
UNFINISHED = sa.text('finished_at IS NULL')


def upgrade() -> None:
    op.create_table(
        'prices',
        sa.Column('sender_id', sa.String(length=32), nullable=False),
        sa.Column('prefix', sa.String(length=8), nullable=False),
        sa.Column('country', sa.String(length=2), nullable=True),
        sa.Column('currency', sa.String(length=3), nullable=False),
        sa.Column('micros_per_part', sa.BigInteger(), nullable=False),
        sa.Column('seen_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint('sender_id', 'prefix', name=op.f('pk_prices')),
    )
    op.create_table(
        'upload_pieces',
        sa.Column('upload_id', sa.String(length=32), nullable=False),
        sa.Column('position', sa.Integer(), nullable=False),
        sa.Column('content', sa.LargeBinary(), nullable=False),
        sa.Column('stored_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint('upload_id', 'position', name=op.f('pk_upload_pieces')),
    )
    op.create_table(
        'refused_rows',
        sa.Column('batch_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
        sa.Column('line', sa.Integer(), nullable=False),
        sa.Column('value', sa.Text(), nullable=False),
        sa.Column('code', sa.String(length=24), nullable=False),
        sa.Column('reason', sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(['batch_id'], ['batches.id'], name=op.f('fk_refused_rows_batch_id')),
        sa.PrimaryKeyConstraint('batch_id', 'line', name=op.f('pk_refused_rows')),
    )
    identifier = sa.BigInteger().with_variant(sa.Integer(), 'sqlite')
    op.add_column('attempts', sa.Column('budget_batch_id', identifier, nullable=True))
    op.add_column('attempts', sa.Column('reserved_micros', sa.BigInteger(), nullable=True))
    for column in (
        sa.Column('spent_micros', sa.BigInteger(), server_default=sa.text('0'), nullable=False),
        sa.Column('on_unknown', sa.String(length=6), server_default=sa.text("'hold'"), nullable=False),
        sa.Column('upload_id', sa.String(length=32), nullable=True),
        sa.Column('rows_read', sa.Integer(), server_default=sa.text('0'), nullable=False),
        sa.Column('importer_seen_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=True),
    ):
        op.add_column('batches', column)
    op.create_index('ix_batches_receiving', 'batches', ['id'], postgresql_where=RECEIVING, sqlite_where=RECEIVING)
    op.create_index(
        'ix_batches_unfinished', 'batches', ['id'], postgresql_where=UNFINISHED, sqlite_where=UNFINISHED
    )
    _index_messages_by_batch(['batch_id', 'status', 'cost_currency', 'cost_micros', 'parts'])


def downgrade() -> None:
    _index_messages_by_batch(['batch_id', 'status'])
    op.drop_index('ix_batches_unfinished', 'batches')
    op.drop_index('ix_batches_receiving', 'batches')
    # One by one and not in Alembic's batch mode: SQLite would drop a table that messages refer to.
    for name in ('importer_seen_at', 'rows_read', 'upload_id', 'on_unknown', 'spent_micros'):
        op.drop_column('batches', name)
    for name in ('reserved_micros', 'budget_batch_id'):
        op.drop_column('attempts', name)
    op.drop_table('refused_rows')
    op.drop_table('upload_pieces')
    op.drop_table('prices')


def _index_messages_by_batch(columns: list[str]) -> None:
    op.drop_index('ix_messages_batch', 'messages')
    op.create_index(
        'ix_messages_batch', 'messages', columns, postgresql_where=IN_BATCH, sqlite_where=IN_BATCH
    )
