"""Alembic's entry point. The connection comes from `messaging.storage.migrations`, never from an ini file."""

from alembic import context

from messaging.storage.tables import is_modelled, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_name=is_modelled,
    render_as_batch=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
