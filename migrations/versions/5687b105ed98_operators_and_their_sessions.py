"""operators and their sessions"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import messaging.storage.column_types

revision = '5687b105ed98'
down_revision = 'f82f113deddb'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('login_failures',
    sa.Column('who', sa.String(length=80), nullable=False),
    sa.Column('failures', sa.Integer(), nullable=False),
    sa.Column('failed_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('locked_until', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('who', name=op.f('pk_login_failures'))
    )
    op.create_table('operators',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('name', sa.String(length=40), nullable=False),
    sa.Column('role', sa.String(length=10), nullable=False),
    sa.Column('password_hash', sa.Text(), nullable=True),
    sa.Column('link_digest', sa.String(length=64), nullable=True),
    sa.Column('link_until', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=True),
    sa.Column('created_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('created_by', sa.String(length=80), nullable=True),
    sa.Column('disabled_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_operators')),
    sa.UniqueConstraint('link_digest', name=op.f('uq_operators_link_digest')),
    sa.UniqueConstraint('name', name=op.f('uq_operators_name'))
    )
    op.create_table('sessions',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('digest', sa.String(length=64), nullable=False),
    sa.Column('operator', sa.String(length=40), nullable=False),
    sa.Column('address', sa.String(length=64), nullable=True),
    sa.Column('agent', sa.Text(), nullable=False),
    sa.Column('created_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('seen_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_sessions')),
    sa.UniqueConstraint('digest', name=op.f('uq_sessions_digest'))
    )
    with op.batch_alter_table('sessions', schema=None) as batch_op:
        batch_op.create_index('ix_sessions_operator', ['operator'], unique=False)



def downgrade() -> None:
    with op.batch_alter_table('sessions', schema=None) as batch_op:
        batch_op.drop_index('ix_sessions_operator')

    op.drop_table('sessions')
    op.drop_table('operators')
    op.drop_table('login_failures')
