"""keys and actions"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import messaging.storage.column_types

revision = 'f82f113deddb'
down_revision = 'c3e81a5b0f92'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('actions',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('actor', sa.String(length=80), nullable=False),
    sa.Column('address', sa.String(length=64), nullable=True),
    sa.Column('action', sa.String(length=40), nullable=False),
    sa.Column('subject', sa.String(length=80), nullable=False),
    sa.Column('before', sa.Text(), nullable=True),
    sa.Column('after', sa.Text(), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_actions'))
    )
    with op.batch_alter_table('actions', schema=None) as batch_op:
        batch_op.create_index('ix_actions_actor', ['actor', 'id'], unique=False)
        batch_op.create_index('ix_actions_subject', ['subject', 'id'], unique=False)

    op.create_table('api_keys',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('name', sa.String(length=40), nullable=False),
    sa.Column('prefix', sa.String(length=16), nullable=False),
    sa.Column('digest', sa.String(length=64), nullable=False),
    sa.Column('scopes', sa.Text(), nullable=False),
    sa.Column('expires_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=True),
    sa.Column('created_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=False),
    sa.Column('created_by', sa.String(length=80), nullable=True),
    sa.Column('last_used_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=True),
    sa.Column('revoked_at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_api_keys')),
    sa.UniqueConstraint('digest', name=op.f('uq_api_keys_digest')),
    sa.UniqueConstraint('name', name=op.f('uq_api_keys_name'))
    )
    op.add_column('batches', sa.Column('created_by', sa.String(length=80), nullable=True))
    op.add_column('messages', sa.Column('created_by', sa.String(length=80), nullable=True))



def downgrade() -> None:
    op.execute('ALTER TABLE messages DROP COLUMN created_by')
    op.execute('ALTER TABLE batches DROP COLUMN created_by')

    op.drop_table('api_keys')
    with op.batch_alter_table('actions', schema=None) as batch_op:
        batch_op.drop_index('ix_actions_subject')
        batch_op.drop_index('ix_actions_actor')

    op.drop_table('actions')
