"""How far a database is, and what is done when it went backwards.

Revision ID: d41e7f0a92b3
Revises: 8c41d7e2a9f0
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from messaging.storage.column_types import Id, UtcDateTime

revision = 'd41e7f0a92b3'
down_revision = '8c41d7e2a9f0'
branch_labels = None
depends_on = None

PARTIAL = {'batch_id': 'batch_id IS NOT NULL', 'inbound': 'inbound IS NOT NULL', 'call': 'call IS NOT NULL'}


def time(name: str, *, nullable: bool = True) -> sa.Column:
    return sa.Column(name, UtcDateTime(timezone=True), nullable=nullable)


def number(name: str) -> sa.Column:
    return sa.Column(name, sa.Integer(), nullable=False, server_default=sa.text('0'))


def upgrade() -> None:
    counter = sa.Column('counter', sa.BigInteger(), nullable=False, server_default=sa.text('0'))
    for column in (counter, time('beat_at'), sa.Column('place', sa.Text()), sa.Column('recovery_id', Id)):
        op.add_column('database_identity', column)
    op.add_column('batches', sa.Column('call', sa.String(16)))
    op.create_table(
        'recoveries',
        sa.Column('id', Id, nullable=False),
        sa.Column('reason', sa.String(16), nullable=False),
        time('opened_at', nullable=False),
        time('gap_from'),
        time('closed_at'),
        number('posts'),
        number('unknown'),
        number('without_row'),
        number('held'),
        sa.Column('fetched', sa.Integer()),
        sa.PrimaryKeyConstraint('id', name='pk_recoveries'),
    )
    op.create_table(
        'witness_folders',
        sa.Column('folder_id', sa.String(32), nullable=False),
        sa.Column('host', sa.Text(), nullable=False),
        sa.Column('path', sa.Text(), nullable=False),
        time('seen_at', nullable=False),
        sa.Column('problem', sa.Text()),
        sa.Column('recovery_id', Id),
        number('posts'),
        sa.PrimaryKeyConstraint('folder_id', name='pk_witness_folders'),
    )
    op.create_table(
        'lost_texts',
        sa.Column('id', Id, nullable=False),
        sa.Column('recovery_id', Id, nullable=False),
        sa.Column('attempt_id', Id, nullable=False),
        time('posting_at', nullable=False),
        sa.Column('recipient', sa.String(16), nullable=False),
        sa.Column('text', sa.String(16), nullable=False),
        sa.Column('batch_id', Id),
        sa.Column('inbound', sa.String(16)),
        sa.Column('call', sa.String(16)),
        sa.ForeignKeyConstraint(['recovery_id'], ['recoveries.id'], name='fk_lost_texts_recovery_id'),
        sa.PrimaryKeyConstraint('id', name='pk_lost_texts'),
    )
    for name, where in PARTIAL.items():
        op.create_index(
            f'ix_lost_texts_{name}',
            'lost_texts',
            [name],
            postgresql_where=sa.text(where),
            sqlite_where=sa.text(where),
        )


def downgrade() -> None:
    op.drop_table('lost_texts')
    op.drop_table('witness_folders')
    op.drop_table('recoveries')
    op.drop_column('batches', 'call')
    for name in ('recovery_id', 'place', 'beat_at', 'counter'):
        op.drop_column('database_identity', name)
