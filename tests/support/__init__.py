"""Shared by tests: stacks, servers, clients and rows. Contains no tests."""
