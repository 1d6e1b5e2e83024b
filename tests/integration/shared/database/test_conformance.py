"""Each kind of database passes the conformance suite."""

import pytest

from tests.integration.shared.database.conformance import DatabaseConformance


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
class TestSqlite(DatabaseConformance):
    pass


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
class TestPostgresql(DatabaseConformance):
    pass
