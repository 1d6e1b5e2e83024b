"""The database: engine, transactions, tables, migrations. It never knows what a job or a model is for."""
