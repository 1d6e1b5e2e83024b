"""Artifacts, kept in a directory or a bucket. It knows job ids and file names, never what a job is."""
