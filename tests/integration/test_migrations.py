"""The schema goes up, down and up again, and is then exactly what the tables say."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect
from sqlmodel import SQLModel

from shared import tables
from shared.database import Database, migrate
from tests.conftest import both_databases
from tests.jobs import accepted

pytestmark = both_databases


def test_up_down_and_up_again(database: Database) -> None:
    assert tables.Job.__tablename__ in inspect(database.engine).get_table_names()
    migrate(database.url, "base")
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    migrate(database.url)
    accepted(database)


def test_the_migrations_make_what_the_tables_say(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []
