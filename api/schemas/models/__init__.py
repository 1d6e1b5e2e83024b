"""Requests and responses about models: status, information, usage, fallbacks, cleanup."""
