"""Devices for tests: emulated CUDA devices, failed ones, and the peak memory of a stage."""
