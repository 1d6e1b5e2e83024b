"""Measured figures: device samples, snapshots, model health. It never changes what it measures."""
