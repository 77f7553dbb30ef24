"""The table of the circuit breaker by its name.

Revision ID: 6c1f0a9b7d52
Revises: 184c349779c5
"""
from alembic import op

revision = '6c1f0a9b7d52'
down_revision = '184c349779c5'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.rename_table('lanes', 'circuit_breakers')
    op.execute('ALTER TABLE circuit_breakers RENAME COLUMN narrowed_at TO opened_at')
    if op.get_bind().dialect.name == 'postgresql':
        op.execute('ALTER INDEX pk_lanes RENAME TO pk_circuit_breakers')


def downgrade() -> None:
    op.execute('ALTER TABLE circuit_breakers RENAME COLUMN opened_at TO narrowed_at')
    op.rename_table('circuit_breakers', 'lanes')
    if op.get_bind().dialect.name == 'postgresql':
        op.execute('ALTER INDEX pk_circuit_breakers RENAME TO pk_lanes')
