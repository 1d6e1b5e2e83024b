"""Alembic's entry point. It runs on the connection that `shared.database.engine.migrate` passes."""

from alembic import context
from sqlmodel import SQLModel

from shared.database import tables  # noqa: F401 - fills SQLModel.metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
    # One transaction each: a concurrent index build cannot be part of a transaction.
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
