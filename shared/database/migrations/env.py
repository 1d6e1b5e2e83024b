"""Alembic's entry point. It runs on the connection that `shared.database.engine.migrate` passes."""

from alembic import context
from sqlmodel import SQLModel

from shared.database import tables  # noqa: F401 - fills SQLModel.metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
    # On PostgreSQL one transaction each, because a concurrent index build cannot be part of one; an advisory lock keeps
    # other processes away. On SQLite the one transaction is that lock: Alembic reads the version only once.
    transaction_per_migration=connection.dialect.name != "sqlite",
    transactional_ddl=True,  # Alembic takes SQLite for a database that commits at each change of the schema
)
with context.begin_transaction():
    context.run_migrations()
