"""The dispatcher with placement, and beat with its schedules and their tasks."""
