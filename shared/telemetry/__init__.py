"""Logs, traces, metrics, and the loops that report on themselves. It never knows why something is measured."""
