"""The routes of flows: jobs that depend on one another."""
