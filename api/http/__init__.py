"""Requests and responses: bodies, queries, headers, errors, pictures. It never knows jobs or models."""
