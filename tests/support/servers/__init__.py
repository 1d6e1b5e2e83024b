"""Servers and proxies of the tests' own."""
