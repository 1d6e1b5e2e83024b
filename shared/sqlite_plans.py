"""What SQLite's planner is told of the table of jobs, so that it plans alike in every installation and at every time.

SQLite counts nothing by itself. Without figures it takes all jobs of a state for few, and reads a hundred thousand that
are queued where ten are asked for; figures that were counted at one moment (`ANALYZE`) mislead it at another. SQLite's
manual gives figures written by hand as the way to plans that stay: <https://sqlite.org/queryplanner-ng.html>.
"""

from typing import Any

from sqlalchemy import Connection, inspect, text

# Rows in the index, then for the first column, the first two and so on: rows that share one value. As counted in an
# installation of a million jobs of a hundred owners, a tenth of them queued, with five hundred devices.
_FIGURES = {
    "ix_jobs_ended": "1000000 200000 2",
    "ix_jobs_kind": "1000000 200000 70000 25000 1",
    "ix_jobs_owner": "1000000 10000 1",
    "ix_jobs_owner_kind": "1000000 10000 2500 1000 400 1",
    "ix_jobs_line": "100000 100 1 1",
    "ix_jobs_order": "100000 33000 1",
    "ix_jobs_bell": "1000 1",
    "ix_jobs_of_nodes": "20000 10000 1000 300 1",
    "ix_jobs_hidden": "1000 1",
    "ix_jobs_one_download": "10 1 1",
}


def settle(connection: Connection) -> None:
    """Writes the figures, where they do not stand there yet. A connection reads them when it is opened."""
    if not inspect(connection).has_table("jobs"):
        return
    wanted = _FIGURES | dict.fromkeys(_of_constraints(connection), "1000000 1")
    there: dict[str, str] = {}
    if connection.scalar(text("SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_stat1'")):
        rows = connection.execute(text("SELECT idx, stat FROM sqlite_stat1 WHERE tbl = 'jobs'"))
        there = {row.idx: row.stat for row in rows}
    if there == wanted:
        return
    connection.execute(text("ANALYZE alembic_version"))  # which makes the table of figures
    connection.execute(text("DELETE FROM sqlite_stat1 WHERE tbl = 'jobs'"))
    values: list[dict[str, Any]] = [{"index": index, "figures": figures} for index, figures in wanted.items()]
    connection.execute(text("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES ('jobs', :index, :figures)"), values)


def _of_constraints(connection: Connection) -> list[str]:
    """The indexes that SQLite makes for keys: each row has a value of its own."""
    names = connection.execute(text("SELECT name FROM pragma_index_list('jobs') WHERE origin <> 'c'")).scalars()
    return list(names)
