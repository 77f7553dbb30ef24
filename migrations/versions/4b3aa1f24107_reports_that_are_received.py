"""An index of the delivery reports that the worker has still to apply.

Revision ID: 4b3aa1f24107
Revises: 6c1f0a9b7d52
"""

import sqlalchemy as sa
from alembic import op

revision = '4b3aa1f24107'
down_revision = '94abe52f38ad'
branch_labels = None
depends_on = None

RECEIVED = sa.text("outcome = 'received'")


def upgrade() -> None:
    op.create_index(
        'ix_callbacks_received', 'callbacks', ['received_at', 'id'], postgresql_where=RECEIVED, sqlite_where=RECEIVED
    )


def downgrade() -> None:
    # The release before knows no worker that would apply them: they are tried again from the journal.
    op.execute(
        "UPDATE callbacks SET outcome = 'unapplied', detail = 'not applied yet' WHERE outcome = 'received'"
    )
    op.drop_index('ix_callbacks_received', 'callbacks')
