"""Flows: jobs that depend on one another. They are accepted together, and each is released when it may start."""
