"""Frames of a generation: their size, their quality, how close they are to others, and placeholders."""
