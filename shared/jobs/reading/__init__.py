"""Reads of the table of jobs: lists, queues, positions, dead jobs."""
