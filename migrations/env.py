"""Alembic's entry point. The connection comes from `messaging.migrations`, never from an ini file."""

from alembic import context

from messaging.models import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
