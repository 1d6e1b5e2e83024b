"""Requests and responses: bodies, queries, headers, errors, images. Must not know jobs or models."""
