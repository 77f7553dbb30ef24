"""consents"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import messaging.storage.column_types

revision = '4e8d2b7c9a16'
down_revision = '35c37247f1ca'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('consents',
    sa.Column('id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.Column('phone', sa.String(length=20), nullable=False),
    sa.Column('action', sa.String(length=8), nullable=False),
    sa.Column('sender_id', sa.String(length=32), server_default=sa.text("''"), nullable=False),
    sa.Column('purpose', sa.Text(), nullable=True),
    sa.Column('wording', sa.Text(), nullable=True),
    sa.Column('wording_version', sa.Text(), nullable=True),
    sa.Column('source', sa.Text(), nullable=False),
    sa.Column('evidence', sa.Text(), nullable=True),
    sa.Column('at', messaging.storage.column_types.UtcDateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_consents'))
    )
    op.create_index('ix_consents_phone', 'consents', ['phone'], unique=False)
    op.create_table('consents_in_force',
    sa.Column('phone', sa.String(length=20), nullable=False),
    sa.Column('sender_id', sa.String(length=32), nullable=False),
    sa.Column('consent_id', sa.BigInteger().with_variant(sa.Integer(), 'sqlite'), nullable=False),
    sa.ForeignKeyConstraint(['consent_id'], ['consents.id'], name=op.f('fk_consents_in_force_consent_id_consents')),
    sa.PrimaryKeyConstraint('phone', 'sender_id', name=op.f('pk_consents_in_force'))
    )


def downgrade() -> None:
    op.drop_table('consents_in_force')
    op.drop_index('ix_consents_phone', table_name='consents')
    op.drop_table('consents')
