"""Run by Alembic with the connection that :func:`trainers.jobs.database.upgrade` opened."""

from alembic import context

from trainers.jobs.tables import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
context.run_migrations()
