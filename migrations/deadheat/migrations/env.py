"""Alembic runs this for each command; the connection comes from deadheat.migrations."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
