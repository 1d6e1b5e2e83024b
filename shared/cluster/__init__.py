"""Nodes, devices and their alerts."""
