"""The proxy that loses a COMMIT's answer: what it cuts, and that all else passes."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from tests.support.servers.commit_cutter import CommitCutter, When


@pytest.fixture
def cutter(postgresql_server: str) -> Iterator[CommitCutter]:
    (folder,) = parse_qs(urlsplit(postgresql_server).query)["host"]
    cutter = CommitCutter(str(Path(folder) / ".s.PGSQL.5432")).start()
    with connect(cutter) as connection:
        connection.execute("CREATE TABLE cut (x int)")
    yield cutter
    cutter.forget()
    with connect(cutter) as connection:
        connection.execute("DROP TABLE cut")
    cutter.stop()


def connect(cutter: CommitCutter) -> "psycopg.Connection[tuple[int]]":
    return psycopg.connect(cutter.url("postgres").replace("+psycopg", ""))


def count(cutter: CommitCutter) -> int:
    with connect(cutter) as connection:
        found = connection.execute("SELECT count(*) FROM cut").fetchone()
        connection.rollback()
    assert found is not None
    return found[0]


@pytest.mark.parametrize(("when", "written"), [("after", 1), ("before", 0)])
@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_a_commit_is_cut_before_or_after_it_is_carried_out(
    cutter: CommitCutter, when: When, written: int, protocol: str
) -> None:
    connection = connect(cutter)
    connection.execute("INSERT INTO cut VALUES (1)")
    cutter.cut_next(1, when)
    with pytest.raises(psycopg.OperationalError):
        connection.commit() if protocol == "simple" else connection.execute("COMMIT", prepare=True)
    assert cutter.wait_for_cuts(1, 5)
    connection.close()
    assert count(cutter) == written


def test_only_so_many_commits_are_cut_and_other_connections_go_on(cutter: CommitCutter) -> None:
    other = connect(cutter)
    for _ in range(2):
        connection = connect(cutter)
        connection.execute("INSERT INTO cut VALUES (1)")
        cutter.cut_next(1)
        with pytest.raises(psycopg.OperationalError):
            connection.commit()
    other.execute("INSERT INTO cut VALUES (1)")
    other.commit()
    other.close()
    assert cutter.cuts == 2
    assert count(cutter) == 3


def test_a_rollback_and_a_large_answer_pass(cutter: CommitCutter) -> None:
    cutter.cut_next(1)
    with connect(cutter) as connection:
        (text,) = connection.execute("SELECT repeat('x', 1000000)").fetchone() or ("",)
        assert len(str(text)) == 1_000_000
        connection.rollback()
    assert cutter.cuts == 0
