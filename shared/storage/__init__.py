"""Storage of artifacts and inputs in a directory or a bucket. It knows job ids and file names, but not jobs."""
