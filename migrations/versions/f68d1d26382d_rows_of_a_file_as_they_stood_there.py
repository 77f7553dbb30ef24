"""rows of a file as they stood there"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = 'f68d1d26382d'
down_revision = '3ad9dd77fa5b'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('batches', sa.Column('file_columns', sa.Text(), nullable=True))
    op.add_column('refused_rows', sa.Column('cells', sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column('refused_rows', 'cells')
    op.drop_column('batches', 'file_columns')
