"""Fetch models from a hub: the library lists files and authenticates, this package downloads them.

huggingface_hub (2.4.0) no longer resumes a file, fails on a reset or a 503 in mid-body, waits without end for a silent
server and does not verify what it received. This package must not depend on jobs, the database or Redis.
"""
