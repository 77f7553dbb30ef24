"""A table of the words of texts, for each store its own.

Revision ID: d4f92b6c1a07
Revises: e07a0bef9ef6
"""

from __future__ import annotations

from alembic import op

revision = 'd4f92b6c1a07'
down_revision = 'e07a0bef9ef6'
branch_labels = None
depends_on = None

SQLITE = (
    "CREATE VIRTUAL TABLE message_search USING fts5"
    "(text, content='', detail=none, columnsize=0, tokenize='unicode61 remove_diacritics 0')",
)
POSTGRESQL = (
    'CREATE TABLE message_search ('
    'message_id BIGINT CONSTRAINT pk_message_search PRIMARY KEY'
    ' CONSTRAINT fk_message_search_message_id REFERENCES messages (id) ON DELETE CASCADE,'
    ' words TSVECTOR NOT NULL)',
    'CREATE INDEX ix_message_search_words ON message_search USING gin (words)',
)


def upgrade() -> None:
    for statement in SQLITE if op.get_bind().dialect.name == 'sqlite' else POSTGRESQL:
        op.execute(statement)


def downgrade() -> None:
    op.execute('DROP TABLE message_search')
    op.execute("DELETE FROM counters WHERE name = 'search_indexed_up_to'")
