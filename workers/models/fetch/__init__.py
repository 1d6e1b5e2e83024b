"""Fetching models from a hub: the library lists and authenticates, the bytes are fetched here.

huggingface_hub (2.4.0) no longer resumes a file, fails on a reset or a 503 in mid-body, waits for ever on a silent
server and does not check what it got. Nothing in here knows jobs, the database or Redis.
"""
