"""Run by Alembic for each command; `warden.store.migrate` hands over the connection and owns the transaction."""

from alembic import context

from warden.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
