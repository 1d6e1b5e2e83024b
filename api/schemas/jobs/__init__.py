"""Requests and responses about jobs: single ones, batches, flows, actions on many."""
