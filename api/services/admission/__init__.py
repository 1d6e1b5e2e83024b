"""Decide which jobs are accepted: fields, models, memory, fallbacks, limits of keys."""
