"""Alembic runs this file for each command. The connection, and its transaction, belong to the caller."""

from alembic import context

from smartmail.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
