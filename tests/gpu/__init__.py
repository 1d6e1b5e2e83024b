"""Checks that need a real CUDA device. `python -m tests.gpu` runs them and prints the measurements."""
