"""Checks that need a real CUDA device. `python -m tests.gpu [SECTION]` runs them and prints what it measures."""
