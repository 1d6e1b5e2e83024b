"""The schema goes up, down and up again, and is then exactly what the tables say."""

import contextlib
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, event, inspect, text
from sqlmodel import SQLModel, select

import shared
from shared.database import tables
from shared.database.engine import Database, migrate
from tests.conftest import both_databases
from tests.support.jobs import accepted
from tests.support.stack import wait_for

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@both_databases
def test_up_down_and_up_again(database: Database) -> None:
    assert tables.Job.__tablename__ in inspect(database.engine).get_table_names()
    migrate(database.url, "base")
    assert inspect(database.engine).get_table_names() == ["alembic_version"]
    migrate(database.url)
    accepted(database)


@both_databases
def test_the_migrations_make_what_the_tables_say(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []


@on_postgresql
def test_indexes_are_built_while_jobs_are_accepted(database: Database) -> None:
    before = accepted(database)
    _to(database, "0006")
    with database.write() as session, ThreadPoolExecutor(1) as beside:
        session.connection().execute(text("LOCK TABLE jobs IN ROW EXCLUSIVE MODE"))  # as an accept that is under way
        migrating = beside.submit(migrate, database.url)
        wait_for(lambda: _under_way(database, "CREATE INDEX CONCURRENTLY"), 20, "for an index to be built")
        _accept_another(database, before.id)
        assert not migrating.done()
        session.commit()
        migrating.result(30)
    assert "ix_jobs_kind" in {index["name"] for index in inspect(database.engine).get_indexes("jobs")}


@on_postgresql
def test_an_index_whose_building_was_cut_off_is_built_again(database: Database) -> None:
    _to(database, "0006")
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE INDEX ix_jobs_kind ON jobs (status, type, model_id, id)"))
        connection.execute(text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ix_jobs_kind'::regclass"))
    migrate(database.url)
    with database.engine.connect() as connection:
        valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_jobs_kind'::regclass"
        assert connection.execute(text(valid)).scalar_one()


@both_databases
@pytest.mark.parametrize("was", [pytest.param("base", marks=pytest.mark.slow), "0005", "head"])
def test_processes_that_start_together_migrate_once(database: Database, was: str) -> None:
    if was == "base":
        migrate(database.url, was)
    elif was != "head":
        _to(database, was)
    if database.is_sqlite and was == "head":  # as a version before left it
        with database.write() as session:
            session.connection().execute(text("DELETE FROM sqlite_stat1"))
    starting = _waiting_to_migrate(database.url, 4)  # all are ready before the first may begin
    _let_go(starting)
    said = [one.communicate(timeout=60) for one in starting]
    assert [one.returncode for one in starting] == [0, 0, 0, 0], said
    accepted(database)


@both_databases
def test_no_other_process_migrates_between_two_migrations(database: Database) -> None:
    _to(database, "0005")
    (other,) = waiting = _waiting_to_migrate(database.url, 1)
    transactions = 0

    def begins(connection: Connection) -> None:
        nonlocal transactions
        transactions += connection.engine.url == database.engine.url
        if transactions > 1 and waiting:  # between two: the other is let in here if nothing keeps it away
            _let_go([waiting.pop()])
            with contextlib.suppress(subprocess.TimeoutExpired):
                other.wait(2)

    event.listen(Engine, "begin", begins)
    try:
        migrate(database.url)
    finally:
        event.remove(Engine, "begin", begins)
        _let_go(waiting)
    said = other.communicate(timeout=60)
    assert other.returncode == 0, said
    accepted(database)


def _waiting_to_migrate(url: str, count: int) -> list["subprocess.Popen[str]"]:
    """Start processes that migrate as soon as they are let go."""
    starting = [
        subprocess.Popen([sys.executable, "-c", _MIGRATE, url], stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)
        for _ in range(count)
    ]
    for one in starting:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    return starting


def _let_go(processes: Iterable["subprocess.Popen[str]"]) -> None:
    for one in processes:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()


_MIGRATE = """
import sys, alembic.command, alembic.config
from shared.database.engine import migrate
print("ready", flush=True)
sys.stdin.readline()
migrate(sys.argv[1])
"""


@both_databases
def test_jobs_that_wait_are_given_their_lines(database: Database) -> None:
    mine = accepted(database, owner="me", memory_needs="")
    other = accepted(database, memory_needs="")
    named = {job.id: job.line for job in (mine, other)}
    _to(database, "0005")
    migrate(database.url)
    with database.read() as session:
        assert {job.id: job.line for job in session.exec(select(tables.Job))} == named


@both_databases
def test_jobs_that_wait_are_given_their_volumes(database: Database) -> None:
    waiting, ended = accepted(database), accepted(database)
    with database.write() as session:
        connection = session.connection()
        connection.execute(text("UPDATE jobs SET status = 'succeeded' WHERE id = :id"), {"id": ended.id})
    assert waiting.volume > 0
    _to(database, "0027")
    migrate(database.url)
    names = [column["name"] for column in inspect(database.engine).get_columns("jobs")]
    listed = ", ".join(f'"{name}"' for name in names if name not in ("id", "volume"))
    with database.write() as session:  # as a process of the version before inserts it meanwhile
        copy = f"INSERT INTO jobs (id, {listed}) SELECT 'another', {listed} FROM jobs WHERE id = :id"
        session.connection().execute(text(copy), {"id": waiting.id})
    with database.read() as session:
        found = {job.id: job.volume for job in session.exec(select(tables.Job))}
    assert found == {waiting.id: pytest.approx(waiting.volume), ended.id: 0.0, "another": 0.0}


def _to(database: Database, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(shared.__file__).parent / "database" / "migrations"))
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
        connection.commit()


def _accept_another(database: Database, job_id: str) -> None:
    """Insert a copy of the job, with the columns that the table has at present."""
    names = [column["name"] for column in inspect(database.engine).get_columns("jobs") if column["name"] != "id"]
    listed = ", ".join(f'"{name}"' for name in names)
    with database.engine.begin() as connection:
        copy = f"INSERT INTO jobs (id, {listed}) SELECT 'another', {listed} FROM jobs WHERE id = :id"
        assert connection.execute(text(copy), {"id": job_id}).rowcount == 1


def _under_way(database: Database, statement: str) -> bool:
    with database.engine.connect() as connection:
        query = text("SELECT count(*) FROM pg_stat_activity WHERE query LIKE :what AND pid <> pg_backend_pid()")
        return bool(connection.execute(query, {"what": f"{statement}%"}).scalar_one())
