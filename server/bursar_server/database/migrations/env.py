"""What Alembic runs: the migrations, in the transaction that `database.migrate` opened."""

from alembic import context

from bursar_server.database import schema

context.configure(
    connection=context.config.attributes["connection"], target_metadata=schema.metadata
)
with context.begin_transaction():
    context.run_migrations()
