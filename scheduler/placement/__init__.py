"""Decides which waiting job goes to which device or node: pure functions, no clock, no database."""
