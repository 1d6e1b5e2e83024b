"""What is PostgreSQL's own: it goes away and comes back, becomes a standby, and lets several take from one batch."""

import psycopg
import pytest
from sqlmodel import select

from shared import clock
from shared.cluster import nodes
from shared.database import engine
from shared.database.engine import Database
from shared.database.tables import WebhookMessage
from shared.errors import DatabaseUnavailable
from shared.jobs.ending import webhooks
from tests.support.jobs import accepted

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def told(database: Database, statement: str) -> None:
    """To the server, from outside the test's database."""
    url = database.engine.url.set(drivername="postgresql", database="postgres")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(statement)


@pytest.mark.parametrize("silently", [False, True])
def test_broken_connections_are_replaced_unnoticed(
    database: Database, silently: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that a firewall has dropped without a word, once they were not used for a while."""
    accepted(database)
    name = database.engine.url.database
    told(database, f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{name}'")
    if silently:
        monkeypatch.setattr(engine, "_has_news", lambda _: False)
        monkeypatch.setattr(engine, "_ASK_AFTER_SECONDS", -1.0)
    assert accepted(database).status == "queued"


def test_a_read_begins_no_transaction_and_a_snapshot_does(database: Database) -> None:
    for snapshot, status in ((False, "IDLE"), (True, "INTRANS"), (False, "IDLE")):
        with database.read(snapshot=snapshot) as session:
            assert session.connection().exec_driver_sql("SELECT 1").scalar_one() == 1
            connection = session.connection().connection.driver_connection
            assert connection is not None
            assert connection.info.transaction_status.name == status


def test_a_standby_counts_as_away_until_a_primary_is_found(database: Database) -> None:
    name = database.engine.url.database
    accepted(database)
    told(database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    database.engine.dispose()
    with pytest.raises(DatabaseUnavailable):
        nodes.note(database, "x", "1")
    told(database, f"ALTER DATABASE {name} RESET default_transaction_read_only")
    nodes.note(database, "x", "2")
    assert nodes.noted(database, "x") == "2"


def test_a_client_that_was_cut_off_does_not_keep_its_locks(database: Database) -> None:
    with database.read() as session:
        connection = session.connection()
        assert connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar_one() == "1min"


def test_senders_that_take_messages_at_once_do_not_wait_for_each_other(database: Database) -> None:
    with database.write() as session:
        for name in ("one", "two"):
            session.add(
                WebhookMessage(
                    id=name, job_id=name, type="job.succeeded", url="https://h/", data={}, state="waiting",
                    created_at=clock.now(), due_at=1.0,
                )
            )  # fmt: skip
    with database.write() as other:
        other.exec(select(WebhookMessage).where(WebhookMessage.id == "one").with_for_update()).one()
        assert [message.id for message in webhooks.take_due(database, 60.0)] == ["two"]
    assert [message.id for message in webhooks.take_due(database, 60.0)] == ["one"]
    assert webhooks.take_due(database, 60.0) == []
