"""Statistics of the table of jobs for SQLite's planner, so that a query has the same plan in every installation.

SQLite collects no statistics by itself. Without them it expects few jobs in each state, and reads a hundred thousand
queued jobs to find ten. What `ANALYZE` counts at one time misleads the planner later. SQLite's manual
recommends statistics written by hand for plans that must not change: <https://sqlite.org/queryplanner-ng.html>.
"""

from typing import Any

from sqlalchemy import Connection, inspect, text

# The number of rows in the index, then the number of rows with the same value of its first column, of its first two,
# and so on. Rounded from an installation with a million jobs of a hundred owners, a tenth of them queued.
_STATISTICS = {
    "ix_jobs_ended": "1000000 200000 2",
    "ix_jobs_kind": "1000000 200000 70000 25000 1",
    "ix_jobs_owner": "1000000 10000 1",
    "ix_jobs_owner_kind": "1000000 10000 2500 1000 400 1",
    "ix_jobs_line": "100000 100 1 1",
    "ix_jobs_order": "100000 33000 1",
    "ix_jobs_bell": "1000 1",
    "ix_jobs_of_nodes": "20000 10000 1000 300 1",
    "ix_jobs_hidden": "1000 1",
    "ix_jobs_batch": "200000 300 100 1",
    "ix_jobs_one_download": "10 1 1",
}


def settle(connection: Connection) -> None:
    """Write the statistics unless they exist already. A connection reads them when it is opened."""
    if not inspect(connection).has_table("jobs"):
        return
    wanted = _STATISTICS | dict.fromkeys(_of_constraints(connection), "1000000 1")
    stored: dict[str, str] = {}
    if connection.scalar(text("SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_stat1'")):
        rows = connection.execute(text("SELECT idx, stat FROM sqlite_stat1 WHERE tbl = 'jobs'"))
        stored = {row.idx: row.stat for row in rows}
    if stored == wanted:
        return
    connection.execute(text("ANALYZE alembic_version"))  # creates the table of statistics
    connection.execute(text("DELETE FROM sqlite_stat1 WHERE tbl = 'jobs'"))
    values: list[dict[str, Any]] = [{"index": index, "statistics": statistics} for index, statistics in wanted.items()]
    connection.execute(text("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES ('jobs', :index, :statistics)"), values)


def _of_constraints(connection: Connection) -> list[str]:
    """Return the indexes that SQLite makes for keys, in which each row has its own value."""
    names = connection.execute(text("SELECT name FROM pragma_index_list('jobs') WHERE origin <> 'c'")).scalars()
    return list(names)
