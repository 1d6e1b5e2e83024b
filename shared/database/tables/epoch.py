"""The database's own clock as an SQL expression."""

from typing import Any

from sqlalchemy import Float, ScalarSelect, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement


class epoch_now(FunctionElement[float]):
    """Seconds since 1970 by the database's clock, as a double."""

    type = Float()
    inherit_cache = True


def epoch_at_start() -> ScalarSelect[float]:
    """Return the same, read once at the start of the statement: what to compare an indexed column with.

    PostgreSQL's clock runs on during a statement, so it compares every row with `epoch_now`, and cannot seek in an
    index for it. It does not know this value either when it plans: sort by the column too, or it expects a third of
    all rows to be due and looks for the first one in the table.
    """
    return select(epoch_now()).scalar_subquery()


@compiles(epoch_now, "sqlite")
def _epoch_now_sqlite(element: Any, compiler: SQLCompiler, **kwargs: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(epoch_now, "postgresql")
def _epoch_now_postgresql(element: Any, compiler: SQLCompiler, **kwargs: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"
