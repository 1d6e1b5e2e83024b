"""Requests and responses for operators: nodes, pauses, alerts, usage of keys, probes."""
